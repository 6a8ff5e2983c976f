from __future__ import annotations

import numpy as np
import pytest

from featstore.view.projection import principal


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
