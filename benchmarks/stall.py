"""Does one thread keep up with a consumer of 4,000 s of audio a second?

Faster than any GPU trains HuBERT-base. The consumer sleeps for as long as it would compute; the
rest of its time it waits for the loader.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks import stores
from benchmarks.common import Answer, Bench, Row, judged, told
from distill.config import RunSettings
from distill.data import (
    MicroBatchPlan,
    Signals,
    open_signals,
    plan_steps,
    stream,
    training_steps,
)
from featstore.core.schema import SAMPLING_RATE
from featstore.core.training import Indices

PACE = 4_000.0
"""Seconds of audio a second."""


def measure(bench: Bench) -> Answer:
    """An epoch of the paper's batches in the default budget, several times."""
    n, settings = bench.pick(stores.SIZES[1], 80), RunSettings()
    store = stores.store(bench, n)
    lengths, budget = store.lengths, round(settings.stream.max_batch_s * SAMPLING_RATE)
    stalls, firsts, paces = [], [], []
    for epoch in range(1, bench.pick(5, 1) + 1):
        steps = training_steps(np.arange(n), lengths, settings.optim.batch_size, 1, 42, epoch)
        plans = plan_steps(steps, lengths, budget)
        waits_s, whole_s = consume(open_signals(store, None, check=False), plans, lengths, PACE)
        stalls.append(100 * sum(waits_s) / whole_s)
        firsts.append(100 * waits_s[0] / whole_s)
        paces.append(_alone(open_signals(store, None, check=False), plans, lengths))
    reason = f"{told(firsts, ' %')} is the wait for the first batch, the rest other work's turns"
    rows = [
        judged(f"loader stall at {PACE:,.0f} s of audio a second, one thread", "", stalls,
               at_most=1, unit=" %", reason=reason),
        Row("the loader alone, nobody to wait for", "",
            told(paces, " s of audio a second")),
    ]  # fmt: skip
    notes = [
        f"{n:,} utterances, micro-batches of up to {settings.stream.max_batch_s:g} s, padding "
        "included; the wait for the first batch counts. A sleeping consumer holds neither a core "
        "nor Python's lock.",
    ]
    measured = {"stall, %": stalls, "of it the first batch, %": firsts,
                "loader alone, s of audio a second": paces}  # fmt: skip
    return Answer(rows, notes, measured)


def consume(
    signals: Signals, plans: list[MicroBatchPlan], lengths: Indices, pace: float
) -> tuple[list[float], float]:
    """A consumer of ``pace`` s of audio a second: seconds of each wait, and seconds in all."""
    waits_s: list[float] = []
    began = time.perf_counter()
    batches = stream(signals, plans, lengths)
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waits_s.append(time.perf_counter() - asked)
        if batch is None:
            return waits_s, time.perf_counter() - began
        time.sleep(float(batch.lengths.sum()) / SAMPLING_RATE / pace)


def _alone(signals: Signals, plans: list[MicroBatchPlan], lengths: Indices) -> float:
    """Seconds of audio a second that come out where the consumer takes no time."""
    _, whole_s = consume(signals, plans, lengths, float("inf"))
    return sum(int(lengths[plan.rows].sum()) for plan in plans) / SAMPLING_RATE / whole_s
