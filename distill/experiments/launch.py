"""Training any number of runs: how each stands, where it is trained, and what came of it.

Runs are tasks, carried out by a pool of processes on this machine or as jobs of a cluster; or they
are trained one after another by all the processes that a launcher such as ``torchrun`` has started.
One failure stops no other run.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from distill.config import (
    HUGGING_FACE,
    PRESETS,
    RANDOM,
    VARIANTS,
    RunSettings,
    default_preset,
    refuse_unknown,
)
from distill.experiments.cluster import refuse_flags, task_of
from distill.runs.attendance import epoch_note, queued
from distill.runs.folder import CHECKPOINT, RunFolder
from distill.runs.request import Keys, Outcome, RunRequest, require_teachers
from featstore.core.config import cross_fitted
from featstore.core.console import Advance, printable_lines, progress, say, trace
from featstore.core.os_errors import io_failure
from featstore.core.schema import (
    UTTERANCE_ID,
    Corrupt,
    Refused,
    TaskFailed,
    UserError,
    printable,
)
from featstore.core.settings import choose, load_toml, overrides, resolve
from featstore.core.torch_pair import load_torchaudio
from featstore.folds import parse_numbers
from featstore.inspection.teachers import warnings_of
from featstore.jobs import LOCAL, ExecutorSettings, carry_out
from featstore.jobs.local import workers
from featstore.jobs.processes import default_jobs
from featstore.jobs.task import Task, fail, standings
from featstore.store import open_store

AGAIN = "what is done is kept: mend the cause and run the same command again"
BEGINS = ("run", "resume", "again")
"""States of runs that would be trained."""
LOOK_S = 0.5
"""So often the progress of runs in other processes is looked at."""
WARNINGS = 10
"""Teachers of doubtful fitness that are named before a run."""


def run_settings(
    student: str | None,
    variant: str,
    preset: str | None,
    config: Path | None,
    sets: Sequence[str],
    seed: int | None,
    row: Mapping[str, Any] | None = None,
) -> RunSettings:
    """Preset, file, variant, --set, a grid's row, flags: later ones win; None was not given.

    Raises:
        UserError: with every fault at once.
    """
    flags: dict[str, Any] = {"student": {"backbone": student}} if student is not None else {}
    if seed is not None:
        flags["seed"] = seed
    layers = (
        load_toml(config) if config else {},
        choose("--variant", variant, VARIANTS),
        overrides(sets),
        row or {},
        flags,
    )
    if preset is None:
        preset = default_preset(student or resolve(RunSettings, *layers).student.backbone)
    settings = resolve(RunSettings, choose("--preset", preset, PRESETS), *layers)
    refuse_unknown(settings.student.backbone)
    return settings


def experiment_name(student: str, variant: str) -> str:
    """A folder name for a student and a variant.

    >>> experiment_name("hf:facebook/wav2vec2-base", "full")
    'hf-wav2vec2-base-full'
    """
    kind, _, place = student.partition(":")
    name = f"{kind}-{Path(place).name}" if place else kind
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
    return f"{safe}-{variant}"


def each_fold(request: RunRequest, folds: str) -> list[RunRequest]:
    """One request for each of some folds, e.g. ``1..10``.

    Raises:
        UserError: the store or a fold is not there, or the request writes outside of ``runs``.
    """
    if not UTTERANCE_ID.match(request.experiment):
        raise UserError(
            f"--experiment {printable(request.experiment)}: no name for a folder",
            "use letters, digits, dot, dash and underscore, up to 128 of them",
        )
    refuse_runs(request.runs)
    n_folds = len(open_store(request.store).folds)
    return [replace(request, fold=fold) for fold in parse_numbers(folds, n_folds)]


def refuse_runs(runs: Path) -> None:
    """Refuse a place for runs that is no folder.

    Raises:
        UserError: it is something else.
    """
    if runs.exists() and not runs.is_dir():
        raise UserError(f"--runs {runs}: not a folder", "give a folder")


# How runs stand


@dataclass(frozen=True)
class RunState:
    """How a run stands before it is trained.

    Attributes:
        state: ``done``, ``resume``, ``run``, ``again`` (it failed before); or, where it cannot
            begin, ``missing``, ``refused`` or ``damaged``.
        why: it cannot begin, or failed before.
        folder: where it lies, if that is known.
        result: of a run that is not to be trained.
        seconds: that a finished one took.
    """

    state: str
    why: str = ""
    folder: RunFolder | None = None
    result: Outcome | UserError | None = None
    seconds: float | None = None


def states(requests: Iterable[RunRequest]) -> Iterator[tuple[RunRequest, RunState]]:
    """How each run stands; touches nothing.

    Raises:
        UserError: the store is not there.
    """
    opened: dict[Path | str, Keys] = {}
    for request in requests:
        if request.store not in opened:
            opened[request.store] = Keys(open_store(request.store))
        try:
            yield request, _state(request, opened[request.store])
        except UserError as error:
            names = {UserError.exit_code: "missing", Refused.exit_code: "refused"}
            state = names.get(error.exit_code, "damaged")
            yield request, RunState(state, error.message, result=error)


def _state(request: RunRequest, keys: Keys) -> RunState:
    folder = keys.folder(request)
    settings = request.settings
    require_teachers(keys.store, request.fold, settings.losses, settings.targets.cross_fit)
    if run := folder.finished():
        outcome = Outcome.skipped(run, folder, "finished before")
        return RunState("done", "", folder, outcome, run.facts.seconds)
    if why := folder.failure:
        return RunState("again", f"it failed: {why}", folder)
    return RunState("resume" if (folder.path / CHECKPOINT).is_dir() else "run", "", folder)


def plan(requests: Sequence[RunRequest]) -> dict[str, Any]:
    """``distill run --dry-run`` as plain data: how each fold stands, and what is left to do.

    Raises:
        UserError: also where weights are missing that a run would need.
    """
    each = list(states(requests))
    begins = any(one.state in BEGINS for _, one in each)
    first = requests[0]
    return {
        "runs": [
            {
                "fold": request.fold,
                "status": one.state,
                "why": one.why,
                "folder": str(one.folder.path) if one.folder else "",
            }
            for request, one in each
        ],
        "weights": weights_note(first.settings.student.backbone, first.weights) if begins else "",
        "estimate": estimate(first.settings.student.backbone, [one for _, one in each]),
        "settings": first.settings.model_dump(mode="json"),
    }


def plan_exit_code(facts: Mapping[str, Any]) -> int:
    """What the runs of a plan would come to: the code of the gravest that cannot begin."""
    codes = {"missing": 2, "damaged": Corrupt.exit_code, "refused": Refused.exit_code}
    return max((codes.get(run["status"], 0) for run in facts["runs"]), default=0)


def estimate(student: str, runs: Iterable[RunState]) -> dict[str, Any]:
    """How many of a student's runs are left, and how long its finished ones took on the mean."""
    runs = list(runs)
    seconds = [one.seconds for one in runs if one.seconds is not None]
    return {
        "student": student,
        "runs": sum(one.state in BEGINS for one in runs),
        "seconds_a_run": fmean(seconds) if seconds else None,
        "measured_on": len(seconds),
    }


def weights_note(backbone: str, weights: Path | None) -> str:
    """What a run would download first, see :func:`distill.model.weights.check_weights`."""
    if backbone == "tiny" and weights is None:
        return ""
    from distill.model.weights import check_weights

    return check_weights(backbone, weights)


# What came of them


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


# Training


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
    from distill.training.parallel import launched
    from distill.training.team_step import tell_step

    team = processes * nodes
    if team > 1 and launched() == 1:
        tell_step(processes, nodes)
    if team not in (1, launched()):
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
    at_once = workers(jobs, requests[0].device)[0] if requests else 1
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
    from distill.training.parallel import TeamLost, join

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


def require_encoders(requests: Sequence[RunRequest]) -> None:
    """Stop once, not in every run, where an encoder needs torchaudio and it cannot be loaded."""
    backbones = {one.settings.student.backbone.removeprefix(RANDOM) for one in requests}
    if any(not name.startswith(HUGGING_FACE) for name in backbones):
        load_torchaudio()


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
