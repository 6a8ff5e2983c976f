from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.metrics import by_fold, from_confusion, from_predictions, score, spread

CLASSES = ("ang", "hap", "neu", "sad")
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


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
    scores = score(truth, prediction, CLASSES)
    assert scores.wa == pytest.approx(6 / 10)
    assert scores.recall == pytest.approx({"ang": 3 / 4, "hap": 1 / 2, "neu": 1, "sad": 1 / 3})
    assert scores.ua == pytest.approx((3 / 4 + 1 / 2 + 1 + 1 / 3) / 4)
    assert scores.confusion == ((3, 0, 0, 1), (0, 1, 1, 0), (0, 0, 1, 0), (2, 0, 0, 1))
    assert scores.n == 10
    assert scores.support == {"ang": 4, "hap": 2, "neu": 1, "sad": 3}


def test_a_class_absent_from_the_truth_has_no_recall_even_where_it_is_predicted() -> None:
    scores = score(["ang", "ang", "sad"], ["ang", "hap", "sad"], CLASSES)
    assert scores.ua == pytest.approx((1 / 2 + 1) / 2)
    assert math.isnan(scores.recall["hap"])
    assert math.isnan(scores.recall["neu"])
    assert scores.wa == pytest.approx(2 / 3)


@given(PAIRS)
def test_scores_equal_a_recomputation_from_the_definitions(pairs: list[tuple[int, int]]) -> None:
    truth, prediction = [list(side) for side in zip(*pairs, strict=True)]
    scores = score([CLASSES[i] for i in truth], [CLASSES[i] for i in prediction], CLASSES)
    wa, ua, confusion = by_hand(truth, prediction)
    assert scores.wa == pytest.approx(wa, abs=1e-9)
    assert scores.ua == pytest.approx(ua, abs=1e-9)
    assert np.array_equal(scores.confusion, confusion)


@given(PAIRS)
def test_a_confusion_holds_all_that_the_scores_need(pairs: list[tuple[int, int]]) -> None:
    truth, prediction = [[CLASSES[i] for i in side] for side in zip(*pairs, strict=True)]
    scores = score(truth, prediction, CLASSES)
    again = from_confusion(scores.confusion, CLASSES)
    assert (again.wa, again.ua, again.confusion) == (scores.wa, scores.ua, scores.confusion)


def test_predictions_are_scored_by_role_and_fold() -> None:
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
    assert {fold: s.wa for fold, s in by_fold(frame, CLASSES).items()} == {1: 1.0, 2: 0.5}
    with pytest.raises(ValueError, match="empty"):
        from_predictions(frame[frame["role"] == "test"], CLASSES, "validation")


@pytest.mark.parametrize(
    ("truth", "prediction", "said"),
    [
        (["ang"] * 3, ["ang"] * 4, "differ in length: 3 != 4"),
        ([], [], "empty"),
        (["ang", "fear"], ["ang", "ang"], "truth holds 'fear'"),
        (["ang", "ang"], ["ang", None], "prediction holds None"),
    ],
)
def test_what_cannot_be_scored_is_refused(truth: list, prediction: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        score(truth, prediction, CLASSES)


def test_a_class_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="named twice"):
        score(["ang"], ["ang"], ["ang", "sad", "ang"])


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
