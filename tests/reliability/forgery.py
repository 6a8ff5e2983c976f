"""Stores, weights and tables that a stranger made: all sums fit, and what they say is absurd."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from featstore.core.settings import digest
from featstore.store.arrays import read_array, read_metadata, write_array
from featstore.store.unit import RECORD

HASHED_UP_TO = 16 * 1024**2
"""Of larger files a forged record tells any sum: nobody shall read as far."""


def forged(record: bytes, edit: Callable[[dict[str, Any]], Any]) -> bytes:
    """A ``unit.json`` after ``edit``, with fingerprint and sum made to fit."""
    raw = json.loads(record)
    edit(raw)
    raw["fingerprint"] = digest(
        {key: raw[key] for key in ("schema", "unit", "settings", "parents")}
    )
    raw.pop("sha256", None)
    raw["sha256"] = digest(raw)
    return json.dumps(raw).encode()


def reseal(unit: Path, edit: Callable[[dict[str, Any]], Any] = lambda raw: None) -> None:
    """A record that lists what is there, with every sum and the fingerprint made to fit.

    Args:
        unit: the unit's folder.
        edit: changes the record before its sums are made.
    """

    def list_and_edit(raw: dict[str, Any]) -> None:
        files = (path for path in sorted(unit.rglob("*")) if path.is_file() and path.name != RECORD)
        raw["files"] = {
            path.relative_to(unit).as_posix(): [path.stat().st_size, sha256_of(path)]
            for path in files
        }
        edit(raw)

    (unit / RECORD).write_bytes(forged((unit / RECORD).read_bytes(), list_and_edit))


def rewritten(unit: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Another array in place of one, with a record that lists it."""
    dims = read_metadata(unit / name).dims
    values = np.ascontiguousarray(change(read_array(unit / name).copy()))
    shutil.rmtree(unit / name)
    write_array(unit, name, values, dims)
    reseal(unit)


def sha256_of(path: Path) -> str:
    if path.stat().st_size > HASHED_UP_TO:
        return "0" * 64
    return hashlib.sha256(path.read_bytes()).hexdigest()


def edited(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file."""
    raw = json.loads(path.read_bytes())
    edit(raw)
    path.write_text(json.dumps(raw))


def sparse(path: Path, n_bytes: int, end: bytes = b"") -> None:
    """A file that claims a size and takes no room; ``end`` stands in its last bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(n_bytes)
        file.seek(n_bytes - len(end))
        file.write(end)


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self._marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self._marker,)


def pickles(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Files that make ``marker`` when they are unpickled, in all of torch's and Python's forms."""
    load = {"weight": Payload(marker)}
    for name, zipped in (("torch archive", True), ("torch before 1.6", False)):
        buffer = io.BytesIO()
        torch.save(load, buffer, _use_new_zipfile_serialization=zipped)
        yield name, buffer.getvalue()
    for protocol in (0, 2, 4, 5):
        yield f"pickle {protocol}", pickle.dumps(load, protocol)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(load, 2)
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    yield "tar", buffer.getvalue()


def safetensors(
    header: bytes | dict[str, Any], body: bytes = b"", length: int | None = None
) -> bytes:
    """A safetensors file with any header, and any length for it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def entry(dtype: Any = "F32", shape: Any = (2,), start: Any = 0, stop: Any = 8) -> dict[str, Any]:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


ABSURD: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "seven bytes": lambda: b"\1\0\0\0\0\0\0",
    "length of 2^63": lambda: safetensors({}, length=2**63),
    "length of 2^64 - 1": lambda: safetensors({}, length=2**64 - 1),
    "length beyond the file": lambda: safetensors({"x": entry()}, length=1000),
    "header of 100 MB": lambda: safetensors(b"{" + b" " * 100_000_000 + b"}"),
    "header of 4 MB of entries": lambda: safetensors(
        b"{" + b",".join(b'"%d":{}' % n for n in range(300_000)) + b"}"
    ),
    "no JSON": lambda: safetensors(b"\x80\x04hello"),
    "a list": lambda: safetensors(b"[]"),
    "nested 100,000 deep": lambda: safetensors(b'{"x":' * 100_000 + b"1" + b"}" * 100_000),
    "key twice": lambda: safetensors(
        b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)
    ),
    "NaN": lambda: safetensors(b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'),
    "overlap": lambda: safetensors(
        {"x": entry(), "y": entry(start=4, stop=12)}, bytes(12)
    ),
    "the same bytes 20,000 times": lambda: safetensors(
        {f"x{n}": entry(shape=[250], stop=1000) for n in range(20_000)}, bytes(1000)
    ),
    "gap": lambda: safetensors({"x": entry(), "y": entry(start=12, stop=20)}, bytes(20)),
    "beyond the end": lambda: safetensors({"x": entry(start=8, stop=16)}, bytes(8)),
    "backwards": lambda: safetensors({"x": entry(start=8, stop=0)}, bytes(8)),
    "negative": lambda: safetensors({"x": entry(start=-8, stop=0)}, bytes(8)),
    "shape of 2^50": lambda: safetensors({"x": entry(shape=[2**50], stop=2**52)}, bytes(8)),
    "shape that overflows": lambda: safetensors({"x": entry(shape=[2**40, 2**40])}, bytes(8)),
    "negative shape": lambda: safetensors({"x": entry(shape=[-1, -2])}, bytes(8)),
    "a million dimensions": lambda: safetensors({"x": entry(shape=[1] * 1_000_000)}, bytes(8)),
    "fractional shape": lambda: safetensors({"x": entry(shape=[2.0])}, bytes(8)),
    "shape is true": lambda: safetensors({"x": entry(dtype="U8", shape=[True], stop=1)}, b"\1"),
    "unknown dtype": lambda: safetensors({"x": entry(dtype="object")}, bytes(8)),
    "dtype is a list": lambda: safetensors({"x": entry(dtype=["F32"])}, bytes(8)),
    "entry is a list": lambda: safetensors({"x": [1, 2]}, bytes(8)),
    "other keys": lambda: safetensors({"x": {**entry(), "code": "import os"}}, bytes(8)),
    "bytes after the end": lambda: safetensors({"x": entry()}, bytes(80)),
    "metadata is no text": lambda: safetensors({"__metadata__": [1], "x": entry()}, bytes(8)),
}  # fmt: skip
"""Files that begin as safetensors do, and go wrong."""


def keys(n: int) -> bytes:
    """A document of so many keys."""
    return b"{" + b",".join(b'"%07d":1' % key for key in range(n)) + b"}"


DOCUMENTS: dict[str, Callable[[bytes], bytes]] = {
    "a key twice": lambda whole: whole.replace(b"{", b'{"format": 1, "format": 1,', 1),
    "100,000 deep": lambda _: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of 5,000 digits": lambda _: b'{"schema":' + b"1" * 5000 + b"}",
    "NaN": lambda _: b'{"schema": NaN}',
    "1e999": lambda _: b'{"schema": 1e999}',
    "half a surrogate": lambda _: b'{"schema": "\\ud800"}',
    "not UTF-8": lambda _: b'{"schema": "\xff\xfe"}',
    "a list": lambda _: b"[1, 2]",
    "nothing": lambda _: b"",
    "zeros": lambda _: bytes(1000),
}
"""What stands in place of a JSON document, made of the one that stood there."""

DENSE: dict[str, Callable[[bytes], bytes]] = {
    "64 MB": lambda _: b'{"a": "' + b"x" * 64_000_000 + b'"}',
    "16 MB of lists": lambda _: b'{"a":[' + b"[]," * 5_500_000 + b"[]]}",
    "16 MB of keys": lambda _: keys(1_300_000),
    "1 MB of lists": lambda _: b'{"a":[' + b"[]," * 330_000 + b"[]]}",
    "1 MB of keys": lambda _: keys(90_000),
}
"""The same, thirty times as large in memory as in the file."""


HUBERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
          "intermediate_size": 16, "num_conv_pos_embeddings": 4,
          "num_conv_pos_embedding_groups": 2, "conv_dim": [8], "conv_kernel": [10],
          "conv_stride": [5]}  # fmt: skip
GIANT = {"hidden_size": 65_536, "num_hidden_layers": 256, "num_attention_heads": 16,
         "intermediate_size": 65_536}  # fmt: skip
"""The sizes of a HuBERT of a few weights, and of one of 10^12."""


def giant_safetensors(path: Path) -> None:
    """A sound header over 1 TiB of numbers that take no room."""
    n = 2**40
    start = safetensors({"x": entry(shape=[n // 4], stop=n)})
    sparse(path, len(start) + n)
    with path.open("r+b") as file:
        file.write(start)


def contents(marker: Path) -> dict[str, Callable[[Path], object]]:
    """Every pickle, every absurd header, and one that is a terabyte."""
    made: dict[str, Callable[[Path], object]] = {
        name: lambda path, content=content: path.write_bytes(content)
        for name, content in pickles(marker)
    }
    made |= {
        name: lambda path, make=make: path.write_bytes(make()) for name, make in ABSURD.items()
    }
    return {**made, "1 TiB": giant_safetensors}


def table_of(path: Path, **columns: Any) -> None:
    """A unit's table with some of its columns replaced; None leaves one out."""
    table = parquet.read_table(path).to_pydict() | columns
    kept = {name: values for name, values in table.items() if values is not None}
    parquet.write_table(pa.table(kept), path)


def many_rows(path: Path, n_rows: int, columns: list[str]) -> None:
    """A table of so many equal rows, run-length encoded, in a file of some kilobytes."""
    group = min(n_rows, 1_000_000)
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(group, dtype=np.int8)), ["a"])
    floats = pa.array(np.zeros(group))
    table = pa.table({name: floats if name.endswith("_s") else texts for name in columns})
    with parquet.ParquetWriter(path, table.schema, store_schema=False) as writer:
        for _ in range(n_rows // group):
            writer.write_table(table)


def billion_rows(path: Path) -> None:
    """10^9 rows of one column, all null."""
    table = pa.table({"utterance_id": pa.nulls(10_000_000)})
    with parquet.ParquetWriter(path, table.schema) as writer:
        for _ in range(100):
            writer.write_table(table)


def long_texts(path: Path, *, dictionary: bool, compression: str, n_bytes: int = 2**31) -> None:
    """The table of a unit whose texts take ``n_bytes`` once they are decoded."""
    table = parquet.read_table(path)
    n, at = len(table), 0 if "text" not in table.column_names else table.column_names.index("text")
    texts = pa.array(["a" * (n_bytes // n)])
    kind = pa.dictionary(pa.int8(), pa.string()) if dictionary else pa.string()
    field = pa.field(table.column_names[at], kind)
    schema = table.schema.remove_metadata().set(at, field)
    with parquet.ParquetWriter(
        path, schema, compression=compression, use_dictionary=dictionary, store_schema=False,
        dictionary_pagesize_limit=2**31 - 1, write_statistics=False,
    ) as writer:  # fmt: skip
        if dictionary:
            zeros = pa.array(np.zeros(n, dtype=np.int8))
            column = pa.DictionaryArray.from_arrays(zeros, texts)
            writer.write_table(table.set_column(at, field, column))
        for row in () if dictionary else range(n):
            writer.write_table(table.slice(row, 1).set_column(at, field, texts))


def pickled_extension(marker: Path) -> pa.Field:
    """A column of the extension type that old pyarrow unpickled while it read the schema."""
    about = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Payload(marker)),
    }
    return pa.field("text", pa.string(), metadata=about)
