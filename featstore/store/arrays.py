"""The store's arrays: plain Zarr v3, always with crc32c, written so that nothing is implied.

Measured on stock Zarr: its default codecs let 266 of 300 bit flips through, and a missing chunk
reads as zeros. Hence crc32c on every chunk, and chunks of zeros are written like any other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.files import make_folders, read_small, write_file
from featstore.core.schema import Corrupt, Refused
from featstore.store.metadata import DTYPES, REBUILD, read_metadata

MAX_UNASKED_BYTES = 256 * 1024**2
"""Of an array that is one chunk, where the reader does not know its shape beforehand."""

MAX_WEIGHTS_BYTES = 16 * 1024**3
"""Of a kept teacher."""
MAX_OTHER_BYTES = 128 * 1024**2
"""Of a table or a tokenizer."""

_PIECE = 1024**2


def group_json(attributes: Mapping[str, Any] | None = None) -> bytes:
    """What a group's ``zarr.json`` holds, to the byte."""
    about = {"attributes": dict(attributes or {}), "zarr_format": 3, "node_type": "group"}
    return json.dumps(about, indent=2).encode()


def write_group(folder: Path) -> None:
    """Make ``folder`` a Zarr group, or mend it."""
    make_folders(folder)
    if not is_group(folder):
        write_file(folder / "zarr.json", group_json())


def is_group(folder: Path) -> bool:
    """Whether ``folder`` is a Zarr group as :func:`write_group` writes it."""
    try:
        return read_small(folder / "zarr.json") == group_json()
    except (OSError, Refused):
        return False


def write_array(folder: Path, name: str, values: npt.NDArray[Any], dims: tuple[str, ...]) -> None:
    """Write a small array as one chunk.

    Args:
        folder: the group that it becomes part of.
        name: the array's name.
        values: of a dtype in :data:`featstore.store.metadata.DTYPES`, with at least one element.
        dims: a name for each dimension; xarray reads them.
    """
    array = _create(folder, name, values.shape, values.dtype, values.shape, None, dims)
    array[...] = values


class RaggedWriter:
    """Streams utterances of different lengths into ``values`` and ``offsets``.

    ``values`` is sharded along its first dimension and holds the utterances end to end;
    ``offsets[i]:offsets[i + 1]`` is utterance ``i``. At most one shard is held in memory.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        row_shape: tuple[int, ...],
        rows: tuple[int, int],
        dim: str,
        columns: tuple[str, ...] = (),
        *,
        embed: bool = True,
    ) -> None:
        """Begin.

        Args:
            folder: the unit's folder, a group.
            dtype: of ``values``.
            row_shape: shape of one row: () for samples, (25,) for LLDs.
            rows: rows a chunk, and rows a shard (a multiple).
            dim: name of the first dimension.
            columns: names of the other dimensions.
            embed: False counts the rows and keeps none, for licensed audio that stays outside.
        """
        chunk, self._shard = rows
        self._folder = folder
        self._embed = embed
        self._offsets = [0]
        if not embed:
            return
        self._array = _create(
            folder, "values", (0, *row_shape), np.dtype(dtype), (chunk, *row_shape),
            (self._shard, *row_shape), (dim, *columns),
        )  # fmt: skip
        self._buffer = np.zeros((self._shard, *row_shape), dtype=DTYPES[dtype])
        self._filled = 0
        self._written = 0

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add one utterance: ``[n, *row_shape]``."""
        self._offsets.append(self._offsets[-1] + len(rows))
        if not self._embed:
            return
        done = 0
        while done < len(rows):
            take = min(len(rows) - done, self._shard - self._filled)
            self._buffer[self._filled : self._filled + take] = rows[done : done + take]
            self._filled += take
            done += take
            if self._filled == self._shard:
                self._flush()

    def close(self) -> int:
        """Write what is left and the offsets; the number of rows in all."""
        if self._embed and self._filled:
            self._flush()
        offsets = np.array(self._offsets, dtype=np.int64)
        write_array(self._folder, "offsets", offsets, ("boundary",))
        return self._offsets[-1]

    def _flush(self) -> None:
        end = self._written + self._filled
        self._array.resize((end, *self._buffer.shape[1:]))
        self._array[self._written : end] = self._buffer[: self._filled]
        self._written, self._filled = end, 0


def read_array(folder: Path, shape: tuple[int | None, ...] | None = None) -> npt.NDArray[Any]:
    """Read an array that is one chunk, checking its metadata and crc32c.

    Args:
        folder: the array's.
        shape: what it must have, None where any size will do. Without it, nothing larger than
            :data:`MAX_UNASKED_BYTES` is read.

    Raises:
        Corrupt: the chunk is missing, of another size, or its checksum fails.
        Refused: the metadata asks for what a store never holds.
    """
    meta = read_metadata(folder)
    if meta.shard_rows is not None:
        raise Refused(f"{folder}: not one chunk", REBUILD)
    if shape is not None and not _fits(meta.shape, shape):
        raise Corrupt(f"{folder}: {meta.shape} instead of {shape}", REBUILD)
    [(name, size)] = meta.files()
    if shape is None and size > MAX_UNASKED_BYTES:
        raise Refused(f"{folder}: {size:,} bytes, more than {MAX_UNASKED_BYTES:,}", REBUILD)
    path = folder / name
    try:
        if path.stat().st_size != size:
            raise Corrupt(f"{path}: {path.stat().st_size} bytes instead of {size}", REBUILD)
        content = path.read_bytes()
    except FileNotFoundError:
        raise Corrupt(f"{path}: missing", REBUILD) from None
    check_crc(content, str(path))
    count = math.prod(meta.shape)
    return np.frombuffer(content, dtype=meta.dtype, count=count).reshape(meta.shape)


def misfits(unit: Path, sizes: Mapping[str, int]) -> list[str]:
    """Files of a unit whose size cannot be right: found before a terabyte of nothing is read.

    Args:
        unit: the unit's folder.
        sizes: bytes of its files, or of one array's, by name with forward slashes.

    Returns:
        One line a file.

    Raises:
        Corrupt, Refused: metadata that no array of a store has.
    """
    faults: list[str] = []
    of_arrays: set[str] = set()
    for array in [name.removesuffix("/zarr.json") for name in sizes if "/zarr.json" in name]:
        wanted = {f"{array}/{file}": size for file, size in read_metadata(unit / array).files()}
        found = {file: size for file, size in sizes.items() if file.startswith(f"{array}/c/")}
        of_arrays |= found.keys()
        for file in sorted(wanted.keys() | found.keys()):
            here, there = found.get(file, 0), wanted.get(file, 0)
            if here != there:
                faults.append(f"{file}: {here} bytes where {there} belong")
    for file in sorted(set(sizes) - of_arrays):
        most = MAX_WEIGHTS_BYTES if file.endswith(".safetensors") else MAX_OTHER_BYTES
        if sizes[file] > most:
            faults.append(f"{file}: {sizes[file]} bytes, more than {most}")
    return faults


def check_crc(chunk: bytes | memoryview, name: str) -> None:
    """Compare a chunk's last four bytes with the crc32c of the rest."""
    body, stored = memoryview(chunk)[:-4], int.from_bytes(chunk[-4:], "little")
    if crc32c(body) != stored:
        raise Corrupt(f"{name}: checksum differs", REBUILD)


def crc32c(content: bytes | memoryview, crc: int = 0) -> int:
    """The checksum of what ``crc`` is the checksum of, followed by ``content``.

    >>> f"{crc32c(b'56789', crc32c(b'1234')):08x}"
    'e3069283'
    """
    import google_crc32c

    for start in range(0, len(content), _PIECE):  # it takes bytes alone, so each piece is a copy
        crc = google_crc32c.extend(crc, bytes(content[start : start + _PIECE]))
    return crc


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(
        size is None or size == got for got, size in zip(found, wanted, strict=True)
    )


def _create(
    folder: Path,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    dims: tuple[str, ...],
) -> Any:
    import zarr
    from zarr.codecs import Crc32cCodec

    return zarr.open_group(str(folder), mode="r+").create_array(
        name,
        shape=shape,
        dtype=dtype.name,
        chunks=chunks,
        shards=shards,
        filters=None,
        compressors=[Crc32cCodec()],
        fill_value=0,
        dimension_names=dims,
        config={"write_empty_chunks": True},
    )
