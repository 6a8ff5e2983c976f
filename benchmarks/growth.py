"""Does cost grow with the corpus no faster than the corpus does?

A tenth of IEMOCAP's utterances, as many, and ten times as many, each of 0.3 s: what is left is the
cost of an utterance, whatever its length.
"""

from __future__ import annotations

import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import stores
from benchmarks.common import Answer, Bench, Row, Times, judged, run, short, told
from benchmarks.nothing import SECONDS, build
from benchmarks.targets import load
from distill.data import MicroBatchPlan, open_signals, read_batch
from featstore.store.store import Store

FOLD = "1"
"""The only fold with teachers: ten would be 3 GB of the largest store."""
BATCH = 32


def measure(bench: Bench) -> Answer:
    """Three tasks at three sizes, interleaved; time per utterance at the larger of two sizes."""
    sizes = bench.pick(stores.SIZES, (80, 160, 240))
    places = {n: stores.table_store(bench, n, SECONDS, FOLD) for n in sizes}
    start = bench.time({"python": lambda: run([sys.executable, "-c", "pass"])}, 3)
    python_s = min(start.wall_s["python"])
    rows: list[Row] = []
    measured: dict[str, list[float]] = {}
    for task, call in _TASKS.items():
        variants = {str(n): partial(call, place) for n, place in places.items()}
        times = bench.time(variants, _ROUNDS[task])
        less = python_s if task == "nothing" else 0.0
        seconds = {n: [s - less for s in times.wall_s[str(n)]] for n in sizes}
        rows += _rows(_TOLD[task], seconds)
        measured |= {f"{_TOLD[task]}, {n:,} utterances, s": s for n, s in seconds.items()}
    notes = [
        f"Utterances of {SECONDS:g} s, teachers of fold 1 only. A growth below the corpus' own, "
        "given as the goal, means that an utterance costs less in the larger corpus.",
        *(_extent(n, Store.open(place / "store")) for n, place in places.items()),
    ]
    return Answer(rows, notes, measured)


def _rows(what: str, seconds: dict[int, list[float]]) -> list[Row]:
    rows = []
    for few, many in pairwise(sorted(seconds)):
        times = Times({"many": seconds[many], "few": seconds[few]})
        each, before = (1e6 * median(seconds[n]) / n for n in (many, few))
        rows.append(
            judged(f"{what}: {many:,} utterances ({short(each)} us each)",
                   f"{few:,} utterances ({told(seconds[few], ' s')})",
                   times.ratio("many", "few"), at_most=round(many / few, 2), unit="x",
                   reason=f"{short(before)} us each in the smaller corpus")
        )  # fmt: skip
    return rows


def _extent(n: int, store: Store) -> str:
    """Files and bytes of a store, by what they are for."""
    parts: dict[str, list[int]] = {}
    for unit in map(store.unit, store.units()):
        name = unit.unit.rpartition("/")[2]
        parts.setdefault(name, []).extend(size for size, _ in unit.files.values())
    told = (f"{name} {len(sizes)} / {sum(sizes):,}" for name, sizes in parts.items())
    return f"Files / bytes of {n:,} utterances: {', '.join(told)}."


def _read_all(place: Path) -> None:
    """Open the store's signals and read every utterance once, in random order."""
    store = Store.open(place / "store")
    signals, lengths = open_signals(store, None, check=False), store.lengths
    order = np.random.default_rng(0).permutation(len(lengths))
    for rows in np.split(order, range(BATCH, len(order), BATCH)):
        read_batch(signals, MicroBatchPlan(rows), lengths)


def _open_targets(place: Path) -> None:
    load(place / "store")


def _build(place: Path) -> None:
    build(place, FOLD)


_TASKS = {"read": _read_all, "targets": _open_targets, "nothing": _build}
_ROUNDS = {"read": 5, "targets": 5, "nothing": 2}
_TOLD = {
    "read": "opening the signals and reading all once",
    "targets": "opening a fold's targets",
    "nothing": "featstore build with nothing to do, beyond Python's start",
}
