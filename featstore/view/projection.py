"""Embeddings in two dimensions, so that a person can look at them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def principal(
    embeddings: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
    """The two principal components (Pearson 1901) of all utterances' embeddings.

    Each axis points where its largest weight is positive, so that the same embeddings always
    give the same map.

    Args:
        embeddings: ``[N, D]``; rows that are not finite take no part.

    Returns:
        Scores ``[N, 2]`` (NaN where a row is not finite), and the share of the variance that each
        axis holds, in 0..1. An axis that the data do not have is 0.

    >>> scores, shares = principal(np.array([[0, 0], [2, 0], [4, 0]], dtype=np.float32))
    >>> scores[:, 0].tolist(), shares
    ([-2.0, 0.0, 2.0], (1.0, 0.0))
    """
    n = len(embeddings)
    scores = np.full((n, 2), np.nan, dtype=np.float32)
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.any():
        return scores, (0.0, 0.0)
    centred = embeddings[finite].astype(np.float64)
    centred -= centred.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    variances, axes = variances[::-1][:2].clip(min=0), axes[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])] < 0, -1, 1)
    scores[finite] = 0
    scores[finite, : axes.shape[1]] = centred @ axes
    total = float(np.square(centred).sum()) or 1.0
    shares = [*(variances / total).tolist(), 0.0]
    return scores, (shares[0], shares[1])
