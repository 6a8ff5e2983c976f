"""What does a step with cached targets cost over cross entropy alone on data in memory?

The limit is a bare loop: batches lie ready, one loss, no report. Ours reads its batches from the
store and has both teachers' KL divergences and cosine distances, the check for non-finite losses
and the report of terms and gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import stores
from benchmarks.common import Answer, Bench, Row, Times, judged, told
from benchmarks.students import CPU, Case, cases, learner_of, train
from distill.data import MicroBatch, load_targets, open_signals, read_batch
from distill.training.loop import Learner
from featstore.store.store import Store

HUBERT_GOAL = 1.02


def measure(bench: Bench) -> Answer:
    """Both students; the goal is HuBERT-base's."""
    store = stores.store(bench, bench.pick(stores.SIZES[0], 80))
    rows: list[Row] = []
    notes = [
        "Both variants step the same student with the same optimiser over the same rows; CPU time "
        "is that of all threads, the loader's included, and does not mind a loaded machine.",
    ]
    measured: dict[str, Sequence[float]] = {}
    for case in cases(bench, store):
        times = _time(bench, case, store)
        rows += _rows(case, times)
        notes.append(f"{case.told}.")
        measured |= {f"{case.name}: {name}, s": s for name, s in times.wall_s.items()}
        measured |= {f"{case.name}: {name}, CPU s": s for name, s in times.cpu_s.items()}
    return Answer(rows, notes, measured)


def _rows(case: Case, times: Times) -> list[Row]:
    what = f"step with cached targets, loss and loader included: {case.name}"
    limit = "cross entropy alone, batches in memory (limit)"
    goal = HUBERT_GOAL if case.name.startswith("HuBERT") else None
    wall, cpu = (times.ratio("cached", "cross entropy", cpu=flag) for flag in (False, True))
    reason = f"by CPU time it is {told(cpu, 'x')}: the rest is this machine's other work"
    pace = [case.audio_s / seconds for seconds in times.wall_s["cached"]]
    return [
        judged(what, limit, wall, at_most=goal, unit="x", reason=reason),
        judged(
            f"the same by CPU time: {case.name}",
            limit,
            cpu,
            at_most=goal,
            unit="x",
            reason="it counts the loader's thread, which had a core of its own",
        ),
        Row("the same as a pace", "", told(pace, " s of audio a second")),
    ]


def _time(bench: Bench, case: Case, store: Store) -> Times:
    targets = load_targets(store, 1, CPU)
    learner = learner_of(bench, case, targets)
    signals, lengths = open_signals(store, None, check=False), store.lengths
    ready = [read_batch(signals, plan, lengths) for plan in case.plans]
    return bench.time(
        {
            "cached": lambda: train(learner, case, signals, lengths),
            "cross entropy": partial(_cross_entropy, learner, ready, targets.labels),
        },
        case.rounds,
    )


def _cross_entropy(learner: Learner, batches: list[MicroBatch], labels: torch.Tensor) -> None:
    """The same student and optimiser, and nothing else."""
    optimiser, schedule = learner.optimiser, learner.schedule
    for batch in batches:
        logits = learner.student(batch.signals, batch.lengths).logits
        loss = F.cross_entropy(logits, labels[batch.rows])
        share = loss * batch.share
        share.backward()  # type: ignore[no-untyped-call]
        if batch.ends_step:
            nn.utils.clip_grad_norm_(learner.trainable, learner.settings.optim.clip_norm)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()
