from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import zarr
from zarr.errors import ZarrUserWarning

from featstore.core.files import sha256_of
from featstore.core.schema import Corrupt, Refused, UserError
from featstore.store.store import Store, unit_name
from featstore.store.unit import SCHEMA
from featstore.store.verify import verify
from tests.reliability.forgery import reseal

UNITS = ["corpus", "audio", "lld", "splits", "folds/01/linguistic", "folds/01/prosodic",
         "folds/02/linguistic", "folds/02/prosodic"]  # fmt: skip


@pytest.fixture(scope="module")
def store(small_store: Path) -> Store:
    return Store.open(small_store)


class TestOpen:
    def test_no_store(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path, tmp_path / "gone", tmp_path / "file"):
            with pytest.raises(UserError, match="no store there") as caught:
                Store.open(path)
            assert caught.value.exit_code == 2
            assert "featstore build" in caught.value.hint

    def test_another_zarr_group(self, tmp_path: Path) -> None:
        zarr.open_group(str(tmp_path), mode="w", zarr_format=3, attributes={"format": "other"})
        with pytest.raises(UserError, match="a Zarr group, but no emodistill store"):
            Store.open(tmp_path)
        zarr.open_group(str(tmp_path), mode="w", zarr_format=3)
        with pytest.raises(UserError, match="a Zarr group, but no emodistill store"):
            Store.open(tmp_path)

    @pytest.mark.parametrize("schema", [SCHEMA + 1, "1", None])
    def test_another_schema(self, store_copy: Path, schema: Any) -> None:
        raw = json.loads((store_copy / "zarr.json").read_text())
        raw["attributes"]["schema"] = schema
        (store_copy / "zarr.json").write_text(json.dumps(raw))
        with pytest.raises(
            Refused, match=f"schema {schema}, this version reads {SCHEMA}"
        ) as caught:
            Store.open(store_copy)
        assert caught.value.exit_code == 4

    @pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: c + b" ", lambda c: b""])
    def test_damaged_root_is_corrupt_and_a_build_mends_it(
        self, store_copy: Path, damage: Callable[[bytes], bytes], store: Store
    ) -> None:
        root = store_copy / "zarr.json"
        root.write_bytes(damage(root.read_bytes()))
        with pytest.raises(Corrupt, match=r"zarr\.json") as caught:
            Store.open(store_copy)
        assert caught.value.exit_code == 3
        assert Store.create(store_copy).content_hash() == store.content_hash()

    def test_lost_root_is_written_anew(self, store_copy: Path, store: Store) -> None:
        (store_copy / "zarr.json").unlink()
        assert Store.create(store_copy).content_hash() == store.content_hash()

    def test_pipe_in_place_of_the_root(self, store_copy: Path) -> None:
        (store_copy / "zarr.json").unlink()
        os.mkfifo(store_copy / "zarr.json")
        with pytest.raises(Refused, match="not a regular file"):
            Store.open(store_copy)


class TestCreate:
    def test_makes_a_zarr_group_and_finds_it_again(self, tmp_path: Path) -> None:
        store = Store.create(tmp_path / "a" / "store")
        assert Store.create(store.path) == store
        assert store.units() == []
        assert zarr.open_group(str(store.path), mode="r").attrs["format"] == "emodistill-store"

    def test_leaves_what_belongs_to_others_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("mine")
        with pytest.raises(UserError, match=r"not empty \(holds thesis\.tex\)"):
            Store.create(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
        (tmp_path / "audio").mkdir()  # a unit's name does not make a folder ours
        with pytest.raises(UserError, match="not empty"):
            Store.create(tmp_path)
        (tmp_path / "zarr.json").write_text("{")
        with pytest.raises(Corrupt, match=r"zarr\.json"):
            Store.create(tmp_path)
        assert (tmp_path / "zarr.json").read_text() == "{"

    def test_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "file", tmp_path / "file" / "store"):
            with pytest.raises(UserError, match="not a folder"):
                Store.create(path)


class TestContents:
    def test_every_array_opens_in_plain_zarr_with_named_dimensions(self, store: Store) -> None:
        group = zarr.open_group(str(store.path), mode="r")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)  # of unit.json and the tables
            found = group.members(max_depth=None)
        arrays: dict[str, Any] = {p: node for p, node in found if isinstance(node, zarr.Array)}
        assert len(arrays) == 3 + 2 + 3 + 1 + 4 * 2
        for path, array in arrays.items():
            assert all(array.metadata.dimension_names), path
        np.testing.assert_array_equal(arrays["corpus/label"][...], store.labels)
        np.testing.assert_array_equal(arrays["splits/role"][...], store.roles)
        np.testing.assert_array_equal(
            arrays["folds/02/prosodic/logits"][...], store.fold(2)["prosodic"].logits
        )
        samples = arrays["audio/values"][: store.audio.offsets[1]]
        np.testing.assert_array_equal(samples, store.audio.read(0))

    def test_rows_agree_across_units(self, store: Store) -> None:
        table = store.utterances
        assert len(table) == 80
        assert table["utterance_id"].is_monotonic_increasing
        assert list(store.sources["utterance_id"]) == list(table["utterance_id"])
        assert [store.classes[label] for label in store.labels] == list(table["label"])
        assert len(store.audio) == len(store.lld) == len(store.lengths) == 80
        np.testing.assert_array_equal(store.audio.lengths, store.lengths)
        assert np.abs(store.lld.lengths - (store.lengths / 160 - 4)).max() <= 1.5
        assert store.roles.shape == (10, 80)
        for fold, roles in zip(store.folds, store.roles, strict=True):
            assert set(table["speaker"][roles == 3]) == set(fold.test)
            assert set(table["speaker"][roles == 1]) == set(fold.train)

    def test_audio_is_the_corpus_own(self, store: Store, small_corpus: Path) -> None:
        for row in (0, 41, 79):
            file = small_corpus / store.utterances["file"][row]
            np.testing.assert_array_equal(
                store.audio.read(row), soundfile.read(file, dtype="int16")[0]
            )

    def test_units_are_those_that_are_complete(self, store: Store, store_copy: Path) -> None:
        assert store.units() == UNITS
        assert store.teacher_names(1) == ["linguistic", "prosodic"]
        assert store.teacher_names(3) == []
        (store_copy / "folds" / "02" / ".staging-prosodic-1").mkdir()
        (store_copy / "folds" / "x").mkdir()
        (store_copy / "folds" / "02" / "notes").touch()
        shutil.rmtree(store_copy / "folds" / "02" / "prosodic")
        assert Store(store_copy).units() == UNITS[:-1]

    def test_teacher_outputs_are_raw(self, store: Store) -> None:
        for output in store.fold(1).values():
            assert output.logits.shape == (80, 4)
            assert output.logits.dtype == output.embeddings.dtype == np.float32
            assert output.unit.facts["temperature"] is None
            assert not np.allclose(output.logits.sum(axis=1), 1.0)


class TestRefusals:
    @pytest.mark.parametrize("number", [0, 11, -1])
    def test_fold_that_is_not_there(self, store: Store, number: int) -> None:
        with pytest.raises(UserError, match=f"fold {number}: the store has folds 1..10") as caught:
            store.fold(number)
        assert caught.value.exit_code == 2

    def test_fold_without_a_teacher(self, store: Store) -> None:
        with pytest.raises(UserError, match="fold 3: no teacher") as caught:
            store.fold(3)
        assert "featstore build --fold 3" in caught.value.hint

    def test_teacher_of_another_corpus(self, store_copy: Path) -> None:
        """The splits were made anew since: a fold's teacher may have seen its test speaker."""
        teacher = store_copy / "folds" / "01" / "prosodic"
        reseal(teacher, lambda raw: raw["parents"].update(splits="0" * 64))
        store = Store.open(store_copy)
        with pytest.raises(Refused, match="made from another splits") as caught:
            store.fold(1)
        assert caught.value.exit_code == 4
        store.fold(2)
        found = verify(store)
        assert (found.exit_code, found.content) == (4, "")

    @pytest.mark.parametrize("name", ["../corpus", "/etc", "folds/1/x", "folds/01/../../corpus",
                                      "folds/01/.x", "", "notes"])  # fmt: skip
    def test_names_that_are_no_units(self, store: Store, name: str) -> None:
        with pytest.raises(Refused, match="names no unit"):
            store.unit(name)

    def test_parent_that_is_a_path(self, store_copy: Path) -> None:
        teacher = store_copy / "folds" / "01" / "prosodic"
        reseal(teacher, lambda raw: raw.update(parents={"../../elsewhere": "0" * 64}))
        with pytest.raises(Refused, match="names no unit"):
            Store.open(store_copy).fold(1)

    def test_outputs_that_do_not_fit_the_corpus(self, store_copy: Path) -> None:
        place = store_copy / "folds" / "01" / "prosodic"
        shutil.rmtree(place / "logits")
        shutil.copytree(place / "embeddings", place / "logits")
        reseal(place)
        with pytest.raises(Corrupt, match=r"logits: \(80, 8\) instead of \(80, 4\)"):
            Store.open(store_copy).fold(1)

    def test_store_without_signals_says_so(self, store_copy: Path) -> None:
        reseal(store_copy / "audio", lambda raw: raw["settings"]["audio"].update(embed_audio=False))
        with pytest.raises(UserError, match="--no-embed-audio"):
            _ = Store.open(store_copy).audio


def every_file(root: Path) -> list[str]:
    """Every file of every unit."""
    return sorted(
        path.relative_to(root).as_posix()
        for unit in UNITS
        for path in (root / unit).rglob("*")
        if path.is_file()
    )


class TestVerify:
    def test_sound(self, store: Store) -> None:
        found = verify(store)
        assert [unit.unit for unit in found.sound] == UNITS
        assert (found.faults, found.exit_code) == ((), 0)
        assert found.content == store.content_hash()
        assert found.to_dict()["bytes"] > 5_000_000

    def test_one_flipped_byte_in_any_file_is_found_and_named(self, store_copy: Path) -> None:
        names = every_file(store_copy)
        assert len(names) > 40
        for at, name in enumerate(names):
            path = store_copy / name
            whole = path.read_bytes()
            where = at * 7919 % len(whole)
            path.write_bytes(whole[:where] + bytes([whole[where] ^ 4]) + whole[where + 1 :])
            found = verify(Store.open(store_copy))
            path.write_bytes(whole)
            assert found.exit_code in (3, 4), name
            assert found.content == ""
            assert any(name in fault.message for fault in found.faults), name
        assert verify(Store.open(store_copy)).exit_code == 0

    def test_other_units_are_still_told_to_be_sound(self, store_copy: Path) -> None:
        (store_copy / "folds" / "01" / "prosodic" / "logits" / "c" / "0" / "0").unlink()
        found = verify(Store.open(store_copy))
        assert [unit.unit for unit in found.sound] == [u for u in UNITS if u != "folds/01/prosodic"]
        [fault] = found.faults
        assert "folds/01/prosodic/logits/c/0/0: missing" in fault.message
        assert "featstore build" in fault.hint


class TestParquet:
    """Parquet checks nothing itself: a flipped byte may be another speaker's name."""

    @pytest.mark.parametrize(
        ("unit", "name", "attribute"),
        [("corpus", "utterances.parquet", "utterances"), ("audio", "sources.parquet", "sources")],
    )
    def test_changed_table_is_refused_by_every_reader(
        self, store_copy: Path, unit: str, name: str, attribute: str
    ) -> None:
        path = store_copy / unit / name
        table = pd.read_parquet(path)
        assert len(getattr(Store.open(store_copy), attribute)) == len(table)
        whole = path.read_bytes()
        path.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
        with pytest.raises(Corrupt, match=f"{unit}/{name}: content differs"):
            getattr(Store.open(store_copy), attribute)

    def test_labels_are_read_from_a_sound_unit_only(self, store_copy: Path) -> None:
        (store_copy / "corpus" / "extra").touch()
        with pytest.raises(Corrupt, match="corpus/extra: not listed"):
            _ = Store.open(store_copy).labels


def test_fingerprint_is_of_what_a_run_depends_on(store: Store, store_copy: Path) -> None:
    shutil.rmtree(store_copy / "folds")
    shutil.rmtree(store_copy / "lld")
    assert Store(store_copy).fingerprint() == store.fingerprint()
    assert Store(store_copy).content_hash() != store.content_hash()


def test_deep_reads_sum_up_every_file_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[str] = []

    def sum_up(path: Path) -> str:
        summed.append(path.relative_to(store.path).as_posix())
        return sha256_of(path)

    monkeypatch.setattr("featstore.store.unit.sha256_of", sum_up)
    name = unit_name(1, "prosodic")
    unit = Store.open(store.path).outputs(name, deep=True).unit
    ours = sorted(file for file in summed if file.startswith(name))
    assert ours == sorted(f"{name}/{file}" for file in unit.files)
