"""Every number of a report, against values worked by hand and against every case enumerated."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.metrics import (
    BINS,
    MAX_SIGNS,
    Scores,
    agreement,
    bootstrap_mean,
    bootstrap_scores,
    calibration,
    from_confusion,
    from_predictions,
    holm,
    sign_flip_tests,
    spread,
)

CLASSES = ("ang", "hap", "neu", "sad")
RIGHT, WRONG = [[1, 0], [0, 1]], [[0, 1], [1, 0]]
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


def score(truth: list[str], prediction: list[str]) -> Scores:
    """The scores of some test rows."""
    rows = pd.DataFrame({"role": "test", "truth": truth, "prediction": prediction})
    return from_predictions(rows, CLASSES)


def by_hand(truth: list[int], prediction: list[int]) -> tuple[float, float, np.ndarray]:
    """WA, UA and confusion from their definitions alone."""
    confusion = np.zeros((4, 4), dtype=int)
    np.add.at(confusion, (truth, prediction), 1)
    present = confusion.sum(axis=1) > 0
    recalls = confusion.diagonal()[present] / confusion.sum(axis=1)[present]
    return confusion.trace() / confusion.sum(), recalls.mean(), confusion


def test_a_case_worked_by_hand() -> None:
    truth = ["ang"] * 4 + ["hap"] * 2 + ["neu"] * 1 + ["sad"] * 3
    prediction = ["ang", "ang", "ang", "sad", "hap", "neu", "neu", "sad", "ang", "ang"]
    scores = score(truth, prediction)
    assert scores.wa == pytest.approx(6 / 10)
    assert scores.recall == pytest.approx({"ang": 3 / 4, "hap": 1 / 2, "neu": 1, "sad": 1 / 3})
    assert scores.ua == pytest.approx((3 / 4 + 1 / 2 + 1 + 1 / 3) / 4)
    assert scores.confusion == ((3, 0, 0, 1), (0, 1, 1, 0), (0, 0, 1, 0), (2, 0, 0, 1))
    assert scores.n == 10


def test_a_class_absent_from_the_truth_has_no_recall_even_where_it_is_predicted() -> None:
    scores = score(["ang", "ang", "sad"], ["ang", "hap", "sad"])
    assert scores.ua == pytest.approx((1 / 2 + 1) / 2)
    assert math.isnan(scores.recall["hap"])
    assert math.isnan(scores.recall["neu"])
    assert scores.wa == pytest.approx(2 / 3)


@given(PAIRS)
def test_scores_equal_a_recomputation_from_the_definitions(pairs: list[tuple[int, int]]) -> None:
    truth, prediction = [list(side) for side in zip(*pairs, strict=True)]
    scores = score([CLASSES[i] for i in truth], [CLASSES[i] for i in prediction])
    wa, ua, confusion = by_hand(truth, prediction)
    assert scores.wa == pytest.approx(wa, abs=1e-9)
    assert scores.ua == pytest.approx(ua, abs=1e-9)
    assert np.array_equal(scores.confusion, confusion)


def test_predictions_are_scored_by_role() -> None:
    frame = pd.DataFrame(
        {
            "fold": [1, 1, 2, 2, 2],
            "role": ["test", "validation", "test", "test", "validation"],
            "truth": ["ang", "ang", "sad", "ang", "hap"],
            "prediction": ["ang", "sad", "ang", "ang", "hap"],
        }
    )
    assert from_predictions(frame, CLASSES).wa == pytest.approx(2 / 3)
    assert from_predictions(frame, CLASSES, "validation").wa == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="no row has the role validation"):
        from_predictions(frame[frame["role"] == "test"], CLASSES, "validation")


@pytest.mark.parametrize(
    ("confusion", "said"),
    [
        ([[1, 2], [3, 4]], r"shape \(2, 2\), expected \(4, 4\)"),
        (np.full((4, 4), -1), "other than counts"),
        (np.full((4, 4), 0.5), "other than counts"),
        (np.zeros((4, 4), dtype=int), "empty"),
    ],
)
def test_what_is_no_confusion_is_refused(confusion: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_confusion(confusion, CLASSES)
    with pytest.raises(ValueError, match="named twice"):
        from_confusion([[1, 0], [0, 1]], ["ang", "ang"])


def test_the_deviation_is_that_of_a_sample() -> None:
    found = spread([0.5, 0.7])
    assert found.mean == pytest.approx(0.6)
    assert found.std == pytest.approx(math.sqrt(2 * 0.1**2 / (2 - 1)))
    assert found.n == 2


def test_one_fold_has_a_mean_but_no_deviation() -> None:
    assert spread([0.5]).std is None


@pytest.mark.parametrize(("values", "said"), [([], "no value"), ([0.5, math.nan], "not finite")])
def test_what_has_no_spread_is_refused(values: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        spread(values)


def pooled(tables: list[np.ndarray]) -> tuple[float, float]:
    table = np.sum(tables, axis=0)
    present = table.sum(axis=1) > 0
    return table.trace() / table.sum(), (table.diagonal() / table.sum(axis=1).clip(1))[
        present
    ].mean()


def test_an_interval_is_that_of_a_binomial_where_speakers_are_all_right_or_all_wrong() -> None:
    # half of 6 speakers are right: a resample's WA is B(6, 1/2) / 6. P(0) = 1/64 < 0.025 and
    # P(at most 1) = 7/64 > 0.025, so the ends are 1/6 and 5/6
    wa, ua = bootstrap_scores(np.array([RIGHT, WRONG] * 3)) or (None, None)
    assert wa is not None
    assert ua is not None
    assert (wa.low, wa.high) == pytest.approx((1 / 6, 5 / 6))
    assert (ua.low, ua.high) == pytest.approx((1 / 6, 5 / 6))
    assert (wa.level, wa.unit, wa.n_units, wa.n_resamples) == (0.95, "speaker", 6, 9999)


def test_an_interval_is_close_to_that_of_all_resamples() -> None:
    """Speakers of different size, one of whom lacks a class, one who has that class alone."""
    tables = [np.array(t) for t in ([[8, 2], [1, 9]], [[3, 3], [0, 0]], [[0, 0], [7, 3]],
                                    [[9, 1], [6, 4]])]  # fmt: skip
    every = [pooled([tables[i] for i in drawn]) for drawn in itertools.product(range(4), repeat=4)]
    found = bootstrap_scores(np.array(tables))
    assert found is not None
    for interval, values in zip(found, zip(*every, strict=True), strict=True):
        exact = np.percentile(values, [2.5, 97.5])
        assert (interval.low, interval.high) == pytest.approx(exact, abs=0.02)
        assert interval.low < interval.high


def test_a_resample_without_a_class_has_no_recall_of_it() -> None:
    # three speakers have one class only and three the other, all answers right: 1 resample in 32
    # holds a single class, and its UA is 1 as well
    found = bootstrap_scores(np.array([[[2, 0], [0, 0]], [[0, 0], [0, 2]]] * 3))
    assert found is not None
    assert (found[1].low, found[1].high) == (1.0, 1.0)


def test_speakers_are_resampled_whole_and_many_at_a_time() -> None:
    few = bootstrap_scores(np.array([RIGHT, WRONG, RIGHT]) * 50)
    assert few == bootstrap_scores(np.array([RIGHT, WRONG, RIGHT]))  # utterances add nothing
    many = bootstrap_scores(np.array([RIGHT, WRONG] * 500))  # drawn in several batches
    assert many is not None
    assert (many[0].low, many[0].high) == pytest.approx((0.469, 0.531), abs=0.003)


def test_two_speakers_or_folds_have_no_interval() -> None:
    assert bootstrap_scores(np.array([RIGHT, WRONG])) is None
    assert bootstrap_mean([0.1, 0.2]) is None


def test_the_interval_of_a_mean_difference() -> None:
    # 2 of 6 folds gain 0.3, the others lose 0.1: a resample's mean is (0.4 k - 0.6) / 6 with
    # k = B(6, 1/3); P(0) = 0.088 and P(at least 5) = 0.018 < 0.025 < P(at least 4) = 0.100
    found = bootstrap_mean([0.3, 0.3, -0.1, -0.1, -0.1, -0.1])
    assert found is not None
    assert (found.low, found.high) == pytest.approx((-0.1, (0.4 * 4 - 0.6) / 6))
    assert (found.unit, found.n_units) == ("fold", 6)


@pytest.mark.parametrize(
    ("differences", "p", "smallest"),
    [
        ([0.03, -0.01, 0.02], 0.5, 0.25),  # sums of +-3 +-1 +-2 are 6 4 2 0 0 -2 -4 -6; seen: 4
        ([0.01, 0.02, 0.03], 0.25, 0.25),
        ([-0.2] * 5, 2 / 32, 2 / 32),
        ([0.1, -0.1], 1.0, 0.5),
        ([0.0, 0.0, 0.0], 1.0, 0.25),
        ([0.0, 0.1, 0.1], 0.5, 0.25),  # a fold without a difference says nothing
    ],
)
def test_a_p_value_counts_sign_patterns(
    differences: list[float], p: float, smallest: float
) -> None:
    (found,) = sign_flip_tests([differences])
    assert found.p == pytest.approx(p)
    assert found.p_holm == pytest.approx(p)
    assert (found.smallest_p, found.exact, found.family) == (smallest, True, 1)
    assert found.significant is False


def test_a_p_value_is_that_of_all_sign_patterns() -> None:
    differences = np.random.default_rng(3).normal(0.02, 0.03, 9)
    means = [np.mean(differences * s) for s in itertools.product((1, -1), repeat=9)]
    above = np.mean(np.array(means) >= differences.mean() - 1e-12)
    (found,) = sign_flip_tests([differences.tolist()])
    assert found.p == pytest.approx(2 * min(above, 1 - above + 1 / 512))


def test_patterns_of_many_folds_are_drawn() -> None:
    same, mixed = sign_flip_tests([[0.1] * 20, [0.1, -0.1] * 10])
    assert (same.exact, mixed.exact) == (False, False)
    assert same.smallest_p == pytest.approx(2 / (MAX_SIGNS + 1))
    assert same.smallest_p <= (same.p or 0) < 1e-4
    assert (mixed.p or 0) > 0.9
    assert sign_flip_tests([[0.1] * 20])[0].p == same.p  # seeded


def test_one_fold_is_not_tested_and_does_not_count() -> None:
    alone, other = sign_flip_tests([[0.3], [0.1] * 6])
    assert (alone.p, alone.p_holm, alone.significant, alone.smallest_p) == (None, None, None, 1.0)
    assert (other.family, other.p_holm, other.significant) == (1, 2 / 64, True)
    assert sign_flip_tests([]) == ()


def test_holm_on_a_published_example() -> None:
    # the four hypotheses of the usual textbook example: 0.005 * 4, 0.01 * 3, 0.03 * 2 and, as
    # 0.04 * 1 is less than the one before it, 0.06 again
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.5, 0.9]) == [1.0, 1.0, 1.0]
    assert holm([0.2]) == [0.2]


def test_what_holm_corrects_decides() -> None:
    # 6 folds of one sign: 2/64; significant alone, not beside a second difference
    alone, pair = sign_flip_tests([[0.1] * 6]), sign_flip_tests([[0.1] * 6, [0.1, -0.1] * 3])
    assert (alone[0].p_holm, alone[0].significant) == (2 / 64, True)
    assert (pair[0].p_holm, pair[0].significant, pair[0].family) == (4 / 64, False, 2)


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
