"""Do two processes extract LLDs twice as fast as one, and as fast as openSMILE's own workers?"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import stores
from benchmarks.common import Answer, Bench, Row, judged, told
from featstore.core.config import LldSettings
from featstore.features import lld

JOBS = 2
FEATURE_SET = LldSettings().feature_set
SKIPPED = 16
"""Results before the clock of the steady pace starts: by then all processes are at work."""

Pace = tuple[float, float]
"""Seconds of audio a second: the start of the processes included, and without it."""


def measure(bench: Bench) -> Answer:
    """The same utterances by one process, by two, and by opensmile's two workers."""
    n, rounds = bench.pick(160, 24), bench.pick(3, 1)
    lengths = stores.lengths_s(n)
    folder = stores.made(bench, f"lld-{n}", lambda place: stores.write_table(place, lengths))
    files = [folder / "audio" / name for name in sorted(p.name for p in folder.rglob("*.wav"))]
    durations = np.array([_duration_s(file) for file in files])
    paces: dict[str, list[Pace]] = {"one": [], "two": [], "opensmile": []}
    for _ in range(rounds):
        paces["one"].append(_ours(files, durations, 1))
        paces["two"].append(_ours(files, durations, JOBS))
        paces["opensmile"].append(_theirs(files, durations))
    whole, steady = ({name: [p[at] for p in values] for name, values in paces.items()}
                     for at in (0, 1))  # fmt: skip
    what = f"LLD extraction, {JOBS} processes"
    reason = f"{JOBS} processes want {JOBS} whole cores; load average {os.getloadavg()[0]:.1f}"
    rows = [
        judged(what, "1 process", _ratio(steady, "one"), at_least=1.9, unit="x", reason=reason),
        judged(what, "opensmile's own workers (2 threads)", _ratio(steady, "opensmile"),
               at_least=1.0, unit="x", reason=reason),
        judged("the same, start of the processes included", "1 process", _ratio(whole, "one"),
               unit="x"),
        Row("LLD extraction, 1 process", "", told(steady["one"], " s of audio a second")),
        Row(what, "", told(steady["two"], " s of audio a second")),
    ]  # fmt: skip
    notes = [
        f"{n} utterances of noise with IEMOCAP-like lengths, {durations.sum():.0f} s, read from "
        f"WAV files by all three. The clock of the first two ratios starts at result {SKIPPED}, "
        "when all processes are at work: a build starts them once for hours of audio.",
    ]
    measured = {f"{name}, s of audio a second": values for name, values in steady.items()}
    return Answer(rows, notes, measured)


def _ratio(paces: dict[str, list[float]], under: str) -> list[float]:
    return [a / b for a, b in zip(paces["two"], paces[under], strict=True)]


def _ours(files: Sequence[Path], durations: npt.NDArray[np.float64], jobs: int) -> Pace:
    began = time.perf_counter()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for count, _ in enumerate(pool.map(_extract, files), start=1):
            if count == SKIPPED:
                steady = time.perf_counter()
        ended = time.perf_counter()
    return durations.sum() / (ended - began), durations[SKIPPED:].sum() / (ended - steady)


def _theirs(files: Sequence[Path], durations: npt.NDArray[np.float64]) -> Pace:
    import opensmile

    smile: Any = opensmile.Smile(
        feature_set=opensmile.FeatureSet[FEATURE_SET],
        feature_level=opensmile.FeatureLevel.LowLevelDescriptors,
        num_workers=JOBS,
    )
    began = time.perf_counter()
    smile.process_files([str(file) for file in files])
    pace = durations.sum() / (time.perf_counter() - began)
    return pace, pace


def _extract(file: Path) -> lld.Lld:
    import soundfile

    return lld.extract(soundfile.read(file, dtype="int16")[0], FEATURE_SET)


def _duration_s(file: Path) -> float:
    import soundfile

    return float(soundfile.info(file).duration)
