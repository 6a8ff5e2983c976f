"""How many teachers does the whole study fit, against fitting them in every run?

Counted from the plans that the commands themselves would follow: the paper's Table 2 and Figure 2
over all folds of one store.
"""

from __future__ import annotations

from benchmarks import stores
from benchmarks.common import Answer, Bench, Row
from distill.config import RunSettings
from distill.experiments.grid import load_grid
from distill.runs.folder import Keys, RunRequest
from featstore.build.plan import Request, make_plan
from featstore.core.schema import TaskFailed
from featstore.core.settings import resolve
from featstore.store.store import Store


def measure(bench: Bench) -> Answer:
    """Fits that the build plans, runs that the study has, fits that each run would need."""
    n = bench.pick(stores.SIZES[0], 80)
    store = stores.store(bench, n)
    fits = _planned(bench, n, store)
    keys = Keys(store)
    runs: dict[tuple[int, str], RunSettings] = {}
    for settings in _study():
        for fold in range(1, len(store.folds) + 1):
            runs[fold, keys.folder(RunRequest(store.path, fold, settings)).key] = settings
    needed = sum(_teachers(settings) for settings in runs.values())
    students = len(runs) // len(store.folds)
    both = 2 * len(runs)
    what = f"teacher fits of the whole study: {students} students x {len(store.folds)} folds"
    rows = [
        Row(what, "teachers fitted anew in every run, both each time", f"{fits} against {both}",
            f"20 against 20 x {students}", (fits, both) == (20, 20 * students),
            "the store plans another number of fits"),
        Row(what, "the same, only those that a run's losses use", f"{fits} against {needed}"),
    ]  # fmt: skip
    notes = [
        "A student is a set of settings with a key of its own; Figure 2's tau 0.5 without the "
        "linguistic teacher is Table 2's row and is run once.",
    ]
    counts = {"fits": fits, "runs": len(runs), "fits, both in every run": both,
              "fits, those that losses use": needed}  # fmt: skip
    return Answer(rows, notes, {name: [float(count)] for name, count in counts.items()})


def _planned(bench: Bench, n: int, store: Store) -> int:
    """Fits that a build plans where there is no store yet.

    Raises:
        TaskFailed: the finished store would have some fitted again.
    """
    corpus, sums = stores.invented(n)
    empty, done = (
        make_plan(Request(corpus, stores.settings(), path), sums)
        for path in (bench.cache / "nothing-there", store.path)
    )
    if done.jobs:
        raise TaskFailed(f"a finished store plans {len(done.jobs)} fit(s)")
    return len(empty.jobs)


def _study() -> list[RunSettings]:
    """Table 2's students and Figure 2's."""
    cells = [cell for name in ("table2", "figure2") for cell in load_grid(name).cells()]
    return [resolve(RunSettings, cell.delta) for cell in cells if cell.teacher is None]


def _teachers(settings: RunSettings) -> int:
    """Teachers that a run's losses use."""
    losses = settings.losses
    taught = losses.alpha > 0 or losses.beta > 0
    return sum(taught and term.weight > 0 for term in losses.teachers.values())
