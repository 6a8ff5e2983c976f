"""Does a build's memory grow with the corpus?

Each step runs in a process of its own, which reports its highest resident set and the highest of
its anonymous part; the rest are pages of mapped files, which the system takes back at need.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import stores
from benchmarks.common import Answer, Bench, Row, judged, run
from featstore.core.schema import SAMPLING_RATE, TaskFailed
from featstore.features.audio import Samples
from featstore.features.lld import Lld
from featstore.store.store import Store

JOBS = 2
SHARE = 0.11
"""Of an utterance's length where LLDs are extracted in earnest: hours would take minutes."""
EVERY_S = 0.005


def measure(bench: Bench) -> Answer:
    """Audio at true lengths; LLDs of short ones, and of true ones by a stand-in extractor."""
    few, many = bench.pick(stores.SIZES[:2], (80, 160))
    rows: list[Row] = []
    measured: dict[str, list[float]] = {}
    for step, (what, place) in _STEPS.items():
        peaks = [run([sys.executable, "-m", "benchmarks.memory", step, place(bench, n)])
                 for n in (few, many)]  # fmt: skip
        small, large = (json.loads(told) for told in peaks)
        for kind in ("resident", "anonymous"):
            pair = [small[kind], large[kind]]
            measured[f"{what}: {kind}, {few:,} and {many:,} utterances, MB"] = pair
            rows.append(
                judged(f"peak {kind} memory of {what}, {many:,} utterances",
                       f"{few:,} utterances ({pair[0]:.0f} MB; {pair[1]:.0f} MB)",
                       [pair[1] / pair[0]], at_most=1.3, unit="x", reason=_REASONS[kind])
            )  # fmt: skip
    notes = [
        f"Short utterances have {SHARE:.0%} of their lengths; {JOBS} processes extract in earnest. "
        "The stand-in returns random LLDs of the true size at once, so that hours of signals pass. "
        "It is the build's own process that is measured: a worker holds one utterance at a time.",
    ]
    return Answer(rows, notes, measured)


def _wavs(bench: Bench, n: int) -> Path:
    return stores.made(
        bench, f"wav-{n}", lambda place: stores.write_table(place, stores.lengths_s(n))
    )


def _store(share: float) -> Callable[[Bench, int], Path]:
    return lambda bench, n: stores.store(bench, n, "1", share).path


def audio(corpus: Path, out: Path) -> None:
    """Decode a table corpus and write its audio unit, as a build does."""
    from featstore.build import units as steps
    from featstore.corpora import load

    wanted = stores.settings()
    manifest = load("table", corpus, wanted.corpus)
    sums = steps.source_sums(manifest)
    step = steps.Step(steps.audio_identity(manifest, wanted.audio, sums), "build", "")
    Store.create(out)
    steps.write_audio(out, step, manifest, wanted.audio, sums, JOBS)


def lld(store: Path, out: Path) -> None:
    """Build what a store lacks that has everything but LLDs, and no teachers."""
    _build(store, out, SHARE, JOBS)


def lld_standin(store: Path, out: Path) -> None:
    """The same at true lengths, by an extractor that takes no time."""
    import featstore.features.lld

    pool = np.random.default_rng(0).standard_normal((4_000, stores.N_LLDS), dtype=np.float32)

    def extract(samples: Samples, feature_set: str = "") -> Lld:
        return pool[: 100 * len(samples) // SAMPLING_RATE].copy()

    featstore.features.lld.extract = extract
    _build(store, out, 1.0, 1)


def _build(store: Path, out: Path, share: float, jobs: int) -> None:
    from featstore.build.plan import Request
    from featstore.build.run import build

    without = shutil.ignore_patterns("lld", "folds")
    shutil.copytree(store, out, copy_function=os.link, ignore=without)
    corpus, sums = stores.invented(len(Store.open(store).lengths), share)
    wanted = stores.settings().model_copy(update={"teachers": {}})
    built = build(Request(corpus, wanted, out, jobs=jobs, device="cpu"), sums=sums).built
    if built != ["lld"]:
        raise TaskFailed(f"the build made {', '.join(built)}")


_STEPS: dict[str, tuple[str, Callable[[Bench, int], Path]]] = {
    "audio": ("build's audio step", _wavs),
    "lld": ("build's LLD step on short utterances", _store(SHARE)),
    "lld_standin": ("build's LLD step with a stand-in extractor", _store(1.0)),
}
_REASONS = {
    "resident": "it counts pages of the store's mapped signals, which the system takes back",
    "anonymous": "the shard being written, of 32 MiB, is not yet full with few utterances",
}


class Peak:
    """The highest memory of this process while it is open, in MB."""

    def __enter__(self) -> Peak:
        self.anonymous, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.resident = _status("VmHWM")

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.anonymous = max(self.anonymous, _status("RssAnon"))


def _status(key: str) -> float:
    """A line of ``/proc/self/status``, from KiB to MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(key)


def _main(step: str, given: Path) -> None:
    call = {"audio": audio, "lld": lld, "lld_standin": lld_standin}[step]
    with tempfile.TemporaryDirectory(dir=given.parent) as folder, Peak() as peak:
        call(given, Path(folder) / "store")
    print(json.dumps({"resident": peak.resident, "anonymous": peak.anonymous}))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
