"""WA, UA, recalls and confusion: every reported number, as a pure function of predictions.

WA (weighted accuracy) is the accuracy over all utterances; UA (unweighted accuracy) is the mean of
the per-class recalls. All scores are fractions in [0, 1]; only what is shown to people is percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import audmetric
import numpy as np

from featstore.core import scores

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scores:
    """How well a set of predictions meets its truth.

    Attributes:
        classes: class names, in the order of the confusion's rows and columns.
        confusion: utterance counts; row = truth, column = prediction.
        wa: accuracy over all utterances, in [0, 1].
        ua: mean recall over the classes that the truth holds, in [0, 1].
        recall: recall of each class in [0, 1]; NaN for a class that the truth does not hold.
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    wa: float
    ua: float
    recall: Mapping[str, float]

    @property
    def n(self) -> int:
        """Number of utterances."""
        return sum(map(sum, self.confusion))

    @property
    def support(self) -> dict[str, int]:
        """Utterances whose truth is each class."""
        return {name: sum(row) for name, row in zip(self.classes, self.confusion, strict=True)}


@dataclass(frozen=True)
class Spread:
    """Values of several folds in two numbers.

    Attributes:
        mean: arithmetic mean, each fold counted once whatever its size.
        std: *sample* standard deviation (ddof = 1); None for a single fold.
        n: number of folds.
    """

    mean: float
    std: float | None
    n: int


def score(truth: Sequence[str], prediction: Sequence[str], classes: Sequence[str]) -> Scores:
    """Score predictions against their truth.

    A class that the truth lacks has no recall and does not enter the UA, whatever was predicted:
    ``nanmean(recall_per_class(..., zero_division=nan))`` (PAPER.md, published figures).

    Args:
        truth: class names, one per utterance.
        prediction: class names, one per utterance.
        classes: all class names, in the order wanted.

    Raises:
        ValueError: where the two differ in length, are empty, or hold a name not in ``classes``.

    >>> found = score(["ang", "ang", "ang", "sad"], ["ang", "ang", "sad", "sad"], ["ang", "sad"])
    >>> found.wa, round(found.ua, 6), found.confusion
    (0.75, 0.833333, ((2, 1), (0, 1)))
    """
    names = _checked(truth, prediction, classes)
    place = {name: index for index, name in enumerate(names)}
    indices = [place[name] for name in truth], [place[name] for name in prediction]
    confusion = audmetric.confusion_matrix(*indices, labels=list(range(len(names))))
    return Scores(
        classes=names,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        wa=scores.wa(*indices),
        ua=scores.ua(*indices, len(names)),
        recall=dict(zip(names, scores.recalls(*indices, len(names)), strict=True)),
    )


def from_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Scores:
    """Score a confusion matrix of counts (row = truth), such as a sum over folds.

    Raises:
        ValueError: where it is not square in the classes, has a negative count, or is all zero.

    >>> from_confusion([[2, 1], [0, 1]], ["ang", "sad"]).wa
    0.75
    """
    counts = np.asarray(confusion)
    shape = (len(classes), len(classes))
    if counts.shape != shape:
        raise ValueError(f"confusion has shape {counts.shape}, expected {shape}")
    if not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any():
        raise ValueError("confusion holds something other than counts")
    rows, columns = np.indices(shape)
    names = np.asarray(classes, dtype=object)
    truth = names[np.repeat(rows.ravel(), counts.ravel())]
    prediction = names[np.repeat(columns.ravel(), counts.ravel())]
    return score(truth.tolist(), prediction.tolist(), classes)


def from_predictions(
    predictions: pd.DataFrame, classes: Sequence[str], role: str = "test"
) -> Scores:
    """Score the rows of ``predictions.parquet`` that have a role; several runs may be stacked.

    Args:
        predictions: with the columns ``role``, ``truth`` and ``prediction``.
        classes: all class names.
        role: ``test`` or ``validation``.

    Raises:
        ValueError: as :func:`score`; so also where no row has the role.
    """
    rows = predictions[predictions["role"] == role]
    return score(rows["truth"].tolist(), rows["prediction"].tolist(), classes)


def by_fold(
    predictions: pd.DataFrame, classes: Sequence[str], role: str = "test"
) -> dict[int, Scores]:
    """The scores of each fold, by its number: as :func:`from_predictions` for one seed's rows."""
    return {
        fold: from_predictions(predictions[predictions["fold"] == fold], classes, role)
        for fold in sorted(set(predictions["fold"].tolist()))
    }


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation over folds.

    Raises:
        ValueError: for no value, or one that is not finite.

    >>> spread([0.25, 0.5, 0.75])
    Spread(mean=0.5, std=0.25, n=3)
    """
    given = np.asarray(values, dtype=np.float64)
    if given.size == 0:
        raise ValueError("no value to average")
    if not np.isfinite(given).all():
        raise ValueError(f"not finite: {given[~np.isfinite(given)][0]}")
    std = float(np.std(given, ddof=1)) if given.size > 1 else None
    return Spread(float(np.mean(given)), std, int(given.size))


def _checked(
    truth: Sequence[str], prediction: Sequence[str], classes: Sequence[str]
) -> tuple[str, ...]:
    """The class names, once truth and prediction are known to fit them and each other."""
    if len(truth) != len(prediction):
        raise ValueError(
            f"truth and prediction differ in length: {len(truth)} != {len(prediction)}"
        )
    if len(truth) == 0:
        raise ValueError("nothing to score: truth and prediction are empty")
    names = tuple(classes)
    if len(set(names)) != len(names):
        raise ValueError(f"a class is named twice: {list(names)}")
    for what, labels in (("truth", truth), ("prediction", prediction)):
        foreign = sorted({repr(label) for label in labels if label not in names})
        if foreign:
            shown = ", ".join(foreign[:5])
            raise ValueError(f"{what} holds {shown}, which is none of the classes {list(names)}")
    return names
