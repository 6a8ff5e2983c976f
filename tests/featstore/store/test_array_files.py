from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore.core.schema import Corrupt, Refused
from featstore.store import array_files
from featstore.store.array_files import encoded, parts, stored
from featstore.store.arrays import Metadata, RaggedWriter, read_metadata, write_array, write_group
from featstore.store.store import Store
from tests.featstore.store.kept_store import KEPT


def files_of(folder: Path, meta: Metadata, rows: Any) -> dict[str, bytes]:
    return {name: b"".join(pieces) for name, pieces in encoded(meta, rows)}


def on_disk(folder: Path, meta: Metadata) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name, _ in meta.files()}


class TestEncoded:
    """Against what zarr-python wrote, to the byte."""

    @pytest.mark.parametrize("piece", [1, 24, 2**20])
    @pytest.mark.parametrize("lengths", [[], [1], [4], [40], [7, 0, 90, 3], [16, 16, 16]])
    @pytest.mark.parametrize("row_shape", [(), (3,)])
    def test_chunks(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        row_shape: tuple[int, ...],
        lengths: list[int],
        piece: int,
    ) -> None:
        monkeypatch.setattr(array_files, "_PIECE", piece)
        write_group(tmp_path)
        writer = RaggedWriter(tmp_path, "int16", row_shape, 4, "row", ("x",) * len(row_shape))
        rng = np.random.default_rng(len(lengths))
        values = [rng.integers(-9, 9, (n, *row_shape), dtype=np.int16) for n in lengths]
        for one in values:
            writer.append(one)
        writer.close()
        folder = tmp_path / "values"
        meta = read_metadata(folder)
        whole = np.concatenate([np.empty((0, *row_shape), np.int16), *values])
        assert files_of(folder, meta, lambda a, b: whole[a:b]) == on_disk(folder, meta)
        assert files_of(folder, meta, stored(folder, meta)) == on_disk(folder, meta)

    @pytest.mark.parametrize("dtype", ["int8", "int16", "int64", "float32"])
    def test_one_chunk(self, tmp_path: Path, dtype: str) -> None:
        values = np.arange(60, dtype=dtype).reshape(5, 3, 4)
        write_group(tmp_path)
        write_array(tmp_path, "logits", values, ("a", "b", "c"))
        folder = tmp_path / "logits"
        meta = read_metadata(folder)
        assert files_of(folder, meta, lambda a, b: values[a:b]) == on_disk(folder, meta)

    def test_asks_for_each_row_once_and_in_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(array_files, "_PIECE", 40_000)
        folder = KEPT / "audio/values"
        meta = read_metadata(folder)
        asked: list[tuple[int, int]] = []

        def rows(start: int, stop: int) -> Any:
            asked.append((start, stop))
            return stored(folder, meta)(start, stop)

        files_of(folder, meta, rows)
        assert asked[0][0] == 0
        assert asked[-1][1] == meta.shape[0]
        assert all(one[1] == next_[0] for one, next_ in pairwise(asked))
        assert max(stop - start for start, stop in asked) == 20_000


def test_every_array_of_the_kept_store_has_the_sums_of_its_record() -> None:
    store = Store.open(KEPT)
    looked_at = 0
    for name in store.units():
        unit = store.unit(name)
        arrays, others = parts(unit, lambda array, at=unit.path: read_metadata(at / array))
        for array, meta in arrays.items():
            for file, content in files_of(unit.path, meta, stored(unit.path / array, meta)).items():
                known = unit.files[f"{array}/{file}"]
                assert (len(content), hashlib.sha256(content).hexdigest()) == known
                looked_at += 1
        looked_at += len(others)
        assert "zarr.json" in others
    assert looked_at == sum(len(store.unit(name).files) for name in store.units())


class TestParts:
    @pytest.mark.parametrize(
        "name",
        ["../evil", "/etc/passwd", "notes.txt", "label/c/1", "label/c/../../x", "values/c/0", ""],
    )
    def test_no_other_file(self, name: str) -> None:
        unit = Store.open(KEPT).unit("corpus")
        more = replace(unit, files={**unit.files, name: (3, "0" * 64)})
        with pytest.raises(Refused, match="which no corpus unit holds"):
            parts(more, lambda array: read_metadata(unit.path / array))

    @pytest.mark.parametrize("size", [-1, 2**40])
    def test_no_table_of_absurd_size(self, size: int) -> None:
        unit = Store.open(KEPT).unit("corpus")
        files = {**unit.files, "utterances.parquet": (size, "0" * 64)}
        with pytest.raises(Refused):
            parts(replace(unit, files=files), lambda array: read_metadata(unit.path / array))

    def test_files_that_metadata_does_not_tell_of(self) -> None:
        unit = Store.open(KEPT).unit("corpus")
        for files in (
            {k: v for k, v in unit.files.items() if k != "label/c/0"},
            {**unit.files, "label/c/0": (21, "0" * 64)},
        ):
            with pytest.raises(Corrupt, match="label/c/0: missing or of another size"):
                parts(replace(unit, files=files), lambda array: read_metadata(unit.path / array))
