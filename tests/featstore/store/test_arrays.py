from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featstore.core.schema import Corrupt, Refused
from featstore.store import arrays
from featstore.store.arrays import (
    DTYPES,
    RaggedWriter,
    check_crc,
    read_array,
    read_metadata,
    write_array,
    write_group,
)
from featstore.store.unit import Unit

MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def group(tmp_path: Path) -> Path:
    write_group(tmp_path)
    write_array(tmp_path, "logits", MATRIX, ("utterance", "class"))
    writer = RaggedWriter(tmp_path, "float32", (2,), 4, "frame", ("descriptor",))
    writer.append(np.ones((5, 2), dtype=np.float32))
    writer.close()
    return tmp_path


class TestOneChunk:
    @settings(max_examples=25)
    @given(
        values=st.sampled_from(sorted(DTYPES)).flatmap(
            lambda name: hnp.arrays(
                np.dtype(name),
                hnp.array_shapes(min_dims=1, max_dims=2, max_side=7),
                elements={"allow_nan": False} if name == "float32" else None,
            )
        )
    )
    def test_reads_what_was_written_and_so_does_zarr(
        self, values: npt.NDArray[Any], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("group")
        write_group(folder)
        write_array(folder, "x", values, tuple("ab"[: values.ndim]))
        found = read_array(folder / "x")
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)
        np.testing.assert_array_equal(zarr.open_group(folder, mode="r")["x"][...], values)

    def test_dimensions_are_named_for_xarray(self, group: Path) -> None:
        assert read_metadata(group / "logits").dims == ("utterance", "class")
        assert read_metadata(group / "values").dims == ("frame", "descriptor")
        assert read_metadata(group / "offsets").dims == ("boundary",)
        metadata: Any = zarr.open_array(group / "values", mode="r").metadata
        assert metadata.dimension_names == ("frame", "descriptor")

    def test_zeros_are_written_like_any_other_value(self, tmp_path: Path) -> None:
        write_group(tmp_path)
        write_array(tmp_path, "x", np.zeros(5, dtype=np.int16), ("n",))
        assert (tmp_path / "x" / "c" / "0").stat().st_size == 5 * 2 + 4
        (tmp_path / "x" / "c" / "0").unlink()
        np.testing.assert_array_equal(zarr.open_array(tmp_path / "x", mode="r")[...], 0)
        with pytest.raises(Corrupt, match="c/0: missing"):  # what Zarr reads as zeros
            read_array(tmp_path / "x")

    def test_every_flipped_byte_is_caught(self, group: Path) -> None:
        chunk = group / "logits" / "c" / "0" / "0"
        whole = chunk.read_bytes()
        for at in range(len(whole)):
            chunk.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
            with pytest.raises(Corrupt, match="logits/c/0/0: checksum differs") as caught:
                read_array(group / "logits")
        assert caught.value.exit_code == 3

    @pytest.mark.parametrize("change", [b"", b"1234"])
    def test_another_size_is_caught(self, group: Path, change: bytes) -> None:
        chunk = group / "logits" / "c" / "0" / "0"
        chunk.write_bytes(chunk.read_bytes()[:-4] + change * 2)
        with pytest.raises(Corrupt, match="bytes instead of 52"):
            read_array(group / "logits")

    def test_several_chunks_are_not_one(self, group: Path) -> None:
        with pytest.raises(Refused, match="not one chunk"):
            read_array(group / "values")

    def test_missing_metadata(self, group: Path) -> None:
        (group / "logits" / "zarr.json").unlink()
        with pytest.raises(Corrupt, match=r"zarr\.json: missing"):
            read_array(group / "logits")


def test_checksum_is_crc32c() -> None:
    check_crc(b"123456789" + (0xE3069283).to_bytes(4, "little"), "the published check value")


class TestRaggedWriter:
    def test_chunk_of_zeros_is_written(self, tmp_path: Path) -> None:
        """Stock Zarr leaves out a chunk that holds fill values only; ours has its bytes."""
        write_group(tmp_path)
        writer = RaggedWriter(tmp_path, "int16", (), 4, "sample")
        writer.append(np.zeros(6, dtype=np.int16))
        assert writer.close() == 6
        for chunk in ("0", "1"):  # the last is filled up
            assert (tmp_path / "values" / "c" / chunk).stat().st_size == 4 * 2 + 4

    def test_what_fits_into_one_chunk_takes_no_more_room(self, tmp_path: Path) -> None:
        write_group(tmp_path)
        writer = RaggedWriter(tmp_path, "int16", (), 2**20, "sample")
        writer.append(np.arange(6, dtype=np.int16))
        writer.close()
        assert (tmp_path / "values" / "c" / "0").stat().st_size == 6 * 2 + 4
        assert read_array(tmp_path / "values").tolist() == [0, 1, 2, 3, 4, 5]

    def test_keeps_only_the_lengths_of_what_is_not_embedded(self, tmp_path: Path) -> None:
        write_group(tmp_path)
        writer = RaggedWriter(tmp_path, "int16", (), 4, "sample", embed=False)
        for n in (3, 0, 20):
            writer.append(np.full(n, 7, dtype=np.int16))
        assert writer.close() == 23
        assert read_array(tmp_path / "offsets").tolist() == [0, 3, 3, 23]
        assert not (tmp_path / "values").exists()


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        place: Any = raw
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


CODEC = ("codecs", 0, "configuration")
GRID = ("chunk_grid", "configuration", "chunk_shape")
BLOSC = {"name": "blosc", "configuration": {"cname": "zstd"}}
SHARDS = {"name": "sharding_indexed", "configuration": {"chunk_shape": [2, 2]}}


def _huge(*shape: int) -> Callable[[dict[str, Any]], None]:
    """An array of this shape in one chunk."""

    def change(raw: dict[str, Any]) -> None:
        _set("shape", to=list(shape))(raw)
        _set(*GRID, to=list(shape))(raw)

    return change


HOSTILE: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "Zarr 2": ("logits", _set("zarr_format", to=2)),
    "a group": ("logits", _set("node_type", to="group")),
    "object dtype": ("logits", _set("data_type", to="object")),
    "float64": ("logits", _set("data_type", to="float64")),
    "structured dtype": ("logits", _set("data_type", to={"name": "structured"})),
    "huge shape": ("logits", _set("shape", to=[2**50, 3])),
    "huge chunk": ("logits", _huge(2**36, 3)),
    "rows of nothing": ("logits", _huge(2**100, 0)),
    "no column": ("values", _set("shape", to=[4, 0])),
    "negative shape": ("logits", _set("shape", to=[-4, 3])),
    "fractional shape": ("logits", _set("shape", to=[4.0, 3])),
    "shape of truth": ("logits", _set("shape", to=[True, 3])),
    "no dimension": ("logits", _set("shape", to=[])),
    "shape of text": ("logits", _set("shape", to="43")),
    "unknown codec": ("logits", _set("codecs", to=[BLOSC])),
    "shards": ("logits", _set("codecs", to=[SHARDS])),
    "no checksum": ("logits", lambda raw: raw["codecs"].pop()),
    "codec without a name": ("logits", _set("codecs", to=[{}])),
    "codecs of text": ("logits", _set("codecs", to="bytes")),
    "big endian": ("logits", _set(*CODEC, "endian", to="big")),
    "storage transformer": ("logits", _set("storage_transformers", to=[{"name": "x"}])),
    "another fill value": ("logits", _set("fill_value", to=1)),
    "no grid": ("logits", _set("chunk_grid", to=None)),
    "ragged grid": ("logits", _set(*GRID, to=[[2, 2], [3]])),
    "empty chunks": ("values", _set(*GRID, to=[0, 2])),
    "rows of another width": ("values", _set(*GRID, to=[4, 1])),
    "chunks of another rank": ("values", _set(*GRID, to=[4])),
    "chunks of 128 MB": ("values", lambda raw: (
        _set("shape", to=[2**25, 2])(raw), _set(*GRID, to=[2**24, 2])(raw))[0]),
    "40,000 chunks": ("values", _set("shape", to=[160_000, 2])),
    "an array of 8 GB in one chunk": ("logits", _huge(2**30, 2)),
    "chunks of columns": ("logits", _set(*GRID, to=[4, 1])),
    "five dimensions": ("logits", _set("shape", to=[1] * 5)),
    "an unknown key": ("logits", _set("consolidated_metadata", to={})),
    "chunks under other names": ("logits", _set("chunk_key_encoding", to={"name": "v2"})),
    "another kind of grid": ("logits", _set("chunk_grid", "name", to="rectilinear")),
    "attributes": ("logits", _set("attributes", to={"scale": 2})),
    "too few dimension names": ("logits", _set("dimension_names", to=["a"])),
    "dimensions without names": ("logits", _set("dimension_names", to=[None, None])),
}  # fmt: skip


class TestSizes:
    """Sizes that cannot be right, known without a byte of the values being read."""

    @pytest.fixture
    def sizes(self, group: Path) -> dict[str, int]:
        files = (path for path in group.rglob("*") if path.is_file())
        return {path.relative_to(group).as_posix(): path.stat().st_size for path in files}

    @staticmethod
    def check(group: Path, sizes: dict[str, int]) -> None:
        files = {name: (size, "") for name, size in sizes.items()}
        unit = Unit("lld", {}, {}, path=group, facts={}, provenance={}, files=files)
        unit.check_sizes(sizes)

    def test_what_was_written_fits(self, group: Path, sizes: dict[str, int]) -> None:
        self.check(group, sizes)
        self.check(group, {name: sizes[name] for name in sizes if name.startswith("logits/")})
        meta = read_metadata(group / "values")
        assert dict(meta.files()) == {"c/0/0": 4 * 2 * 4 + 4, "c/1/0": 4 * 2 * 4 + 4}
        assert (meta.n_chunks, meta.n_bytes) == (2, 32)

    @pytest.mark.parametrize("name", ["logits/c/0/0", "values/c/0/0", "offsets/c/0"])
    @pytest.mark.parametrize("by", [-1, 1, 2**40])
    def test_another_size_is_named(
        self, group: Path, sizes: dict[str, int], name: str, by: int
    ) -> None:
        right = sizes[name]
        sizes[name] += by
        with pytest.raises(Corrupt, match=f"^lld/{name}: {right + by} bytes where {right} belong$"):
            self.check(group, sizes)

    @pytest.mark.parametrize(
        ("lacking", "further", "named"),
        [
            (["values/c/0/0"], [], "values/c/0/0: 0 bytes where 36 belong"),
            ([], ["values/c/2/0"], "values/c/2/0: 36 bytes where 0 belong"),
        ],
    )
    def test_a_missing_and_a_further_chunk_are_named(
        self, group: Path, sizes: dict[str, int], lacking: list[str], further: list[str], named: str
    ) -> None:
        sizes |= dict.fromkeys(further, 36)
        with pytest.raises(Corrupt, match=named):
            self.check(group, {name: sizes[name] for name in sizes if name not in lacking})

    def test_what_is_no_array_has_a_limit_of_its_own(
        self, group: Path, sizes: dict[str, int]
    ) -> None:
        sizes |= {"utterances.parquet": 2**40, "sources.parquet": 2**20}
        with pytest.raises(Corrupt, match=r"utterances\.parquet: 1099511627776 bytes, more than"):
            self.check(group, sizes)

    def test_metadata_of_no_store_is_refused(self, group: Path, sizes: dict[str, int]) -> None:
        path = group / "logits" / "zarr.json"
        path.write_text(path.read_text().replace('"crc32c"', '"gzip"'))
        with pytest.raises(Refused, match=r"no metadata of a store's array \(codecs\)"):
            self.check(group, sizes)


class TestShapeThatIsKnown:
    @pytest.mark.parametrize("shape", [(4, 3), (None, 3), (4, None), (None, None)])
    def test_is_read(self, group: Path, shape: tuple[int | None, ...]) -> None:
        np.testing.assert_array_equal(read_array(group / "logits", shape), MATRIX)

    @pytest.mark.parametrize("shape", [(4,), (4, 4), (None, 2), (4, 3, 1), ()])
    def test_is_demanded(self, group: Path, shape: tuple[int | None, ...]) -> None:
        with pytest.raises(Corrupt, match=r"logits: \(4, 3\) instead of"):
            read_array(group / "logits", shape)

    def test_allows_what_is_not_read_unasked(
        self, group: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(arrays, "MAX_UNASKED_BYTES", 40)
        with pytest.raises(Refused, match="52 bytes, more than 40"):
            read_array(group / "logits")
        assert read_array(group / "logits", (4, None)).shape == (4, 3)


class TestHostileMetadata:
    """Refused from the metadata alone: before a chunk is looked for or memory is taken."""

    @pytest.mark.parametrize("kind", sorted(HOSTILE))
    def test_is_refused(self, group: Path, kind: str) -> None:
        name, damage = HOSTILE[kind]
        path = group / name / "zarr.json"
        raw = json.loads(path.read_text())
        damage(raw)
        path.write_text(json.dumps(raw))
        with pytest.raises(Refused, match=rf"{name}/zarr\.json: no metadata") as caught:
            read_metadata(group / name)
        assert caught.value.exit_code == 4

    @pytest.mark.parametrize(
        "key",
        ["zarr_format", "node_type", "data_type", "shape", "chunk_grid", "codecs", "attributes"],
    )
    def test_no_key_may_be_missing(self, group: Path, key: str) -> None:
        path = group / "logits" / "zarr.json"
        raw = json.loads(path.read_text())
        del raw[key]
        path.write_text(json.dumps(raw))
        with pytest.raises(Refused, match=key):
            read_metadata(group / "logits")

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"shape": NaN}', b"\xff"])
    def test_no_json(self, group: Path, content: bytes) -> None:
        (group / "logits" / "zarr.json").write_bytes(content)
        with pytest.raises(Corrupt, match=r"logits/zarr\.json"):
            read_metadata(group / "logits")
