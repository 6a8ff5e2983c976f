"""featstore/inspection/teachers.py: each verdict by a teacher that is made to deserve it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featstore.folds import TEST, TRAIN, VALIDATION
from featstore.inspection.teachers import chance_error, cosine_between, fitness, judge, warnings_of
from featstore.store.store import Store, TeacherOutputs

CLASSES = ("ang", "hap", "neu", "sad")
N = 400


def judged(hits=(0.8, 0.7, 0.7), sure=2.0, change=lambda logits, embeddings, labels: None):
    """Verdict on a teacher with a hit rate by role, and whatever is changed of it."""
    rng = np.random.default_rng(0)
    labels = np.arange(N) % 4
    roles = np.repeat([TRAIN, VALIDATION, TEST], [N // 2, N // 4, N // 4])
    rates = np.array(hits)[np.searchsorted([TRAIN, VALIDATION, TEST], roles)]
    predicted = np.where(rng.random(N) < rates, labels, (labels + rng.integers(1, 4, N)) % 4)
    logits = (sure * np.eye(4)[predicted]).astype(np.float32)
    embeddings = rng.normal(0, 1, (N, 8)).astype(np.float32)
    change(logits, embeddings, labels)
    return judge(TeacherOutputs(logits, embeddings, None), labels, roles, CLASSES)


def test_one_that_knows_something_is_fit():
    assert judged() == ("fit", [])


def test_no_better_than_chance():
    verdict, reasons = judged(hits=(0.9, 0.25, 0.25))
    assert verdict == "unfit"
    assert "no better than chance: UA 2" in reasons[0]
    assert "on 200 utterances" in reasons[0]


def test_always_the_same_answer():
    def constant(logits, embeddings, labels):
        logits[:] = [0, 0, 1, 0]

    verdict, reasons = judged(change=constant)
    assert verdict == "unfit"
    assert any("never says ang, hap, sad" in reason for reason in reasons)


def test_embeddings_that_all_point_the_same_way():
    def collapse(logits, embeddings, labels):
        embeddings[:] = 1 + 0.01 * embeddings

    verdict, reasons = judged(change=collapse)
    assert verdict == "unfit"
    assert "embeddings collapsed" in reasons[0]


def test_targets_that_are_the_labels_again():
    verdict, reasons = judged(hits=(1.0, 0.7, 0.7), sure=30.0)
    assert verdict == "doubtful"
    assert "memorised its training set: targets there have 0.0 % of the entropy" in reasons[0]


def test_validation_and_test_that_tell_of_different_teachers():
    verdict, reasons = judged(hits=(0.8, 0.9, 0.4))
    assert verdict == "doubtful"
    assert "disagrees with its own validation" in reasons[0]


def test_a_class_that_it_never_says():
    def never(logits, embeddings, labels):
        logits[:, 3] = -9

    verdict, reasons = judged(change=never)
    assert verdict == "doubtful"
    assert any("never says sad" in reason for reason in reasons)


def test_the_error_of_guessing_is_what_guessing_shows():
    counts = np.array([30, 10, 50, 20])
    rng = np.random.default_rng(1)
    hits = np.stack([rng.binomial(n, 0.25, 20_000) / n for n in counts]).mean(0)
    assert chance_error(counts) == pytest.approx(hits.std(), rel=0.03)


def test_cosine_between_classes_by_pairs():
    rng = np.random.default_rng(2)
    embeddings, labels = rng.normal(0, 1, (20, 5)), rng.integers(0, 3, 20)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    pairs = [units[i] @ units[j] for i in range(20) for j in range(20) if labels[i] != labels[j]]
    assert cosine_between(embeddings, labels) == pytest.approx(np.mean(pairs))
    assert cosine_between(embeddings, np.zeros(20, dtype=int)) is None


def test_warnings_name_only_those_that_are_to_teach(small_store: Path):
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
