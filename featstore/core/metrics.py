"""WA, UA and recalls, for teachers and students alike; and logits as distributions.

WA (weighted accuracy) is plain accuracy; UA (unweighted accuracy) the mean of the classes' recalls.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


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


def soften(logits: npt.NDArray[np.float32], tau: float) -> npt.NDArray[np.float64]:
    """Probabilities at a temperature, eq. 2 of the paper: ``[..., C] -> [..., C]``.

    >>> soften(np.array([0.0, np.log(3.0)], dtype=np.float32), 1.0).round(3).tolist()
    [0.25, 0.75]
    """
    below = logits.astype(np.float64)
    below -= below.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore", under="ignore"):  # a tiny tau: one-hot
        powers = np.exp(below / tau)
    out: npt.NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return out


def entropy(p: Floats) -> Floats:
    """Entropy of distributions in nats, ``[..., C] -> [...]``.

    >>> entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).round(4).tolist()
    [0.6931, 0.0]
    """
    from scipy.special import entr

    out: Floats = entr(p).sum(axis=-1)
    return out


def divergence(p: Sequence[Floats]) -> Floats:
    """How far some distributions lie apart: the entropy of their mean less the mean of theirs.

    The generalised Jensen-Shannon divergence with equal weights (Lin 1991): 0 where all are equal,
    at most the logarithm of their number.

    >>> sure = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    >>> divergence(sure).round(4).tolist(), divergence(sure[:1]).tolist()
    ([0.6931], [0.0])
    """
    stacked = np.stack(list(p))
    out: Floats = np.maximum(entropy(stacked.mean(0)) - entropy(stacked).mean(0), 0.0)
    return out
