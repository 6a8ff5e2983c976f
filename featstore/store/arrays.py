"""The store's arrays: plain Zarr v3 in uncompressed chunks, each followed by its crc32c.

zarr-python writes them. The bytes of a chunk lie in its file as they lie in memory, so a file is
read at once (:func:`read_array`) or mapped (:mod:`featstore.store.ragged`). The ``zarr.json`` of an
array must be, key by key, what zarr-python writes for our dtypes and codecs; nothing else is read.

Measured on stock Zarr: its default codecs let 266 of 300 bit flips through, and a missing chunk
reads as zeros. Hence crc32c on every chunk, and chunks of zeros are written like any other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.files import make_folders, read_small, strict_json, write_file
from featstore.core.schema import Corrupt, Refused, printable
from featstore.core.settings import canonical

DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name).newbyteorder("<") for name in ("int8", "int16", "int64", "float32")
}
MAX_RANK = 4
MAX_ELEMENTS = 2**40
MAX_CHUNKS = 32_000
"""As many files as a unit may have: 1,150 hours of speech."""
MAX_CHUNK_BYTES = 64 * 1024**2
"""Of a chunk among several; ours have 4 MiB, and each is checked whole."""
MAX_ARRAY_BYTES = 4 * 1024**3
"""Of an array that is one chunk: 1,024 values for each of a million utterances."""
MAX_UNASKED_BYTES = 256 * 1024**2
"""Of an array that is one chunk, where the reader does not know its shape beforehand."""
MAX_OTHER_BYTES = 128 * 1024**2
"""Of a table."""

REBUILD = "`featstore verify` lists all damage, `featstore build --repair` mends it"
_CRC_BYTES = 4


@dataclass(frozen=True)
class Metadata:
    """What an array's ``zarr.json`` says of it.

    Attributes:
        shape: of the whole array; chunks divide its first dimension alone.
        dtype: of its values, little-endian.
        chunk_rows: rows of a chunk; the last chunk is as large as the others, filled up with zeros.
        dims: a name for each dimension.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int
    dims: tuple[str, ...]

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of every chunk."""
        return (self.chunk_rows, *self.shape[1:])

    @property
    def n_bytes(self) -> int:
        """Size of a chunk without its checksum."""
        return math.prod(self.chunk_shape) * self.dtype.itemsize

    @property
    def n_chunks(self) -> int:
        """Chunks in all."""
        return -(-self.shape[0] // self.chunk_rows)

    def files(self) -> Iterator[tuple[str, int]]:
        """Each chunk's file by its name below the array, and the size that it must have."""
        tail = "/0" * (len(self.shape) - 1)
        for chunk in range(self.n_chunks):
            yield f"c/{chunk}{tail}", self.n_bytes + _CRC_BYTES

    def to_json(self) -> dict[str, Any]:
        """The ``zarr.json`` that zarr-python writes for such an array."""
        little = {"configuration": {"endian": "little"}} if self.dtype.itemsize > 1 else {}
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(self.chunk_shape)},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.dtype.type(0).item(),
            "codecs": [{"name": "bytes", **little}, {"name": "crc32c"}],
            "attributes": {},
            "dimension_names": list(self.dims),
            "storage_transformers": [],
        }


def parse_metadata(raw: Mapping[str, Any], name: str) -> Metadata:
    """An array's metadata, refused where it is not to the key what a store's array has.

    Args:
        raw: the parsed ``zarr.json``.
        name: the file's, for messages.

    Raises:
        Refused: other keys, dtypes, codecs or chunks than ours, or sizes that no store has.
    """
    try:
        shape = tuple(map(int, raw["shape"]))  # whatever is no int then differs from ours
        chunk_rows = int(raw["chunk_grid"]["configuration"]["chunk_shape"][0])
        dims = tuple(map(str, raw["dimension_names"]))
        if not 0 < len(shape) <= MAX_RANK or len(dims) != len(shape):
            raise ValueError("sizes that are no list of a few")
        if shape[0] < 0 or min((chunk_rows, *shape[1:])) < 1:
            raise ValueError(f"shape {shape} in chunks of {chunk_rows} rows")
        meta = Metadata(shape, DTYPES[raw["data_type"]], chunk_rows, dims)
        ours = meta.to_json()
        others = [
            key
            for key in sorted(raw.keys() | ours.keys())
            if canonical(raw.get(key)) != canonical(ours.get(key))
        ]
        if others:
            raise ValueError(", ".join(others[:4]))
        most = MAX_CHUNK_BYTES if meta.n_chunks > 1 else MAX_ARRAY_BYTES
        if math.prod(shape) > MAX_ELEMENTS or meta.n_bytes > most or meta.n_chunks > MAX_CHUNKS:
            raise ValueError(f"shape {shape} in {meta.n_chunks:,} chunks")
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        why = printable(str(error))[:200]
        raise Refused(f"{name}: no metadata of a store's array ({why})", REBUILD) from error
    return meta


def read_metadata(folder: Path) -> Metadata:
    """The checked metadata of the array in ``folder``."""
    path = folder / "zarr.json"
    try:
        return parse_metadata(strict_json(read_small(path), str(path)), str(path))
    except FileNotFoundError:
        raise Corrupt(f"{path}: missing", REBUILD) from None


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
        values: of a dtype in :data:`DTYPES`, with at least one element.
        dims: a name for each dimension; xarray reads them.
    """
    array = _create(folder, name, Metadata(values.shape, values.dtype, len(values), dims))
    array[...] = values


class RaggedWriter:
    """Streams utterances of different lengths into ``values`` and ``offsets``.

    ``values`` holds the utterances end to end, in chunks of so many rows; one that fits into a
    single chunk has a chunk of its own size. ``offsets[i]:offsets[i + 1]`` is utterance ``i``. One
    chunk is held in memory.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        row_shape: tuple[int, ...],
        chunk_rows: int,
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
            chunk_rows: rows a chunk.
            dim: name of the first dimension.
            columns: names of the other dimensions.
            embed: False counts the rows and keeps none, for licensed audio that stays outside.
        """
        self._folder, self._embed, self._dims = folder, embed, (dim, *columns)
        self._buffer = np.zeros((chunk_rows if embed else 0, *row_shape), dtype=DTYPES[dtype])
        self._array: Any = None
        self._filled = 0
        self._offsets = [0]

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add one utterance: ``[n, *row_shape]``."""
        self._offsets.append(self._offsets[-1] + len(rows))
        while self._embed and len(rows):
            free = self._buffer[self._filled :]
            now, rows = rows[: len(free)], rows[len(free) :]
            free[: len(now)] = now
            self._filled += len(now)
            if self._filled == len(self._buffer):
                self._flush()

    def close(self) -> int:
        """Write what is left and the offsets; the number of rows in all."""
        if self._embed and (self._filled or self._array is None):
            self._flush()
        offsets = np.array(self._offsets, dtype=np.int64)
        write_array(self._folder, "offsets", offsets, ("boundary",))
        return self._offsets[-1]

    def _flush(self) -> None:
        if self._array is None:
            shape = (0, *self._buffer.shape[1:])
            chunk_rows = self._filled or len(self._buffer)
            meta = Metadata(shape, self._buffer.dtype, chunk_rows, self._dims)
            self._array = _create(self._folder, "values", meta)
        self._array.append(self._buffer[: self._filled])
        self._filled = 0


def _create(folder: Path, name: str, meta: Metadata) -> Any:
    import zarr
    from zarr.codecs import Crc32cCodec

    return zarr.open_group(str(folder), mode="r+").create_array(
        name,
        shape=meta.shape,
        dtype=meta.dtype.name,
        chunks=meta.chunk_shape,
        filters=None,
        compressors=[Crc32cCodec()],
        fill_value=0,
        dimension_names=meta.dims,
        config={"write_empty_chunks": True},
    )


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
    if meta.n_chunks != 1:
        raise Refused(f"{folder}: not one chunk", REBUILD)
    [(name, size)] = meta.files()
    if shape is None and size > MAX_UNASKED_BYTES:
        raise Refused(f"{folder}: {size:,} bytes, more than {MAX_UNASKED_BYTES:,}", REBUILD)
    if shape is not None and (
        len(shape) != len(meta.shape)
        or any(n not in (None, here) for n, here in zip(shape, meta.shape, strict=True))
    ):
        raise Corrupt(f"{folder}: {meta.shape} instead of {shape}", REBUILD)
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


def check_crc(chunk: Any, name: str) -> None:
    """Compare a chunk's last four bytes with the crc32c of the rest."""
    content = np.frombuffer(chunk, np.uint8)
    stored = int.from_bytes(content[-_CRC_BYTES:].tobytes(), "little")
    if crc32c(content[:-_CRC_BYTES]) != stored:
        raise Corrupt(f"{name}: checksum differs", REBUILD)


def crc32c(content: bytes | npt.NDArray[np.uint8], crc: int = 0) -> int:
    """The checksum of what ``crc`` is the checksum of, followed by ``content``.

    >>> f"{crc32c(b'56789', crc32c(b'1234')):08x}"
    'e3069283'
    """
    import google_crc32c

    return int(google_crc32c.extend(crc, content))
