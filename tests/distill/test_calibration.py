"""Calibration and agreement, against values worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distill.calibration import BINS, agreement, calibration


def logits_of(*confidences: float) -> np.ndarray:
    """Two classes; the first is given that probability."""
    return np.log([[c, 1 - c] for c in confidences])


def test_ece_by_hand() -> None:
    # 15 bins are 1/15 wide. 0.70 and 0.71 lie in [10/15, 11/15): accuracy 1/2, confidence 0.705;
    # 0.95 lies in [14/15, 1]: accuracy 1. ECE = 2/3 * 0.205 + 1/3 * 0.05
    found = calibration("test", logits_of(0.70, 0.71, 0.95), np.array([0, 1, 0]))
    assert found.ece == pytest.approx(2 / 3 * 0.205 + 1 / 3 * 0.05)
    assert found.confidence == pytest.approx((0.70 + 0.71 + 0.95) / 3)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.nll == pytest.approx(-(math.log(0.70) + math.log(0.29) + math.log(0.95)) / 3)
    assert (found.role, found.n, len(found.bins)) == ("test", 3, BINS)
    filled = {place: (b.n, b.confidence, b.accuracy) for place, b in enumerate(found.bins) if b.n}
    assert filled == {
        10: (2, pytest.approx(0.705), 0.5),
        14: (1, pytest.approx(0.95), 1.0),
    }
    assert {(b.confidence, b.accuracy) for b in found.bins if not b.n} == {(None, None)}
    assert [b.low for b in found.bins] == pytest.approx(np.arange(15) / 15)
    assert found.bins[-1].high == 1.0


def test_raw_logits_at_temperature_one() -> None:
    found = calibration("train", np.array([[3.0, 1.0, 0.0]]), np.array([1]))
    p = np.exp([3.0, 1.0, 0.0]) / np.exp([3.0, 1.0, 0.0]).sum()
    assert (found.confidence, found.nll) == pytest.approx((p[0], -np.log(p[1])))


def test_certainty_is_finite_and_falls_into_the_last_bin() -> None:
    found = calibration("test", np.array([[1000.0, -1000.0]] * 2, np.float32), np.array([0, 1]))
    assert (found.confidence, found.accuracy, found.ece, found.nll) == (1.0, 0.5, 0.5, 1000.0)
    assert found.bins[-1].n == 2


def test_a_perfectly_calibrated_rater_has_no_error() -> None:
    found = calibration("test", logits_of(*[0.75] * 4), np.array([0, 0, 0, 1]))
    assert found.ece == pytest.approx(0.0)


def test_kappa_on_a_published_example() -> None:
    # Cohen's kappa as usually explained: of 50 proposals both say yes to 20 and no to 15, the
    # first alone to 5, the second alone to 10; agreement 0.7, by chance 0.5
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = agreement("a", "b", first, second, ["yes"] * 50)
    assert (found.n, found.share) == (50, 0.7)
    assert found.kappa == pytest.approx(0.4)
    assert (found.both_right, found.first_right, found.second_right) == (0.4, 0.1, 0.2)


def test_two_that_always_say_the_same_class_have_no_kappa() -> None:
    found = agreement("a", "b", ["x", "x"], ["x", "x"], ["x", "y"])
    assert (found.share, found.kappa, found.both_right) == (1.0, None, 0.5)
    assert agreement("a", "b", ["x", "x"], ["y", "y"], ["x", "y"]).kappa == 0.0


def test_kappa_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(1)
    first, second, truth = (rng.choice(list("abcd"), 200).tolist() for _ in range(3))
    found = agreement("a", "b", first, second, truth).kappa
    assert found == pytest.approx(cohen_kappa_score(first, second))
