"""featstore/core/metrics.py: by hand, by definition, and as distributions at any temperature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featstore.core.metrics import confusion, divergence, entropy, recalls, soften, ua, wa

TRUTH = [0, 0, 0, 1, 1, 2]
PREDICTION = [0, 0, 1, 1, 0, 0]

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def test_by_hand() -> None:
    """Three of six are right; recalls are 2/3, 1/2 and 0."""
    assert wa(TRUTH, PREDICTION) == pytest.approx(3 / 6)
    assert recalls(TRUTH, PREDICTION, 3) == pytest.approx([2 / 3, 1 / 2, 0.0])
    assert ua(TRUTH, PREDICTION, 3) == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert confusion(TRUTH, PREDICTION, 3) == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]


def test_class_that_does_not_occur_has_no_recall_and_takes_no_part() -> None:
    """Even where it is predicted: a fold without a class must not be punished twice."""
    assert math.isnan(recalls([0, 1], [0, 2], 3)[2])
    assert ua([0, 1], [0, 2], 3) == pytest.approx(0.5)
    assert ua([1, 1], [1, 1], 4) == 1.0


@given(PAIRS)
def test_agree_with_their_definitions(pairs: list[tuple[int, int]]) -> None:
    truth, prediction = (np.array(side) for side in zip(*pairs, strict=True))
    counts = np.array(confusion(truth, prediction, 4))
    assert counts.sum() == len(truth)
    assert wa(truth, prediction) == pytest.approx(counts.trace() / counts.sum())
    present = counts.sum(axis=1) > 0
    each = counts.diagonal()[present] / counts.sum(axis=1)[present]
    assert ua(truth, prediction, 4) == pytest.approx(each.mean())


@given(PAIRS, st.permutations(range(4)))
def test_do_not_depend_on_what_classes_are_called(
    pairs: list[tuple[int, int]], names: list[int]
) -> None:
    truth, prediction = (np.array(side) for side in zip(*pairs, strict=True))
    renamed = (np.array(names)[truth], np.array(names)[prediction])
    assert ua(*renamed, 4) == pytest.approx(ua(truth, prediction, 4))
    assert wa(*renamed) == pytest.approx(wa(truth, prediction))


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
