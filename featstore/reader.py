"""Memory-mapped reads of sharded ragged arrays.

The shards' indices are parsed once; a read then copies bytes from the page cache straight to
where they are wanted. zarr-python, some forty times slower, is the tests' oracle.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import check_crc, read_array, read_metadata
from featstore.schema import Corrupt


class Ragged:
    """Utterances of different lengths, kept end to end in one sharded array.

    Args:
        folder: a unit's folder with ``values`` and ``offsets``.
        check: verify each chunk's crc32c when it is first read. A caller that has just compared
            the unit's SHA-256 can do without.

    Attributes:
        offsets: ``[N + 1]`` int64; utterance ``i`` is rows ``offsets[i]:offsets[i + 1]``.
    """

    def __init__(self, folder: Path, *, check: bool = True) -> None:
        self.folder = folder
        self.offsets: npt.NDArray[np.int64] = read_array(folder / "offsets")
        meta = read_metadata(folder / "values")
        if meta.shard_rows is None:
            raise Corrupt(f"{folder}/values: not sharded", "rebuild this unit")
        self.dtype, self.row_shape = meta.dtype, meta.shape[1:]
        self.n_rows = meta.shape[0]
        self._chunk_rows, self._shard_rows = meta.chunk_shape[0], meta.shard_rows
        if (
            self.offsets.ndim != 1
            or self.offsets.dtype != np.int64
            or not len(self.offsets)
            or self.offsets[0] != 0
            or self.offsets[-1] != self.n_rows
            or (self.offsets[1:] < self.offsets[:-1]).any()
            or self._shard_rows % self._chunk_rows
        ):
            raise Corrupt(f"{folder}/offsets: do not fit values", "rebuild this unit")
        self._raw = self._index(int(np.prod(meta.chunk_shape)) * self.dtype.itemsize)
        self._chunks = [
            np.frombuffer(raw[:-4], self.dtype).reshape(meta.chunk_shape) for raw in self._raw
        ]
        self._unchecked = np.full(len(self._chunks), check)

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
            out[row - start : row - start + take] = self._chunks[chunk][offset : offset + take]
            row += take

    def damaged_rows(self) -> list[int]:
        """Utterances with a chunk whose checksum fails."""
        bad = [chunk for chunk in range(len(self._chunks)) if not self._sound(chunk)]
        starts = np.array(bad, dtype=np.int64) * self._chunk_rows
        first = np.searchsorted(self.offsets, starts, side="right") - 1
        last = np.searchsorted(self.offsets, starts + self._chunk_rows, side="left")
        hurt = {row for a, b in zip(first, last, strict=True) for row in range(a, b)}
        return sorted(hurt & set(range(len(self))))

    def _sound(self, chunk: int) -> bool:
        try:
            self._check(chunk)
        except Corrupt:
            return False
        return True

    def _index(self, n_bytes: int) -> list[memoryview]:
        """The bytes of every chunk in order, its four bytes of crc32c included."""
        per_shard = self._shard_rows // self._chunk_rows
        n_chunks = -(-self.n_rows // self._chunk_rows)
        tail = ["0"] * len(self.row_shape)
        chunks: list[memoryview] = []
        for shard in range(-(-self.n_rows // self._shard_rows)):
            path = self.folder.joinpath("values", "c", str(shard), *tail)
            mapped = _map(path)
            index = _shard_index(mapped, per_shard, str(path))
            for offset, size in index[: n_chunks - len(chunks)].tolist():
                if size != n_bytes + 4 or offset + size > len(mapped):
                    raise Corrupt(f"{path}: its index names no chunk", "rebuild this unit")
                chunks.append(memoryview(mapped)[offset : offset + size])
        return chunks

    def _check(self, chunk: int) -> None:
        view, with_crc = self._chunks[chunk], self._raw[chunk]
        check_crc(with_crc, f"{self.folder}/values, chunk {chunk} (rows from "
                  f"{chunk * self._chunk_rows}, {len(view)} rows)")  # fmt: skip
        self._unchecked[chunk] = False


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError) as error:
        raise Corrupt(f"{path}: missing or empty", "rebuild this unit") from error


def _shard_index(mapped: mmap.mmap, n_chunks: int, name: str) -> npt.NDArray[np.uint64]:
    """Offset and size of each chunk: ``[n_chunks, 2]``, from the shard's last bytes."""
    size = 16 * n_chunks + 4
    if len(mapped) < size:
        raise Corrupt(f"{name}: too short for its index", "rebuild this unit")
    content = mapped[len(mapped) - size :]
    check_crc(content, f"{name}, index")
    return np.frombuffer(content, "<u8", count=2 * n_chunks).reshape(n_chunks, 2)
