"""How long does ``featstore build`` take where there is nothing to do?

It reads the corpus again, sums up every file, and looks at every unit, because that is how it
knows.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks import stores
from benchmarks.common import Answer, Bench, Row, judged, run, script, short, told
from featstore.build.plan import Request, make_plan
from featstore.build.units import source_sums
from featstore.core.schema import TaskFailed
from featstore.corpora import load
from featstore.store.store import Store

T = TypeVar("T")

SECONDS = 0.3
"""Length of an utterance: extracting real ones' LLDs is another benchmark's question."""


def measure(bench: Bench) -> Answer:
    """The command in a process of its own, less a Python that does nothing; and its parts."""
    n = bench.pick(stores.SIZES[1], 80)
    place = stores.table_store(bench, n, SECONDS)
    times = bench.time(
        {"build": partial(build, place), "python": lambda: run([sys.executable, "-c", "pass"])},
        rounds=7,
    )
    beyond = [a - b for a, b in zip(times.wall_s["build"], times.wall_s["python"], strict=True)]
    parts = _parts(place)
    reason = ", ".join(f"{name} {short(seconds)} s" for name, seconds in parts.items())
    what = f"featstore build with nothing to do, {n:,} utterances, 10 folds"
    rows = [
        judged(what, "beyond Python's start", beyond, at_most=1.5, unit=" s",
               reason=f"of it: {reason}"),
        Row("a Python that does nothing", "", told(times.wall_s["python"], " s")),
    ]  # fmt: skip
    notes = [f"Files of {SECONDS:g} s. Its parts, in a process of their own: {reason}."]
    return Answer(rows, notes, {f"{name}, s": s for name, s in times.wall_s.items()})


def build(place: Path, folds: str = "all") -> None:
    """Run the command on a table corpus and its store.

    Raises:
        TaskFailed: it found something to do.
    """
    command: list[str | Path] = [
        script("featstore"), "build", "--dataset", "table", "--root", place / "corpus",
        "--store", place / "store", "--fold", folds, "--json",
    ]  # fmt: skip
    built = json.loads(run(command))["built"]
    if built:
        raise TaskFailed(f"the build had work to do: {', '.join(built)}")


def _parts(place: Path) -> dict[str, float]:
    """Seconds of each part of the same build, each once, in fresh processes."""
    parts: dict[str, float] = json.loads(run([sys.executable, "-m", "benchmarks.nothing", place]))
    return {"imports": float(run([sys.executable, "-c", _IMPORTS])), **parts}


_IMPORTS = """
from time import perf_counter
began = perf_counter()
import cli, featstore.build.run, featstore.corpora, featstore.inspection.render, pandas
print(perf_counter() - began)
"""


def _time_parts(place: Path) -> dict[str, float]:
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = call()
        seconds[name] = time.perf_counter() - began
        return result

    wanted = stores.settings()
    corpus = timed("the corpus", lambda: load("table", place / "corpus", wanted.corpus))
    sums = timed("SHA-256 of its files", lambda: source_sums(corpus))
    request = Request(corpus, wanted, place / "store")
    timed("the plan", lambda: make_plan(request, sums))
    timed("the content hash", lambda: Store.open(place / "store").content_hash())
    return seconds


if __name__ == "__main__":
    print(json.dumps(_time_parts(Path(sys.argv[1]))))
