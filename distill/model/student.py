"""The student: a speech encoder, one projection per teacher, and a classifier. Audio alone in.

On disk it is ``student.json`` and ``model.safetensors``, checked, and nothing executable. The
folder is all that prediction needs: the encoder is rebuilt from its architecture, never from the
hub or from the weights that the student started with. The card holds the SHA-256 of the weights and
of itself, so whoever vouches for the card vouches for the whole student.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from distill.config import HUGGING_FACE, StudentSettings
from distill.model.encoders import Architecture, Encoder, build
from distill.model.masking import masked_mean, valid_mask, wide
from distill.model.weights import load_backbone, seeded
from featstore.core.files import fsync_folder, read_small, sha256_of, strict_json, write_file
from featstore.core.os_errors import io_failure
from featstore.core.schema import (
    UTTERANCE_ID,
    Corrupt,
    OtherVersion,
    UserError,
    printable,
)
from featstore.core.settings import Settings, digest
from featstore.core.weights import read_tensors, save_tensors
from featstore.store.provenance import versions
from featstore.store.staging import beside

CARD, WEIGHTS = "student.json", "model.safetensors"
FORMAT = 3
"""Raised when a reader of an older format would misunderstand a newer one."""

_AGAIN = "give the folder that distill run wrote, or fetch it anew"


class StudentOutput(NamedTuple):
    """What a student says about a batch."""

    logits: Tensor
    """[B, C], raw."""
    embeddings: dict[str, Tensor]
    """Teacher name -> [B, D_teacher], what the embedding loss compares."""
    pooled: Tensor
    """[B, D], the backbone's pooled frames, float32."""


class Student(nn.Module):
    """Encoder -> pooling -> one projection per teacher -> concatenation -> classifier.

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
        backbone: Encoder,
        classes: tuple[str, ...],
        teachers: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.settings, self.classes = settings, tuple(classes)
        self.teachers = dict(sorted(teachers.items()))
        self.backbone = backbone
        if settings.layerdrop and settings.pooling == "weighted":
            raise UserError(
                "student.layerdrop with student.pooling = weighted: a layer that is left out has "
                "no state to weigh",
                "leave layerdrop at 0, or pool by mean or attention",
            )
        backbone.configure(settings)
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
        """Write a student's folder whole, beside its place, and rename it there.

        A student already at ``folder`` is replaced. A crash leaves the old one or the new one or,
        in the instant between two renames, none; it never leaves parts of either.

        Raises:
            UserError: where ``folder`` is something else than a student.
            TaskFailed: where it cannot be written.
        """
        folder = Path(folder).absolute()
        if (
            folder.exists()
            and not (folder / CARD).is_file()
            and (not folder.is_dir() or any(folder.iterdir()))
        ):
            raise UserError(f"{folder}: exists and is no student", "give another folder")
        try:
            with beside(folder) as wrapper:
                new = wrapper / "new"
                new.mkdir()
                save_tensors(self.state_dict(), new / WEIGHTS)
                settings = self.settings.model_dump(mode="json")
                settings["backbone"] = _portable(self.settings.backbone)
                size, sha256 = (new / WEIGHTS).stat().st_size, sha256_of(new / WEIGHTS)
                card = Card(
                    classes=self.classes,
                    teachers=self.teachers,
                    settings=settings,
                    backbone=self.backbone.architecture,
                    weights=WeightsFile(size=size, sha256=sha256),
                    made_with=versions(),
                ).model_dump(mode="json")
                card["sha256"] = digest(card)
                write_file(new / CARD, (json.dumps(card, indent=2) + "\n").encode())
                _replace(new, folder, wrapper / "old")
        except OSError as error:
            raise io_failure(error, folder) from error

    @classmethod
    def from_pretrained(cls, folder: Path) -> Student:
        """A saved student in eval mode on the CPU, every byte of its weights checked.

        Raises:
            UserError: where ``folder`` holds no student.
            Corrupt: where card or weights are not what was written.
            Refused: where another version wrote it.
        """
        folder = Path(folder)
        card = _read_card(folder / CARD)
        state = _read_weights(folder / WEIGHTS, card.weights)
        try:
            settings = StudentSettings.model_validate(card.settings)
            with torch.device("meta"):
                backbone = build(card.backbone, empty=True)
                student = cls(settings, backbone, card.classes, card.teachers)
            student.load_state_dict(state, assign=True)
        except (ValidationError, UserError, RuntimeError, TypeError, ValueError, KeyError) as error:
            made = ", ".join(f"{k} {v}" for k, v in card.made_with.items())
            raise Corrupt(
                f"{folder / CARD} and {WEIGHTS} do not describe one student ({_short(error)})",
                printable(
                    f"fetch the folder anew; it was written with {made or 'unknown versions'}"
                ),
            ) from error
        return student.eval()


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
        weights: a file for the backbone, see :func:`distill.model.weights.load_backbone`.
        seed: of every weight that is drawn; PyTorch's own generator is left as it was.
    """
    backbone = load_backbone(settings.backbone, weights, seed)
    with seeded(seed):
        return Student(settings, backbone, classes, teachers)


class MeanPooling(nn.Module):
    """Mean over the valid frames of the last layer."""

    def __init__(self, backbone: Encoder) -> None:
        super().__init__()

    def forward(self, signals: Tensor, lengths: Tensor, backbone: Encoder) -> Tensor:
        """To [B, D] float32."""
        return masked_mean(*backbone(signals, lengths))


class WeightedPooling(nn.Module):
    """Mean over the valid frames of a learned convex sum of all hidden states (as SUPERB does)."""

    def __init__(self, backbone: Encoder) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(backbone.n_states))

    def forward(self, signals: Tensor, lengths: Tensor, backbone: Encoder) -> Tensor:
        """To [B, D] float32."""
        states, n_frames = backbone.states(signals, lengths)
        means = torch.stack([masked_mean(state, n_frames) for state in states])
        return (self.weights.softmax(dim=0)[:, None, None] * means).sum(dim=0)


class AttentionPooling(nn.Module):
    """Mean over the last layer's valid frames, each weighed by a learned score."""

    def __init__(self, backbone: Encoder, width: int = 128) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(backbone.hidden_size, width), nn.Tanh(), nn.Linear(width, 1)
        )

    def forward(self, signals: Tensor, lengths: Tensor, backbone: Encoder) -> Tensor:
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


# --- on disk


class WeightsFile(Settings):
    """What ``model.safetensors`` must be."""

    size: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Card(Settings):
    """What ``student.json`` says beside its own SHA-256.

    ``settings`` are those of :class:`~distill.model.student.Student`.
    """

    kind: Literal["emodistill-student"] = "emodistill-student"
    format: Literal[3] = 3
    sampling_rate: Literal[16000] = 16000
    classes: tuple[str, ...] = Field(min_length=2, max_length=1000)
    teachers: dict[str, int]
    settings: dict[str, Any]
    backbone: Architecture
    weights: WeightsFile
    made_with: dict[str, str] = Field(default_factory=dict)


def _replace(new: Path, folder: Path, old: Path) -> None:
    """Put ``new`` where ``folder`` is, which becomes ``old``; put that back where it fails."""
    stood = folder.exists()
    if stood:
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if stood:
            old.rename(folder)
        raise
    fsync_folder(folder.parent)


def _read_card(path: Path) -> Card:
    try:
        there = Path(os.path.realpath(path))  # a link will do, as in the Hugging Face cache
        data = strict_json(read_small(there), str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: not found, so this is no student", _AGAIN) from error
    except (OSError, UserError) as error:
        raise Corrupt(f"{path}: not readable as a card ({_short(error)})", _AGAIN) from error
    if data.get("kind") != "emodistill-student":
        raise Corrupt(f"{path}: not the card of an emodistill student", _AGAIN)
    version = data.get("format")
    if type(version) is int and version != FORMAT:
        newer = "update emodistill, or use the version that wrote it"
        older = "use the version that wrote it, or run the same `distill run` again"
        raise OtherVersion(
            f"{path}: format {version}, known is {FORMAT}", newer if version > FORMAT else older
        )
    claimed = data.pop("sha256", None)
    if claimed != digest(data):
        raise Corrupt(f"{path}: not what was written (its SHA-256 differs)", _AGAIN)
    try:
        card = Card.model_validate(data)
    except ValidationError as error:
        raise Corrupt(f"{path}: not a student's card ({_short(error)})", _AGAIN) from error
    for name, width in card.teachers.items():
        if not UTTERANCE_ID.match(name) or not 0 < width <= 1 << 16:
            shown = printable(f"{name}: {width}")
            raise Corrupt(f"{path}: not a teacher's name and width: {shown}", _AGAIN)
    return card


def _read_weights(path: Path, expected: WeightsFile) -> dict[str, torch.Tensor]:
    again = "fetch the folder anew"
    if not path.is_file():
        raise Corrupt(f"{path}: missing", again)
    if (size := path.stat().st_size) != expected.size:
        raise Corrupt(f"{path}: {size} bytes, {CARD} says {expected.size}", again)
    if (sha256 := sha256_of(path)) != expected.sha256:
        differs = f"SHA-256 {sha256[:16]}..., {CARD} says {expected.sha256[:16]}..."
        raise Corrupt(f"{path}: {differs}", again)
    return read_tensors(path)


def _portable(backbone: str) -> str:
    """A local model folder by its last name: a student does not tell where it was made."""
    prefix, found, source = backbone.rpartition(HUGGING_FACE)
    local = bool(found) and (source.startswith((".", "/", "~")) or Path(source).is_dir())
    return f"{prefix}{found}{Path(source).name}" if local else backbone


def _short(error: Exception) -> str:
    text = error.message if isinstance(error, UserError) else str(error)
    return printable(" ".join(text.split()))[:300]
