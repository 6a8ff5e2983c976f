"""How much of a batch is padding under a duration budget, shuffled anew every epoch?

Counted, not timed: padded samples that belong to no utterance, as a share of all samples.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import stores
from benchmarks.common import Answer, Bench, Row, judged
from distill.config import PRESETS, RunSettings
from distill.data import plan_steps, training_steps
from featstore.core.schema import SAMPLING_RATE, UserError
from featstore.core.settings import resolve

EPOCHS = 5
POOL = 16
"""Of the row with the goal: 2,048 utterances sorted together, where lhotse sorts up to 10,000."""
REASON = "a larger stream.pool pads less, and shuffles less"
Lengths = npt.NDArray[np.int64]


def measure(bench: Bench) -> Answer:
    """Our batches under three settings, random ones of as many utterances, and lhotse's."""
    if importlib.util.find_spec("lhotse") is None:
        raise UserError("lhotse is not installed", 'pip install -e ".[bench]"')
    n = bench.pick(stores.SIZES[1], 200)
    epochs = range(1, bench.pick(EPOCHS, 1) + 1)
    lengths = (stores.lengths_s(n) * SAMPLING_RATE).round().astype(np.int64)
    budget_s = RunSettings().stream.max_batch_s
    size = max(1, round(budget_s / float(lengths.mean() / SAMPLING_RATE)))
    default, tiny = RunSettings(), resolve(RunSettings, PRESETS["tiny"])
    settings = [
        ("paper's batch", default.optim.batch_size, default.stream.pool),
        ("paper's batch", default.optim.batch_size, 8),
        ("paper's batch", default.optim.batch_size, POOL),
        ("tiny preset's batch", tiny.optim.batch_size, tiny.stream.pool),
        ("tiny preset's batch", tiny.optim.batch_size, 64),
    ]
    ours = {f"{whose} of {size}, pool {pool}": (size, pool) for whose, size, pool in settings}
    shares = {
        name: [_ours(lengths, batch, pool, budget_s, epoch) for epoch in epochs]
        for name, (batch, pool) in ours.items()
    }
    shares["random"] = [_random(lengths, size, epoch) for epoch in epochs]
    shares["lhotse"] = [_lhotse(lengths, budget_s, epoch) for epoch in epochs]
    rows: list[Row] = []
    for name in ours:
        goal = 4.0 if name.endswith(f"pool {POOL}") else None
        what = f"padding under a budget of {budget_s:g} s, shuffled: {name}"
        rows.append(judged(what, "", shares[name], at_most=goal, unit=" %", reason=REASON))
    rows.append(judged("padding of random batches", f"{size} utterances, about as much audio",
                       shares["random"], unit=" %"))  # fmt: skip
    rows.append(judged("padding of lhotse's DynamicBucketingSampler", "the same budget",
                       shares["lhotse"], unit=" %"))  # fmt: skip
    notes = [
        f"{n:,} IEMOCAP-like lengths, {len(epochs)} epoch(s); 30 buckets and lhotse's own default "
        "buffers. An effective batch is cut into micro-batches that fit the budget, so what is "
        "shuffled together stays together in one optimiser step.",
        "stream.pool = 1, the default, shuffles fully, as the paper's words say; 16 sorts sixteen "
        "effective batches together, then shuffles the batches. The goal is held against 16.",
    ]
    return Answer(rows, notes, {f"{name}, %": values for name, values in shares.items()})


def share(batches: Iterable[npt.NDArray[Any]]) -> float:
    """Percent of padding, from each batch's lengths.

    >>> share([np.array([3, 1]), np.array([4])])
    20.0
    """
    full = used = 0
    for lengths in batches:
        full += len(lengths) * int(lengths.max())
        used += int(lengths.sum())
    return 100 * (full - used) / full


def _ours(lengths: Lengths, batch: int, pool: int, budget_s: float, epoch: int) -> float:
    steps = training_steps(np.arange(len(lengths)), lengths, batch, pool, 42, epoch)
    plans = plan_steps(steps, lengths, round(budget_s * SAMPLING_RATE))
    return share(lengths[plan.rows] for plan in plans)


def _random(lengths: Lengths, size: int, epoch: int) -> float:
    order = np.random.default_rng(epoch).permutation(lengths)
    return share(np.split(order, range(size, len(order), size)))


def _lhotse(lengths: Lengths, budget_s: float, epoch: int) -> float:
    from lhotse import CutSet, MonoCut
    from lhotse.dataset import DynamicBucketingSampler

    cuts: Sequence[Any] = [
        MonoCut(id=f"{i}", start=0.0, duration=size / SAMPLING_RATE, channel=0)
        for i, size in enumerate(lengths.tolist())
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using DynamicBucketingSampler with an eager")
        sampler = DynamicBucketingSampler(
            CutSet.from_cuts(cuts), max_duration=budget_s, num_buckets=min(30, len(cuts) // 4),
            shuffle=True, seed=epoch,
        )  # fmt: skip
        batches = list(sampler)
    return share(
        np.array([round(cut.duration * SAMPLING_RATE) for cut in batch]) for batch in batches
    )
