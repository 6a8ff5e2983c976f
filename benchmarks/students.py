"""Students to time: tiny at its preset, and HuBERT-base with random weights on short utterances.

A CPU takes most of a second for a second of HuBERT-base's audio, so its steps are small; the
arithmetic of one step is the true one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.common import Bench
from distill.config import PRESETS, RunSettings
from distill.data import (
    FoldTargets,
    MicroBatchPlan,
    Signals,
    load_targets,
    plan_steps,
    rows_of,
    training_steps,
)
from distill.model.encoders import build
from distill.model.student import Student, build_student
from distill.model.weights import architecture
from distill.training.checkpoint import Progress
from distill.training.loop import Learner, fit, make_learner
from featstore.core.schema import SAMPLING_RATE
from featstore.core.settings import resolve
from featstore.core.training import Indices
from featstore.folds import OUT, TRAIN
from featstore.store.store import Store

CPU = torch.device("cpu")
SHORT_S = (2.0, 3.0)
"""Lengths of the utterances that HuBERT-base is given."""


@dataclass(frozen=True)
class Case:
    """A student, and what it does in one round.

    Attributes:
        name: as the table shows it.
        settings: of the run.
        rows: that it is trained on.
        plans: the micro-batches of a round, the run's first ones.
        rounds: how many.
        audio_s: seconds of speech in a round, padding not counted.
    """

    name: str
    settings: RunSettings
    rows: Indices
    plans: list[MicroBatchPlan]
    rounds: int
    audio_s: float

    @property
    def n_steps(self) -> int:
        """Optimiser steps of a round."""
        return sum(plan.ends_step for plan in self.plans)

    @property
    def told(self) -> str:
        """What a round is, for the notes."""
        n, steps = sum(len(p.rows) for p in self.plans), self.n_steps
        return (
            f"{self.name}: {steps} step(s), {n} utterances, {self.audio_s:.0f} s of audio a round"
        )


def cases(bench: Bench, store: Store) -> list[Case]:
    """Both students, on fold 1's training speakers."""
    lengths, rows = store.lengths, rows_of(load_targets(store, 1, CPU))["train"]
    low, high = (round(seconds * SAMPLING_RATE) for seconds in SHORT_S)
    short = rows[(lengths[rows] >= low) & (lengths[rows] <= high)]
    hubert = {"student": {"backbone": "random:hubert-base"}, "optim": {"batch_size": 4}}
    name = "HuBERT-base, random weights"
    return [
        _case("tiny student", resolve(RunSettings, PRESETS["tiny"], _TINY), rows, lengths,
              bench.pick(8, 1), 11),
        _case(bench.pick(name, f"{name}, cut to one layer"), resolve(RunSettings, hubert), short,
              lengths, 1, 7),
    ]  # fmt: skip


_TINY = {"student": {"backbone": "tiny"}}


def _case(
    name: str,
    settings: RunSettings,
    rows: np.ndarray,
    lengths: np.ndarray,
    n_steps: int,
    rounds: int,
) -> Case:
    optim, stream = settings.optim, settings.stream
    steps = training_steps(rows, lengths, optim.batch_size, stream.pool, settings.seed, 1)[:n_steps]
    plans = plan_steps(steps, lengths, round(stream.max_batch_s * SAMPLING_RATE))
    audio_s = sum(int(lengths[step].sum()) for step in steps) / SAMPLING_RATE
    return Case(name, settings, rows, plans, rounds, audio_s)


def student_of(bench: Bench, settings: RunSettings, widths: Mapping[str, int]) -> Student:
    """The student of a run; where all is to be small, HuBERT has one layer."""
    wanted, classes = settings.student, ("ang", "hap", "neu", "sad")
    if wanted.backbone == "tiny" or not bench.quick:
        return build_student(wanted, classes, widths)
    shape = architecture(wanted.backbone)
    params = {**shape.params, "num_hidden_layers": 1}
    return Student(wanted, build(shape.model_copy(update={"params": params})), classes, widths)


def learner_of(bench: Bench, case: Case, targets: FoldTargets) -> Learner:
    """A student in training mode with its optimiser."""
    roles = np.full_like(targets.roles, OUT)
    roles[case.rows] = TRAIN
    targets = replace(targets, roles=roles)
    student = student_of(bench, case.settings, targets.widths)
    student.train()
    return make_learner(student, case.settings, targets, 10_000, CPU)


def with_widths(targets: FoldTargets, widths: Mapping[str, int]) -> FoldTargets:
    """The same with random embeddings of other widths."""
    draw = torch.Generator().manual_seed(0)
    pairs = {
        name: (logits, torch.randn(len(logits), widths[name], generator=draw))
        for name, (logits, _) in targets.teachers.items()
    }
    return replace(targets, teachers=pairs)


def train(learner: Learner, case: Case, signals: Signals, lengths: Indices) -> None:
    """A round: the run's first optimiser steps, by the trainer, which saves nothing."""
    learner.progress = Progress()
    fit(learner, signals, lengths, lambda: None, lambda entry: None, case.n_steps)
