"""How far two teachers' targets of the same utterances lie apart, as figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.folds import OUT, ROLE_NAMES

FloatArray = npt.NDArray[np.float64]


def logit_drift(a: FloatArray, b: FloatArray, roles: npt.NDArray[np.int8]) -> dict[str, Any]:
    """Distance of two sets of logits ``[n, C]``, and how often they predict the same.

    ``changed`` is the share of utterances whose prediction differs; ``agreement`` is the share
    that is the same by role ``[n]``, None for a role that none of the utterances has.

    >>> a, b = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [2.0, 1.0]])
    >>> found = logit_drift(a, b, np.array([1, 3], dtype=np.int8))
    >>> found["mean_abs_logit"], found["max_abs_logit"], found["changed"]
    (0.5, 2.0, 0.5)
    >>> found["agreement"]
    {'training': 1.0, 'validation': None, 'test': 0.0}
    """
    apart = np.abs(a - b)
    same = a.argmax(axis=1) == b.argmax(axis=1)
    by_role = {
        name: float(same[roles == role].mean()) if (roles == role).any() else None
        for role, name in ROLE_NAMES.items()
        if role != OUT
    }
    return {
        "mean_abs_logit": float(apart.mean()),
        "max_abs_logit": float(apart.max()),
        "changed": float((~same).mean()),
        "agreement": by_role,
    }


def mean_cosine(x: FloatArray, y: FloatArray) -> float | None:
    """Mean cosine of the rows of two arrays ``[n, D]``; None where D differs or a row is zero.

    Two teachers that were fitted apart have axes of their own: near 0, although they may know the
    same. :func:`linear_cka` tells that.

    >>> mean_cosine(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 0.0], [1.0, 0.0]]))
    0.5
    """
    if x.shape != y.shape:
        return None
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    if not norms.all():
        return None
    return float(((x * y).sum(axis=1) / norms).mean())


def linear_cka(x: FloatArray, y: FloatArray) -> float | None:
    """Linear centred kernel alignment of two arrays ``[n, D]`` and ``[n, E]``, 0 to 1.

    1 where one is the other turned, shifted and scaled; None where all rows of one are equal.
    Kornblith et al., *Similarity of Neural Network Representations Revisited*, ICML 2019, eq. 3
    and 4: ``||Y^T X||^2 / (||X^T X|| ||Y^T Y||)`` of centred columns.

    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    >>> linear_cka(x, 3 * x[:, ::-1] + 1)
    1.0
    """
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    scale = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    if not scale:
        return None
    return round(float(np.linalg.norm(y.T @ x) ** 2) / scale, 12)
