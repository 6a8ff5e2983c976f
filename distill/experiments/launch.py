"""Training any number of runs, and what came of each.

Runs are tasks, carried out by a pool of processes on this machine or as jobs of a cluster; or they
are trained one after another by all the processes that a launcher such as ``torchrun`` has started.
One failure stops no other run.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from distill.experiments.cluster import refuse_flags, task_of
from distill.experiments.plan import require_encoders, states
from distill.runs.attendance import epoch_note
from distill.runs.folder import RunFolder
from distill.runs.request import Outcome, RunRequest
from featstore.core.config import cross_fitted
from featstore.core.console import Advance, printable_lines, progress, say, trace
from featstore.core.os_errors import io_failure
from featstore.core.schema import TaskFailed, UserError, printable
from featstore.inspection.teachers import warnings_of
from featstore.jobs import LOCAL, ExecutorSettings, carry_out
from featstore.jobs.local import default_jobs, workers
from featstore.jobs.task import Task, fail, queued, standings
from featstore.store import open_store

AGAIN = "what is done is kept: mend the cause and run the same command again"
LOOK_S = 0.5
"""So often the progress of runs in other processes is looked at."""
WARNINGS = 10
"""Teachers of doubtful fitness that are named before a run."""


@dataclass
class Done:
    """What came of each run: its outcome or its error, by the request's label."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    failed: dict[str, tuple[RunRequest, UserError]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 where every run is done, stopped as asked or skipped; else the gravest failure's."""
        return max((error.exit_code for _, error in self.failed.values()), default=0)

    def add(self, request: RunRequest, result: Outcome | UserError) -> None:
        """Keep a result; an error is said at once, as the other runs may take hours yet."""
        if isinstance(result, Outcome):
            self.outcomes[request.label] = result
            return
        # ten folds that miss the same file are one mistake
        new = all(result.message != error.message for _, error in self.failed.values())
        self.failed[request.label] = request, result
        if new:
            message = printable_lines(result.message)
            named = message.startswith(f"{request.label}:")
            say(f"error: {message if named else f'{request.label}: {message}'}")
            if result.hint:
                say(f"hint: {printable(result.hint)}")

    def to_dict(self) -> dict[str, Any]:
        """Of one student's folds, as plain data."""
        outcomes = sorted(self.outcomes.values(), key=lambda one: one.fold)
        failed = sorted(self.failed.values(), key=lambda one: one[0].fold)
        return {
            "folds": [
                {**asdict(one), "folder": str(one.folder), "seconds": round(one.seconds, 1)}
                for one in outcomes
            ],
            "failed": {
                str(request.fold): {"message": error.message, "hint": error.hint}
                for request, error in failed
            },
        }


def launch(
    requests: Sequence[RunRequest],
    title: str,
    *,
    executor: ExecutorSettings = LOCAL,
    jobs: int | None = None,
    processes: int = 1,
    nodes: int = 1,
) -> Done:
    """Train every run that is not done.

    On this machine several at a time on the CPU, one on each GPU; the CPUs are shared out over the
    runs, so that the same command computes the same bytes. Of several processes that a launcher has
    started, all but the first end here, without a word.

    Args:
        requests: of one store and folder of runs; equal ones are trained once.
        title: of the progress line.
        executor: this machine, or a cluster.
        jobs: runs at a time on this machine; as many as there are CPUs, or GPUs.
        processes: that train each run together, on each node.
        nodes: over which they are spread.

    Raises:
        UserError: flags that do not fit, or there is no such cluster.
        TaskFailed: one of several processes that train together has died.
    """
    require_encoders(requests)
    if executor.name == "slurm":
        refuse_flags(requests)
        return _as_tasks(requests, title, executor, None, processes, nodes)
    from distill.training.team import launched

    if processes * nodes not in (1, launched()):
        raise UserError(
            f"--processes {processes} --nodes {nodes}, but {launched()} process(es) were started",
            f"start them by `torchrun --nproc-per-node {processes} $(which distill) ...`, or `srun "
            f"--nodes {nodes} --ntasks-per-node {processes} distill ...`, or --executor slurm",
        )
    if launched() == 1:
        return _as_tasks(_threads_shared(requests, jobs), title, LOCAL, jobs, 1, 1)
    done, leads = _in_team(requests, title)
    if not leads:
        sys.exit(done.exit_code)
    return done


def _threads_shared(requests: Sequence[RunRequest], jobs: int | None) -> list[RunRequest]:
    """The CPUs shared out over the runs that are trained at a time, those that are done included:
    a command that is given again computes the same bytes.
    """
    at_once = len(workers(jobs, requests[0].device)) if requests else 1
    threads = max(1, default_jobs() // max(1, min(at_once, len(requests))))
    return [replace(one, threads=one.threads or threads) for one in requests]


def _as_tasks(
    requests: Sequence[RunRequest],
    title: str,
    executor: ExecutorSettings,
    jobs: int | None,
    processes: int,
    nodes: int,
) -> Done:
    """By a pool of processes on this machine, or as jobs of a cluster."""
    _warn_of_teachers(requests)
    local = executor.name != "slurm"
    done = Done()
    tasks: dict[str, Task] = {}
    waiting: dict[str, list[tuple[RunRequest, RunFolder]]] = {}
    for request, one in states(requests):
        if one.result is not None:
            done.add(request, one.result)
            if one.state == "done" and one.folder is not None:
                one.folder.tidy()
        elif one.folder is not None:
            task = task_of(request, one.folder, executor, processes, nodes)
            tasks[task.key] = task
            waiting.setdefault(task.key, []).append((request, one.folder))
    if not tasks:
        return done
    runs, device = requests[0].runs, requests[0].device
    results = carry_out(runs, list(tasks.values()), executor, jobs=jobs, device=device)
    with ExitStack() as stack:
        stack.enter_context(closing(results))
        if local:
            stack.enter_context(queued(runs, tasks))
            stack.enter_context(_progress(title, runs, tasks, done))
        for task, failure in results:
            if failure is not None and local:  # a killed process could not do so itself
                with suppress(OSError):
                    fail(runs, task.key, failure, {})
            for request, folder in waiting[task.key]:
                error = None if failure is None else _user_error(failure, runs)
                done.add(request, error or _outcome(request, folder))
    return done


def _outcome(request: RunRequest, folder: RunFolder) -> Outcome | UserError:
    """What a run that another process has trained left in its folder."""
    try:
        run = folder.finished()
    except UserError as error:
        return error
    if run is None:
        return Outcome(request.fold, "stopped", folder.path, "by --max-steps, as asked")
    outcome = Outcome.skipped(run, folder, "")
    return replace(outcome, status="done", seconds=run.facts.seconds or 0.0)


@contextmanager
def _progress(title: str, runs: Path, tasks: Mapping[str, Task], done: Done) -> Iterator[None]:
    """Show the epochs of runs that other processes train, as their status files count them."""
    ended, shown = threading.Event(), 0

    def show(advance: Advance) -> None:
        nonlocal shown
        running = {
            one.key: one.facts
            for one in standings(runs)
            if one.state == "running" and one.key in tasks
        }
        finished = {one.folder for one in [*done.outcomes.values()] if one.status == "done"}
        n = sum(task.n_steps for key, task in tasks.items() if runs / key in finished)
        n += sum(facts.get("done", 0) for facts in running.values())
        if n > shown:
            notes = [f"{key} {facts['note']}" for key, facts in running.items() if "note" in facts]
            advance(n - shown, note=notes[-1] if notes else "")
            shown = n

    with progress(title, sum(task.n_steps for task in tasks.values()), unit="epochs") as advance:

        def watch() -> None:
            while not ended.wait(LOOK_S):
                with suppress(OSError):
                    show(advance)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            show(advance)


def _in_team(requests: Sequence[RunRequest], title: str) -> tuple[Done, bool]:
    """One after another, each by all the processes that a launcher has started.

    Returns:
        What came of the runs, and whether this is the process that says so.
    """
    from distill.training.loop import run_fold
    from distill.training.team import TeamLost, join

    team = join(requests[0].device if requests else "auto")
    threads = max(1, default_jobs() // team.local_size)
    done = Done()
    n_epochs = sum(one.settings.optim.epochs for one in requests)
    with team.hushed(), progress(title, n_epochs, unit="epochs") as advance:
        _warn_of_teachers(requests)

        def on_epoch(label: str, epochs: int, entry: dict[str, Any]) -> None:
            advance(note=f"{label} epoch {entry['epoch']}/{epochs} {epoch_note(entry)}")

        for request in requests:
            request = replace(request, threads=request.threads or threads)
            try:
                done.add(request, run_fold(request, on_epoch, team))
            except TeamLost:  # there is nobody to go on with
                raise
            except Exception as error:  # the other runs may do
                done.add(request, _user_error(error, request.runs))
    team.leave()
    return done, team.leads


def _user_error(error: Exception, runs: Path) -> UserError:
    """Any failure of a run as one that is shown without a traceback (``-v`` shows it)."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError):
        return io_failure(error, runs)
    trace(error)
    return TaskFailed(f"{type(error).__name__}: {error}", AGAIN)


def _warn_of_teachers(requests: Sequence[RunRequest]) -> None:
    """Say which teachers, of those that would teach, are not plainly fit for it.

    What cannot be judged (a damaged unit, a fold without teachers) is left to its run to refuse.
    """
    names = {
        cross_fitted(name, one.settings.targets.cross_fit)
        for one in requests
        if one.settings.losses.alpha > 0 or one.settings.losses.beta > 0
        for name, term in one.settings.losses.teachers.items()
        if term.weight > 0
    }
    lines: list[str] = []
    if names:
        store = open_store(requests[0].store)
        for fold in sorted({one.fold for one in requests}):
            with suppress(UserError):
                lines += warnings_of(store, [fold], sorted(names))
    for line in lines[:WARNINGS]:
        say(f"warning: {printable(line)}")
    if len(lines) > WARNINGS:
        say(f"warning: and {len(lines) - WARNINGS} more")
    if lines:
        say("warning: they teach all the same; `featstore inspect STORE --fitness` shows all")
