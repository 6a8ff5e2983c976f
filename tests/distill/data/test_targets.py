"""distill/data.py: what a student is taught, and what it refuses to be taught."""

from pathlib import Path

import numpy as np
import pytest
import torch

from distill.data import load_targets, rows_of
from featstore.core.schema import Corrupt, Refused, UserError
from featstore.folds import TEST, TRAIN, VALIDATION
from featstore.store.store import Store
from tests.distill.small_runs import copied, flip_byte, forged, rewrite, train

CPU = torch.device("cpu")


def load(path: Path, fold: int = 1, **options):
    return load_targets(Store.open(path), fold, CPU, **options)


@pytest.fixture
def store(small_store, tmp_path):
    return copied(small_store, tmp_path / "store")


def test_they_are_the_stores_own(small_store):
    targets, store = load(small_store), Store.open(small_store)
    table = store.utterances
    assert targets.classes == store.classes
    assert [targets.classes[label] for label in targets.labels] == table["label"].tolist()
    assert list(targets.teachers) == ["linguistic", "prosodic"]
    zarr = pytest.importorskip("zarr")
    for name, (logits, embeddings) in targets.teachers.items():
        group = zarr.open_group(small_store / "folds" / "01" / name, mode="r")
        np.testing.assert_array_equal(logits.numpy(), group["logits"][:])
        np.testing.assert_array_equal(embeddings.numpy(), group["embeddings"][:])
        assert targets.widths[name] == group["embeddings"].shape[1]
    speakers = {role: set(table["speaker"].iloc[rows]) for role, rows in rows_of(targets).items()}
    fold = targets.fold
    parts = {"train": fold.train, "validation": fold.validation, "test": fold.test}
    assert speakers == {role: set(part) for role, part in parts.items()}
    assert sum(map(len, rows_of(targets).values())) == len(table)


def test_a_batch_keeps_the_order_of_its_rows(small_store):
    targets = load(small_store)
    labels, pairs = targets.batch(torch.tensor([7, 3, 7]))
    assert labels.tolist() == [int(targets.labels[row]) for row in (7, 3, 7)]
    logits, embeddings = targets.teachers["prosodic"]
    torch.testing.assert_close(pairs["prosodic"][0], logits[[7, 3, 7]], rtol=0, atol=0)
    torch.testing.assert_close(pairs["prosodic"][1], embeddings[[7, 3, 7]], rtol=0, atol=0)


@pytest.mark.parametrize("fact", ["fitted_on", "selected_on"])
def test_a_teacher_that_has_seen_the_test_speaker(store, fact):
    with forged(store / "folds/01/prosodic") as record:
        record["facts"][fact].append("Ses01F")
    with pytest.raises(Refused, match=r"folds/01/prosodic: .*seen Ses01F, whom fold 1 tests") as no:
        load(store)
    assert no.value.exit_code == 4
    assert "--fold 1 --rebuild" in no.value.hint
    load(store, fold=2)  # which is not that teacher's


def test_a_run_of_a_leaking_fold_leaves_nothing_but_the_reason(store, tmp_path):
    with forged(store / "folds/01/linguistic") as record:
        record["facts"]["fitted_on"].append("Ses01F")
    with pytest.raises(Refused):
        train(store, tmp_path / "runs")
    left = {path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    [note] = left - {"FAILED"}
    assert note.endswith("~fold01-seed42.failed")


def test_a_folder_under_another_folds_name(store):
    (store / "folds/01/prosodic").rename(store / "old")
    (store / "folds/02/prosodic").rename(store / "folds/01/prosodic")
    with pytest.raises(Refused, match="this is the unit folds/02/prosodic"):
        load(store)
    with forged(store / "folds/01/prosodic") as record:
        record["unit"] = "folds/01/prosodic"
    with pytest.raises(Refused, match=r"folds/01/prosodic: .*has seen Ses01F"):
        load(store)


@pytest.mark.parametrize(
    ("part", "key", "value", "told"),
    [
        ("facts", "fold", 2, "was fitted for fold 2, not for fold 1"),
        ("settings", "fold", 2, "was fitted for fold 2, not for fold 1"),
        ("facts", "held_out", ["Ses02F"], "holds out Ses02F, fold 1 Ses01F"),
        ("facts", "fitted_on", ["Ses01M"], "was fitted on Ses01M, on whom fold 1 does not train"),
        ("facts", "fitted_on", ["x"], "was fitted on x, on whom fold 1 does not train"),
        ("facts", "selected_on", ["Ses02F"], "selected on Ses02F, on whom .* does not validate"),
    ],
)
def test_a_teacher_of_another_fold_that_did_not_see_the_test_speaker(store, part, key, value, told):
    with forged(store / "folds/01/prosodic") as record:
        record[part][key] = value
    with pytest.raises(Refused, match=rf"folds/01/prosodic: this teacher .*{told}"):
        load(store)


def test_a_split_that_trains_on_the_test_speaker(store):
    def leak(role):
        role[0, np.flatnonzero(role[0] == TEST)[0]] = TRAIN

    with forged(store / "splits"):
        rewrite(store / "splits", "role", leak)
    with pytest.raises(Refused, match="Ses01F"):
        load(store)


def test_a_split_made_for_another_corpus(store):
    with forged(store / "splits") as record:
        record["parents"]["corpus"] = "0" * 64
    with pytest.raises(Refused, match="splits: made from another corpus"):
        load(store)


@pytest.mark.parametrize("array", ["logits", "embeddings"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_training_target_that_is_no_number(store, array, value):
    row = int(np.flatnonzero(load(store).roles == TRAIN)[3])

    def poison(values):
        values[row, 1] = value

    with forged(store / "folds/01/prosodic"):
        rewrite(store / "folds/01/prosodic", array, poison)
    with pytest.raises(Corrupt, match=rf"prosodic: .*not finite\nrow {row}\Z"):
        load(store)


def test_an_embedding_without_direction(store, tmp_path):
    roles = load(store).roles
    row = int(np.flatnonzero(roles == TRAIN)[0])

    def flatten(values):
        values[row] = 0
        values[roles == TEST] = 0  # which nobody is taught

    with forged(store / "folds/01/linguistic"):
        rewrite(store / "folds/01/linguistic", "embeddings", flatten)
    with pytest.raises(UserError, match=rf"linguistic: .*zero length.*\nrow {row}\Z") as caught:
        load(store)
    load(store, matched=["prosodic"])

    with pytest.raises(UserError, match="zero length"):
        train(store, tmp_path / "runs", max_steps=1)
    flag = caught.value.hint.rpartition("--set ")[2]
    for sets in ([flag], ["losses.beta=0"]):  # the hint is true, and so is leaving out all cosines
        assert train(store, tmp_path / "runs", *sets, max_steps=1).status == "stopped"


def test_rows_that_nobody_is_taught_may_hold_anything(store):
    roles = load(store).roles

    def poison(values):
        values[roles == TEST] = np.nan

    with forged(store / "folds/01/linguistic"):
        rewrite(store / "folds/01/linguistic", "logits", poison)
    logits = load(store).teachers["linguistic"][0].numpy()
    assert np.isnan(logits[roles == TEST]).all()
    assert np.isfinite(logits[np.isin(roles, (TRAIN, VALIDATION))]).all()


def test_a_flipped_bit(store, tmp_path):
    chunk = store / "folds/01/prosodic/logits/c/0/0"
    sound = chunk.read_bytes()
    flip_byte(chunk)
    with pytest.raises(Corrupt, match=r"folds/01/prosodic/logits.*differs") as caught:
        train(store, tmp_path / "runs")
    assert caught.value.exit_code == 3

    chunk.write_bytes(sound)

    def change(values):
        values[0, 0] += 1

    rewrite(store / "folds/01/prosodic", "logits", change)  # with its checksum, not its SHA-256
    with pytest.raises(Corrupt, match=r"logits/c/0/0: content differs \(array logits\)"):
        load(store)


def test_labels_that_contradict_the_table(store):
    def swap(values):
        values[:] = values[::-1].copy()

    with forged(store / "corpus"):
        rewrite(store / "corpus", "label", swap)
    with pytest.raises(Corrupt, match="corpus/label"):
        load(store)


def test_a_fold_that_is_not_there(small_store):
    with pytest.raises(UserError, match=r"fold 11: the store has folds 1\.\.10"):
        load(small_store, fold=11)
    with pytest.raises(UserError, match="fold 3: no teacher"):
        load(small_store, fold=3)
