"""A store as one HDF5 file, from which ``featstore import`` makes the same store again.

::

    /corpus/label, /audio/values, /folds/03/linguistic/logits ...   the arrays, as in the store
    /<unit>/unit.json                      the unit's record: settings, facts, provenance, sums
    /corpus/utterances/<column>            the tables, to look at; the import passes them over
    /_files/<unit>/<file>                  the unit's other files, to the byte

Dimensions carry their names as labels. Every array is encoded once more on its way out and compared
with the record's SHA-256, so that what was exported can be made again, to the byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.console import progress
from featstore.core.files import read_small
from featstore.core.schema import UTTERANCE_ID, Corrupt, TaskFailed
from featstore.core.settings import canonical, digest
from featstore.store.array_files import TABLES, Rows, encoded, parts, stored
from featstore.store.arrays import Metadata, read_metadata
from featstore.store.hdf5_sink import Sink
from featstore.store.store import Store
from featstore.store.tables import SOURCES, UTTERANCES, read_table
from featstore.store.unit import RECORD, REPAIR, SCHEMA, Unit, parse_record

FORMAT = "emodistill-store-hdf5"
FILES = "_files"
COLUMNS = {"utterances": UTTERANCES, "sources": SOURCES}

_PIECE = 1024**2


def write_hdf5(store: Store, path: Path, left_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Write every unit of a store; a MiB of it is in memory at a time.

    Args:
        store: the store.
        path: the file, which is there and empty.
        left_out: ``audio``, ``text``: licensed data that is to stay here. Such a file is one to
            look at and compute with; it makes no store again.

    Returns:
        What the file holds: units, content hash, what was left out.

    Raises:
        Corrupt: a file is not what its record lists.
        Refused: a unit holds what none should, or arrays in a layout that is not ours.
        TaskFailed: the disk is full or failing.
    """
    import h5py

    units = [_opened(store, name) for name in store.units()]
    content = digest({unit.unit: unit.files for unit in units})
    about = {
        "format": FORMAT, "schema": str(SCHEMA), "content": content,
        "classes": canonical(list(store.classes)).decode() if _has(units, "corpus") else "",
        "left_out": " ".join(sorted(left_out)),
    }  # fmt: skip
    with path.open("r+b", buffering=0) as raw:
        sink = Sink(raw)
        try:
            with h5py.File(sink, "w") as file:
                _write_units(file, units, {key: told for key, told in about.items() if told}, sink)
        finally:
            sink.check()  # what failed first, rather than what HDF5 made of it
    names = [unit.unit for unit in units]
    return {"units": names, "content": content, "left_out": sorted(left_out)}


def _write_units(file: Any, units: list[Unit], about: Mapping[str, str], sink: Sink) -> None:
    for key, value in about.items():
        file.attrs[key] = np.bytes_(value.encode())
    out = _Out(file, frozenset(about.get("left_out", "").split()), sink)
    with progress("export", sum(map(mebibytes, units)), unit="MiB") as advance:
        for unit in units:
            _write_unit(out, unit)
            advance(mebibytes(unit), unit.unit)


@dataclass(frozen=True)
class _Out:
    """Where units go, and what of them does not."""

    file: Any
    left_out: frozenset[str]
    sink: Sink


def mebibytes(unit: Unit) -> int:
    """About how large a unit is, for the progress."""
    return unit.n_bytes // 1024**2 + 1


def _has(units: list[Unit], name: str) -> bool:
    return any(unit.unit == name for unit in units)


def _opened(store: Store, name: str) -> Unit:
    unit = store.unit(name)
    store.check_parents(unit)
    return unit


def _write_unit(out: _Out, unit: Unit) -> None:
    """One unit: its record, arrays, other files, and its table to look at."""
    content = read_small(unit.path / RECORD)
    if parse_record(content, unit.path, unit.unit) != unit:
        raise TaskFailed(f"{unit.unit}: replaced by a build meanwhile", "export once more")
    group = out.file.create_group(unit.unit)
    group.create_dataset(RECORD, data=np.bytes_(content))
    arrays, others = parts(unit, lambda array: read_metadata(unit.path / array))
    for array, meta in arrays.items():
        if not (array == "values" and unit.unit in out.left_out):
            _write_array(out, unit, array, meta)
    for name in others:
        if not (name == "utterances.parquet" and "text" in out.left_out):
            _write_bytes(out, unit, name)
    table = TABLES.get(unit.unit)
    if table and f"{table}.parquet" in others:
        _write_table(group, unit, table, out.left_out)
    out.sink.check()


def _write_array(out: _Out, unit: Unit, array: str, meta: Metadata) -> None:
    """Values as a data set with named dimensions; encoded again, they must give the record's sums.

    Raises:
        Corrupt: the file is damaged.
    """
    data = out.file.create_dataset(f"{unit.unit}/{array}", shape=meta.shape, dtype=meta.dtype)
    for axis, name in enumerate(meta.dims[: len(meta.shape)]):
        if isinstance(name, str) and UTTERANCE_ID.match(name):
            data.dims[axis].label = name
    rows = _copied(stored(unit.path / array, meta), data, out.sink)
    for name, pieces in encoded(meta, rows):
        found = hashlib.sha256()
        for piece in pieces:
            found.update(piece)
        if found.hexdigest() != unit.files[f"{array}/{name}"][1]:
            raise Corrupt(f"{unit.unit}/{array}/{name}: content differs", REPAIR)


def _copied(rows: Rows, data: Any, sink: Sink) -> Rows:
    """The same rows, each put into the data set on its way."""

    def copied(start: int, stop: int) -> npt.NDArray[Any]:
        values = rows(start, stop)
        data[start:stop] = values
        sink.check()
        return values

    return copied


def _write_bytes(out: _Out, unit: Unit, name: str) -> None:
    """A file as bytes, compared with the record."""
    size, wanted = unit.files[name]
    data = out.file.create_dataset(f"{FILES}/{unit.unit}/{name}", shape=(size,), dtype=np.uint8)
    found, at = hashlib.sha256(), 0
    with (unit.path / name).open("rb") as source:
        while piece := source.read(min(_PIECE, size - at)):
            data[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            found.update(piece)
            at += len(piece)
            out.sink.check()
    if found.hexdigest() != wanted:
        raise Corrupt(f"{unit.unit}/{name}: content differs", REPAIR)


def _write_table(group: Any, unit: Unit, name: str, left_out: frozenset[str]) -> None:
    """A table's columns for HDF5 viewers; the Parquet file beside them is what is imported."""
    import h5py

    table = read_table(unit, f"{name}.parquet", COLUMNS[name])
    view = group.create_group(name)
    for column, kind in COLUMNS[name].items():
        if column == "text" and "text" in left_out:
            continue
        if kind == "str":
            told = [text.replace("\0", "\N{REPLACEMENT CHARACTER}") for text in table[column]]
            data = view.create_dataset(column, (len(told),), dtype=h5py.string_dtype())
            data[:] = np.array(told, dtype=object)
        else:
            data = view.create_dataset(column, data=table[column].to_numpy())
        data.dims[0].label = "utterance"
