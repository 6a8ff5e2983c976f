"""WA and UA, the field's two figures, in one place for teachers and students.

WA (weighted accuracy) is plain accuracy; UA (unweighted accuracy) the mean of the classes' recalls.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def wa(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    """Share of utterances classified correctly, in 0..1.

    >>> wa([0, 0, 0, 1], [0, 0, 1, 1])
    0.75
    """
    import audmetric

    return float(audmetric.accuracy(np.asarray(truth), np.asarray(prediction)))


def ua(truth: npt.ArrayLike, prediction: npt.ArrayLike, n_classes: int) -> float:
    """Mean recall over the classes that occur in ``truth``, in 0..1.

    A class without an utterance has no recall and takes no part (PAPER.md, published figures).

    >>> round(ua([0, 0, 0, 1], [0, 0, 1, 1], n_classes=3), 4)
    0.8333
    """
    return float(np.nanmean(list(recalls(truth, prediction, n_classes))))


def recalls(truth: npt.ArrayLike, prediction: npt.ArrayLike, n_classes: int) -> list[float]:
    """Recall of each class, NaN where the class does not occur in ``truth``."""
    import audmetric

    by_class = audmetric.recall_per_class(
        np.asarray(truth), np.asarray(prediction), labels=list(range(n_classes)),
        zero_division=np.nan,
    )  # fmt: skip
    return [float(by_class[index]) for index in range(n_classes)]


def confusion(truth: npt.ArrayLike, prediction: npt.ArrayLike, n_classes: int) -> list[list[int]]:
    """Counts ``[C][C]``: row = truth, column = prediction.

    >>> confusion([0, 0, 0, 1], [0, 0, 1, 1], n_classes=2)
    [[2, 1], [0, 1]]
    """
    import audmetric

    counts = audmetric.confusion_matrix(
        np.asarray(truth), np.asarray(prediction), labels=list(range(n_classes))
    )
    return [[int(n) for n in row] for row in counts]
