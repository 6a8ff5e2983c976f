from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.core.metrics import confusion, recalls, ua, wa

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
