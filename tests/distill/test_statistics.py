"""Intervals and tests, against values worked by hand and against every case enumerated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from distill.statistics import MAX_SIGNS, bootstrap_mean, bootstrap_scores, sign_tests

RIGHT, WRONG = [[1, 0], [0, 1]], [[0, 1], [1, 0]]


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
    (found,) = sign_tests([differences])
    assert found.p == pytest.approx(p)
    assert found.p_holm == pytest.approx(p)
    assert (found.smallest_p, found.exact, found.family) == (smallest, True, 1)
    assert found.significant is False


def test_a_p_value_is_that_of_all_sign_patterns() -> None:
    differences = np.random.default_rng(3).normal(0.02, 0.03, 9)
    means = [np.mean(differences * s) for s in itertools.product((1, -1), repeat=9)]
    above = np.mean(np.array(means) >= differences.mean() - 1e-12)
    (found,) = sign_tests([differences.tolist()])
    assert found.p == pytest.approx(2 * min(above, 1 - above + 1 / 512))


def test_patterns_of_many_folds_are_drawn() -> None:
    same, mixed = sign_tests([[0.1] * 20, [0.1, -0.1] * 10])
    assert (same.exact, mixed.exact) == (False, False)
    assert same.smallest_p == pytest.approx(2 / (MAX_SIGNS + 1))
    assert same.smallest_p <= (same.p or 0) < 1e-4
    assert (mixed.p or 0) > 0.9
    assert sign_tests([[0.1] * 20])[0].p == same.p  # seeded


def test_one_fold_is_not_tested_and_does_not_count() -> None:
    alone, other = sign_tests([[0.3], [0.1] * 6])
    assert (alone.p, alone.p_holm, alone.significant, alone.smallest_p) == (None, None, None, 1.0)
    assert (other.family, other.p_holm, other.significant) == (1, 2 / 64, True)
    assert sign_tests([]) == ()


def test_holm_on_a_published_example(monkeypatch: pytest.MonkeyPatch) -> None:
    # the four hypotheses of the usual textbook example: 0.005 * 4, 0.01 * 3, 0.03 * 2 and, as
    # 0.04 * 1 is less than the one before it, 0.06 again
    given = iter([0.01, 0.04, 0.03, 0.005])
    monkeypatch.setattr("distill.statistics._p_value", lambda _: next(given))
    found = sign_tests([[0.1, 0.1]] * 4)
    assert [test.p_holm for test in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [test.significant for test in found] == [True, False, False, True]
    assert {test.family for test in found} == {4}


def test_a_corrected_p_of_exactly_the_level_is_significant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("distill.statistics._p_value", lambda _: 0.025)
    assert [test.significant for test in sign_tests([[0.1, 0.1]] * 2)] == [True, True]
    monkeypatch.setattr("distill.statistics._p_value", lambda _: 0.02501)
    assert [test.significant for test in sign_tests([[0.1, 0.1]] * 2)] == [False, False]
