"""Raw logits as distributions, and how undecided or far apart these are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


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
