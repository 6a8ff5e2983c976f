"""Training any number of runs, and what came of each.

Runs are tasks, carried out by a pool of processes on this machine or as jobs of a cluster; or they
are trained one after another by all the processes that a launcher such as ``torchrun`` has started.
One failure stops no other run.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from distill.experiments.plan import require_encoders, states
from distill.runs.folder import Outcome, RunFolder, RunRequest, epoch_note
from distill.runs.read import DONE
from featstore.core.config import cross_fitted
from featstore.core.console import printable_lines, progress, say, trace
from featstore.core.os_errors import io_failure
from featstore.core.schema import TaskFailed, UserError, printable
from featstore.inspection.teachers import warnings_of
from featstore.jobs import LOCAL, ExecutorSettings, carry_out
from featstore.jobs.local import default_jobs, workers
from featstore.jobs.task import Demand, Task, fail, queued, standings
from featstore.store import open_store

AGAIN = "what is done is kept: mend the cause and run the same command again"
LOOK_S = 0.5
"""So often the progress of runs in other processes is looked at."""
WARNINGS = 10
"""Teachers of doubtful fitness that are named before a run."""
THREADS = 4
"""CPUs of each process of a job, where neither ``--threads`` nor the cluster's file says more."""
MEMORY_GB, MEMORY_GB_TINY = 16.0, 4.0
"""Of each process: PyTorch with CUDA takes 4, a large encoder on its way to the GPU twice 1.3."""


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
    runs, those that are done included, so that the same command computes the same bytes. Of several
    processes that a launcher has started, all but the first end here, without a word.

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
        _refuse_flags(requests)
    else:
        from distill.training.team import launched

        if processes * nodes not in (1, launched()):
            raise UserError(
                f"--processes {processes} --nodes {nodes}, "
                f"but {launched()} process(es) were started",
                f"start them by `torchrun --nproc-per-node {processes} $(which distill) ...`, or "
                f"`srun --nodes {nodes} --ntasks-per-node {processes} distill ...`, "
                "or --executor slurm",
            )
        if launched() > 1:
            done, leads = _in_team(requests, title)
            if not leads:
                sys.exit(done.exit_code)
            return done
        at_once = min(len(workers(jobs, requests[0].device)), len(requests)) if requests else 1
        threads = max(1, default_jobs() // at_once)
        requests = [replace(one, threads=one.threads or threads) for one in requests]
        processes = nodes = 1
    make_task = partial(task_of, executor=executor, processes=processes, nodes=nodes)
    return _as_tasks(requests, title, executor, jobs, make_task)


def _as_tasks(
    requests: Sequence[RunRequest],
    title: str,
    executor: ExecutorSettings,
    jobs: int | None,
    make_task: Callable[[RunRequest, RunFolder], Task],
) -> Done:
    """By a pool of processes on this machine, or as jobs of a cluster."""
    _warn_of_teachers(requests)
    done = Done()
    tasks: dict[str, Task] = {}
    waiting: dict[str, list[tuple[RunRequest, RunFolder]]] = {}
    for request, one in states(requests):
        if one.result is not None:
            done.add(request, one.result)
            if one.state == "done" and one.folder is not None:
                one.folder.tidy()
        elif one.folder is not None:
            tasks[one.folder.task] = make_task(request, one.folder)
            waiting.setdefault(one.folder.task, []).append((request, one.folder))
    if not tasks:
        return done
    runs, local = requests[0].runs, executor.name != "slurm"
    results = carry_out(runs, list(tasks.values()), executor, jobs=jobs, device=requests[0].device)
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
                done.add(request, _result(request, folder, failure))
    return done


# --- a run as a task, done by a process of this machine or by a job of a cluster ---


def task_of(
    request: RunRequest,
    folder: RunFolder,
    executor: ExecutorSettings,
    processes: int = 1,
    nodes: int = 1,
) -> Task:
    """A run as a task.

    Args:
        request: the run.
        folder: where it lies.
        executor: that carries it out.
        processes: that train it together, on each node.
        nodes: how many.
    """
    slurm = executor.name == "slurm"
    tiny = request.settings.student.backbone == "tiny"
    demand = Demand(
        cpus=request.threads or executor.slurm.cpus or THREADS,
        gpus=0 if request.device == "cpu" else 1,
        memory_gb=MEMORY_GB_TINY if tiny else MEMORY_GB,
        processes=processes,
        nodes=nodes,
    )
    places: dict[str, Any] = {
        name: path.absolute()
        for name in ("store", "runs", "root", "weights")
        if isinstance(path := getattr(request, name), Path)  # a bucket is where it is
    }
    request = replace(request, threads=demand.cpus if slurm else request.threads, **places)
    return Task(
        key=folder.task,
        work=partial(train, request, log=slurm),
        is_done=(folder.path.absolute() / DONE).exists,
        demand=demand,
        n_steps=request.settings.optim.epochs,
    )


def train(request: RunRequest, *, log: bool) -> None:
    """Train a run, in each process of its task.

    Args:
        request: the run.
        log: write each epoch to stderr, which is a job's log.

    Raises:
        UserError: as :func:`distill.training.loop.run_fold`.
    """
    from distill.training.loop import run_fold
    from distill.training.team import join

    def say_epoch(label: str, n_epochs: int, entry: dict[str, Any]) -> None:
        say(f"{label} epoch {entry['epoch']}/{n_epochs} {epoch_note(entry)}")

    team = join(request.device)
    with team.hushed():
        run_fold(request, say_epoch if log else None, team)
    team.leave()


def device_of(device: str, executor: ExecutorSettings) -> str:
    """What a run is trained on: a job has a GPU unless it is told to use the CPU."""
    return "cuda" if executor.name == "slurm" and device == "auto" else device


def _refuse_flags(requests: Sequence[RunRequest]) -> None:
    """Refuse what no job of a cluster can follow."""
    for request in requests:
        if request.max_steps is not None:
            raise UserError(
                "--max-steps is for a trial on this machine: a job would never be done",
                "leave out --max-steps, or --executor slurm",
            )
        if request.device.startswith("cuda:"):
            raise UserError(
                f"--device {request.device}: a job has GPUs of its own", "use auto, cuda or cpu"
            )


def _result(
    request: RunRequest, folder: RunFolder, failure: Exception | None
) -> Outcome | UserError:
    """What came of a run that another process has trained."""
    if failure is not None:
        return _user_error(failure, request.runs)
    stopped = Outcome(request.fold, "stopped", folder.path, "by --max-steps, as asked")
    try:
        return folder.outcome() or stopped
    except UserError as error:
        return error


@contextmanager
def _progress(title: str, runs: Path, tasks: Mapping[str, Task], done: Done) -> Iterator[None]:
    """Show the epochs of runs that other processes train, as their notes count them."""
    ended = threading.Event()

    def watch() -> None:
        shown, over = 0, False
        while not over:
            over = ended.wait(LOOK_S)
            facts = {one.key: one.facts for one in standings(runs) if one.state == "running"}
            running = {key: facts[key] for key in tasks if key in facts}
            finished = {one.folder for one in [*done.outcomes.values()] if one.status == "done"}
            n = sum(task.n_steps for key, task in tasks.items() if runs / key in finished)
            n += sum(one.get("done", 0) for one in running.values())
            if n > shown:
                notes = [f"{key} {one['note']}" for key, one in running.items() if "note" in one]
                advance(n - shown, note=notes[-1] if notes else "")
                shown = n

    with progress(title, sum(task.n_steps for task in tasks.values()), unit="epochs") as advance:
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


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
        for name in one.settings.losses.teaching
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
