"""A store as one HDF5 file, from which ``featstore import`` makes the same store again.

::

    /corpus/label, /audio/values, /folds/03/linguistic/logits ...   the arrays, as in the store
    /<unit>/unit.json                      the unit's record: settings, facts, provenance, sums
    /corpus/utterances/<column>            the tables, to look at; the import passes them over
    /_files/<unit>/<file>                  the unit's other files, to the byte

Dimensions carry their names as labels. The file keeps array values, the record SHA-256 of files:
out and in, each chunk is encoded from its values, and must have the sum that the record lists.

A file from somebody else: HDF5 follows links into other files, reads data sets from other files,
loads filters as plugins and inflates gigabytes from nothing. Hence one walk over all names first;
then plain data sets of a known type, shape and size alone. The file's own records tell which: all
of them must be there and nothing else, before the first array is read or a store begun.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.console import progress
from featstore.core.files import MAX_JSON_BYTES, read_small, strict_json, write_pieces
from featstore.core.os_errors import require_space
from featstore.core.schema import (
    UTTERANCE_ID,
    Corrupt,
    Refused,
    TaskFailed,
    UserError,
    listed,
    printable,
)
from featstore.core.settings import canonical, digest
from featstore.store.arrays import (
    MAX_OTHER_BYTES,
    REBUILD,
    Metadata,
    crc32c,
    group_json,
    parse_metadata,
    read_metadata,
    write_group,
)
from featstore.store.hdf5_sink import Sink
from featstore.store.records import check_record
from featstore.store.staging import staged
from featstore.store.store import SHARED_UNITS, TEACHER_UNIT, Store
from featstore.store.tables import SOURCES, UTTERANCES, read_table
from featstore.store.unit import RECORD, REPAIR, SCHEMA, Identity, Unit, other_version, parse_record
from featstore.store.verify import verify

FORMAT = "emodistill-store-hdf5"
FILES = "_files"
META = "zarr.json"

MAX_OBJECTS = 100_000
"""Groups and data sets in one file; two teachers of ten folds make 300."""
MAX_DEPTH = 8
MAX_ATTRIBUTE_BYTES = 256
MAX_RECORDS_BYTES = 16 * 1024**2
"""Of all records together; two teachers of ten folds have 0.1 MB. Read, one takes thirty times its
size."""
MAX_META_BYTES = 64 * 1024
"""Of an array's metadata; ours have one."""

_ANEW = "ask whoever made it to run `featstore export` again"
_HOLDS: Mapping[str, tuple[str, ...]] = {
    "corpus": ("label", "speaker", "session", "utterances.parquet"),
    "audio": ("values", "offsets", "sources.parquet"),
    "lld": ("values", "offsets", "signal_sha256"),
    "splits": ("role",),
    "folds": ("logits", "embeddings"),
}
"""Kind of unit -> its arrays, and its table."""
_COLUMNS = {"utterances.parquet": UTTERANCES, "sources.parquet": SOURCES}


def _layout(
    unit: Unit, metadata: Callable[[str], Metadata]
) -> tuple[dict[str, Metadata], list[str]]:
    """What a unit consists of, which is only what a unit of its kind may hold.

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
    arrays = {name: metadata(name) for name in _HOLDS[kind] if f"{name}/{META}" in unit.files}
    tables = [name for name in _HOLDS[kind] if name.endswith(".parquet")]
    plain = {META, *tables, *(f"{name}/{META}" for name in arrays)}
    sizes = {name: size for name, (size, _) in unit.files.items()}
    others = [name for name in sorted(plain & sizes.keys()) if 0 <= sizes[name] <= MAX_OTHER_BYTES]
    chunks = {
        f"{array}/{name}": size for array, meta in arrays.items() for name, size in meta.files()
    }
    for name in sorted(chunks.keys() | sizes.keys() - others):
        if name not in chunks:
            raise Refused(
                f"{unit.path}: lists {_shown(name)}, which no {kind} unit holds",
                "ask whoever made it for another copy",
            )
        if sizes.get(name) != chunks[name]:
            raise Corrupt(f"{unit.path}/{name}: missing or of another size", REPAIR)
    return arrays, others


def _chunk(meta: Metadata, rows: npt.NDArray[Any]) -> bytes:
    """A chunk's file as zarr-python writes it: the rows, zeros up to its size, and their crc32c."""
    content = rows.tobytes().ljust(meta.n_bytes, b"\0")
    return content + crc32c(content).to_bytes(4, "little")


def _check_sum(unit: Unit, name: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != unit.files[name][1]:
        raise Corrupt(f"{unit.unit}/{name}: content differs", REPAIR)


def _mebibytes(unit: Unit) -> int:
    """About how large a unit is, for the progress."""
    return unit.n_bytes // 1024**2 + 1


def _shown(name: str) -> str:
    """A name from somebody else, for a message."""
    return repr(printable(name)[:120])


# ------------------------------------------------------------------------------------------- out


def write_hdf5(store: Store, path: Path, left_out: Collection[str] = ()) -> dict[str, Any]:
    """Write every unit of a store; one chunk of it is in memory at a time.

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

    units = [store.unit(name) for name in store.units()]
    for unit in units:
        store.check_parents(unit)
    names = [unit.unit for unit in units]
    about = {
        "format": FORMAT,
        "schema": str(SCHEMA),
        "content": digest({unit.unit: unit.files for unit in units}),
        "classes": canonical(list(store.classes)).decode() if "corpus" in names else "",
        "left_out": " ".join(left_out),
    }
    with path.open("r+b", buffering=0) as raw:
        sink = Sink(raw)
        try:
            with (
                h5py.File(sink, "w") as file,
                progress("export", sum(map(_mebibytes, units)), unit="MiB") as advance,
            ):
                for key in filter(about.get, about):
                    file.attrs[key] = np.bytes_(about[key].encode())
                for unit in units:
                    _write_unit(file, unit, left_out, sink)
                    advance(_mebibytes(unit), unit.unit)
        finally:
            sink.check()  # what failed first, rather than what HDF5 made of it
    return {"units": names, "content": about["content"], "left_out": list(left_out)}


def _write_unit(file: Any, unit: Unit, left_out: Collection[str], sink: Sink) -> None:
    """One unit: its record, arrays, other files, and its table to look at."""
    record = read_small(unit.path / RECORD)
    if parse_record(record, unit.path, unit.unit) != unit:
        raise TaskFailed(f"{unit.unit}: replaced by a build meanwhile", "export once more")
    group = file.create_group(unit.unit)
    group.create_dataset(RECORD, data=np.bytes_(record))
    arrays, others = _layout(unit, lambda array: read_metadata(unit.path / array))
    for array, meta in arrays.items():
        if not (array == "values" and unit.unit in left_out):
            _write_array(group, unit, array, meta, sink)
    for name in others:
        if name in _COLUMNS:
            _write_table(group, unit, name, left_out)
        if not (name == "utterances.parquet" and "text" in left_out):
            content = (unit.path / name).read_bytes()
            _check_sum(unit, name, content)
            data = np.frombuffer(content, np.uint8)
            file.create_dataset(f"{FILES}/{unit.unit}/{name}", data=data)
        sink.check()


def _write_array(group: Any, unit: Unit, array: str, meta: Metadata, sink: Sink) -> None:
    """Values as a data set with named dimensions; encoded again, they must give the record's sums.

    Raises:
        Corrupt: a file is damaged.
    """
    data = group.create_dataset(array, shape=meta.shape, dtype=meta.dtype)
    for axis, dim in enumerate(meta.dims):
        if UTTERANCE_ID.match(dim):
            data.dims[axis].label = dim
    for number, (name, _) in enumerate(meta.files()):
        first = number * meta.chunk_rows
        content = (unit.path / array / name).read_bytes()
        rows = np.frombuffer(content, meta.dtype, math.prod(meta.chunk_shape))
        rows = rows.reshape(meta.chunk_shape)[: meta.shape[0] - first]
        _check_sum(unit, f"{array}/{name}", _chunk(meta, rows))
        data[first : first + len(rows)] = rows
        sink.check()


def _write_table(group: Any, unit: Unit, name: str, left_out: Collection[str]) -> None:
    """A table's columns for HDF5 viewers; the Parquet file beside them is what is imported."""
    for column, values in read_table(unit, name, _COLUMNS[name]).items():
        if column in left_out:
            continue
        cells = values.tolist()
        if _COLUMNS[name][str(column)] == "str":  # a text in HDF5 ends at its first zero
            cells = [text.replace("\0", "\N{REPLACEMENT CHARACTER}") for text in cells]
        data = group.create_dataset(f"{name.removesuffix('.parquet')}/{column}", data=cells)
        data.dims[0].label = "utterance"


# -------------------------------------------------------------------------------------------- in


def import_hdf5(path: Path, place: Path) -> dict[str, Any]:
    """Make the store that a file was exported from.

    Every unit is committed whole; the same command resumes an import that was killed.

    Args:
        path: what ``featstore export`` wrote.
        place: the store's folder: new, or of an import of the same file.

    Returns:
        The units restored and those that stood there, and the content hash.

    Raises:
        UserError: there is no such file, or another store stands at ``place``.
        Corrupt: the file is damaged; units before the damage are kept.
        Refused: the file is not what an export writes, or was exported without its data.
        TaskFailed: the disk is full or failing.
    """
    import h5py

    if not path.exists():
        hint = "write one with `featstore export STORE --to FILE.h5`"
        raise UserError(f"{path}: no such file", hint)
    if not path.is_file():
        raise Refused(f"{path}: not a regular file", "give the exported .h5 file itself")
    with path.open("rb"):  # h5py's own error of what may not be read names no file
        pass
    if not h5py.is_hdf5(path):
        raise Corrupt(f"{path}: no HDF5 file", _ANEW)
    with _reading(path):
        file = h5py.File(path, "r", locking=False)
    with file:
        with _reading(path):
            units = _checked(file)
        there = _standing(place, path, units)
        missing = [unit for unit in units if unit.unit not in there]
        require_space(place, sum(unit.n_bytes for unit in missing))
        store = Store.create(place)
        with progress("import", sum(map(_mebibytes, missing)), unit="MiB") as advance:
            for unit in missing:
                _restore(store, file, unit)
                advance(_mebibytes(unit), unit.unit)
    report = verify(store)
    for fault in report.faults:  # sound sums over nonsense: a stranger's file
        raise type(fault)(f"{place}: {fault.message}", "remove the store; " + _ANEW)
    return {
        "store": str(place),
        "restored": [unit.unit for unit in missing],
        "there_before": there,
        "bytes": sum(unit.n_bytes for unit in units),
        "content": report.content,
    }


def _standing(place: Path, path: Path, units: Iterable[Unit]) -> list[str]:
    """The units that stand there already, all of them the file's own.

    Raises:
        UserError: another store stands there.
    """
    if not (place / META).exists():
        return []
    store = Store.open(place)
    files = {unit.unit: unit.files for unit in units}
    for name in store.units():
        if store.unit(name).files != files.get(name):
            raise UserError(
                f"{place}: holds {name}, which is not the one of {path}",
                "import into another --store; `featstore diff` tells how two stores differ",
            )
    return sorted(store.units())


def _restore(store: Store, file: Any, unit: Unit) -> None:
    """One unit, every file compared with its record before the unit is committed.

    Raises:
        Corrupt: a file is not the one that its record lists.
    """
    for above in reversed(Path(unit.unit).parents[:-1]):
        write_group(store.path / above)
    identity = Identity(unit.unit, unit.settings, unit.parents)
    with staged(store.path / unit.unit, identity, n_bytes=unit.n_bytes) as staging:
        for name, content in _files(file, unit):
            if write_pieces(staging.folder / name, [content]) != unit.files[name]:
                raise Corrupt(f"{file.filename}: {unit.unit}/{name}: content differs", _ANEW)
        staging.facts.update(unit.facts)
        staging.provenance.update(unit.provenance)


def _files(file: Any, unit: Unit) -> Iterator[tuple[str, bytes]]:
    """Each of a unit's files by its name, and its content."""
    with _reading(file.filename):
        arrays, others = _layout(unit, partial(_metadata, file, unit))
        for name in others:
            yield name, _content(file[f"{FILES}/{unit.unit}/{name}"])
        for array, meta in arrays.items():
            data = file[f"{unit.unit}/{array}"]
            for number, (name, _) in enumerate(meta.files()):
                first = number * meta.chunk_rows
                yield f"{array}/{name}", _chunk(meta, data[first : first + meta.chunk_rows])


# ------------------------------------------------------------------ a file from somebody else


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    """What is wrong with a file, as one line with its name and a remedy."""
    try:
        yield
    except UserError as error:
        hint = _ANEW if error.hint in ("", REPAIR, REBUILD) else error.hint
        raise type(error)(f"{path}: {error.message}", hint) from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        why = printable(str(error))[:200]
        raise Corrupt(f"{path}: not a sound HDF5 file ({why})", _ANEW) from error


def _checked(file: Any) -> list[Unit]:
    """The units of a file, parents first, once all that it holds is what an export holds.

    Raises:
        Corrupt, Refused: naming what is not.
    """
    _check_root(file)
    sets = _data_sets(file)
    units = _records(sets)
    needed: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    others: set[str] = set()
    for unit in units:
        arrays, files = _layout(unit, partial(_metadata, file, unit))
        needed |= {f"{unit.unit}/{name}": (meta.dtype, meta.shape) for name, meta in arrays.items()}
        for name in files:
            needed[f"{FILES}/{unit.unit}/{name}"] = np.dtype(np.uint8), (unit.files[name][0],)
            table = f"{unit.unit}/{name.removesuffix('.parquet')}"
            others |= {f"{table}/{column}" for column in _COLUMNS.get(name, ())}
        others.add(f"{unit.unit}/{RECORD}")
    if lacking := sorted(needed.keys() - sets):
        raise Corrupt(f"lacks\n{listed(map(_shown, lacking), 5)}")
    if strange := sorted(sets.keys() - needed.keys() - others):
        raise Refused(f"holds what no export does\n{listed(map(_shown, strange), 5)}")
    for name, (dtype, shape) in needed.items():
        if (sets[name].dtype, sets[name].shape) != (dtype, shape):
            here = f"of type {sets[name].dtype} and shape {sets[name].shape}"
            raise Refused(f"{_shown(name)} is {here}, not {dtype} and {shape}")
    for unit in units:
        group = sets.get(f"{FILES}/{unit.unit}/{META}")
        if group and _content(group) != group_json():
            raise Refused(f"{unit.unit}/{META} is not a group's of ours")
    if _attribute(file, "content") != digest({unit.unit: unit.files for unit in units}):
        raise Corrupt("its records are not those that were exported")
    return units


def _check_root(file: Any) -> None:
    """Ours, of our version, and whole."""
    if _attribute(file, "format") != FORMAT:
        hint = "`featstore export STORE --to FILE.h5` writes one"
        raise Refused("an HDF5 file, but no exported store", hint)
    if (schema := _attribute(file, "schema")) != str(SCHEMA):
        raise other_version(FORMAT, schema)
    if left_out := _attribute(file, "left_out"):
        raise Refused(
            f"exported without {printable(left_out)}, so no store with the same content can be "
            "made of it",
            "export without --no-audio and --no-text where the licence allows it",
        )


def _attribute(file: Any, name: str) -> str:
    """A short text at the root, '' where there is none."""
    if name not in file.attrs:
        return ""
    about = file.attrs.get_id(name)
    if about.dtype.kind != "S" or about.dtype.itemsize > MAX_ATTRIBUTE_BYTES or about.shape != ():
        raise Refused(f"attribute {name} is no short text")
    return bytes(file.attrs[name]).decode("utf-8", "backslashreplace")


def _data_sets(file: Any) -> dict[str, Any]:
    """All data sets by path, in groups that only hard links lead to.

    Raises:
        Refused: there is anything but groups and plain data sets, or far too many.
    """
    import h5py

    sets: dict[str, Any] = {}
    groups, n_objects = [""], 0
    while groups:
        above = groups.pop()
        group = file[above or "/"]
        n_objects += len(group)
        if n_objects > MAX_OBJECTS or above.count("/") == MAX_DEPTH:  # they may hold one another
            raise Refused(f"more groups than an export has, or over {MAX_OBJECTS:,} objects")
        for name in group:
            path = f"{above}{name}"
            if "/" in name or not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise Refused(f"{_shown(path)} is a link to elsewhere")
            kind = group.get(name, getclass=True)
            if kind is h5py.Group:
                groups.append(f"{path}/")
            elif kind is h5py.Dataset:
                sets[path] = group[name]
                _check_plain(sets[path], path)
            else:
                raise Refused(f"{_shown(path)} is neither group nor data set")
    return sets


def _check_plain(data: Any, name: str) -> None:
    """Refuse a data set whose values do not stand in the file as they are."""
    import h5py

    made = data.id.get_create_plist()
    if made.get_layout() == h5py.h5d.CHUNKED:
        hint = "`h5repack -f NONE -l CONTI` rewrites it as an export does"
        raise Refused(f"{_shown(name)} lies in chunks, which filters may have packed", hint)
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        raise Refused(f"{_shown(name)} takes its values from other files")
    if data.id.get_storage_size() < data.nbytes:
        raise Corrupt(f"{_shown(name)} claims {data.nbytes:,} bytes, has fewer")


def _records(sets: Mapping[str, Any]) -> list[Unit]:
    """What each unit's record says, which must be what this version could have written."""
    found = {name.removesuffix(f"/{RECORD}") for name in sets if name.endswith(f"/{RECORD}")}
    shared = [unit for unit in SHARED_UNITS if unit in found]
    units: dict[str, Unit] = {}
    left = MAX_RECORDS_BYTES
    for name in [*shared, *sorted(filter(TEACHER_UNIT.match, found))]:
        content = _content(sets[f"{name}/{RECORD}"], min(left, MAX_JSON_BYTES))
        left -= len(content)
        unit = units[name] = parse_record(content, Path(name), name)
        check_record(name, unit.settings, unit.facts, f"{name}/{RECORD}")
        for parent, made_from in unit.parents.items():
            if parent not in units or units[parent].content != made_from:
                raise Refused(f"{name}: made from another {_shown(parent)} than the file has")
    if not units:
        raise Refused("holds no unit of a store")
    return list(units.values())


def _metadata(file: Any, unit: Unit, array: str) -> Metadata:
    name = f"{unit.unit}/{array}/{META}"
    content = _content(file[f"{FILES}/{name}"], MAX_META_BYTES)
    return parse_metadata(strict_json(content, name, ""), name)


def _content(data: Any, most: int = MAX_OTHER_BYTES) -> bytes:
    """A text, or a file's bytes."""
    import h5py

    is_text = isinstance(data, h5py.Dataset) and data.dtype.kind in "Su"
    if not is_text or data.nbytes > most:
        raise Refused(f"{_shown(data.name)} is no file of a usual size")
    return bytes(data[()].tobytes())
