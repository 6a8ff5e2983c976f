"""What the metadata of a store's array may say: plain Zarr v3, our dtypes and codecs, sane sizes.

It is checked against an allow-list before anything is looked for, mapped or allocated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featstore.core.files import read_small, strict_json
from featstore.core.schema import Corrupt, Refused, printable

DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name).newbyteorder("<") for name in ("int8", "int16", "int64", "float32")
}
MAX_ELEMENTS = 2**40
MAX_ARRAY_BYTES = 4 * 1024**3
"""Of an array that is one chunk: 1,024 values for each of a million utterances."""
MAX_CHUNK_BYTES = 64 * 1024**2
"""Of a chunk in a shard; ours have half a MiB, and each is checked whole."""
MAX_PER_SHARD = 4096
"""Chunks in one shard; ours have 64."""
MAX_CHUNKS = 2**22
"""In all shards of an array: 19,000 hours of speech."""
MAX_SHARDS = 20_000
"""As many files as a unit may have."""
MAX_RANK = 4
_KEYS = {
    *("zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding"),
    *("fill_value", "codecs", "attributes", "dimension_names", "storage_transformers"),
}
_CODECS = {"bytes", "crc32c", "sharding_indexed"}
_CRC = {"name": "crc32c"}
_SLASHES = {"name": "default", "configuration": {"separator": "/"}}
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, _CRC]

REBUILD = "`featstore verify` lists all damage, `featstore build --repair` mends it"


class Metadata:
    """An array's ``zarr.json``, checked against what a store may hold."""

    def __init__(self, raw: Mapping[str, Any], name: str) -> None:
        try:
            self._read(raw)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            why = printable(str(error))[:200]
            raise Refused(f"{name}: no metadata of a store's array ({why})", REBUILD) from error

    def _read(self, raw: Mapping[str, Any]) -> None:
        if raw["zarr_format"] != 3 or raw["node_type"] != "array" or raw["storage_transformers"]:
            raise ValueError("not a plain Zarr v3 array")
        if unknown := sorted(set(raw) - _KEYS):
            raise ValueError(f"keys {unknown[:4]}")
        if raw["chunk_key_encoding"] != _SLASHES or raw["chunk_grid"]["name"] != "regular":
            raise ValueError("chunks under other names")
        self.dtype = DTYPES[raw["data_type"]]
        self.shape = _sizes(raw["shape"], 0)
        outer = _sizes(raw["chunk_grid"]["configuration"]["chunk_shape"])
        self.chunk_shape, self.shard_rows = outer, None
        inner = _codecs(raw["codecs"], self.dtype)
        if inner is not None:
            self.chunk_shape, self.shard_rows = _sizes(inner), outer[0]
        elif outer != self.shape:
            raise ValueError(f"chunks of {outer} for {self.shape}")
        self._fit(outer)
        self.dims = tuple(raw.get("dimension_names") or ())
        self.attributes: Mapping[str, Any] = raw["attributes"]

    def _fit(self, outer: tuple[int, ...]) -> None:
        """Refuse what no machine could hold, and shards that are no whole number of chunks."""
        if math.prod(self.shape) > MAX_ELEMENTS or math.prod(outer) > 2**31:
            raise ValueError(f"shape {self.shape} in chunks of {outer}")
        if self.shard_rows is None:
            if self.n_bytes > MAX_ARRAY_BYTES:
                raise ValueError(f"{self.n_bytes:,} bytes in one chunk")
            return
        same_rows = self.shape[1:] == self.chunk_shape[1:] == outer[1:]
        if (
            not same_rows
            or self.shard_rows % self.chunk_shape[0]
            or self.per_shard > MAX_PER_SHARD
            or self.n_bytes > MAX_CHUNK_BYTES
        ):
            raise ValueError(f"shards of {outer} in chunks of {self.chunk_shape}")
        if self.n_chunks > min(MAX_CHUNKS, MAX_SHARDS * self.per_shard):
            raise ValueError(f"{self.n_chunks:,} chunks")

    @property
    def n_bytes(self) -> int:
        """Size of one chunk without its checksum."""
        return math.prod(self.chunk_shape) * self.dtype.itemsize

    @property
    def n_chunks(self) -> int:
        """Chunks in all; the last may reach beyond the last row."""
        return -(-self.shape[0] // self.chunk_shape[0])

    @property
    def per_shard(self) -> int:
        """Chunks in a whole shard; 1 where there are no shards."""
        return (self.shard_rows or self.chunk_shape[0]) // self.chunk_shape[0]

    def files(self) -> Iterator[tuple[str, int]]:
        """Every file that holds values, by name below the array, with the size that it must have.

        Chunks fill a shard without gap or overlap, so a file of another size lacks or hides some.
        """
        tail = "/0" * (len(self.shape) - 1)
        size = self.n_bytes + 4
        if self.shard_rows is None:
            yield f"c/0{tail}", size
            return
        for shard, first in enumerate(range(0, self.n_chunks, self.per_shard)):
            here = min(self.per_shard, self.n_chunks - first)
            yield f"c/{shard}{tail}", here * size + 16 * self.per_shard + 4


def _codecs(codecs: Any, dtype: np.dtype[Any]) -> Any:
    """The chunk shape inside a shard, None where there are no shards.

    Raises:
        ValueError: for any codecs but ours.
    """
    little = {"endian": "little"} if dtype.itemsize > 1 else None
    checked = [{"name": "bytes"} | ({"configuration": little} if little else {}), _CRC]
    names = [codec["name"] for codec in codecs]
    if not set(names) <= _CODECS or len(names) > 2:
        raise ValueError(f"codecs {names[:4]}")
    if names == ["sharding_indexed"]:
        inner = codecs[0]["configuration"]
        if inner["codecs"] != checked or inner["index_codecs"] != _INDEX_CODECS:
            raise ValueError("codecs inside the shard")
        if inner["index_location"] != "end":
            raise ValueError("index not at the end")
        return inner["chunk_shape"]
    if codecs != checked:
        raise ValueError(f"codecs {names}")
    return None


def read_metadata(folder: Path) -> Metadata:
    """The checked metadata of the array in ``folder``."""
    path = folder / "zarr.json"
    try:
        return Metadata(strict_json(read_small(path), str(path)), str(path))
    except FileNotFoundError:
        raise Corrupt(f"{path}: missing", REBUILD) from None


def _sizes(raw: Any, least: int = 1) -> tuple[int, ...]:
    if not isinstance(raw, list) or not 0 < len(raw) <= MAX_RANK:
        raise ValueError("sizes that are no list of a few")
    if not all(type(n) is int and least <= n < 2**63 for n in raw):
        raise ValueError(f"sizes {raw}")
    return tuple(raw)
