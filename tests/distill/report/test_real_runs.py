"""The report on runs that were trained, not made up: what the trainer writes is what it reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from distill.report import collect, document, summarise
from distill.training.loop import Outcome
from featstore.store.store import Store
from tests.distill.report.recompute import Group, numbers, results, teacher


def test_a_trained_students_numbers_are_those_of_its_files(
    finished: Mapping[int, Outcome], small_store: Path
) -> None:
    folder = finished[1].folder.parent
    report = summarise(collect([folder.parents[1]]))
    assert report.left_out == ()
    written = json.loads(json.dumps(document(report), allow_nan=False))["studies"][0]
    group = Group(folder)
    facts = group.facts[1, 42]
    sizes = {fold: len(frame) for (fold, _), frame in group.tests.items()}
    (found,) = written["students"]
    expected = results(group.scores(), list(group.tests.values()), facts, sizes)
    assert dict(numbers(found["results"])) == pytest.approx(dict(numbers(expected)), nan_ok=False)
    for row in written["teachers"]:
        own = teacher(row["name"], group)
        for part in ("results", "calibration", "train_ua", "validation_ua"):
            given, wanted = dict(numbers(row[part])), dict(numbers(own[part]))
            assert given.keys() == wanted.keys()
            known = {place: value for place, value in wanted.items() if value is not None}
            assert {place: given[place] for place in known} == pytest.approx(known, abs=1e-6)
    assert [row["calibration"][0]["n"] for row in written["teachers"]] == [2 * 64] * 2


def test_what_runs_tell_of_the_protocol_is_the_stores(
    finished: Mapping[int, Outcome], small_store: Path
) -> None:
    (study,) = summarise(collect([finished[1].folder.parents[2]])).studies
    store = Store.open(small_store)
    assert study.label_map == {"ang": "ang", "exc": "hap", "hap": "hap", "neu": "neu", "sad": "sad"}
    shared = store.unit("splits").facts["text_overlap"]
    assert [fold.n_shared_texts for fold in study.folds] == [
        record["n_shared"] for record in shared[:2]
    ]
    assert [(fold.n_test, fold.n_validation) for fold in study.folds] == [(8, 8)] * 2
    assert [fold.test for fold in study.folds] == [fold.test for fold in store.folds[:2]]
    (student,) = study.students
    assert student.temperatures == {"linguistic": (5.0,), "prosodic": (0.5,)}
    names = [term.name for term in student.terms]
    assert names[0] == "total"
    assert set(names) == {
        "total", "ce", "kl_linguistic", "kl_prosodic", "cos_linguistic", "cos_prosodic"
    }  # fmt: skip
    shares = [term.share_mean for term in student.terms if term.share_mean is not None]
    assert len(shares) == 5
    assert sum(shares) == pytest.approx(1)


def test_scores_are_those_that_training_told(finished: Mapping[int, Outcome]) -> None:
    group = Group(finished[1].folder.parent)
    (study,) = summarise(collect([finished[1].folder.parents[2]])).studies
    for run in study.students[0].runs:
        outcome = finished[run.fold]
        assert (run.wa, run.ua) == pytest.approx((outcome.wa, outcome.ua))
        assert (run.wa, run.ua) == pytest.approx(group.scores()[run.fold, 42])
