"""How much faster is a build with two jobs than with one, on two cores?

The command's own tasks, carried out by the local executor: the LLD unit, and the teachers of two
folds, of the synthetic corpus with the tiny preset. The shared units are there before the clock
starts; each round begins with the unit or the teachers removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.common import Answer, Bench, interleaved, judged, told
from featstore.build.plan import Request
from featstore.build.run import build
from featstore.build.units import source_sums
from featstore.core.config import PRESETS, BuildSettings
from featstore.core.settings import resolve
from featstore.corpora import load
from featstore.corpora.synthetic import generate

JOBS = (1, 2)
FOLDS = "1..2"


def measure(bench: Bench) -> Answer:
    """Seconds of each with one job and with two, in turn."""
    n, rounds = bench.pick(400, 80), bench.pick(3, 1)
    request, sums = _request(bench, n)
    build(request, sums=sums)
    rows, measured = [], {}
    for what, place in (("LLDs", "lld"), ("teacher fits", "folds")):
        variants = {str(jobs): _again(request, sums, place, jobs) for jobs in JOBS}
        times = interleaved(variants, rounds, warm_up=0)  # the build before has warmed all up
        reason = f"two processes want two whole cores; load average {os.getloadavg()[0]:.1f}"
        rows.append(
            judged(f"featstore build: {what}, --jobs 2", "--jobs 1", times.ratio("1", "2"),
                   at_least=1.5, unit="x", reason=reason)
        )  # fmt: skip
        for jobs in JOBS:
            measured[f"{what}, {jobs} job(s), s"] = times.wall_s[str(jobs)]
    spoken = {name: told(values, " s") for name, values in measured.items()}
    notes = [
        f"{n} utterances of the synthetic corpus, tiny preset, teachers of folds {FOLDS}; the "
        f"processes' start is counted. {'; '.join(f'{k}: {v}' for k, v in spoken.items())}.",
    ]
    return Answer(rows, notes, measured)


def _request(bench: Bench, n: int) -> tuple[Request, dict[str, str]]:
    root = bench.cache / f"synthetic-{n}"
    generate(root, utterances=n)
    settings = resolve(BuildSettings, PRESETS["tiny"], {"corpus": {"name": "synthetic"}})
    manifest = load("synthetic", root, settings.corpus)
    store = Path(bench.cache / f"jobs-{n}")
    request = Request(manifest, settings, store, folds=bench.pick(FOLDS, "1"), device="cpu", jobs=2)
    return request, source_sums(manifest)


def _again(request: Request, sums: dict[str, str], place: str, jobs: int) -> Callable[[], object]:
    """Makes what was removed; the LLD unit is made without its teachers, which stay as they are."""

    def make() -> None:
        shutil.rmtree(request.store / place)
        build(replace(request, jobs=jobs), sums=sums)

    return make
