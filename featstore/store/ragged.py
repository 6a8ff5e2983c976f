"""Memory-mapped reads of sharded ragged arrays.

The shards' indices are parsed once; a read then copies bytes from the page cache straight to
where they are wanted. zarr-python, some forty times slower, is the tests' oracle.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.schema import Corrupt, Refused
from featstore.store.arrays import check_crc, read_array
from featstore.store.metadata import REBUILD, read_metadata

MAX_UTTERANCE_BYTES = 64 * 1024**2
"""Ten minutes, the longest that a build accepts, take a third of it."""


class Ragged:
    """Utterances of different lengths, kept end to end in one sharded array.

    Args:
        folder: a unit's folder with ``values`` and ``offsets``.
        check: verify each chunk's crc32c when it is first read. A caller that has just compared
            the unit's SHA-256 can do without.
        sums: SHA-256 of the shards by their name below ``folder``; then a whole shard is compared
            when it is first read. crc32c does not tell two shards that have changed places.

    Attributes:
        offsets: ``[N + 1]`` int64; utterance ``i`` is rows ``offsets[i]:offsets[i + 1]``.
    """

    def __init__(
        self, folder: Path, *, check: bool = True, sums: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        meta = read_metadata(folder / "values")
        if meta.shard_rows is None:
            raise Corrupt(f"{folder}/values: not sharded", REBUILD)
        self.offsets: npt.NDArray[np.int64] = read_array(folder / "offsets")
        self.dtype, self.row_shape = meta.dtype, meta.shape[1:]
        self.n_rows = meta.shape[0]
        self._chunk_shape, self._chunk_bytes = meta.chunk_shape, meta.n_bytes
        self._chunk_rows, self._per_shard = meta.chunk_shape[0], meta.per_shard
        self._check_offsets()
        self._starts = np.empty(meta.n_chunks, dtype=np.int64)
        self._shards = [
            self._open(shard, folder / "values" / name, size)
            for shard, (name, size) in enumerate(meta.files())
        ]
        self._unchecked = np.full(meta.n_chunks, check)
        self._sums = sums
        self._names = [f"values/{name}" for name, _ in meta.files()]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Rows of each utterance: ``[N]``."""
        return np.diff(self.offsets)

    def read(self, index: int) -> npt.NDArray[Any]:
        """Utterance ``index`` as a new array ``[rows, *row_shape]``."""
        n = int(self.offsets[index + 1] - self.offsets[index])
        out = np.empty((n, *self.row_shape), dtype=self.dtype)
        self.read_into(index, out)
        return out

    def in_order(self, rows: range | None = None) -> Iterator[npt.NDArray[Any]]:
        """Every utterance once; a shard's pages are given back as soon as it has been read.

        The system could take them back itself, but until then they count as this process' memory.

        Args:
            rows: only these, one after another.
        """
        rows = range(len(self)) if rows is None else rows
        shard_rows = self._chunk_rows * self._per_shard
        begun = int(self.offsets[rows.start]) // shard_rows
        for index in rows:
            yield self.read(index)
            now = int(self.offsets[index + 1]) // shard_rows
            for shard in range(begun, now):
                self._shards[shard].madvise(mmap.MADV_DONTNEED)
            begun = now

    def read_into(self, index: int, out: npt.NDArray[Any]) -> None:
        """Copy utterance ``index`` into ``out``, converting to its dtype.

        Args:
            index: which utterance, from 0.
            out: ``[rows, *row_shape]`` with exactly the utterance's rows.
        """
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        if len(out) != end - start:
            raise ValueError(f"out has {len(out)} rows, utterance {index} has {end - start}")
        row = start
        while row < end:
            chunk, offset = divmod(row, self._chunk_rows)
            take = min(self._chunk_rows - offset, end - row)
            if self._unchecked[chunk]:
                self._check(chunk)
            out[row - start : row - start + take] = self._chunk(chunk)[offset : offset + take]
            row += take

    def damaged_rows(self) -> list[int]:
        """Utterances with a chunk whose checksum fails."""
        bad = [chunk for chunk in range(len(self._starts)) if not self._sound(chunk)]
        starts = np.array(bad, dtype=np.int64) * self._chunk_rows
        first = np.searchsorted(self.offsets, starts, side="right") - 1
        last = np.searchsorted(self.offsets, starts + self._chunk_rows, side="left")
        hurt = {row for a, b in zip(first, last, strict=True) for row in range(a, b)}
        return sorted(hurt & set(range(len(self))))

    def _sound(self, chunk: int) -> bool:
        try:
            self._check_crc(chunk)
        except Corrupt:
            return False
        return True

    def _check_offsets(self) -> None:
        """Refuse boundaries that run backwards, miss the end or span what no utterance fills."""
        offsets = self.offsets
        if (
            offsets.ndim != 1
            or offsets.dtype != np.int64
            or offsets[0] != 0
            or offsets[-1] != self.n_rows
            or (offsets[1:] < offsets[:-1]).any()
        ):
            raise Corrupt(f"{self.folder}/offsets: do not fit values", REBUILD)
        row_bytes = self._chunk_bytes // self._chunk_rows
        longest = int(self.lengths.max(initial=0))
        if longest * row_bytes > MAX_UTTERANCE_BYTES:
            raise Refused(f"{self.folder}/offsets: an utterance of {longest:,} rows", REBUILD)

    def _open(self, shard: int, path: Path, n_bytes: int) -> mmap.mmap:
        """Map a shard of a known size, and note where its chunks begin."""
        mapped = _map(path, n_bytes)
        starts = self._starts[shard * self._per_shard :][: self._per_shard]
        size = self._chunk_bytes + 4
        index = _shard_index(mapped, self._per_shard, str(path))[: len(starts)]
        in_order = np.sort(index[:, 0]) == np.arange(len(starts), dtype=np.uint64) * size
        if not in_order.all() or (index[:, 1] != size).any():
            raise Corrupt(f"{path}: its index names other chunks", REBUILD)
        starts[:] = index[:, 0]
        return mapped

    def _chunk(self, chunk: int) -> npt.NDArray[Any]:
        """A chunk's values, where they lie."""
        mapped, start = self._shards[chunk // self._per_shard], int(self._starts[chunk])
        count = self._chunk_bytes // self.dtype.itemsize
        flat = np.frombuffer(mapped, self.dtype, count, start)
        return flat.reshape(self._chunk_shape)

    def _check(self, chunk: int) -> None:
        """Compare with the record where there is one, else with the chunk's own checksum."""
        if self._sums is not None:
            self._check_shard(chunk // self._per_shard, self._sums)
        else:
            self._check_crc(chunk)

    def _check_crc(self, chunk: int) -> None:
        mapped, start = self._shards[chunk // self._per_shard], int(self._starts[chunk])
        with memoryview(mapped) as whole, whole[start : start + self._chunk_bytes + 4] as with_crc:
            check_crc(with_crc, f"{self.folder}/values, chunk {chunk} (rows from "
                      f"{chunk * self._chunk_rows}, {self._chunk_rows} rows)")  # fmt: skip
        self._unchecked[chunk] = False

    def _check_shard(self, shard: int, sums: Mapping[str, str]) -> None:
        name = self._names[shard]
        if hashlib.sha256(self._shards[shard]).hexdigest() != sums.get(name):
            raise Corrupt(f"{self.folder}/{name}: content differs", REBUILD)
        self._unchecked[shard * self._per_shard :][: self._per_shard] = False


def _map(path: Path, n_bytes: int) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != n_bytes:
                raise Corrupt(f"{path}: {found} bytes instead of {n_bytes}", REBUILD)
            if sys.version_info >= (3, 13):  # a large store has more shards than a process files
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, trackfd=False)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise Corrupt(f"{path}: missing", REBUILD) from None


def _shard_index(mapped: mmap.mmap, n_chunks: int, name: str) -> npt.NDArray[np.uint64]:
    """Offset and size of each chunk: ``[n_chunks, 2]``, from the shard's last bytes."""
    content = mapped[len(mapped) - 16 * n_chunks - 4 :]
    check_crc(content, f"{name}, index")
    return np.frombuffer(content, "<u8", count=2 * n_chunks).reshape(n_chunks, 2)
