"""Memory-mapped reads of utterances of different lengths, kept end to end in chunks.

Every chunk's file is mapped once, and a read copies bytes from the page cache straight to where
they are needed. zarr-python, some forty times slower, is the tests' reference.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import mmap
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.schema import Corrupt, Refused
from featstore.store.arrays import MAX_CHUNK_BYTES, REBUILD, check_crc, read_array, read_metadata

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_longlong)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MAP_FAILED = ctypes.c_void_p(-1).value

MAX_UTTERANCE_BYTES = 64 * 1024**2
"""Ten minutes, the longest that a build accepts, take a third of it."""


class Ragged:
    """Utterances of different lengths, kept end to end in one array.

    Args:
        folder: a unit's folder with ``values`` and ``offsets``.
        check: verify each chunk when it is first read. A caller that has just compared the unit's
            SHA-256 can do without.
        sums: SHA-256 of the chunks' files by their name below ``folder``, to compare with; without
            them a chunk's own crc32c is, which does not tell two chunks that have changed places.

    Attributes:
        offsets: ``[N + 1]`` int64; utterance ``i`` is rows ``offsets[i]:offsets[i + 1]``.
    """

    def __init__(
        self, folder: Path, *, check: bool = True, sums: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        meta = read_metadata(folder / "values")
        if meta.n_bytes > MAX_CHUNK_BYTES:
            raise Refused(f"{folder}/values: chunks of {meta.n_bytes:,} bytes", REBUILD)
        self.offsets: npt.NDArray[np.int64] = read_array(folder / "offsets")
        self.dtype, self.row_shape, self.n_rows = meta.dtype, meta.shape[1:], meta.shape[0]
        if (
            self.offsets.ndim != 1
            or self.offsets.dtype != np.int64
            or self.offsets[0] != 0
            or self.offsets[-1] != self.n_rows
            or (self.offsets[1:] < self.offsets[:-1]).any()
        ):
            raise Corrupt(f"{folder}/offsets: do not fit values", REBUILD)
        longest = int(self.lengths.max(initial=0))
        if longest * math.prod(self.row_shape) * self.dtype.itemsize > MAX_UTTERANCE_BYTES:
            raise Refused(f"{folder}/offsets: an utterance of {longest:,} rows", REBUILD)
        self._sums, self._chunk_rows = sums, meta.chunk_rows
        self._unchecked = [check] * meta.n_chunks
        self._damage: dict[int, Corrupt] = {}
        self._names = [f"values/{name}" for name, _ in meta.files()]
        self._files = [_map(folder / "values" / name, size) for name, size in meta.files()]
        count = math.prod(meta.chunk_shape)
        self._chunks = [
            np.frombuffer(memoryview(file).toreadonly(), meta.dtype, count).reshape(
                meta.chunk_shape
            )
            for file in self._files
        ]

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
        """Every utterance once; a chunk's pages are given back as soon as it has been read.

        The system could take them back itself, but until then they count as this process' memory.

        Args:
            rows: only these, one after another.
        """
        rows = range(len(self)) if rows is None else rows
        begun = int(self.offsets[rows.start]) // self._chunk_rows
        for index in rows:
            yield self.read(index)
            now = int(self.offsets[index + 1]) // self._chunk_rows
            for chunk in range(begun, now):
                _LIBC.madvise(self._files[chunk], len(self._files[chunk]), mmap.MADV_DONTNEED)
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
            out[row - start : row - start + take] = self._chunks[chunk][offset : offset + take]
            row += take

    def _check(self, chunk: int) -> None:
        """Compare with the record where there is one, else with the chunk's own checksum."""
        if (fault := self._damage.get(chunk)) is not None:  # many utterances share a chunk
            raise Corrupt(fault.message, fault.hint)
        file, name = self._files[chunk], self._names[chunk]
        try:
            if self._sums is None:
                first = chunk * self._chunk_rows
                shown = f"values, chunk {chunk} (rows from {first}, {self._chunk_rows} rows)"
                check_crc(file, f"{self.folder}/{shown}")
            elif hashlib.sha256(file).hexdigest() != self._sums.get(name):
                raise Corrupt(f"{self.folder}/{name}: content differs", REBUILD)
        except Corrupt as damage:
            self._damage[chunk] = Corrupt(damage.message, damage.hint)
            raise
        self._unchecked[chunk] = False


def _map(path: Path, n_bytes: int) -> ctypes.Array[ctypes.c_ubyte]:
    """A file's bytes in memory, to read only.

    Python's own ``mmap`` keeps each file open before 3.13, and a large store has thousands.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != n_bytes:
                raise Corrupt(f"{path}: {size} bytes instead of {n_bytes}", REBUILD)
            place = _LIBC.mmap(None, n_bytes, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    except FileNotFoundError:
        raise Corrupt(f"{path}: missing", REBUILD) from None
    if place == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    region = (ctypes.c_ubyte * n_bytes).from_address(place)
    weakref.finalize(region, _LIBC.munmap, place, n_bytes).atexit = False
    return region
