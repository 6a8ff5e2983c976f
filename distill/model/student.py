"""The student: a speech encoder, one projection per teacher, and a classifier. Audio alone in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill.config import StudentSettings
from distill.model.backbones import load_backbone, seeded
from distill.model.encoder import Backbone
from distill.model.masking import masked_mean, valid_mask, wide


class StudentOutput(NamedTuple):
    """What a student says about a batch."""

    logits: Tensor
    """[B, C], raw."""
    embeddings: dict[str, Tensor]
    """Teacher name -> [B, D_teacher], what the embedding loss compares."""
    pooled: Tensor
    """[B, D], the backbone's pooled frames, float32."""


class Student(nn.Module):
    """Backbone -> pooling -> one projection per teacher -> concatenation -> classifier.

    Every teacher of the store gets a projection, also when its loss weight is 0, so that ablations
    compare equal networks (PAPER.md row 22). A store without teachers gives one projection of the
    backbone's width.

    Args:
        settings: what it is made of; ``settings.backbone`` is not loaded here.
        backbone: the encoder.
        classes: class names in logit order.
        teachers: teacher name -> width of its embeddings.
    """

    def __init__(
        self,
        settings: StudentSettings,
        backbone: Backbone,
        classes: tuple[str, ...],
        teachers: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.settings, self.classes = settings, tuple(classes)
        self.teachers = dict(sorted(teachers.items()))
        self.backbone = backbone
        backbone.set_dropout(settings.dropout)
        backbone.set_context(settings.context)
        backbone.layerdrop, backbone.spec_augment = settings.layerdrop, settings.spec_augment
        backbone.checkpointing = settings.gradient_checkpointing
        backbone.freeze(settings.trainable)
        width = backbone.hidden_size
        self.pooling = _POOLINGS[settings.pooling](backbone)
        widths = list(self.teachers.values()) or [width]
        self.projections = nn.ModuleList(_projection(settings, width, out) for out in widths)
        self.head = nn.Sequential(
            nn.Dropout(settings.head_dropout),
            nn.Linear(sum(widths), settings.head_width),
            nn.GELU(),
            nn.Dropout(settings.head_dropout),
            nn.Linear(settings.head_width, len(self.classes)),
        )

    def forward(self, signals: Tensor, lengths: Tensor) -> StudentOutput:
        """Signals [B, T] float32 at 16 kHz and their lengths [B] int64 to a :class:`StudentOutput`.

        The same for an utterance alone and in any batch; padding may hold anything finite. Each
        utterance needs ``self.backbone.min_samples`` samples. Under autocast only the backbone
        computes in less than float32.
        """
        pooled = self.pooling(signals, lengths, self.backbone)
        with torch.autocast(pooled.device.type, enabled=False):
            pooled = wide(pooled)
            projected = [projection(pooled) for projection in self.projections]
            logits = self.head(torch.cat(projected, dim=-1))
        return StudentOutput(logits, dict(zip(self.teachers, projected, strict=False)), pooled)

    def save_pretrained(self, folder: Path) -> None:
        """Write ``student.json`` and ``model.safetensors``: :func:`distill.model.saved.save`."""
        from distill.model.saved import save

        save(self, folder)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Student:
        """A saved student in eval mode, from its folder alone: :func:`distill.model.saved.load`."""
        from distill.model.saved import load

        return load(folder)


def build_student(
    settings: StudentSettings,
    classes: tuple[str, ...],
    teachers: Mapping[str, int],
    weights: Path | None = None,
    seed: int = 42,
) -> Student:
    """A student to train, on its pretrained backbone.

    Args:
        settings: what it is made of.
        classes: class names in logit order.
        teachers: the store's teachers and the width of their embeddings.
        weights: a file for the backbone, see :func:`distill.model.backbones.load_backbone`.
        seed: of every weight that is drawn; PyTorch's own generator is left as it was.
    """
    backbone = load_backbone(settings.backbone, weights, seed)
    with seeded(seed):
        return Student(settings, backbone, classes, teachers)


class MeanPooling(nn.Module):
    """Mean over the valid frames of the last layer."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()

    def forward(self, signals: Tensor, lengths: Tensor, backbone: Backbone) -> Tensor:
        """To [B, D] float32."""
        return masked_mean(*backbone(signals, lengths))


class WeightedPooling(nn.Module):
    """Mean over the valid frames of a learned convex sum of all hidden states (as SUPERB does)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(backbone.n_states))

    def forward(self, signals: Tensor, lengths: Tensor, backbone: Backbone) -> Tensor:
        """To [B, D] float32."""
        states, n_frames = backbone.states(signals, lengths)
        means = torch.stack([masked_mean(state, n_frames) for state in states])
        return (self.weights.softmax(dim=0)[:, None, None] * means).sum(dim=0)


class AttentionPooling(nn.Module):
    """Mean over the last layer's valid frames, each weighed by a learned score."""

    def __init__(self, backbone: Backbone, width: int = 128) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(backbone.hidden_size, width), nn.Tanh(), nn.Linear(width, 1)
        )

    def forward(self, signals: Tensor, lengths: Tensor, backbone: Backbone) -> Tensor:
        """To [B, D] float32."""
        hidden, n_frames = backbone(signals, lengths)
        mask = valid_mask(n_frames, hidden.shape[1])
        scores = wide(self.score(hidden)).squeeze(-1).masked_fill(~mask, -torch.inf)
        kept = wide(hidden).masked_fill(~mask[:, :, None], 0.0)
        return (scores.softmax(dim=1)[:, :, None] * kept).sum(dim=1)


_POOLINGS: Mapping[str, type[MeanPooling | WeightedPooling | AttentionPooling]] = {
    "mean": MeanPooling,
    "weighted": WeightedPooling,
    "attention": AttentionPooling,
}


def _projection(settings: StudentSettings, width: int, out: int) -> nn.Module:
    if settings.projection == "linear_gelu":
        return nn.Sequential(nn.Linear(width, out), nn.GELU())
    hidden = settings.projection_width or width
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))
