"""An array's values -> its chunks' files, to the byte, for export and import.

An export keeps array values; the unit's record keeps SHA-256 of the files. Files that are encoded
here from the values have the record's SHA-256, or the values are not those that were written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.schema import Corrupt, Refused, printable
from featstore.store.arrays import MAX_OTHER_BYTES, Metadata, crc32c
from featstore.store.unit import REPAIR, Unit

Rows = Callable[[int, int], npt.NDArray[Any]]
"""``rows(start, stop)``: these rows of an array, in its dtype."""

META = "zarr.json"
_PIECE = 1024**2

_ARRAYS: Mapping[str, tuple[str, ...]] = {
    "corpus": ("label", "speaker", "session"),
    "audio": ("values", "offsets"),
    "lld": ("values", "offsets", "signal_sha256"),
    "splits": ("role",),
    "folds": ("logits", "embeddings"),
}
TABLES: Mapping[str, str] = {"corpus": "utterances", "audio": "sources"}
"""Unit -> its Parquet table, without the ending."""


def stored(folder: Path, meta: Metadata) -> Rows:
    """The rows of an array as they lie in its files, compared with nothing.

    A call gives rows of one chunk.
    """
    files = [folder / name for name, _ in meta.files()]
    row_bytes = meta.n_bytes // meta.chunk_rows

    def rows(start: int, stop: int) -> npt.NDArray[Any]:
        chunk, skipped = divmod(start, meta.chunk_rows)
        n_bytes = (stop - start) * row_bytes
        with files[chunk].open("rb", buffering=0) as file:
            file.seek(skipped * row_bytes)
            content = file.read(n_bytes)
        if len(content) < n_bytes:
            raise Corrupt(f"{files[chunk]}: ends early", REPAIR)
        return np.frombuffer(content, meta.dtype).reshape(stop - start, *meta.shape[1:])

    return rows


def encoded(meta: Metadata, rows: Rows) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The files of an array, by name below it, piece by piece and in order.

    Args:
        meta: shape, dtype and chunks, checked.
        rows: gives the values; asked for each row once, for about a MiB at a time.
    """
    for number, (name, _) in enumerate(meta.files()):
        yield name, _chunk(meta, rows, number * meta.chunk_rows)


def _chunk(meta: Metadata, rows: Rows, first: int) -> Iterator[bytes]:
    """The rows of a chunk, zeros beyond the last one, and their checksum."""
    n_rows, row_bytes = meta.chunk_rows, meta.n_bytes // meta.chunk_rows
    step = max(1, _PIECE // row_bytes)
    crc = 0
    for start in range(first, first + n_rows, step):
        stop = min(start + step, first + n_rows)
        there = min(stop, meta.shape[0])
        content = rows(start, there).tobytes() if start < there else b""
        content += bytes((stop - start) * row_bytes - len(content))
        crc = crc32c(content, crc)
        yield content
    yield crc.to_bytes(4, "little")


def parts(unit: Unit, metadata: Callable[[str], Metadata]) -> tuple[dict[str, Metadata], list[str]]:
    """What a unit consists of: only what a unit of its kind may hold, under no other name.

    Args:
        unit: its record.
        metadata: reads an array's metadata by the array's name.

    Returns:
        The arrays by name; and the other files, metadata included.

    Raises:
        Corrupt: an array's files are not those that its metadata tells of.
        Refused: the unit lists anything else.
    """
    kind = unit.unit.partition("/")[0]
    arrays: dict[str, Metadata] = {}
    others: list[str] = []
    files: dict[str, int] = {}
    for array in _ARRAYS[kind]:
        if f"{array}/{META}" in unit.files:
            arrays[array] = metadata(array)
            files |= {f"{array}/{name}": size for name, size in arrays[array].files()}
            others.append(f"{array}/{META}")
    if unlike := [
        name for name, size in files.items() if unit.files.get(name, (-1, ""))[0] != size
    ]:
        raise Corrupt(f"{unit.path}/{printable(unlike[0])}: missing or of another size", REPAIR)
    table = {f"{TABLES[kind]}.parquet"} if kind in TABLES else set()
    for name in sorted(unit.files.keys() - files.keys() - set(others)):
        if name not in {META, *table} or not 0 <= unit.files[name][0] <= MAX_OTHER_BYTES:
            raise Refused(
                f"{unit.path}: lists {printable(name)[:80]!r}, which no {kind} unit holds",
                "ask whoever made it for another copy",
            )
        others.append(name)
    return arrays, others
