"""Is a teacher fit to teach? A verdict for each fold and teacher, with the reasons.

Rules of thumb with their limits stated, no proof: what a teacher knows shows on speakers whom it
has not seen, what it says to a student on those whom it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from featstore.core import metrics as scores
from featstore.core.metrics import entropy, soften
from featstore.core.schema import printable
from featstore.folds import TEST, TRAIN, VALIDATION
from featstore.inspection.teachers import outputs_of
from featstore.store.store import Store, TeacherOutputs

Verdict = Literal["fit", "doubtful", "unfit"]
Floats = npt.NDArray[np.float64]

Z = 1.645
"""One-sided 5 %: how many standard errors above chance a teacher's UA has to be."""
HARD = 0.05
"""Entropy on training rows, as a share of the largest possible, under which targets are labels."""
GAP = 0.2
"""Validation UA above test UA (or below) by more than this, and by 2.6 standard errors."""
DEAD = 0.05
"""Recall under which a class counts as never recognised."""
COLLAPSED = 0.99
"""Mean cosine of two utterances' embeddings, of different classes, above which all look alike."""


@dataclass(frozen=True)
class Fitness:
    """What became of one teacher of one fold.

    Attributes:
        fold: its number.
        teacher: its name in the store.
        verdict: ``unfit`` where it cannot teach anything, ``doubtful`` where its targets are to be
            looked at first.
        reasons: a sentence each; empty where it is fit.
    """

    fold: int
    teacher: str
    verdict: Verdict
    reasons: tuple[str, ...]


def fitness(store: Store, folds: Sequence[int] | None = None) -> list[Fitness]:
    """Judge every teacher of some folds.

    Args:
        store: where from.
        folds: their numbers; every fold that has teachers where not given.
    """
    numbers = range(1, len(store.folds) + 1) if folds is None else folds
    labels = store.labels.astype(np.int64)
    out = []
    for number in numbers:
        if not store.target_names(number):
            continue
        for name, output in outputs_of(store, number).items():
            verdict, reasons = _judged(output, labels, store.roles[number - 1], store.classes)
            out.append(Fitness(number, name, verdict, reasons))
    return out


def warnings_of(store: Store, folds: Sequence[int], names: Sequence[str]) -> list[str]:
    """A line for every one of some teachers that is not plainly fit.

    Args:
        store: where from.
        folds: the folds that are to be taught.
        names: the teachers that are to teach.
    """
    return [
        f"fold {one.fold}: teacher {one.teacher} is {one.verdict}: {'; '.join(one.reasons)}"
        for one in fitness(store, folds)
        if one.verdict != "fit" and one.teacher in names
    ]


def _judged(
    output: TeacherOutputs, labels: npt.NDArray[np.int64], roles: Any, classes: Sequence[str]
) -> tuple[Verdict, tuple[str, ...]]:
    fatal = [*_chance(output, labels, roles), *_collapsed(output, labels, roles)]
    doubts = [
        *_dead(output, labels, roles, classes), *_hard(output, roles),
        *_unsteady(output, labels, roles),
    ]  # fmt: skip
    verdict: Verdict = "unfit" if fatal else "doubtful" if doubts else "fit"
    return verdict, (*fatal, *doubts)


def _chance(output: TeacherOutputs, labels: npt.NDArray[np.int64], roles: Any) -> Iterator[str]:
    """Speakers whom it has not seen: is the UA above what guessing gives?"""
    rows = np.flatnonzero(np.isin(roles, (VALIDATION, TEST)))
    n_classes = output.logits.shape[1]
    counts = np.bincount(labels[rows], minlength=n_classes)
    if not len(rows):
        return
    found = scores.ua(labels[rows], output.logits[rows].argmax(1), n_classes)
    limit = 1 / np.count_nonzero(counts) + Z * chance_error(counts)
    if found <= limit:
        yield (
            f"no better than chance: UA {100 * found:.1f} on {len(rows)} utterances of unseen "
            f"speakers, guessing reaches {100 * limit:.1f} in one case of 20"
        )


def chance_error(counts: npt.NDArray[np.int64]) -> float:
    """Standard error of the UA of guessing all classes equally often.

    The recall of a class of n utterances is binomial, p = 1/C; the UA is the mean of the recalls.

    >>> round(chance_error(np.array([25, 25, 25, 25])), 4)
    0.0433
    """
    present = counts[counts > 0]
    p = 1 / len(present)
    return float(np.sqrt((p * (1 - p) / present).sum()) / len(present))


def _collapsed(output: TeacherOutputs, labels: npt.NDArray[np.int64], roles: Any) -> Iterator[str]:
    """Do all embeddings point the same way, whatever was said?"""
    rows = np.flatnonzero(roles == TRAIN)
    between = cosine_between(output.embeddings[rows].astype(np.float64), labels[rows])
    if between is not None and between > COLLAPSED:
        yield (
            f"embeddings collapsed: those of different classes have a mean cosine of "
            f"{between:.4f}, so matching them teaches nothing of the class"
        )


def cosine_between(embeddings: Floats, labels: npt.NDArray[np.int64]) -> float | None:
    """Mean cosine of all pairs of different classes; None where there are none.

    >>> cosine_between(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]), np.array([0, 1, 1]))
    0.5
    """
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    units = embeddings / np.maximum(norms, 1e-12)
    sums = np.stack([units[labels == label].sum(0) for label in np.unique(labels)])
    counts = np.array([(labels == label).sum() for label in np.unique(labels)], dtype=np.float64)
    pairs = counts.sum() ** 2 - (counts**2).sum()
    if pairs == 0:
        return None
    total = sums.sum(0)
    return float((total @ total - (sums * sums).sum()) / pairs)


def _dead(
    output: TeacherOutputs, labels: npt.NDArray[np.int64], roles: Any, classes: Sequence[str]
) -> Iterator[str]:
    """Classes that it never recognises, not even on the rows that it was fitted on."""
    rows = np.flatnonzero(roles == TRAIN)
    recalls = scores.recalls(labels[rows], output.logits[rows].argmax(1), len(classes))
    dead = [name for name, recall in zip(classes, recalls, strict=True) if recall < DEAD]
    if dead:
        yield f"never says {', '.join(map(printable, dead))}: recall under 5 % even where fitted"


def _hard(output: TeacherOutputs, roles: Any) -> Iterator[str]:
    """Soft targets that are not soft: the labels again."""
    rows = np.flatnonzero(roles == TRAIN)
    share = float(entropy(soften(output.logits[rows], 1.0)).mean() / np.log(output.logits.shape[1]))
    if share < HARD:
        yield (
            f"memorised its training set: targets there have {100 * share:.1f} % of the entropy "
            "that they could have, so they tell little more than the labels; a higher tau or "
            "--cross-fit softens them"
        )


def _unsteady(output: TeacherOutputs, labels: npt.NDArray[np.int64], roles: Any) -> Iterator[str]:
    """Validation and test that do not tell of the same teacher."""
    n_classes = output.logits.shape[1]
    found, errors = [], []
    for role in (VALIDATION, TEST):
        rows = np.flatnonzero(roles == role)
        if not len(rows):
            return
        found.append(scores.ua(labels[rows], output.logits[rows].argmax(1), n_classes))
        counts = np.bincount(labels[rows], minlength=n_classes)
        recalls = np.array(scores.recalls(labels[rows], output.logits[rows].argmax(1), n_classes))
        present = counts > 0
        spread = recalls[present] * (1 - recalls[present]) / counts[present]
        errors.append(float(spread.sum()) / present.sum() ** 2)
    gap = found[0] - found[1]
    if abs(gap) > GAP and abs(gap) > 2.6 * np.sqrt(sum(errors)):
        yield (
            f"disagrees with its own validation: UA {100 * found[0]:.1f} there, "
            f"{100 * found[1]:.1f} on the test speakers"
        )
