"""Any number of runs over processes: one failure stops none, and what became of each is told.

Alone, a command starts a process a run. Where several processes are asked for, or a launcher has
started several of this one, they train each run together, one run after another (see
:mod:`distill.training.parallel`).
"""

from __future__ import annotations

import io
import multiprocessing
import queue
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, redirect_stderr
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing.queues import Queue
from typing import Any

from distill.experiments.cluster import on_cluster
from distill.experiments.resources import Requests, Resources, Result, default_workers
from distill.runs.attendance import Ended, epoch_note, waiting
from distill.runs.request import Outcome, RunRequest
from distill.training.loop import OnEpoch, run_fold
from distill.training.parallel import Team, TeamLost, join, launched
from distill.training.team_start import start
from distill.training.team_step import tell_step
from featstore.core.console import Advance, printable_lines, progress, say, trace
from featstore.core.os_errors import io_failure
from featstore.core.schema import TaskFailed, UserError, printable
from featstore.jobs.local import workers
from featstore.jobs.processes import default_jobs, each


@dataclass(frozen=True)
class Failure:
    """A run that came to nothing, and why."""

    request: RunRequest
    error: UserError


@dataclass
class Done:
    """What became of each run."""

    outcomes: list[Outcome] = field(default_factory=list)
    by_label: dict[str, Outcome] = field(default_factory=dict)
    failed: list[Failure] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 where every run is done, stopped as asked or skipped; else the gravest failure's."""
        return max((failure.error.exit_code for failure in self.failed), default=0)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, by fold."""
        failed = sorted(self.failed, key=lambda failure: failure.request.fold)
        return {
            "folds": [
                {**asdict(item), "folder": str(item.folder), "seconds": round(item.seconds, 1)}
                for item in sorted(self.outcomes, key=lambda item: item.fold)
            ],
            "failed": {
                str(failure.request.fold): {
                    "message": failure.error.message,
                    "hint": failure.error.hint,
                }
                for failure in failed
            },
        }


def run_all(requests: Requests, resources: Resources, title: str) -> Done:
    """Train every run: several at once on the CPU, one on each GPU, or one by several processes.

    By default the CPUs are shared out over the runs, so that the same command computes the same
    bytes. Processes that a launcher has started share them, too; all but the first end here,
    silently: what came of the runs is for one to tell.

    Args:
        requests: makes the list of what to train; called once in each process. Can be pickled.
        resources: what they may use.
        title: of the progress line.

    Raises:
        UserError: as ``requests`` does, or there are other processes than were asked for.
        TaskFailed: one of several processes has died.
    """
    if resources.executor.name == "slurm":
        return _submitted(requests, resources)
    if (
        launched() == 1
        and resources.team > 1
        and not tell_step(resources.processes, resources.nodes)
    ):
        return _started(requests, resources, title)
    if launched() > 1:
        _refuse_other_team(resources)
        return _together(requests, resources, title)
    orders = requests()
    jobs = default_workers(resources, len(orders))
    threads = resources.threads or max(1, default_jobs() // jobs)
    orders = [replace(order, threads=threads) for order in orders]
    news: Queue[Any] = multiprocessing.get_context("spawn").Queue()
    done = Done()
    _, *setup = workers(resources.jobs, resources.device)
    with waiting(orders) as ended, progress(title, _epochs(orders), unit="epochs") as advance:
        ticker = _Ticker(news, advance)
        runs = each(
            _run, orders, jobs, setup=_setup, setup_arguments=(news, *setup), idle=ticker.hear
        )
        with closing(runs):
            _collect(_noting(runs, ended), ticker, done)
    return done


def _epochs(requests: Iterable[RunRequest]) -> int:
    return sum(request.settings.optim.epochs for request in requests)


def _submitted(requests: Requests, resources: Resources) -> Done:
    """The runs as jobs of a cluster, which tells how they stand."""
    done = Done()
    nobody = _Ticker(queue.Queue(), lambda n=1, note="": None)
    _collect(on_cluster(requests(), resources), nobody, done)
    return done


def _refuse_other_team(resources: Resources) -> None:
    if resources.team not in (1, launched()):
        raise UserError(
            f"--processes {resources.processes} --nodes {resources.nodes}, but a launcher has "
            f"started {launched()}",
            "leave --processes to the launcher, or start the command without it",
        )


def _started(requests: Requests, resources: Resources, title: str) -> Done:
    """The runs one after another, each by processes that we start on this machine."""
    with redirect_stderr(io.StringIO()):  # what there is to warn of, the first of them tells
        orders = requests()
    if not orders:
        return Done()
    with waiting(orders):
        done = start(partial(_member, requests, resources, title), resources.processes)
    if isinstance(done, UserError):
        raise done
    return done


def _member(requests: Requests, resources: Resources, title: str) -> Done | UserError:
    """What each process does that we have started: an error goes back as what it is."""
    team = join(resources.device)
    try:
        with team.hushed():
            done = _one_after_another(requests, resources, title, team)
        team.leave()
    except UserError as error:
        return error
    return done


def _together(requests: Requests, resources: Resources, title: str) -> Done:
    """The runs one after another, each by all the processes that a launcher has started."""
    team = join(resources.device)
    try:
        with team.hushed():
            done = _one_after_another(requests, resources, title, team, notes=team.leads)
        team.leave()
    except TeamLost:
        raise
    except UserError as error:
        if team.leads:
            raise
        sys.exit(error.exit_code)
    if not team.leads:
        sys.exit(done.exit_code)
    return done


def _one_after_another(
    requests: Requests, resources: Resources, title: str, team: Team, *, notes: bool = False
) -> Done:
    with team.together():
        orders = requests()
    threads = resources.threads or max(1, default_jobs() // team.local_size)
    orders = [replace(order, threads=threads) for order in orders]
    news: queue.Queue[Any] = queue.Queue()
    done = Done()
    with (
        waiting(orders if notes else ()) as ended,
        progress(title, _epochs(orders), unit="epochs") as advance,
    ):
        ticker = _Ticker(news, advance)

        def tell(label: str, n_epochs: int, entry: dict[str, Any]) -> None:
            news.put((label, n_epochs, entry))
            ticker.hear()

        _collect(_noting(_outcomes(orders, tell, team), ended), ticker, done)
    return done


def _outcomes(requests: Iterable[RunRequest], tell: OnEpoch, team: Team) -> Iterator[Result]:
    """Each run with what became of it; a lost team cannot go on to the next."""
    for request in requests:
        result: Outcome | Exception
        try:
            result = run_fold(request, tell, team)
        except TeamLost:
            raise
        except Exception as error:  # the other folds may do
            result = error
        yield request, result


def _noting(runs: Iterable[Result], ended: Ended) -> Iterator[Result]:
    for request, result in runs:
        ended(request, result)
        yield request, result


_NEWS: Any = None


def _setup(news: Queue[Any], begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """First thing in a worker: what it does in any pool, and where to report epochs."""
    global _NEWS
    _NEWS = news
    news.cancel_join_thread()  # one that was killed may hold the queue's lock for ever
    begin(*arguments)


def _run(request: RunRequest) -> Outcome:
    def tell(label: str, n_epochs: int, entry: dict[str, Any]) -> None:
        _NEWS.put((label, n_epochs, entry))

    return run_fold(request, tell)


class _Ticker:
    """The progress line: epochs as the runs tell of them, and their last words."""

    def __init__(self, news: Queue[Any] | queue.Queue[Any], advance: Advance) -> None:
        self._news, self._advance = news, advance
        self._told: dict[str, int] = {}

    def hear(self) -> None:
        """Show the epochs that have come in."""
        while not self._news.empty():
            label, n_epochs, entry = self._news.get()
            heard = self._told.get(label, 0)
            if entry["epoch"] > heard:  # else the run's end was heard of first
                self._advance(entry["epoch"] - heard, note=_note(label, n_epochs, entry))
                self._told[label] = entry["epoch"]

    def end(self, request: RunRequest, outcome: Outcome | None) -> None:
        """A run has ended; without an outcome it failed."""
        label, n_epochs = request.label, request.settings.optim.epochs
        if outcome is not None:
            rest = 0 if outcome.status == "stopped" else n_epochs - self._told.get(label, 0)
            self._advance(rest, note=_last_word(label, outcome))
        self._told[label] = n_epochs


def _collect(runs: Iterable[Result], ticker: _Ticker, done: Done) -> None:
    """Sort outcomes from failures: whatever it is, one must not stop the other runs."""
    for request, result in runs:
        ticker.hear()
        if isinstance(result, Outcome):
            done.outcomes.append(result)
            done.by_label[request.label] = result
        elif isinstance(result, UserError):
            _fail(done, request, result)
        elif isinstance(result, OSError):
            _fail(done, request, io_failure(result, request.runs))
        else:
            trace(result)
            again = "what is done is kept: mend the cause and run the same command again"
            _fail(done, request, TaskFailed(f"{type(result).__name__}: {result}", again))
        ticker.end(request, result if isinstance(result, Outcome) else None)


def _fail(done: Done, request: RunRequest, error: UserError) -> None:
    """Say it at once: the other runs may take hours yet."""
    heard = any(other.error.message == error.message for other in done.failed)
    done.failed.append(Failure(request, error))
    if heard:  # ten folds that miss the same file are one mistake
        return
    message = printable_lines(error.message)
    told = message if message.startswith(f"{request.label}:") else f"{request.label}: {message}"
    say(f"error: {told}")
    if error.hint:
        say(f"hint: {printable(error.hint)}")


def _note(label: str, n_epochs: int, entry: dict[str, Any]) -> str:
    return f"{label} epoch {entry['epoch']}/{n_epochs} {epoch_note(entry)}"


def _last_word(label: str, outcome: Outcome) -> str:
    if outcome.status == "done" and outcome.wa is not None and outcome.ua is not None:
        return f"{label} test WA {100 * outcome.wa:.1f} UA {100 * outcome.ua:.1f}"
    return f"{label} {outcome.status}"
