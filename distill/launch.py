"""Many folds of one student: settings from flags, folds over processes, one failure stops none.

Alone, ``distill run`` starts a process a fold. Where a launcher has started several processes of
it, they train each fold together, one fold after another (see :mod:`distill.parallel`).
"""

from __future__ import annotations

import multiprocessing
import queue
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from distill.backbones import check_weights
from distill.config import PRESETS, VARIANTS, RunSettings, default_preset
from distill.parallel import Team, TeamLost, join, launched
from distill.runs import RunFolder
from distill.trainer import OnEpoch, Outcome, RunRequest, key_of, run_fold
from featstore.console import Advance, printable_lines, progress, say, trace
from featstore.disk import io_failure
from featstore.folds import parse_numbers
from featstore.processes import default_jobs, each, worker_setup
from featstore.schema import UTTERANCE_ID, Corrupt, Refused, TaskFailed, UserError, printable
from featstore.settings import choose, load_toml, overrides, resolve
from featstore.store import Store
from featstore.training import pick_device


@dataclass(frozen=True)
class Order:
    """What ``distill run`` is asked for."""

    store: Path
    folds: str
    settings: RunSettings
    runs: Path
    experiment: str
    variant: str
    device: str = "auto"
    jobs: int | None = None
    threads: int | None = None
    root: Path | None = None
    weights: Path | None = None
    max_steps: int | None = None
    tensorboard: bool = False

    def request(self, fold: int, threads: int) -> RunRequest:
        """One fold of the order."""
        return RunRequest(
            store=self.store, fold=fold, settings=self.settings, runs=self.runs,
            experiment=self.experiment, variant=self.variant, device=self.device,
            threads=threads, root=self.root, weights=self.weights, max_steps=self.max_steps,
            tensorboard=self.tensorboard,
        )  # fmt: skip


@dataclass
class Done:
    """What became of each fold."""

    outcomes: list[Outcome] = field(default_factory=list)
    failed: dict[int, UserError] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 where every fold is done, stopped as asked or skipped; else the gravest failure's."""
        return max((error.exit_code for error in self.failed.values()), default=0)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, by fold."""
        return {
            "folds": [
                {**asdict(item), "folder": str(item.folder), "seconds": round(item.seconds, 1)}
                for item in sorted(self.outcomes, key=lambda item: item.fold)
            ],
            "failed": {
                str(fold): {"message": error.message, "hint": error.hint}
                for fold, error in sorted(self.failed.items())
            },
        }


def run_settings(
    student: str | None,
    variant: str,
    preset: str | None,
    config: Path | None,
    sets: Sequence[str],
    seed: int | None,
) -> RunSettings:
    """Preset, file, variant, --set, flags: later ones win; None is a flag that was not given.

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
        flags,
    )
    if preset is None:
        preset = default_preset(resolve(RunSettings, *layers).student.backbone)
    return resolve(RunSettings, choose("--preset", preset, PRESETS), *layers)


def experiment_name(student: str, variant: str) -> str:
    """A folder name for a student and a variant.

    >>> experiment_name("hf:facebook/wav2vec2-base", "full")
    'hf-wav2vec2-base-full'
    """
    kind, _, place = student.partition(":")
    name = f"{kind}-{Path(place).name}" if place else kind
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
    return f"{safe}-{variant}"


def plan(order: Order) -> dict[str, Any]:
    """Which runs there would be, which are finished, and what would be downloaded for them.

    Raises:
        UserError: also where weights are missing that a run would need.
    """
    refuse_order(order)
    store = Store.open(order.store)
    rows = []
    for fold in parse_numbers(order.folds, len(store.folds)):
        try:
            key = key_of(store, fold, order.settings, order.weights)
            folder = RunFolder.of(order.runs, order.experiment, key, fold, order.settings.seed)
            begun = (folder.path / "checkpoint").is_dir()
            status = "done" if folder.done else "resume" if begun else "run"
            rows.append({"fold": fold, "status": status, "why": "", "folder": str(folder.path)})
        except UserError as error:
            named = {UserError.exit_code: "missing", Refused.exit_code: "refused"}
            status = named.get(error.exit_code, "damaged")
            rows.append({"fold": fold, "status": status, "why": error.message, "folder": ""})
    begins = any(row["status"] in ("run", "resume") for row in rows)
    weights = check_weights(order.settings.student.backbone, order.weights) if begins else ""
    return {"runs": rows, "weights": weights, "settings": order.settings.model_dump(mode="json")}


def plan_exit_code(rows: Iterable[Mapping[str, Any]]) -> int:
    """What the runs of a plan would come to: the code of the gravest that cannot begin."""
    codes = {"missing": 2, "damaged": Corrupt.exit_code, "refused": Refused.exit_code}
    return max((codes.get(row["status"], 0) for row in rows), default=0)


def refuse_order(order: Order) -> None:
    """Refuse what would be noticed late, or write outside of ``runs``.

    Raises:
        UserError: with what to give instead.
    """
    if not UTTERANCE_ID.match(order.experiment):
        raise UserError(
            f"--experiment {printable(order.experiment)}: no name for a folder",
            "use letters, digits, dot, dash and underscore, up to 128 of them",
        )
    if order.runs.exists() and not order.runs.is_dir():
        raise UserError(f"--runs {order.runs}: not a folder", "give a folder")


def launch(order: Order) -> Done:
    """Train the folds, several at once where there is no GPU.

    A process trains with ``threads`` CPU threads; by default the CPUs are shared out over the
    folds asked for, so that the same command computes the same bytes. Processes that a launcher
    has started share them, too; all but the first end here, silently: what came of the folds is
    for one to tell.

    Raises:
        UserError: the store or the folds are not there.
    """
    if launched() > 1:
        return _launch_together(order)
    refuse_order(order)
    store = Store.open(order.store)
    folds = parse_numbers(order.folds, len(store.folds))
    cpus = default_jobs()
    on_cpu = pick_device(order.device).type == "cpu"
    jobs = min(order.jobs or (cpus if on_cpu else 1), len(folds))
    threads = order.threads or max(1, cpus // jobs)
    epochs = order.settings.optim.epochs
    news: Queue[Any] = multiprocessing.get_context("spawn").Queue()
    done = Done()
    with progress(order.experiment, len(folds) * epochs, unit="epochs") as advance:
        ticker = _Ticker(news, advance, epochs)
        requests = [order.request(fold, threads) for fold in folds]
        runs = each(_run, requests, jobs, setup=_setup, setup_arguments=(news,), idle=ticker.hear)
        with closing(runs):
            _collect(runs, ticker, done)
    return done


def _launch_together(order: Order) -> Done:
    """The folds one after another, each by all the processes that a launcher has started."""
    team = join(order.device)
    try:
        with team.hushed():
            done = _one_after_another(order, team)
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


def _one_after_another(order: Order, team: Team) -> Done:
    with team.together():
        refuse_order(order)
        store = Store.open(order.store)
        folds = parse_numbers(order.folds, len(store.folds))
    threads = order.threads or max(1, default_jobs() // team.local_size)
    epochs = order.settings.optim.epochs
    news: queue.Queue[Any] = queue.Queue()
    done = Done()
    with progress(order.experiment, len(folds) * epochs, unit="epochs") as advance:
        ticker = _Ticker(news, advance, epochs)

        def tell(fold: int, n_epochs: int, entry: dict[str, Any]) -> None:
            news.put((fold, n_epochs, entry))
            ticker.hear()

        requests = [order.request(fold, threads) for fold in folds]
        _collect(_outcomes(requests, tell, team), ticker, done)
    return done


def _outcomes(
    requests: Iterable[RunRequest], tell: OnEpoch, team: Team
) -> Iterator[tuple[RunRequest, Outcome | Exception]]:
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


_NEWS: Any = None


def _setup(news: Queue[Any]) -> None:
    """First thing in a worker: die with the parent, and know where to report epochs."""
    global _NEWS
    _NEWS = news
    news.cancel_join_thread()  # one that was killed may hold the queue's lock for ever
    worker_setup()


def _run(request: RunRequest) -> Outcome:
    def tell(fold: int, n_epochs: int, entry: dict[str, Any]) -> None:
        _NEWS.put((fold, n_epochs, entry))

    return run_fold(request, tell)


class _Ticker:
    """The progress line: epochs as the folds tell of them, and their last words."""

    def __init__(
        self, news: Queue[Any] | queue.Queue[Any], advance: Advance, n_epochs: int
    ) -> None:
        self._news, self._advance, self._n_epochs = news, advance, n_epochs
        self._told: dict[int, int] = {}

    def hear(self) -> None:
        """Show the epochs that have come in."""
        while not self._news.empty():
            fold, n_epochs, entry = self._news.get()
            heard = self._told.get(fold, 0)
            if entry["epoch"] > heard:  # else the fold's end was heard of first
                self._advance(entry["epoch"] - heard, note=_note(fold, n_epochs, entry))
                self._told[fold] = entry["epoch"]

    def end(self, fold: int, outcome: Outcome | None) -> None:
        """A fold has ended; without an outcome it failed."""
        if outcome is not None:
            rest = 0 if outcome.status == "stopped" else self._n_epochs - self._told.get(fold, 0)
            self._advance(rest, note=_last_word(outcome))
        self._told[fold] = self._n_epochs


def _collect(
    runs: Iterable[tuple[RunRequest, Outcome | Exception]], ticker: _Ticker, done: Done
) -> None:
    """Sort outcomes from failures: whatever it is, one must not stop the other folds."""
    for request, result in runs:
        fold = request.fold
        ticker.hear()
        if isinstance(result, Outcome):
            done.outcomes.append(result)
        elif isinstance(result, UserError):
            _fail(done, fold, result)
        elif isinstance(result, OSError):
            _fail(done, fold, io_failure(result, request.runs))
        else:
            trace(result)
            again = "what is done is kept: mend the cause and run the same command again"
            _fail(done, fold, TaskFailed(f"{type(result).__name__}: {result}", again))
        ticker.end(fold, result if isinstance(result, Outcome) else None)


def _fail(done: Done, fold: int, error: UserError) -> None:
    """Say it at once: the other folds may take hours yet."""
    heard = any(other.message == error.message for other in done.failed.values())
    done.failed[fold] = error
    if heard:  # ten folds that miss the same file are one mistake
        return
    message = printable_lines(error.message)
    told = message if message.startswith(f"fold {fold}:") else f"fold {fold}: {message}"
    say(f"error: {told}")
    if error.hint:
        say(f"hint: {printable(error.hint)}")


def _note(fold: int, n_epochs: int, entry: dict[str, Any]) -> str:
    text = f"fold {fold} epoch {entry['epoch']}/{n_epochs} loss {entry['train']['total']:.3f}"
    if scores := entry.get("validation"):
        text += f" val WA {100 * scores['wa']:.1f} UA {100 * scores['ua']:.1f}"
    return text


def _last_word(outcome: Outcome) -> str:
    if outcome.status == "done" and outcome.wa is not None and outcome.ua is not None:
        return f"fold {outcome.fold} test WA {100 * outcome.wa:.1f} UA {100 * outcome.ua:.1f}"
    return f"fold {outcome.fold} {outcome.status}"
