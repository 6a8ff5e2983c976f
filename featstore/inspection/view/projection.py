"""Embeddings in two dimensions, so that a person can look at them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from featstore.core.schema import UserError

WIDTH = 50
"""Principal components that t-SNE starts from, as its authors do."""
FEWEST = 10


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


def neighbourly(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A map that keeps neighbours together (t-SNE, van der Maaten and Hinton 2008).

    Distances between groups and their sizes mean nothing on it. The same embeddings give the same
    map on the same machine. Half a minute for IEMOCAP's 5,531 utterances.

    Args:
        embeddings: ``[N, D]``; rows that are not finite take no part.

    Returns:
        ``[N, 2]``, NaN where a row is not finite.

    Raises:
        UserError: scikit-learn is not installed, or there are too few rows.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError:
        raise UserError(
            "t-SNE needs scikit-learn, which is not installed",
            'pip install "emodistill[maps]", then start featstore view again',
        ) from None
    scores = np.full((len(embeddings), 2), np.nan, dtype=np.float32)
    finite = np.isfinite(embeddings).all(axis=1)
    rows = embeddings[finite].astype(np.float64)
    if len(rows) < FEWEST:
        raise UserError(f"{len(rows)} embeddings: too few for t-SNE", "look at the principal axes")
    kept = min(WIDTH, rows.shape[1], len(rows))
    rows = PCA(kept, svd_solver="full").fit_transform(rows)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    scores[finite] = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(rows)
    return scores
