"""featstore/inspection/teachers.py: outputs as the store holds them, filters, verdicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from featstore.core.schema import UserError
from featstore.folds import TEST, TRAIN, VALIDATION
from featstore.inspection.teachers import (
    chance_error,
    cosine_between,
    fitness,
    judge,
    outputs_table,
    select,
    teachers_of,
    warnings_of,
)
from featstore.store.store import Store, TeacherOutputs

CLASSES = ("ang", "hap", "neu", "sad")


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
        ({"label": "joy"}, "--label joy: not known"),
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


def test_outputs_are_what_the_store_holds(small_store: Path) -> None:
    store = Store.open(small_store)
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
    for arguments in ({"fold": 3}, {"fold": 1, "teachers": ["visual"]}):
        with pytest.raises(UserError):
            outputs_table(store, **arguments)


# Verdicts, each on a teacher that is made to deserve it

N = 400
Change = Callable[[Any, Any], object]


def no_change(logits: Any, embeddings: Any) -> None:
    """The teacher as it was drawn."""


def always_neutral(logits: Any, embeddings: Any) -> None:
    logits[:] = [0, 0, 1, 0]


def never_sad(logits: Any, embeddings: Any) -> None:
    logits[:, 3] = -9


def collapse(logits: Any, embeddings: Any) -> None:
    embeddings[:] = 1 + 0.01 * embeddings


@pytest.mark.parametrize(
    ("hits", "scale", "change", "verdict", "reason"),
    [
        ((0.8, 0.7, 0.7), 2, no_change, "fit", ""),
        ((0.9, 0.25, 0.25), 2, no_change, "unfit", "no better than chance: UA 2"),
        ((0.9, 0.25, 0.25), 2, no_change, "unfit", "on 200 utterances"),
        ((0.8, 0.7, 0.7), 2, always_neutral, "unfit", "never says ang, hap, sad"),
        ((0.8, 0.7, 0.7), 2, collapse, "unfit", "embeddings collapsed"),
        ((1.0, 0.7, 0.7), 30, no_change, "doubtful", "training set: targets there have 0.0 % of"),
        ((0.8, 0.9, 0.4), 2, no_change, "doubtful", "disagrees with its own validation"),
        ((0.8, 0.7, 0.7), 2, never_sad, "doubtful", "never says sad"),
    ],
)
def test_verdict(
    hits: tuple[float, ...], scale: float, change: Change, verdict: str, reason: str
) -> None:
    """``hits`` is the teacher's accuracy on training, validation and test rows."""
    rng = np.random.default_rng(0)
    labels = np.arange(N) % 4
    roles = np.repeat([TRAIN, VALIDATION, TEST], [N // 2, N // 4, N // 4])
    rates = np.array(hits)[np.searchsorted([TRAIN, VALIDATION, TEST], roles)]
    predicted = np.where(rng.random(N) < rates, labels, (labels + rng.integers(1, 4, N)) % 4)
    logits = (scale * np.eye(4)[predicted]).astype(np.float32)
    embeddings = rng.normal(0, 1, (N, 8)).astype(np.float32)
    change(logits, embeddings)
    outputs = TeacherOutputs(logits, embeddings, None)  # type: ignore[arg-type]
    got, reasons = judge(outputs, labels, roles, CLASSES)
    assert got == verdict
    assert reason in "\n".join(reasons)
    assert bool(reasons) == (verdict != "fit")


def test_the_error_of_guessing_is_what_guessing_shows() -> None:
    counts = np.array([30, 10, 50, 20])
    rng = np.random.default_rng(1)
    hits = np.stack([rng.binomial(n, 0.25, 20_000) / n for n in counts]).mean(0)
    assert chance_error(counts) == pytest.approx(hits.std(), rel=0.03)


def test_cosine_between_classes_by_pairs() -> None:
    rng = np.random.default_rng(2)
    embeddings, labels = rng.normal(0, 1, (20, 5)), rng.integers(0, 3, 20)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    pairs = [units[i] @ units[j] for i in range(20) for j in range(20) if labels[i] != labels[j]]
    assert cosine_between(embeddings, labels) == pytest.approx(np.mean(pairs))
    assert cosine_between(embeddings, np.zeros(20, dtype=int)) is None


def test_warnings_name_only_those_that_are_to_teach(small_store: Path) -> None:
    store = Store.open(small_store)
    found = fitness(store)
    assert [(one["fold"], one["teacher"]) for one in found] == [
        (fold, name) for fold in (1, 2) for name in ("linguistic", "prosodic")
    ]
    bad = [one for one in found if one["fold"] == 1 and one["verdict"] != "fit"]
    lines = warnings_of(store, [1], ["linguistic", "prosodic"])
    assert len(lines) == len(bad)
    for line, one in zip(lines, bad, strict=True):
        assert line.startswith(f"fold 1: teacher {one['teacher']} is {one['verdict']}: ")
    assert warnings_of(store, [1], []) == []
