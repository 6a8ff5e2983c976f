"""What the teachers say, taken elsewhere and opened there: pandas, DuckDB, NumPy."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet
from scipy.special import softmax
from scipy.stats import entropy

from featstore.core.schema import Refused, UserError
from featstore.store.export import export
from featstore.store.store import Store
from tests.featstore.store.kept_store import KEPT, copied
from tests.reliability.forgery import reseal

STORE = Store.open(KEPT)


def table(tmp_path: Path, **selection: Any) -> Path:
    export(STORE, tmp_path / "out.parquet", **selection, force=True)
    return tmp_path / "out.parquet"


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    return pd.read_parquet(table(tmp_path))


def rows_of(frame: pd.DataFrame, fold: int, teacher: str) -> pd.DataFrame:
    return frame[(frame["fold"] == fold) & (frame["teacher"] == teacher)].reset_index(drop=True)


class TestTable:
    def test_has_a_row_for_each_utterance_fold_and_teacher(self, frame: pd.DataFrame) -> None:
        assert len(frame) == 8 * 2 * 2
        assert not frame.duplicated(["utterance_id", "fold", "teacher"]).any()
        assert not frame.isna().to_numpy().any()
        for fold in (1, 2):
            for teacher in ("linguistic", "prosodic"):
                found = rows_of(frame, fold, teacher)
                assert list(found["utterance_id"]) == list(STORE.utterances["utterance_id"])

    def test_logits_are_the_store_s(self, frame: pd.DataFrame) -> None:
        columns = [f"logit_{name}" for name in STORE.classes]
        for fold in (1, 2):
            for teacher, outputs in STORE.fold(fold).items():
                found = rows_of(frame, fold, teacher)[columns]
                assert set(found.dtypes) == {np.dtype("float32")}
                np.testing.assert_array_equal(found.to_numpy(), outputs.logits)

    def test_figures_follow_from_them(self, frame: pd.DataFrame) -> None:
        logits = frame[[f"logit_{name}" for name in STORE.classes]].to_numpy(dtype=np.float64)
        p = softmax(logits, axis=1)
        found = frame[[f"probability_{name}" for name in STORE.classes]]
        np.testing.assert_allclose(found, p, atol=1e-6)
        np.testing.assert_allclose(frame["confidence"], p.max(axis=1), atol=1e-6)
        np.testing.assert_allclose(frame["entropy"], entropy(p, axis=1), atol=1e-6)
        assert list(frame["prediction"]) == [STORE.classes[k] for k in logits.argmax(axis=1)]

    def test_tells_who_speaks_and_what_is_held_out(self, frame: pd.DataFrame) -> None:
        found = rows_of(frame, 2, "prosodic")
        for name in ("speaker", "session", "gender", "kind", "label", "text"):
            assert list(found[name]) == list(STORE.utterances[name])
        np.testing.assert_allclose(found["duration_s"], STORE.lengths / 16_000)
        told = {1: "training", 2: "validation", 3: "test", 0: "left out"}
        assert list(found["role"]) == [told[role] for role in STORE.roles[1].tolist()]
        assert set(found["speaker"][found["role"] == "test"]) == set(STORE.folds[1].test)

    def test_selection(self, tmp_path: Path) -> None:
        found = pd.read_parquet(table(tmp_path, folds="2", teachers=("prosodic",)))
        assert set(zip(found["fold"], found["teacher"], strict=True)) == {(2, "prosodic")}
        assert "text" not in pd.read_parquet(table(tmp_path, text=False))

    def test_embeddings(self, tmp_path: Path) -> None:
        path = table(tmp_path, teachers=("linguistic",), embeddings=True)
        kind = parquet.read_schema(path).field("embedding").type
        assert (str(kind.value_type), kind.list_size) == ("float", 128)
        found = rows_of(pd.read_parquet(path), 1, "linguistic")
        np.testing.assert_array_equal(
            np.stack(found["embedding"].tolist()), STORE.fold(1)["linguistic"].embeddings
        )

    def test_embeddings_of_two_widths(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"here are 8 \(prosodic\) and 128 \(linguistic\)"):
            table(tmp_path, embeddings=True)
        assert list(tmp_path.iterdir()) == []

    def test_says_where_it_comes_from(self, tmp_path: Path) -> None:
        about = json.loads(parquet.read_schema(table(tmp_path)).metadata[b"emodistill"])
        assert about["content"] == STORE.content_hash()
        assert about["targets"][0] == "folds/01/linguistic"

    def test_of_a_store_without_transcripts(self, tmp_path: Path) -> None:
        store = copied(tmp_path / "store")
        for fold in ("01", "02"):
            unit = store / "folds" / fold
            for name in ("linguistic", "prosodic"):
                reseal(unit / name, lambda raw: raw["parents"].pop("corpus", None))
                reseal(unit / name, lambda raw: raw["parents"].pop("splits", None))
        reseal(store / "corpus", lambda raw: raw["settings"]["corpus"].update(embed_text=False))
        reseal(store / "splits", lambda raw: raw["parents"].clear())
        export(Store.open(store), tmp_path / "out.parquet")
        assert "text" not in pd.read_parquet(tmp_path / "out.parquet")

    def test_of_teachers_of_another_corpus(self, tmp_path: Path) -> None:
        store = copied(tmp_path / "store")
        reseal(store / "splits", lambda raw: raw["settings"]["folds"].update(seed=7))
        with pytest.raises(Refused, match="made from another splits"):
            export(Store.open(store), tmp_path / "out.parquet")
        assert not (tmp_path / "out.parquet").exists()

    def test_is_the_same_file_again(self, tmp_path: Path) -> None:
        first = table(tmp_path).read_bytes()
        assert table(tmp_path).read_bytes() == first


class TestDuckDb:
    def test_opens_it(self, tmp_path: Path) -> None:
        path = table(tmp_path, teachers=("linguistic",), embeddings=True)
        with duckdb.connect() as base:
            first_logit = f"logit_{STORE.classes[0]}"
            found = base.execute(
                f"SELECT fold, role, count(*), sum({first_logit}::DOUBLE), min(len(embedding)) "
                f"FROM '{path}' GROUP BY fold, role ORDER BY fold, role"
            ).fetchall()
            kinds = {
                str(name): str(kind) for name, kind, *_ in
                base.execute(f"DESCRIBE SELECT * FROM '{path}'").fetchall()
            }  # fmt: skip
        assert sum(row[2] for row in found) == 16
        assert {row[1] for row in found} == {"training", "validation", "test"}
        first = STORE.fold(1)["linguistic"].logits[STORE.roles[0] == 3, 0]
        told = next(row[3] for row in found if row[:2] == (1, "test"))
        assert told == pytest.approx(first.astype(float).sum())
        assert kinds["utterance_id"] == "VARCHAR"
        assert kinds[first_logit] == "FLOAT"
        assert {row[4] for row in found} == {128}


class TestArrays:
    def test_open_without_pickle(self, tmp_path: Path) -> None:
        told = export(STORE, tmp_path / "out.npz")
        with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
            assert sorted(arrays.files) == sorted(told["arrays"])
            for fold in (1, 2):
                for name, outputs in STORE.fold(fold).items():
                    unit = f"folds/{fold:02d}/{name}"
                    np.testing.assert_array_equal(arrays[f"{unit}/logits"], outputs.logits)
                    np.testing.assert_array_equal(arrays[f"{unit}/embeddings"], outputs.embeddings)
            np.testing.assert_array_equal(arrays["label"], STORE.labels)
            np.testing.assert_array_equal(arrays["role"], STORE.roles[:2])
            assert arrays["folds"].tolist() == [1, 2]
            assert arrays["classes"][arrays["label"]].tolist() == list(STORE.utterances["label"])
            assert arrays["utterance_id"].tolist() == list(STORE.utterances["utterance_id"])
            roles = arrays["role_names"][arrays["role"][1]]
            held_out = arrays["speaker"][roles == "test"]
            assert set(held_out.tolist()) == set(STORE.folds[1].test)

    def test_of_one_fold(self, tmp_path: Path) -> None:
        export(STORE, tmp_path / "out.npz", folds="2", teachers=["prosodic"])
        with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
            assert [name for name in arrays.files if name.startswith("folds/")] == [
                "folds/02/prosodic/logits", "folds/02/prosodic/embeddings",
            ]  # fmt: skip
            np.testing.assert_array_equal(arrays["role"], STORE.roles[1:2])

    def test_are_the_same_file_at_any_time(self, tmp_path: Path) -> None:
        for name in ("a.npz", "b.npz"):
            export(STORE, tmp_path / name)
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
        with zipfile.ZipFile(tmp_path / "a.npz") as archive:
            assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
