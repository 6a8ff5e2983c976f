from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.core.files import sha256_of
from featstore.core.schema import Corrupt, Refused
from featstore.store import ragged as reader
from featstore.store.arrays import RaggedWriter, write_array, write_group
from featstore.store.ragged import Ragged

CHUNK, SHARD = 4, 8


def write(folder: Path, parts: list[npt.NDArray[Any]], row_shape: tuple[int, ...] = ()) -> None:
    write_group(folder)
    columns = ("column",) * len(row_shape)
    writer = RaggedWriter(folder, parts[0].dtype.name, row_shape, (CHUNK, SHARD), "row", columns)
    for part in parts:
        writer.append(part)
    writer.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three utterances over three chunks and two shards: rows 0 to 10 of int16."""
    write(tmp_path, [np.arange(a, b, dtype=np.int16) for a, b in ((0, 3), (3, 9), (9, 11))])
    return tmp_path


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    dtype=st.sampled_from(["int8", "int16", "int64", "float32"]),
    width=st.sampled_from([(), (1,), (3,)]),
    data=st.data(),
)
def test_reads_what_was_written_and_so_does_zarr(
    lengths: list[int],
    dtype: str,
    width: tuple[int, ...],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Utterances of no rows, all of them even; zarr-python is the oracle."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    parts = [rng.integers(-99, 99, (n, *width)).astype(dtype) for n in lengths]
    folder = tmp_path_factory.mktemp("ragged")
    write(folder, parts, width)
    ragged = Ragged(folder)
    assert len(ragged) == len(parts)
    assert ragged.lengths.tolist() == lengths
    order = data.draw(st.permutations(range(len(parts))))
    for index in order:
        found = ragged.read(index)
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found, parts[index])
    oracle: Any = zarr.open_group(folder, mode="r")
    offsets = oracle["offsets"][...]
    for index, part in enumerate(parts):
        by_zarr = oracle["values"][offsets[index] : offsets[index + 1]]
        np.testing.assert_array_equal(by_zarr, part)


class TestInOrder:
    def test_is_every_utterance(self, folder: Path) -> None:
        ragged = Ragged(folder)
        found = [part.tolist() for part in ragged.in_order()]
        assert found == [ragged.read(index).tolist() for index in range(3)]

    def test_gives_back_the_pages_of_what_it_has_read(self, tmp_path: Path) -> None:
        """Five shards of 8 MiB, and an utterance that spans three of them."""
        rows = 4 * 1024**2
        write_group(tmp_path)
        writer = RaggedWriter(tmp_path, "int16", (), (rows // 2, rows), "row")
        for size in (100, 3 * rows, rows, rows - 100):
            writer.append(np.ones(size, dtype=np.int16))
        writer.close()
        grown = {}
        for name in ("in order", "as they come"):
            opened = Ragged(tmp_path, check=False)
            before = mapped_mb()
            if name == "in order":
                assert sum(len(part) for part in opened.in_order()) == opened.n_rows
            else:
                assert sum(len(opened.read(index)) for index in range(4)) == opened.n_rows
            grown[name] = mapped_mb() - before
        assert grown["in order"] < 10
        assert grown["as they come"] > 35


def mapped_mb() -> float:
    """Resident pages of mapped files, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssFile:")[2].split()[0]) / 1000


class TestRead:
    def test_converts_into_what_it_is_given(self, folder: Path) -> None:
        out = np.full((2, 8), -1.0, dtype=np.float32)
        Ragged(folder).read_into(1, out[1, 1:7])
        np.testing.assert_array_equal(out[1], [-1, 3, 4, 5, 6, 7, 8, -1])
        np.testing.assert_array_equal(out[0], -1)

    def test_wants_room_for_exactly_the_utterance(self, folder: Path) -> None:
        with pytest.raises(ValueError, match="out has 5 rows, utterance 1 has 6"):
            Ragged(folder).read_into(1, np.empty(5, dtype=np.int16))

    def test_result_is_the_callers_own(self, folder: Path) -> None:
        ragged = Ragged(folder)
        ragged.read(0)[...] = 99
        np.testing.assert_array_equal(ragged.read(0), [0, 1, 2])


class TestDamage:
    @pytest.mark.parametrize(
        ("row", "utterance", "chunk"), [(0, 0, "chunk 0"), (5, 1, "chunk 1"), (9, 2, "chunk 2")]
    )
    def test_flipped_byte_is_caught_by_its_chunk(
        self, folder: Path, row: int, utterance: int, chunk: str
    ) -> None:
        shard, inside = divmod(row, SHARD)
        at = inside * 2 + inside // CHUNK * 4  # each chunk is followed by four bytes of crc32c
        path = folder / "values" / "c" / str(shard)
        flip(path, at)
        ragged = Ragged(folder)
        with pytest.raises(Corrupt, match=rf"values, {chunk} .*: checksum differs") as caught:
            ragged.read(utterance)
        assert caught.value.exit_code == 3
        with pytest.raises(Corrupt):  # and again: a chunk that failed is not taken for checked
            ragged.read(utterance)

    def test_other_chunks_stay_readable(self, folder: Path) -> None:
        flip(folder / "values" / "c" / "1", 0)
        np.testing.assert_array_equal(Ragged(folder).read(0), [0, 1, 2])

    def test_is_believed_where_the_caller_has_checked(self, folder: Path) -> None:
        flip(folder / "values" / "c" / "0", 0)
        assert Ragged(folder, check=False).read(0)[0] != 0

    def test_every_byte_of_the_index_is_checked(self, folder: Path) -> None:
        path = folder / "values" / "c" / "0"
        size, index = path.stat().st_size, SHARD // CHUNK * 16 + 4
        for at in range(size - index, size):
            flip(path, at)
            with pytest.raises(Corrupt, match="values/c/0, index: checksum differs"):
                Ragged(folder)
            flip(path, at)
        Ragged(folder)

    @pytest.mark.parametrize("n_bytes", [0, 10])
    def test_shard_cut_short(self, folder: Path, n_bytes: int) -> None:
        os.truncate(folder / "values" / "c" / "0", n_bytes)
        with pytest.raises(Corrupt, match="values/c/0"):
            Ragged(folder)

    def test_missing_shard(self, folder: Path) -> None:
        (folder / "values" / "c" / "1").unlink()
        with pytest.raises(Corrupt, match="values/c/1: missing"):
            Ragged(folder)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


HOSTILE_OFFSETS = {
    "not from 0": np.array([1, 3, 9, 11]),
    "not to the end": np.array([0, 3, 9, 12]),
    "falling": np.array([0, 9, 3, 11]),
    "wrapping round": np.array([0, 2**63 - 1, -(2**63), -1, 11]),
    "of another dtype": np.array([0, 3, 9, 11], dtype=np.float32),
    "of two dimensions": np.array([[0, 3, 9, 11]]),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE_OFFSETS))
def test_offsets_that_do_not_fit_are_refused(folder: Path, kind: str) -> None:
    offsets = HOSTILE_OFFSETS[kind]
    for path in sorted((folder / "offsets").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "offsets").rmdir()
    write_array(folder, "offsets", offsets, ("boundary", "more")[: offsets.ndim])
    with pytest.raises(Corrupt, match="offsets: do not fit values"):
        Ragged(folder)


def test_array_that_is_not_sharded_is_refused(folder: Path, tmp_path: Path) -> None:
    write_group(tmp_path / "other")
    write_array(tmp_path / "other", "values", np.arange(11, dtype=np.int16), ("row",))
    write_array(tmp_path / "other", "offsets", np.array([0, 11]), ("boundary",))
    with pytest.raises(Corrupt, match="values: not sharded"):
        Ragged(tmp_path / "other")


def test_two_shards_that_changed_places_are_told_by_their_sums_alone(tmp_path: Path) -> None:
    write_group(tmp_path)
    writer = RaggedWriter(tmp_path, "int16", (), (2, 4), "sample")
    for start in (0, 4):
        writer.append(np.arange(start, start + 4, dtype=np.int16))
    writer.close()
    shards = [tmp_path / "values" / "c" / name for name in ("0", "1")]
    sums = {f"values/c/{path.name}": sha256_of(path) for path in shards}
    assert Ragged(tmp_path, sums=sums).read(1).tolist() == [4, 5, 6, 7]
    first, second = (path.read_bytes() for path in shards)
    shards[0].write_bytes(second)
    shards[1].write_bytes(first)
    assert Ragged(tmp_path).read(0).tolist() == [4, 5, 6, 7]  # what crc32c lets through
    with pytest.raises(Corrupt, match="values/c/0: content differs"):
        Ragged(tmp_path, sums=sums).read(0)


def reindexed(path: Path, *entries: tuple[int, int]) -> None:
    """Another index at the end of a shard, with the checksum that belongs to it."""
    content = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    whole = path.read_bytes()[: -len(content) - 4]
    crc = google_crc32c.value(content).to_bytes(4, "little")
    path.write_bytes(whole + content + crc)


@pytest.mark.parametrize(
    "entries",
    [
        ((0, 12), (0, 12)),  # one chunk twice
        ((0, 12), (6, 12)),  # overlapping
        ((12, 12), (24, 12)),  # into the index itself
        ((0, 6), (6, 18)),  # of other sizes
        ((0, 12), (2**64 - 1, 2**64 - 1)),  # what stands for a missing chunk
        ((0, 12), (2**63, 12)),
    ],
)
def test_an_index_of_other_chunks_is_refused(
    folder: Path, entries: tuple[tuple[int, int], ...]
) -> None:
    path = folder / "values" / "c" / "0"
    reindexed(path, (0, 12), (12, 12))
    np.testing.assert_array_equal(Ragged(folder).read(1), np.arange(3, 9))
    reindexed(path, *entries)
    with pytest.raises(Corrupt, match="values/c/0: its index names other chunks"):
        Ragged(folder)


def test_chunks_may_lie_in_another_order(folder: Path) -> None:
    path = folder / "values" / "c" / "0"
    whole = path.read_bytes()
    path.write_bytes(whole[12:24] + whole[:12] + whole[24:])
    reindexed(path, (12, 12), (0, 12))
    np.testing.assert_array_equal(Ragged(folder).read(1), np.arange(3, 9))


@pytest.mark.parametrize("by", [-1, 1, 2**40])
def test_a_shard_of_another_size_is_refused_unread(folder: Path, by: int) -> None:
    path = folder / "values" / "c" / "0"
    os.truncate(path, path.stat().st_size + by)
    with pytest.raises(Corrupt, match=r"values/c/0: \d+ bytes instead of 60"):
        Ragged(folder)


def test_an_utterance_beyond_reason_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_UTTERANCE_BYTES", 12)
    assert len(Ragged(folder)) == 3
    monkeypatch.setattr(reader, "MAX_UTTERANCE_BYTES", 11)
    with pytest.raises(Refused, match="offsets: an utterance of 6 rows"):
        Ragged(folder)
