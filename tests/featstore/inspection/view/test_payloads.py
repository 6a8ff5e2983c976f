from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from featstore.inspection.view.payloads import students
from featstore.store.store import Store
from tests.featstore.inspection.view.view_helpers import run_set, student_run


@pytest.fixture
def store(view_store: Path) -> Store:
    return Store.open(view_store)


def test_logits_lie_in_the_store_s_order(store: Store) -> None:
    run = student_run(store, 3, 7)
    run.predictions = run.predictions.sample(frac=1, random_state=0)
    [student], left_out = students(run_set(run), store)
    assert left_out == []
    assert student.facts == {
        "place": "tiny-full/abc/fold03-seed7", "fold": 3, "seed": 7, "experiment": "tiny-full",
        "variant": "full", "backbone": "tiny",
    }  # fmt: skip
    ids = store.utterances["utterance_id"].tolist()
    for row in run.predictions.to_dict("records"):
        logits = [np.float32(row[f"logit_{name}"]) for name in store.classes]
        np.testing.assert_array_equal(student.logits[ids.index(row["utterance_id"])], logits)
    assert np.isnan(student.logits).any(axis=1).sum() == len(ids) - len(run.predictions)


def test_left_out_with_the_reason(store: Store) -> None:
    foreign = student_run(store, 1)
    foreign.predictions["utterance_id"] = [f"x{n}" for n in range(len(foreign.predictions))]
    twice = student_run(store, 2)
    twice.predictions["utterance_id"] = twice.predictions["utterance_id"].iloc[0]
    other = student_run(store, 3, changes={"store": SimpleNamespace(fingerprint="0" * 64)})
    classes = student_run(store, 4, changes={"classes": ("ang", "hap")})
    shown, lines = students(run_set(foreign, twice, other, classes, **{"a\x1b[31m": "torn"}), store)
    assert shown == []
    assert lines[0] == "a\\x1b[31m: torn"
    assert [line.partition(": ")[2] for line in lines[1:]] == [
        "predictions of other utterances than the store's",
        "predictions of other utterances than the store's",
        "of another store",
        "of another store",
    ]
    assert students(None, store) == ([], [])
