from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featstore.core.schema import UserError
from featstore.features.lld import F0, LOUDNESS
from featstore.inspection.overview import curves, lld_summary, nearest, overview, utterance
from featstore.store.store import Store

ID = "Ses01F_impro01_F000"


@pytest.fixture(scope="module")
def store(small_store: Path) -> Store:
    return Store.open(small_store)


@pytest.fixture(scope="module")
def facts(store: Store) -> dict[str, Any]:
    return overview(store)


class TestOverview:
    def test_is_plain_data(self, facts: dict[str, Any]) -> None:
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts

    def test_counts_the_corpus(self, facts: dict[str, Any], store: Store) -> None:
        corpus = facts["corpus"]
        assert (corpus["name"], corpus["utterances"]) == ("synthetic", 80)
        assert sum(corpus["classes"].values()) == 80
        assert len(corpus["speakers"]) == 10
        assert corpus["hours"] == pytest.approx(store.lengths.sum() / 16_000 / 3600, abs=1e-4)
        assert (corpus["excluded"], corpus["full_release"]) == ({}, False)

    def test_folds_say_who_is_held_out(self, facts: dict[str, Any]) -> None:
        first, third = facts["folds"][0], facts["folds"][2]
        assert (first["test"], first["validation"]) == (["Ses01F"], ["Ses01M"])
        assert first["utterances"] == {"left out": 0, "training": 64, "validation": 8, "test": 8}
        assert (first["teachers"], third["teachers"]) == (["linguistic", "prosodic"], [])

    def test_teachers_have_their_scores_by_fold(self, facts: dict[str, Any], store: Store) -> None:
        for name, teacher in facts["teachers"].items():
            assert sorted(teacher["folds"]) == ["1", "2"]
            unit = store.unit(f"folds/02/{name}")
            assert teacher["folds"]["2"]["test"]["ua"] == unit.facts["scores"]["test"]["ua"]
            assert teacher["folds"]["2"]["test"]["n"] == 8
            assert teacher["settings"]["kind"] == name
        assert facts["teachers"]["linguistic"]["embedding_width"] == 128

    def test_tells_sizes_settings_and_versions(self, facts: dict[str, Any], store: Store) -> None:
        assert [unit["unit"] for unit in facts["units"]] == store.units()
        assert facts["bytes"] == sum(unit["bytes"] for unit in facts["units"]) > 5_000_000
        assert facts["content"] == store.content_hash()
        assert facts["settings"]["lld"] == {"lld": {"feature_set": "eGeMAPSv02"}}
        assert {"python", "torch", "opensmile"} <= set(facts["provenance"])

    def test_of_a_store_that_is_half_built(self, store_copy: Path) -> None:
        shutil.rmtree(store_copy / "folds")
        found = overview(Store.open(store_copy))
        assert found["teachers"] == {}
        assert len(found["folds"]) == 10
        shutil.rmtree(store_copy / "splits")
        with pytest.raises(UserError, match="splits: not complete") as caught:
            overview(Store.open(store_copy))
        assert "featstore build" in caught.value.hint


class TestUtterance:
    def test_is_everything_known_of_it(self, store: Store) -> None:
        found = utterance(store, 1, ID, (2.0,))
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        row = store.utterances.iloc[found["row"]]
        assert found["utterance_id"] == row["utterance_id"] == ID
        for key in ("text", "label", "label_raw", "speaker", "kind", "file"):
            assert found[key] == row[key]
        assert (found["role"], found["fold"], found["taus"]) == ("test", 1, [2.0])
        assert utterance(store, 2, ID)["role"] == "validation"
        assert found["duration_s"] == pytest.approx(store.lengths[found["row"]] / 16_000, abs=1e-4)
        assert found["lld"]["frames"] == store.lld.lengths[found["row"]]
        for name, teacher in found["teachers"].items():
            logits = store.fold(1)[name].logits[found["row"]]
            np.testing.assert_array_equal(np.float32(teacher["logits"]), logits)
            expected = torch.softmax(torch.from_numpy(logits.copy()).double() / 2.0, 0)
            [probabilities] = teacher["probabilities"]
            np.testing.assert_allclose(probabilities, expected.numpy(), rtol=1e-12)
            assert teacher["prediction"] == store.classes[int(logits.argmax())]

    def test_is_shown_at_three_temperatures_with_its_neighbours(self, store: Store) -> None:
        found = utterance(store, 1, ID)
        assert found["taus"] == [0.5, 1.0, 5.0]
        for name, teacher in found["teachers"].items():
            assert len(teacher["probabilities"]) == 3
            embeddings = torch.from_numpy(store.fold(1)[name].embeddings.copy()).double()
            cosines = torch.cosine_similarity(embeddings, embeddings[found["row"]][None])
            cosines[found["row"]] = -2
            best = torch.topk(cosines, 5)
            ids = store.utterances["utterance_id"].iloc[best.indices.tolist()].tolist()
            assert [one["utterance_id"] for one in teacher["neighbours"]] == ids
            told = [one["cosine"] for one in teacher["neighbours"]]
            np.testing.assert_allclose(told, best.values.numpy(), atol=1e-6)

    def test_that_is_not_there(self, store: Store) -> None:
        with pytest.raises(UserError, match="Ses01F_impro01_F00: no such utterance") as caught:
            utterance(store, 1, "Ses01F_impro01_F00")
        assert "did you mean Ses01F_impro01_F00" in caught.value.hint


class TestLldSummary:
    NAMES = (LOUDNESS, F0)

    def test_pitch_is_in_hertz_over_voiced_frames(self) -> None:
        """12 and 24 semitones above 27.5 Hz are 55 and 110 Hz."""
        table = np.array([[0.5, 12.0], [1.5, 24.0], [1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
        assert lld_summary(table, self.NAMES) == {
            "frames": 4, "descriptors": 2, "voiced": 0.5, "f0_mean_hz": 82.5, "f0_std_hz": 27.5,
            "loudness_mean": 1.0, "loudness_max": 1.5,
        }  # fmt: skip

    def test_unvoiced_has_no_pitch(self) -> None:
        found = lld_summary(np.zeros((3, 2), dtype=np.float32), self.NAMES)
        assert (found["voiced"], found["f0_mean_hz"], found["f0_std_hz"]) == (0.0, None, None)


class TestCurves:
    def test_are_means_over_equal_stretches(self) -> None:
        names = (F0, LOUDNESS)
        lld = np.array([[12, 1], [24, 3], [0, 5], [0, 7]], dtype=np.float32)
        assert curves(lld, names, 2) == {"f0_hz": [82.5, None], "loudness": [2.0, 6.0]}
        assert curves(lld, names, 60)["f0_hz"] == [55.0, 110.0, None, None]

    def test_neighbours_point_the_same_way_whatever_their_length(self) -> None:
        embeddings = np.array([[1, 0], [-1, 0], [9, 1], [0, 0]], dtype=np.float32)
        assert [row for row, _ in nearest(embeddings, 0, 9)] == [2, 3, 1]
