"""A student of cross-fitted targets: which units it is taught from, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.config import run_key
from distill.data import load_targets
from featstore.core.schema import Refused, UserError
from featstore.folds import TRAIN
from featstore.store.store import Store
from tests.distill.small_runs import copied, folder_of, forged, history, request, settings_of, train

CPU = torch.device("cpu")
CROSS = "targets.cross_fit=2"


@pytest.fixture
def store(cross_store: Path, tmp_path: Path) -> Path:
    return copied(cross_store, tmp_path / "store")


def key(store: Path, *sets: str) -> str:
    return folder_of(request(store, store.parent, *sets)).key


def test_they_come_under_the_teachers_plain_names(cross_store: Path, small_store: Path) -> None:
    opened = Store.open(cross_store)
    targets = load_targets(opened, 1, CPU, cross_fit=2)
    assert list(targets.teachers) == ["linguistic", "prosodic"]
    for name, (logits, embeddings) in targets.teachers.items():
        expected = opened.outputs(f"folds/01/{name}-crossfit2")
        np.testing.assert_array_equal(logits.numpy(), expected.logits)
        np.testing.assert_array_equal(embeddings.numpy(), expected.embeddings)
    plain = load_targets(opened, 1, CPU)
    before = load_targets(Store.open(small_store), 1, CPU)
    assert plain.widths == before.widths == targets.widths
    for name, (logits, _) in before.teachers.items():
        torch.testing.assert_close(plain.teachers[name][0], logits, rtol=0, atol=0)
        rows = torch.from_numpy(plain.rows(TRAIN))
        assert not torch.equal(targets.teachers[name][0][rows], logits[rows])


@pytest.mark.parametrize(
    ("key", "add", "told"),
    [
        ("fitted_on", "own", "part 1 teaches .*, on whom it was fitted"),
        ("fitted_on", "Ses01F", "part 1 has Ses01F, on whom fold 1 does not train"),
        ("fitted_on", "Ses01M", "part 1 has Ses01M, on whom fold 1 does not train"),
        ("selected_on", "Ses02F", "part 1 was selected on Ses02F"),
        ("held_out", "Ses01M", "part 1 has Ses01M, on whom fold 1 does not train"),
    ],
)
def test_a_part_that_has_seen_whom_it_teaches(store: Path, key: str, add: str, told: str) -> None:
    with forged(store / "folds/01/prosodic-crossfit2") as record:
        part = record["facts"]["parts"][0]
        part[key] += part["held_out"][:1] if add == "own" else [add]
    with pytest.raises(Refused, match=f"folds/01/prosodic-crossfit2: this teacher {told}") as no:
        load_targets(Store.open(store), 1, CPU, cross_fit=2)
    assert no.value.exit_code == 4
    assert "--fold 1 --cross-fit 2 --rebuild" in no.value.hint
    load_targets(Store.open(store), 1, CPU)  # to whom it is nothing


def test_targets_that_some_training_speaker_lacks(store: Path) -> None:
    with forged(store / "folds/01/linguistic-crossfit2") as record:
        record["facts"]["parts"][1]["held_out"].pop()
    with pytest.raises(Refused, match=r"linguistic-crossfit2: this teacher teaches .*trains on"):
        load_targets(Store.open(store), 1, CPU, cross_fit=2)


def test_the_key_is_that_of_the_unit_that_is_learnt_from(
    store: Path, cross_store: Path, small_store: Path
) -> None:
    plain, cross = key(cross_store), key(cross_store, CROSS)
    assert plain == key(small_store) != cross

    def other_seed(name: str) -> None:
        with forged(store / "folds/01" / name) as record:
            record["settings"]["teacher"]["seed"] += 1

    other_seed("prosodic-crossfit2")
    assert key(store) == plain
    assert key(store, CROSS) != cross
    shutil.rmtree(store)
    copied(cross_store, store)
    other_seed("prosodic")
    assert key(store) != plain
    assert key(store, CROSS) == cross


def test_the_choice_of_targets_is_in_the_key() -> None:
    made = {"store": "5f", "teachers": []}
    assert run_key(settings_of(CROSS), **made) != run_key(settings_of(), **made)


class TestMissing:
    def test_a_fold_that_has_none(self, cross_store: Path, tmp_path: Path) -> None:
        for sets, fold in ((CROSS, 2), ("targets.cross_fit=3", 1)):
            with pytest.raises(UserError, match=f"fold {fold}: no teacher cross-fitted by") as no:
                train(cross_store, tmp_path / "runs", sets, fold=fold)
            assert f"--fold {fold} --cross-fit {sets[-1]}`" in no.value.hint
        assert not (tmp_path / "runs").exists()

    def test_a_teacher_that_is_not_cross_fitted(self, store: Path, tmp_path: Path) -> None:
        shutil.rmtree(store / "folds/01/prosodic-crossfit2")
        with pytest.raises(UserError, match="no teacher prosodic-crossfit2 for it") as no:
            train(store, tmp_path / "runs", CROSS)
        assert "`featstore build --fold 1 --cross-fit 2`" in no.value.hint

    def test_half_built_ones_are_nothing_to_a_plain_run(self, store: Path, tmp_path: Path) -> None:
        shutil.rmtree(store / "folds/01/prosodic-crossfit2")
        assert train(store, tmp_path / "runs", max_steps=1).status == "stopped"


def test_a_run_from_them(cross_store: Path, tmp_path: Path) -> None:
    sets: dict[str, tuple[str, ...]] = {"plain": (), "cross": (CROSS,)}
    done: dict[str, Any] = {name: train(cross_store, tmp_path, *s) for name, s in sets.items()}
    assert done["plain"].folder != done["cross"].folder
    assert done["cross"].folder == folder_of(request(cross_store, tmp_path, CROSS)).path
    losses = {name: history(outcome.folder)[0]["train"] for name, outcome in done.items()}
    assert losses["cross"].keys() == losses["plain"].keys()
    for term in ("kl_linguistic", "kl_prosodic", "cos_linguistic", "cos_prosodic"):
        assert losses["cross"][term] != losses["plain"][term]
    facts = json.loads((done["cross"].folder / "run.json").read_text())
    scores = Store.open(cross_store).unit("folds/01/linguistic-crossfit2").facts["scores"]
    assert facts["teachers"]["linguistic"]["train"]["ua"] == scores["train"]["ua"]
    assert "cross_fit = 2" in (done["cross"].folder / "config.toml").read_text()
    assert train(cross_store, tmp_path, CROSS).status == "skipped"
