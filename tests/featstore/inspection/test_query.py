"""featstore/inspection/teachers.py, query.py: what is listed is what the store holds."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from featstore.core.schema import UserError
from featstore.inspection.query import answer, to_csv
from featstore.inspection.render import sparkline
from featstore.inspection.teachers import SORTS, outputs_table, select, teachers_of
from featstore.store.store import Store

CLASSES = ("ang", "hap")


@pytest.fixture(scope="module")
def store(small_store: Path) -> Store:
    return Store.open(small_store)


@pytest.fixture
def table() -> pd.DataFrame:
    """Four utterances, two teachers; a is wrong on 1, b on 1 (unsure) and 3."""
    return pd.DataFrame({
        "row": range(4), "utterance_id": list("wxyz"), "speaker": ["A", "A", "B", "B"],
        "label": ["ang", "hap", "ang", "hap"], "role": ["test", "test", "training", "training"],
        "text": ["Hello there", "No.", "HELLO", "[ok]"], "duration_s": [1.0, 3.0, 2.0, 4.0],
        "divergence": [0.0, 0.1, 0.3, 0.2],
        "a:prediction": ["ang", "ang", "ang", "hap"], "a:confidence": [0.9, 0.8, 0.7, 0.6],
        "a:entropy": [0.1, 0.2, 0.3, 0.4], "a:p_truth": [0.9, 0.2, 0.7, 0.6],
        "b:prediction": ["ang", "ang", "ang", "ang"], "b:confidence": [0.6, 0.55, 0.95, 0.99],
        "b:entropy": [0.6, 0.6, 0.05, 0.01], "b:p_truth": [0.6, 0.45, 0.95, 0.01],
    })  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, "wxyz"),
        ({"disagree": True}, "z"),
        ({"wrong": True}, "xz"),
        ({"confident": 0.9}, "wyz"),
        ({"wrong": True, "confident": 0.7}, "xz"),  # the same teacher is wrong and sure
        ({"wrong": True, "confident": 0.9}, "z"),
        ({"label": "ang"}, "wy"),
        ({"speaker": "B", "label": "hap"}, "z"),
        ({"role": "training"}, "yz"),
        ({"text": "hello"}, "wy"),
        ({"text": "[ok]"}, "z"),  # words, no pattern
        ({"sort": "duration_s"}, "zxyw"),
        ({"sort": "p_truth"}, "zxwy"),
        ({"sort": "confidence"}, "zywx"),
        ({"sort": "entropy"}, "wxzy"),
        ({"sort": "divergence"}, "yzxw"),
    ],
)
def test_which_are_found_and_in_which_order(
    table: pd.DataFrame, filters: dict[str, Any], found: str
) -> None:
    assert "".join(select(table, CLASSES, **filters)["utterance_id"]) == found


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"label": "sad"}, "--label sad: not known"),
        ({"speaker": "C"}, "--speaker C"),
        ({"role": "dev"}, "--role dev"),
        ({"sort": "loss"}, "--sort loss"),
        ({"confident": 90}, "--confident 90"),
    ],
)
def test_what_there_is_none_of(table: pd.DataFrame, filters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        select(table, CLASSES, **filters)
    assert caught.value.hint


def test_outputs_are_what_the_store_holds(store: Store) -> None:
    table = outputs_table(store, 1, tau=2.0)
    assert teachers_of(table) == ["linguistic", "prosodic"]
    assert table["utterance_id"].tolist() == store.utterances["utterance_id"].tolist()
    distributions = []
    for name, output in store.fold(1).items():
        p = torch.softmax(torch.from_numpy(output.logits.copy()).double() / 2, 1)
        distributions.append(p)
        np.testing.assert_allclose(table[f"{name}:confidence"], p.max(1).values)
        expected = torch.distributions.Categorical(p).entropy()
        np.testing.assert_allclose(table[f"{name}:entropy"], expected, atol=1e-9)
        rows = torch.arange(len(p))
        labels = torch.from_numpy(store.labels.astype(np.int64))
        np.testing.assert_allclose(table[f"{name}:p_truth"], p[rows, labels])
        said = [store.classes[best] for best in output.logits.argmax(1)]
        assert table[f"{name}:prediction"].tolist() == said
    mean = torch.stack(distributions).mean(0)
    kl = [(p * (p / mean).log()).sum(1) for p in distributions]
    np.testing.assert_allclose(table["divergence"], sum(kl) / 2, atol=1e-9)
    assert teachers_of(outputs_table(store, 1, teachers=["prosodic"])) == ["prosodic"]
    for arguments in ({"fold": 3}, {"fold": 1, "teachers": ["visual"]}, {"fold": 1, "tau": 0.0}):
        with pytest.raises(UserError):
            outputs_table(store, **arguments)


# The questions of featstore inspect


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


def test_a_sparkline_is_as_long_as_its_curve() -> None:
    assert sparkline([1.0, None, 8.0, 4.5]) == "▁ █▅"
    assert sparkline([]) == ""
