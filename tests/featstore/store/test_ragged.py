from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

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

CHUNK = 4


def write(folder: Path, parts: list[npt.NDArray[Any]], row_shape: tuple[int, ...] = ()) -> None:
    write_group(folder)
    columns = ("column",) * len(row_shape)
    writer = RaggedWriter(folder, parts[0].dtype.name, row_shape, CHUNK, "row", columns)
    for part in parts:
        writer.append(part)
    writer.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three utterances over three chunks: rows 0 to 10 of int16."""
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
        """Five chunks of 8 MiB, and an utterance that spans three of them."""
        rows = 4 * 1024**2
        write_group(tmp_path)
        writer = RaggedWriter(tmp_path, "int16", (), rows, "row")
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
        flip(folder / "values" / "c" / str(row // CHUNK), row % CHUNK * 2)
        ragged = Ragged(folder)
        with pytest.raises(Corrupt, match=rf"values, {chunk} .*: checksum differs") as caught:
            ragged.read(utterance)
        assert caught.value.exit_code == 3
        with pytest.raises(Corrupt):  # and again: a chunk that failed is not taken for checked
            ragged.read(utterance)

    def test_other_chunks_stay_readable(self, folder: Path) -> None:
        flip(folder / "values" / "c" / "2", 0)
        np.testing.assert_array_equal(Ragged(folder).read(0), [0, 1, 2])

    def test_is_believed_where_the_caller_has_checked(self, folder: Path) -> None:
        flip(folder / "values" / "c" / "0", 0)
        assert Ragged(folder, check=False).read(0)[0] != 0

    def test_every_byte_is_checked(self, folder: Path) -> None:
        path = folder / "values" / "c" / "0"
        for at in range(path.stat().st_size):
            flip(path, at)
            with pytest.raises(Corrupt, match=r"values, chunk 0 .*: checksum differs"):
                Ragged(folder).read(0)
            flip(path, at)
        Ragged(folder).read(0)

    @pytest.mark.parametrize("n_bytes", [0, 10])
    def test_file_cut_short(self, folder: Path, n_bytes: int) -> None:
        os.truncate(folder / "values" / "c" / "0", n_bytes)
        with pytest.raises(Corrupt, match="values/c/0"):
            Ragged(folder)

    def test_missing_file(self, folder: Path) -> None:
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


def test_two_chunks_that_changed_places_are_told_by_their_sums_alone(tmp_path: Path) -> None:
    write_group(tmp_path)
    writer = RaggedWriter(tmp_path, "int16", (), 4, "sample")
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


@pytest.mark.parametrize("by", [-1, 1, 2**40])
def test_a_file_of_another_size_is_refused_unread(folder: Path, by: int) -> None:
    path = folder / "values" / "c" / "0"
    os.truncate(path, path.stat().st_size + by)
    with pytest.raises(Corrupt, match=r"values/c/0: \d+ bytes instead of 12"):
        Ragged(folder)


def test_an_utterance_beyond_reason_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_UTTERANCE_BYTES", 12)
    assert len(Ragged(folder)) == 3
    monkeypatch.setattr(reader, "MAX_UTTERANCE_BYTES", 11)
    with pytest.raises(Refused, match="offsets: an utterance of 6 rows"):
        Ragged(folder)


def test_more_files_than_a_process_may_open_by_default(tmp_path: Path) -> None:
    """Python's own maps keep a file open each, before 3.13."""
    write_group(tmp_path)
    writer = RaggedWriter(tmp_path, "int8", (), 1, "row")
    writer.append(np.arange(100, dtype=np.int8))
    writer.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
        assert Ragged(tmp_path).read(0).tolist() == list(range(100))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
