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

from featstore.files import read_small, strict_json, write_file
from featstore.schema import Corrupt, Refused

DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name).newbyteorder("<") for name in ("int8", "int16", "int64", "float32")
}
MAX_ELEMENTS = 2**40
_CODECS = {"bytes", "crc32c", "sharding_indexed"}
_CRC = {"name": "crc32c"}
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, _CRC]


def group_json(attributes: Mapping[str, Any] | None = None) -> bytes:
    """What a group's ``zarr.json`` holds, to the byte."""
    about = {"attributes": dict(attributes or {}), "zarr_format": 3, "node_type": "group"}
    return json.dumps(about, indent=2).encode()


def write_group(folder: Path) -> None:
    """Make ``folder`` a Zarr group, or mend it."""
    folder.mkdir(parents=True, exist_ok=True)
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


def read_array(folder: Path) -> npt.NDArray[Any]:
    """Read an array that is one chunk, checking its metadata and crc32c.

    Raises:
        Corrupt: the chunk is missing, of another size, or its checksum fails.
        Refused: the metadata asks for what a store never holds.
    """
    meta = read_metadata(folder)
    shape, dtype = meta.shape, meta.dtype
    if meta.shard_rows is not None or meta.chunk_shape != shape:
        raise Refused(f"{folder}: not one chunk", "this is no array of a store; rebuild it")
    path = folder.joinpath("c", *["0"] * len(shape))
    size = math.prod(shape) * dtype.itemsize
    try:
        if path.stat().st_size != size + 4:
            raise Corrupt(f"{path}: {path.stat().st_size} bytes instead of {size + 4}", _REBUILD)
        content = path.read_bytes()
    except FileNotFoundError:
        raise Corrupt(f"{path}: missing", _REBUILD) from None
    check_crc(content, str(path))
    return np.frombuffer(content, dtype=dtype, count=math.prod(shape)).reshape(shape)


def check_crc(chunk: bytes | memoryview, name: str) -> None:
    """Compare a chunk's last four bytes with the crc32c of the rest."""
    import google_crc32c

    body, stored = chunk[:-4], int.from_bytes(chunk[-4:], "little")
    if google_crc32c.value(bytes(body)) != stored:
        raise Corrupt(f"{name}: checksum differs", _REBUILD)


class Metadata:
    """An array's ``zarr.json``, checked against what a store may hold."""

    def __init__(self, raw: Mapping[str, Any], name: str) -> None:
        try:
            self._read(raw)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Refused(
                f"{name}: not the metadata of a store's array ({error})", "rebuild this unit"
            ) from error

    def _read(self, raw: Mapping[str, Any]) -> None:
        if raw["zarr_format"] != 3 or raw["node_type"] != "array" or raw["storage_transformers"]:
            raise ValueError("not a plain Zarr v3 array")
        self.dtype = DTYPES[raw["data_type"]]
        self.shape = _sizes(raw["shape"])
        outer = _sizes(raw["chunk_grid"]["configuration"]["chunk_shape"])
        little = {"endian": "little"} if self.dtype.itemsize > 1 else None
        checked = [{"name": "bytes"} | ({"configuration": little} if little else {}), _CRC]
        codecs = raw["codecs"]
        names = [codec["name"] for codec in codecs]
        if not set(names) <= _CODECS:
            raise ValueError(f"codecs {names}")
        self.chunk_shape, self.shard_rows = outer, None
        if names == ["sharding_indexed"]:
            inner = codecs[0]["configuration"]
            if inner["codecs"] != checked or inner["index_codecs"] != _INDEX_CODECS:
                raise ValueError("codecs inside the shard")
            if inner["index_location"] != "end":
                raise ValueError("index not at the end")
            self.chunk_shape, self.shard_rows = _sizes(inner["chunk_shape"]), outer[0]
        elif codecs != checked:
            raise ValueError(f"codecs {names}")
        rows = {sizes[1:] for sizes in (self.shape, self.chunk_shape, outer)}
        if self.shard_rows is not None and (len(rows) > 1 or not math.prod(self.chunk_shape)):
            raise ValueError(f"shards of {outer} in chunks of {self.chunk_shape}")
        if math.prod(self.shape) > MAX_ELEMENTS or math.prod(outer) > 2**31:
            raise ValueError(f"shape {self.shape} in chunks of {outer}")
        self.dims = tuple(raw.get("dimension_names") or ())
        self.attributes: Mapping[str, Any] = raw["attributes"]


def read_metadata(folder: Path) -> Metadata:
    """The checked metadata of the array in ``folder``."""
    path = folder / "zarr.json"
    try:
        return Metadata(strict_json(read_small(path), str(path)), str(path))
    except FileNotFoundError:
        raise Corrupt(f"{path}: missing", _REBUILD) from None


_REBUILD = "`featstore verify` lists all damage; remove the unit and run `featstore build` again"


def _sizes(raw: Any) -> tuple[int, ...]:
    if not isinstance(raw, list) or not raw or not all(type(n) is int and n >= 0 for n in raw):
        raise ValueError(f"sizes {raw}")
    return tuple(raw)


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
