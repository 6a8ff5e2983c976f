"""One optimiser step of the student: micro-batches in, one update and its report out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from distill.config import RunSettings
from distill.data.stream import MicroBatch, MicroBatchPlan, Signals, stream
from distill.data.targets import FoldTargets
from distill.losses import LossParts, total_loss
from distill.model.student import Student
from distill.training.half_precision import require_bfloat16
from distill.training.parallel import ALONE, Team
from featstore.core.schema import TaskFailed, UserError, listed, printable
from featstore.core.training import make_schedule, parameter_groups

GRADIENTS_EVERY = 10
"""Steps between two measurements of the terms' gradients; each report has one at least."""


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype that the student computes in under autocast; float32 means no autocast.

    Raises:
        UserError: the device cannot do what was asked for.
    """
    if name == "auto":
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if bf16 else torch.float32
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    if dtype is torch.float16 and device.type != "cuda":
        raise UserError("precision = fp16 needs a GPU", "use precision = auto or fp32")
    return dtype


@dataclass
class StepReport:
    """Sums over the utterances of the steps since the last report.

    Attributes:
        n: utterances.
        terms: loss term -> sum of its unweighted values; ``total`` is the weighted sum of all.
        gradients: loss term -> norm of its weighted gradient with respect to the pooled output,
            measured on one micro-batch of a step now and then and summed over ``n_gradients``
            of them. None are measured where nothing of the backbone trains.
    """

    n: int = 0
    terms: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    n_gradients: int = 0

    def means(self) -> tuple[dict[str, float], dict[str, float]]:
        """Mean of each term an utterance, and of each gradient norm a measurement."""
        n, g = max(self.n, 1), max(self.n_gradients, 1)
        return (
            {name: value / n for name, value in self.terms.items()},
            {name: value / g for name, value in self.gradients.items()},
        )

    @staticmethod
    def of(parts: Iterable[StepReport]) -> StepReport:
        """One report of what several processes have each a part of.

        >>> StepReport.of([StepReport(1, {"ce": 0.5}), StepReport(2, {"ce": 1.0}), StepReport()])
        StepReport(n=3, terms={'ce': 1.5}, gradients={}, n_gradients=0)
        """
        whole = StepReport()
        for part in parts:
            whole.n += part.n
            whole.n_gradients += part.n_gradients
            for mine, its in ((whole.terms, part.terms), (whole.gradients, part.gradients)):
                mine.update({name: mine.get(name, 0.0) + value for name, value in its.items()})
        return whole


class Stepper:
    """The student with its optimiser: everything that changes while it learns."""

    def __init__(
        self,
        student: Student,
        settings: RunSettings,
        targets: FoldTargets,
        n_steps: int,
        device: torch.device,
        weights: torch.Tensor | None = None,
        *,
        utterance_ids: Sequence[str] = (),
        team: Team = ALONE,
    ) -> None:
        """Set up AdamW, the schedule and autocast.

        Args:
            student: on ``device``.
            settings: of the run.
            targets: the fold's, on ``device``.
            n_steps: optimiser steps of the whole run, which the schedule spans.
            device: where to compute.
            weights: class weights of the cross entropy, ``[C]``.
            utterance_ids: of the store's rows, for messages; without them rows are numbered.
            team: the processes that train this student together.

        Raises:
            UserError: the device cannot compute in the precision of the settings, or not rightly.
        """
        self.utterance_ids, self.team = utterance_ids, team
        self.student, self.settings, self.targets = student, settings, targets
        self.device, self.weights = device, weights
        optim = settings.optim
        encoder = list(student.backbone.named_parameters(prefix="backbone"))
        inside = {name for name, _ in encoder}
        heads = [item for item in student.named_parameters() if item[0] not in inside]
        self.optimiser = torch.optim.AdamW(
            parameter_groups(encoder, optim, optim.encoder_lr) + parameter_groups(heads, optim)
        )
        self.schedule = make_schedule(self.optimiser, optim, n_steps)
        self.dtype = pick_precision(settings.precision, device)
        if self.dtype is torch.bfloat16 and device.type == "cpu":
            require_bfloat16(student.backbone)
        self.scaler = GradScaler(device.type, enabled=self.dtype is torch.float16)
        self.report = StepReport()

    def micro(self, batch: MicroBatch) -> None:
        """Add one micro-batch's share of the step's gradient, and step where it ends the step.

        Raises:
            TaskFailed: the loss is not finite; names the utterances.
        """
        if len(batch.rows):
            self._accumulate(batch)
        if batch.ends_step:
            self._step()

    def _accumulate(self, batch: MicroBatch) -> None:
        batch = batch.to(self.device)
        labels, teachers = self.targets.batch(batch.rows)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self.student(batch.signals, batch.lengths)
        settings = self.settings
        parts = total_loss(
            output, teachers, labels, settings.losses, self.weights, settings.optim.label_smoothing
        )
        if not torch.isfinite(parts.total):
            raise self._not_finite(batch.rows, parts)
        if batch.ends_step and output.pooled.requires_grad and self._measures():
            self._measure_gradients(parts, output.pooled)
        n = len(batch.rows)
        share: torch.Tensor = self.scaler.scale(parts.total * (n / batch.step_rows))
        share.backward()  # type: ignore[no-untyped-call]
        self.report.n += n
        values = {**parts.terms, "total": parts.total}
        for name, value in zip(values, torch.stack(list(values.values())).tolist(), strict=True):
            self.report.terms[name] = self.report.terms.get(name, 0.0) + value * n

    def _not_finite(self, rows: torch.Tensor, parts: LossParts) -> TaskFailed:
        """Which utterances of a micro-batch have no finite loss, and which terms are to blame."""
        bad = rows[~torch.isfinite(parts.rows)].tolist() or rows.tolist()
        terms = [name for name, value in parts.terms.items() if not torch.isfinite(value)]
        ids = self.utterance_ids
        names = [printable(ids[row]) if ids else f"row {row} of the store" for row in bad]
        return TaskFailed(
            f"loss not finite ({', '.join(terms) or 'total'}) for {len(bad)} of the "
            f"{len(rows)} utterance(s) of a micro-batch, at step {self.schedule.last_epoch + 1}:\n"
            + listed(names),
            "lower optim.lr, or use precision = fp32",
        )

    def evaluate(
        self, signals: Signals, plans: list[MicroBatchPlan], lengths: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Raw logits in evaluation mode: ``[rows, C]``, in ascending order of the rows."""
        self.student.eval()
        found: dict[int, npt.NDArray[np.float32]] = {}
        with torch.inference_mode():
            for item in stream(signals, plans, lengths, pin=self.device.type == "cuda"):
                batch = item.to(self.device)
                with torch.autocast(
                    self.device.type, self.dtype, enabled=self.dtype != torch.float32
                ):
                    output = self.student(batch.signals, batch.lengths)
                logits = output.logits.float().cpu().numpy()
                found.update(zip(item.rows.tolist(), logits, strict=True))
        return np.stack([found[row] for row in sorted(found)])

    def _step(self) -> None:
        trainable = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.team.add_up(trainable)
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(trainable, self.settings.optim.clip_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.scaler.get_scale() >= scale:  # else fp16 overflowed and no step was taken
            self.schedule.step()

    def _measures(self) -> bool:
        """Whether this step's gradients are due, by what a checkpoint brings back."""
        return not self.report.n_gradients or self.schedule.last_epoch % GRADIENTS_EVERY == 0

    def _measure_gradients(self, parts: LossParts, pooled: torch.Tensor) -> None:
        """How hard each term pulls at the pooled output: the heads' backward pass alone."""
        for name, value in parts.weighted.items():
            norm = 0.0
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(value, pooled, retain_graph=True)
                norm = float(gradient.float().norm())
            self.report.gradients[name] = self.report.gradients.get(name, 0.0) + norm
        self.report.n_gradients += 1

    def state(self) -> Mapping[str, Any]:
        """Schedule and scaler, as JSON."""
        return {
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "report": asdict(self.report),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` told; the optimiser's learning rates follow."""
        self.schedule.load_state_dict(dict(state["schedule"]))
        for group, lr in zip(self.optimiser.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = lr
        if state["scaler"]:
            self.scaler.load_state_dict(dict(state["scaler"]))
        self.report = StepReport(**state["report"])


def steps_an_epoch(n_rows: int, batch_size: int) -> int:
    """Optimiser steps an epoch, the last of which may be smaller.

    >>> steps_an_epoch(130, 128)
    2
    """
    return math.ceil(n_rows / batch_size)
