"""What a student is taught: one fold's labels and cached teacher outputs, held in memory.

A few megabytes, read and verified once. Temperature is applied in the losses and nowhere before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from featstore.core.schema import Corrupt, Refused, UserError, listed, printable
from featstore.folds import TEST, TRAIN, VALIDATION, Fold, cross_fit_fault, prove
from featstore.store.store import Store, TeacherOutputs
from featstore.store.unit import Unit

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
    store: Store,
    number: int,
    device: torch.device,
    *,
    matched: Collection[str] | None = None,
    cross_fit: int = 0,
    deep: bool = True,
) -> FoldTargets:
    """Read and verify what the student of a fold needs beside audio.

    Args:
        store: where from.
        number: the fold's.
        device: where the tensors are to be.
        matched: the teachers whose embeddings the student is to match; all where not given.
        cross_fit: take the targets that are cross-fitted by so many parts, under the teachers'
            plain names; 0 takes the teachers' own.
        deep: compare every file's SHA-256.

    Raises:
        UserError: the fold or its teachers are not in the store, or an embedding has no direction.
        Corrupt: a file differs from what was written, or a training target is not finite.
        Refused: a teacher saw the fold's test speaker, or the split trains on that speaker.
    """
    for unit in ("corpus", "splits"):
        store.check_parents(store.unit(unit, deep=deep))
    outputs = store.fold(number, cross_fit=cross_fit, deep=deep)
    fold = store.folds[number - 1]
    refuse_leaks(fold, outputs)
    prove(store.utterances, store.folds, store.roles)
    roles = store.roles[number - 1]
    taught = np.flatnonzero(np.isin(roles, (TRAIN, VALIDATION)))
    for name, teacher in outputs.items():
        _refuse_unusable(name, teacher, taught, matched is None or name in matched)
    teachers = {
        name: (
            torch.from_numpy(teacher.logits.copy()).to(device),
            torch.from_numpy(teacher.embeddings.copy()).to(device),
        )
        for name, teacher in sorted(outputs.items())
    }
    labels = torch.from_numpy(_labels(store)).to(device)
    return FoldTargets(fold, store.classes, labels, roles, teachers, outputs)


def refuse_leaks(fold: Fold, outputs: Mapping[str, TeacherOutputs]) -> None:
    """Refuse a teacher that saw a speaker whom this fold tests, or that is another fold's.

    Raises:
        Refused: with teacher and speakers.
    """
    for teacher in outputs.values():
        if what := _leak(fold, teacher.unit):
            parts = teacher.unit.settings.get("cross_fit")
            flag = f" --cross-fit {parts}" if parts else ""
            raise Refused(
                f"{teacher.unit.unit}: this teacher {what}",
                f"rebuild the fold: `featstore build --fold {fold.number}{flag} --rebuild`",
            )


def _leak(fold: Fold, unit: Unit) -> str:
    """What is wrong with whom a teacher was fitted, selected and held out on; '' if nothing."""
    facts, number = unit.facts, fold.number
    fitted, selected = set(facts["fitted_on"]), set(facts["selected_on"])
    if leaked := (fitted | selected) & set(fold.test):
        return f"has seen {_names(leaked)}, whom fold {number} tests"
    for other in (facts["fold"], unit.settings["fold"]):
        if other != number:
            return f"was fitted for fold {other}, not for fold {number}"
    if set(facts["held_out"]) != set(fold.test):
        return f"holds out {_names(facts['held_out'])}, fold {number} {_names(fold.test)}"
    if strange := fitted - set(fold.train):
        return f"was fitted on {_names(strange)}, on whom fold {number} does not train"
    if strange := selected - set(fold.validation):
        return f"was selected on {_names(strange)}, on whom fold {number} does not validate"
    return cross_fit_fault(parts, fold) if (parts := facts.get("parts")) else ""


def _names(speakers: Iterable[str]) -> str:
    return ", ".join(map(printable, sorted(speakers)))


def rows_of(targets: FoldTargets) -> dict[str, npt.NDArray[np.int64]]:
    """Rows by role: train, validation, test."""
    return {
        "train": targets.rows(TRAIN),
        "validation": targets.rows(VALIDATION),
        "test": targets.rows(TEST),
    }


def _labels(store: Store) -> npt.NDArray[np.int64]:
    """Class indices that agree with the utterances' class names."""
    labels = store.labels.astype(np.int64)
    index = {name: position for position, name in enumerate(store.classes)}
    names = store.utterances["label"].tolist()
    if labels.tolist() != [index.get(name) for name in names]:
        raise Corrupt(
            f"{store.path}/corpus/label: not the labels of utterances.parquet",
            "remove the unit and build it again",
        )
    return labels


def _refuse_unusable(
    name: str, teacher: TeacherOutputs, rows: npt.NDArray[np.int64], matched: bool
) -> None:
    """Non-finite targets would poison the student; a zero embedding has no direction."""
    # Looking at all rows is several times as fast as copying most of them first.
    logits, embeddings = teacher.logits, teacher.embeddings
    finite = np.isfinite(logits)[rows].all(1) & np.isfinite(embeddings)[rows].all(1)
    if not finite.all():
        bad = [f"row {row}" for row in rows[~finite]]
        raise Corrupt(
            f"{name}: logits or embeddings not finite\n{listed(bad)}", "rebuild this teacher"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # of rows that are not taught
        squares = np.einsum("nd,nd->n", embeddings, embeddings)
    flat = squares[rows] == 0
    if matched and flat.any():
        bad = [f"row {row}" for row in rows[flat]]
        raise UserError(
            f"{name}: embeddings of zero length, which have no direction to match\n{listed(bad)}",
            f"leave this teacher out: --set losses.teachers.{name}.weight=0",
        )
