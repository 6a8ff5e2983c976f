from __future__ import annotations

import sys

import numpy as np
import pytest

from featstore.core.schema import UserError
from featstore.inspection.view.projection import neighbourly, principal


def test_equals_scikit_learn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    data = np.random.default_rng(3).standard_normal((50, 7)).astype(np.float32) * np.arange(1, 8)
    scores, shares = principal(data.astype(np.float32))
    oracle = decomposition.PCA(2, svd_solver="full")
    wanted = oracle.fit_transform(data.astype(np.float32).astype(np.float64))
    signs = np.sign((wanted * scores).sum(axis=0))
    np.testing.assert_allclose(scores, wanted * signs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(shares, oracle.explained_variance_ratio_, rtol=1e-5)


def test_the_sign_is_that_of_the_largest_weight() -> None:
    data = np.zeros((4, 3), dtype=np.float32)
    data[:, 1] = [-3, -1, 1, 3]
    scores, _ = principal(data)
    np.testing.assert_allclose(scores[:, 0], [-3, -1, 1, 3])


def test_collapsed_narrow_and_broken_embeddings() -> None:
    scores, shares = principal(np.ones((5, 4), dtype=np.float32))
    np.testing.assert_array_equal(scores, 0)
    assert shares == (0.0, 0.0)
    scores, shares = principal(np.array([[1.0], [2.0], [3.0]], dtype=np.float32))
    np.testing.assert_allclose(scores, [[-1, 0], [0, 0], [1, 0]])
    assert shares == (1.0, 0.0)
    data = np.array([[0, 0], [np.nan, 1], [2, 0]], dtype=np.float32)
    scores, _ = principal(data)
    assert np.isnan(scores[1]).all()
    np.testing.assert_allclose(scores[[0, 2], 0], [-1, 1])
    assert np.isnan(principal(np.full((2, 2), np.inf, dtype=np.float32))[0]).all()


def test_neighbours_stay_together_by_tsne() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], 20)
    embeddings = (10 * rng.normal(0, 1, (3, 60))[groups] + rng.normal(0, 1, (60, 60))).astype("f4")
    embeddings[7] = np.nan
    points = neighbourly(embeddings)
    assert points.shape == (60, 2)
    assert np.isnan(points[7]).all()
    assert np.isfinite(np.delete(points, 7, 0)).all()
    rows = np.delete(np.arange(60), 7)
    far = np.linalg.norm(points[rows][:, None] - points[rows][None], axis=2)
    np.fill_diagonal(far, np.inf)
    assert (groups[rows][far.argmin(1)] == groups[rows]).all()
    np.testing.assert_array_equal(neighbourly(embeddings), points)


def test_tsne_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="3 embeddings: too few"):
        neighbourly(np.eye(3, dtype=np.float32))
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UserError, match="needs scikit-learn") as caught:
        neighbourly(np.eye(20, dtype=np.float32))
    assert "emodistill[maps]" in caught.value.hint
