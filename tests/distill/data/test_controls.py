"""distill/data.py: targets exchanged, labels and held-out rows as they were."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.data import exchanged, load_targets, shuffled
from distill.runs.read import TEACHERS
from distill.training.loop import run_fold
from featstore.folds import TRAIN
from featstore.store.store import Store
from tests.distill.small_runs import folder_of, request, results, train


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 2**32))
def test_every_row_once_within_its_group_and_never_itself(groups, seed):
    groups = np.array(groups)
    source = exchanged(groups, seed)
    assert sorted(source.tolist()) == list(range(len(groups)))
    assert (groups[source] == groups).all()
    alone = np.bincount(groups)[groups] == 1
    assert ((source == np.arange(len(groups))) == alone).all()


def test_the_order_is_the_seeds():
    groups = np.zeros(30, dtype=np.int64)
    assert exchanged(groups, 1).tolist() == exchanged(groups, 1).tolist()
    assert exchanged(groups, 1).tolist() != exchanged(groups, 2).tolist()


@pytest.mark.parametrize("among", ["label", "any"])
def test_a_fold_with_its_targets_exchanged(small_store, among):
    targets = load_targets(Store.open(small_store), 1, torch.device("cpu"))
    control = shuffled(targets, among, seed=42)
    train = targets.rows(TRAIN)
    held_out = np.setdiff1d(np.arange(len(targets.roles)), train)
    labels = targets.labels.numpy()
    assert control.labels is targets.labels
    for name, (logits, embeddings) in targets.teachers.items():
        mixed, moved = control.teachers[name]
        assert torch.equal(mixed[held_out], logits[held_out])
        given = {tuple(row): place for place, row in enumerate(logits.tolist())}
        source = [given[tuple(row)] for row in mixed[train].tolist()]
        assert torch.equal(moved[train], embeddings[source])  # both parts of one utterance
        assert (np.array(source) != train).all()
        same = labels[source] == labels[train]
        assert same.all() if among == "label" else not same.all()
    assert shuffled(targets, "none", seed=42) is targets


def test_a_run_with_shuffled_targets_is_another_run(small_store, tmp_path):
    runs = {
        among: train(small_store, tmp_path, f"targets.shuffle={among}").folder
        for among in ("none", "label", "any")
    }
    assert len({folder.parent for folder in runs.values()}) == 3
    assert len({str(results(folder)) for folder in runs.values()}) == 3
    # what the teachers said is told as they said it
    assert len({(folder / TEACHERS).read_bytes() for folder in runs.values()}) == 1


def test_without_distillation_shuffling_changes_nothing(small_store, tmp_path):
    alone = ("losses.alpha=0", "losses.beta=0")
    plain = train(small_store, tmp_path, *alone)
    mixed = train(small_store, tmp_path, *alone, "targets.shuffle=any")
    names = ("predictions.parquet", "student/model.safetensors")
    mine, other = results(plain.folder), results(mixed.folder)
    assert [mine[name] for name in names] == [other[name] for name in names]
    keys = [
        folder_of(request(small_store, tmp_path, *alone, *more)).key
        for more in ((), ("targets.shuffle=any",))
    ]
    assert keys[0] != keys[1]
    assert run_fold(request(small_store, tmp_path, *alone)).status == "skipped"
