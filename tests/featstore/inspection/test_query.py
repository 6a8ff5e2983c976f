"""featstore/inspection/query.py: one question at a time, answered as plain data and as CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from featstore.core.schema import UserError
from featstore.inspection.query import answer, to_csv
from featstore.inspection.teachers import SORTS
from featstore.store.store import Store


@pytest.fixture(scope="module")
def store(small_store: Path) -> Store:
    return Store.open(small_store)


def test_a_list_is_plain_data_and_csv(store: Store) -> None:
    filters = {"role": "test", "sort": "divergence", "limit": 3}
    found = answer(store, fold=2, filters=filters)
    assert json.loads(json.dumps(found.facts, allow_nan=False)) == found.facts
    assert (found.facts["n"], found.facts["n_found"], len(found.facts["rows"])) == (80, 8, 3)
    rows = list(csv.DictReader(io.StringIO(to_csv(found.table))))
    assert [row["utterance_id"] for row in rows] == [
        row["utterance_id"] for row in found.facts["rows"]
    ]
    for row, told in zip(rows, found.facts["rows"], strict=True):
        for name, said in told["teachers"].items():
            assert row[f"{name}:prediction"] == said["prediction"]
            assert float(row[f"{name}:p_truth"]) == said["p_truth"]
    assert any("found, of" in str(getattr(part, "title", "")) for part in found.render(found.facts))


@pytest.mark.parametrize("text", ["-yes", "=HYPERLINK(1)", "+1", "@you", "'no", 'say "a, b"'])
def test_csv_has_the_text_as_it_is(store: Store, monkeypatch, text: str) -> None:
    utterances = store.utterances.copy()
    utterances.loc[0, "text"] = text
    monkeypatch.setitem(store.__dict__, "utterances", utterances)
    found = answer(store, filters={"text": text})
    (row,) = csv.DictReader(io.StringIO(to_csv(found.table)))
    assert row["text"] == text == found.facts["rows"][0]["text"]
    (row,) = csv.DictReader(io.StringIO(to_csv(found.table, spreadsheet=True)))
    assert row["text"] == (f"'{text}" if text[0] in "-=+@" else text)
    assert row["duration_s"] == str(found.facts["rows"][0]["duration_s"])


def test_csv_shows_no_escape(store: Store, monkeypatch) -> None:
    utterances = store.utterances.copy()
    utterances.loc[0, "text"] = "hello\x1b[2J"
    monkeypatch.setitem(store.__dict__, "utterances", utterances)
    text = to_csv(answer(store, filters={"text": "hello"}).table)
    assert "hello\\x1b[2J" in text
    assert "\x1b" not in text


def test_two_questions_at_once_are_refused(store: Store) -> None:
    with pytest.raises(UserError, match="two questions"):
        answer(store, teachers=True, fitness=True)
    with pytest.raises(UserError, match="two questions"):
        answer(store, utterance="x", filters={"wrong": True})
    with pytest.raises(UserError, match="not a table"):
        to_csv(answer(store, filters={"wrong": False, "label": None}).table)


def test_how_teachers_do_is_what_their_units_recorded(store: Store) -> None:
    found = answer(store, teachers=True)
    assert json.loads(json.dumps(found.facts, allow_nan=False)) == found.facts
    assert len(found.facts) == 2 * 2 * 3
    names = {"training": "train", "validation": "validation", "test": "test"}
    for row in found.facts:
        recorded = store.unit(f"folds/{row['fold']:02d}/{row['teacher']}").facts["scores"]
        expected = recorded[names[row["role"]]]
        assert (row["n"], row["wa"], row["ua"]) == (
            expected["n"], pytest.approx(expected["wa"]), pytest.approx(expected["ua"]),
        )  # fmt: skip
        assert row["over_confidence"] == pytest.approx(row["confidence"] - row["wa"])
    one, other = (
        row["agreement"] for row in found.facts if (row["fold"], row["role"]) == (1, "test")
    )
    assert one["prosodic"] == other["linguistic"]
    alone = answer(store, teachers=True, fold=2, only=("prosodic",)).facts
    assert {(row["fold"], row["teacher"]) for row in alone} == {(2, "prosodic")}


def test_every_order_that_is_offered_works(store: Store) -> None:
    for sort in SORTS:
        found = answer(store, filters={"sort": sort, "label": "ang"}).facts
        assert found["n_found"] == (store.utterances["label"] == "ang").sum()
