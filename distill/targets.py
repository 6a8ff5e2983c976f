"""What a student is taught: one fold's labels and cached teacher outputs, held in memory.

A few megabytes, read and verified once. Temperature is applied in the losses and nowhere before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from featstore.folds import TEST, TRAIN, VALIDATION, Fold
from featstore.schema import Corrupt, Refused, UserError, listed
from featstore.store import Store, TeacherOutputs

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class FoldTargets:
    """One fold of a store as the trainer uses it; tensors on the training device.

    Attributes:
        fold: its number and speakers.
        classes: class names in logit order.
        labels: ``[N]`` int64.
        roles: ``[N]``, of OUT, TRAIN, VALIDATION, TEST.
        teachers: name -> raw logits ``[N, C]`` and embeddings ``[N, D]``.
        outputs: the same as the store has them, with their records.
    """

    fold: Fold
    classes: tuple[str, ...]
    labels: torch.Tensor
    roles: npt.NDArray[np.int8]
    teachers: Mapping[str, Pair]
    outputs: Mapping[str, TeacherOutputs]

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of each teacher."""
        return {name: pair[1].shape[1] for name, pair in self.teachers.items()}

    def rows(self, role: int) -> npt.NDArray[np.int64]:
        """Rows of a role, in order."""
        return np.flatnonzero(self.roles == role)

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, dict[str, Pair]]:
        """Labels ``[B]`` and each teacher's ``([B, C], [B, D])`` for some rows."""
        pairs = {name: (pair[0][rows], pair[1][rows]) for name, pair in self.teachers.items()}
        return self.labels[rows], pairs


def load_targets(
    store: Store, number: int, device: torch.device, *, deep: bool = True
) -> FoldTargets:
    """Read and verify what the student of a fold needs beside audio.

    Raises:
        UserError: the fold or its teachers are not in the store.
        Corrupt: a file differs from what was written, or a training target is not usable.
        Refused: a teacher saw the fold's test speaker.
    """
    for unit in ("corpus", "splits"):
        store.unit(unit, deep=deep)
    outputs = store.fold(number, deep=deep)
    fold = store.folds[number - 1]
    refuse_leaks(fold, outputs)
    roles = store.roles[number - 1]
    taught = np.flatnonzero(np.isin(roles, (TRAIN, VALIDATION)))
    for name, teacher in outputs.items():
        _refuse_unusable(name, teacher, taught)
    teachers = {
        name: (
            torch.from_numpy(teacher.logits.copy()).to(device),
            torch.from_numpy(teacher.embeddings.copy()).to(device),
        )
        for name, teacher in sorted(outputs.items())
    }
    labels = torch.from_numpy(store.labels.astype(np.int64)).to(device)
    return FoldTargets(fold, store.classes, labels, roles, teachers, outputs)


def refuse_leaks(fold: Fold, outputs: Mapping[str, TeacherOutputs]) -> None:
    """Refuse a teacher that was fitted or selected on a speaker whom this fold tests.

    Raises:
        Refused: with teacher and speakers.
    """
    for teacher in outputs.values():
        facts = teacher.unit.facts
        seen = set(facts["fitted_on"]) | set(facts["selected_on"])
        leaked = sorted(seen & set(fold.test))
        if leaked or facts["fold"] != fold.number or sorted(facts["held_out"]) != sorted(fold.test):
            what = f"has seen {', '.join(leaked)}, whom" if leaked else "belongs to another fold;"
            raise Refused(
                f"{teacher.unit.unit}: this teacher {what} fold {fold.number} tests",
                "rebuild the fold: `featstore build --fold N --rebuild`",
            )


def rows_of(targets: FoldTargets) -> dict[str, npt.NDArray[np.int64]]:
    """Rows by role: train, validation, test."""
    return {
        "train": targets.rows(TRAIN),
        "validation": targets.rows(VALIDATION),
        "test": targets.rows(TEST),
    }


def _refuse_unusable(name: str, teacher: TeacherOutputs, rows: npt.NDArray[np.int64]) -> None:
    """Non-finite targets would poison the student; a zero embedding has no direction."""
    finite = np.isfinite(teacher.logits[rows]).all(1) & np.isfinite(teacher.embeddings[rows]).all(1)
    if not finite.all():
        bad = [f"row {row}" for row in rows[~finite]]
        raise Corrupt(
            f"{name}: logits or embeddings not finite\n{listed(bad)}", "rebuild this teacher"
        )
    flat = np.linalg.norm(teacher.embeddings[rows], axis=1) == 0
    if flat.any():
        bad = [f"row {row}" for row in rows[flat]]
        raise UserError(
            f"{name}: embeddings of zero length, which have no direction to match\n{listed(bad)}",
            f"leave this teacher out: --set losses.teachers.{name}.weight=0",
        )
