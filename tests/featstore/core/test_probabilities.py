"""featstore/core/metrics.py: by hand, and as distributions at any temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featstore.core.metrics import divergence, entropy, soften


class TestSoften:
    @given(
        hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e4, 1e4, width=32)),
        st.floats(1e-300, 1e300),
    )
    def test_are_probabilities_at_any_temperature(self, logits: Any, tau: float) -> None:
        found = soften(logits, tau)
        np.testing.assert_allclose(found.sum(axis=-1), 1.0)
        assert (found >= 0).all()
        rows = np.arange(3)
        np.testing.assert_array_equal(found[rows, logits.argmax(-1)], found.max(-1))

    def test_by_hand(self) -> None:
        logits = np.array([0.0, np.log(9.0)], dtype=np.float32)
        np.testing.assert_allclose(soften(logits, 2.0), [1 / 4, 3 / 4], rtol=1e-6)
        np.testing.assert_allclose(soften(logits, 0.5), [1 / 82, 81 / 82], rtol=1e-6)


def test_entropy_and_divergence_by_hand() -> None:
    even, sure = np.full((1, 4), 0.25), np.eye(4)[:1]
    np.testing.assert_allclose(entropy(even), np.log(4))
    np.testing.assert_allclose(entropy(sure), 0)
    # H((5/8, 1/8, 1/8, 1/8)) - (log 4 + 0) / 2
    mean = np.array([5, 1, 1, 1]) / 8
    np.testing.assert_allclose(
        divergence([even, sure]), -(mean * np.log(mean)).sum() - np.log(4) / 2
    )


@given(hnp.arrays(np.float32, (3, 5, 4), elements=st.floats(-50, 50, width=32)))
def test_divergence_is_bounded_and_blind_to_order(logits: Any) -> None:
    p = soften(logits, 1.0)
    found = divergence(list(p))
    assert ((found >= 0) & (found <= np.log(3) + 1e-9)).all()
    np.testing.assert_allclose(divergence(list(p[::-1])), found, atol=1e-12)
    np.testing.assert_allclose(divergence([p[0], p[0]]), 0, atol=1e-12)
