"""Arrays compressed for transport: valid Zarr v3, decoded again to the plain layout's bytes.

Each file of an array becomes one object of the same name. The plain ``zarr.json`` travels in the
attributes of the compressing one, to the byte, so that the files made from both have the SHA-256
that the unit's record lists.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.files import strict_json
from featstore.core.schema import Corrupt
from featstore.store.array_files import META, Rows
from featstore.store.arrays import DTYPES, Metadata, check_crc

ATTRIBUTE = "emodistill_plain"
MAX_META_BYTES = 64 * 1024
"""Of an array's plain metadata; ours have one or two."""
MAX_PACKED_META_BYTES = 4 * MAX_META_BYTES
MAX_PACKED = 2**31 - 64
"""Bytes that blosc compresses at once; larger chunks travel as they are."""
_FRAME = 16
"""Bytes of a blosc frame's head: versions, flags, typesize, then sizes as 32 bits each."""
_CRC = 4


def packs(meta: Metadata) -> bool:
    """Whether an array can travel compressed: its objects are decoded in memory."""
    return 0 < meta.n_bytes < MAX_PACKED


def packed_metadata(plain: bytes) -> bytes:
    """The ``zarr.json`` of the compressed array, from the plain one's."""
    raw = json.loads(plain)
    return json.dumps(_compressing(raw, plain.decode()), indent=2).encode()


def plain_metadata(packed: bytes, name: str) -> bytes:
    """The plain ``zarr.json`` that a compressing one was made from.

    Raises:
        Corrupt: it was not made by :func:`packed_metadata`.
    """
    raw = strict_json(packed, name)
    about = raw.get("attributes")
    text = about.get(ATTRIBUTE) if isinstance(about, dict) else None
    if isinstance(text, str) and len(text) <= MAX_META_BYTES:
        plain = text.encode()
        if _compressing(strict_json(plain, name), text) == raw:
            return plain
    raise Corrupt(f"{name}: neither what was written nor its compressed form", "")


def packed_files(packed: bytes, meta: Metadata, rows: Rows) -> Iterator[tuple[str, bytes]]:
    """The objects of a compressed array, by name below it: zarr-python's, a chunk at a time.

    Args:
        packed: its ``zarr.json``.
        meta: the plain array's.
        rows: gives the values.
    """
    import zarr
    from zarr.core.buffer import cpu
    from zarr.storage import MemoryStore

    held: dict[str, Any] = {META: cpu.Buffer.from_bytes(packed)}
    with zarr.config.set({"array.write_empty_chunks": True}):
        array: Any = zarr.open_array(MemoryStore(held), mode="r+", zarr_format=3)
        for number, (name, _) in enumerate(meta.files()):
            first = number * meta.chunk_rows
            stop = min(first + meta.chunk_rows, meta.shape[0])
            array[first:stop] = rows(first, stop)
            yield name, held.pop(name).to_bytes()


def most_bytes(plain_size: int) -> int:
    """How large the object of a file of so many bytes may be: blosc adds a head where it fails."""
    return plain_size + _FRAME


def unpacked(meta: Metadata, fetch: Callable[[str], bytes], name: str) -> Rows:
    """The rows of a compressed array, decoded a chunk at a time.

    Args:
        meta: the plain array's.
        fetch: gives an object by its name below the array, already bounded.
        name: the array's, for messages.

    Raises:
        Corrupt: a frame that is not what it says, or does not fit; before it is decoded.
    """
    names = [file for file, _ in meta.files()]

    @lru_cache(maxsize=1)
    def chunk(number: int) -> npt.NDArray[Any]:
        return _decoded(fetch(names[number]), meta, f"{name}/{names[number]}")

    def rows(start: int, stop: int) -> npt.NDArray[Any]:
        number, skipped = divmod(start, meta.chunk_rows)
        return chunk(number)[skipped : skipped + stop - start]

    return rows


def _decoded(frame: bytes, meta: Metadata, name: str) -> npt.NDArray[Any]:
    """A chunk's rows: nothing is allocated but what the array's metadata tells of."""
    from numcodecs import blosc

    if len(frame) < _FRAME + _CRC:
        raise Corrupt(f"{name}: a chunk is missing", "")
    check_crc(frame, name)
    body = frame[:-_CRC]
    claimed = (int.from_bytes(body[4:8], "little"), int.from_bytes(body[12:16], "little"))
    if claimed != (meta.n_bytes, len(body)):
        raise Corrupt(f"{name}: a chunk of {claimed[0]:,} bytes where {meta.n_bytes:,} belong", "")
    try:
        content = blosc.decompress(body)
    except (RuntimeError, ValueError):
        raise Corrupt(f"{name}: a chunk that cannot be decompressed", "") from None
    if len(content) != meta.n_bytes:
        raise Corrupt(f"{name}: a chunk of another size", "")
    return np.frombuffer(content, meta.dtype).reshape(meta.chunk_shape)


def _compressing(raw: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The plain metadata with blosc before each crc32c; everything else as it is."""
    dtype = raw.get("data_type")
    size = DTYPES[dtype].itemsize if isinstance(dtype, str) and dtype in DTYPES else 1
    about = raw.get("attributes")
    about = about if isinstance(about, dict) else {}
    return {
        **raw,
        "codecs": _with_blosc(raw.get("codecs"), size),
        "attributes": {**about, ATTRIBUTE: text},
    }


def _with_blosc(codecs: Any, size: int) -> Any:
    if not isinstance(codecs, list) or not all(isinstance(codec, dict) for codec in codecs):
        return codecs
    return [
        part
        for codec in codecs
        for part in ([_blosc(size), codec] if codec.get("name") == "crc32c" else [codec])
    ]


def _blosc(size: int) -> dict[str, Any]:
    """Zstandard over the bits of like weight, which differ less than the bytes they make up."""
    settings = {"cname": "zstd", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
    return {"name": "blosc", "configuration": {"typesize": size, **settings}}
