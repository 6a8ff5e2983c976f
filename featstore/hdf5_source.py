"""A store's HDF5 file from somebody else: what it may hold, checked before anything is read.

HDF5 follows links into other files, reads data sets from other files, loads filters as plugins and
inflates gigabytes from nothing. A file is walked once; all that it holds must be what an export
holds, under the names, types and sizes that its own records tell.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.array_files import META, TABLES, Rows, parts
from featstore.arrays import group_json
from featstore.export_hdf5 import COLUMNS, FILES, FORMAT
from featstore.files import MAX_JSON_BYTES, strict_json
from featstore.metadata import MAX_CHUNK_BYTES, MAX_CHUNKS, Metadata
from featstore.records import check_record
from featstore.schema import Corrupt, OtherVersion, Refused, UserError, listed, printable
from featstore.settings import digest
from featstore.store import SHARED_UNITS, TEACHER_UNIT
from featstore.units import RECORD, SCHEMA, Unit, parse_record

ANEW = "ask whoever made it to run `featstore export` again"
MAX_OBJECTS = 100_000
"""Groups and data sets in one file; two teachers of ten folds make 300."""
MAX_DEPTH = 8
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_INFLATED = 1100
"""How many bytes one of gzip's can stand for, at most (1,032), with some to spare."""


@dataclass(frozen=True)
class Part:
    """One unit of the file: its record, and where its files are to come from."""

    unit: Unit
    arrays: Mapping[str, Metadata]
    others: tuple[str, ...]


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open a file and check all that can be checked without reading its arrays.

    Raises:
        UserError: there is no such file.
        Corrupt: it is damaged, or no HDF5 file.
        Refused: it holds anything but an exported store, or one with data left out.
    """
    import h5py

    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path}: no such file", "write one with `featstore export STORE --to FILE.h5`"
        ) from None
    if not stat.S_ISREG(facts.st_mode):
        raise Refused(f"{path}: not a regular file", "give the exported .h5 file itself")
    with path.open("rb") as start:
        if start.read(8) != _SIGNATURE:
            raise Corrupt(f"{path}: no HDF5 file", ANEW)
    with reading(path):
        file = h5py.File(path, "r", locking=False, rdcc_nbytes=MAX_CHUNK_BYTES)
    with file:
        yield Source(path, file)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What HDF5 raises over a damaged file, as one line."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        why = printable(str(error))[:200]
        raise Corrupt(f"{path}: not a sound HDF5 file ({why})", ANEW) from error


class Source:
    """An opened file whose layout has been checked.

    Attributes:
        parts: its units, parents first.
        content: the content hash of the store that it makes.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        with reading(path):
            self._check_root()
            names = set(self._walk(file, "", 1))
            units = [self._record(name) for name in self._units(names)]
        self._check_parents(units)
        with reading(path):
            self.parts = tuple(self._part(unit, names) for unit in units)
        self._check_names(names)
        self.content = digest({unit.unit: unit.files for unit in units})
        if self._attribute("content") != self.content:
            raise Corrupt(f"{path}: its records are not those that were exported", ANEW)

    @property
    def n_bytes(self) -> int:
        """What the store will take on disk."""
        return sum(part.unit.n_bytes for part in self.parts)

    def rows(self, part: Part, array: str) -> Rows:
        """The rows of one of the unit's arrays."""
        meta = part.arrays[array]
        data = self._dataset(f"{part.unit.unit}/{array}", meta.dtype, meta.shape)

        def rows(start: int, stop: int) -> npt.NDArray[Any]:
            with reading(self.path):
                values: npt.NDArray[Any] = data[start:stop]
            return values

        return rows

    def pieces(self, unit: Unit, name: str, step: int = 1024**2) -> Iterator[bytes]:
        """The bytes of one of the unit's other files."""
        size = unit.files[name][0]
        data = self._dataset(f"{FILES}/{unit.unit}/{name}", np.dtype(np.uint8), (size,))
        for start in range(0, size, step):
            with reading(self.path):
                piece = data[start : min(start + step, size)].tobytes()
            yield piece

    def _check_root(self) -> None:
        """Ours, of our version, and whole."""
        if self._attribute("format") != FORMAT:
            raise Refused(
                f"{self.path}: an HDF5 file, but no exported store",
                "`featstore export STORE --to FILE.h5` writes one",
            )
        if (schema := self._attribute("schema")) != str(SCHEMA):
            raise OtherVersion(
                f"{self.path}: schema {printable(schema)}, this version reads {SCHEMA}",
                "import it with the version that wrote it",
            )
        if left_out := self._attribute("left_out"):
            raise Refused(
                f"{self.path}: exported without {printable(left_out)}, so no store with the same "
                "content can be made of it",
                "export without --no-audio and --no-text where the licence allows it",
            )

    def _attribute(self, name: str) -> str:
        """A short text at the root, '' where there is none."""
        import h5py

        key = name.encode()
        if not h5py.h5a.exists(self._file.id, key):
            return ""
        attribute = h5py.h5a.open(self._file.id, key)
        kind = attribute.get_type()
        if not _is_text(kind, 256) or attribute.shape != ():
            raise Refused(f"{self.path}: attribute {name} is no short text", ANEW)
        content = np.empty((), dtype=f"S{kind.get_size()}")
        attribute.read(content)
        return bytes(content[()]).decode("utf-8", "backslashreplace")

    def _walk(self, group: Any, prefix: str, depth: int) -> Iterator[str]:
        """Every data set's path. Groups that hold one another end at the allowed depth."""
        import h5py

        if depth > MAX_DEPTH or len(group) > MAX_OBJECTS:
            raise Refused(f"{self.path}: more groups than an exported store has", ANEW)
        for name in group:
            path = f"{prefix}{name}"
            try:
                link = group.get(name, getlink=True)
            except TypeError:  # a kind of link that HDF5 leaves to plugins
                link = None
            if not isinstance(link, h5py.HardLink):
                raise Refused(f"{self.path}: {_told(path)} is a link to elsewhere", ANEW)
            kind = group.get(name, getclass=True)
            self._count()
            if kind is h5py.Group:
                yield from self._walk(group[name], f"{path}/", depth + 1)
            elif kind is h5py.Dataset:
                yield path
            else:
                raise Refused(f"{self.path}: {_told(path)} is neither group nor data set", ANEW)

    _objects = 0

    def _count(self) -> None:
        self._objects += 1
        if self._objects > MAX_OBJECTS:
            raise Refused(f"{self.path}: over {MAX_OBJECTS:,} objects", ANEW)

    def _units(self, names: set[str]) -> list[str]:
        """The units of the file, parents first.

        Raises:
            Refused: a record lies where no unit does.
        """
        found = {
            name.removesuffix(f"/{RECORD}")
            for name in names
            if name.endswith(f"/{RECORD}") and not name.startswith(f"{FILES}/")
        }
        for unit in found:
            if unit not in SHARED_UNITS and not TEACHER_UNIT.match(unit):
                raise Refused(f"{self.path}: {_told(unit)} names no unit of a store", ANEW)
        if not found:
            raise Refused(f"{self.path}: holds no unit of a store", ANEW)
        shared = [unit for unit in SHARED_UNITS if unit in found]
        return shared + sorted(found - set(shared))

    def _record(self, unit: str) -> Unit:
        data = self._raw(f"{unit}/{RECORD}")
        kind = data.id.get_type()
        if not _is_text(kind, MAX_JSON_BYTES):
            raise Refused(f"{self.path}: {unit}/{RECORD} is no text of a usual size", ANEW)
        self._check_storage(data, f"{unit}/{RECORD}", (), kind.get_size())
        place = self.path / unit
        found = parse_record(bytes(data[()]), place, unit)
        check_record(unit, found.settings, found.facts, f"{place}/{RECORD}")
        return found

    def _check_parents(self, units: list[Unit]) -> None:
        known = {unit.unit: unit.fingerprint for unit in units}
        for unit in units:
            for parent, fingerprint in unit.parents.items():
                if known.get(parent) != fingerprint:
                    told = printable(parent)[:80]
                    raise Refused(f"{unit.path}: made from another {told} than the file has", ANEW)

    def _part(self, unit: Unit, names: set[str]) -> Part:
        """The unit's arrays and files; all are there, and as large as the record says."""

        def metadata(array: str) -> Metadata:
            return Metadata(self._json(unit, f"{array}/{META}"), f"{unit.path}/{array}/{META}")

        arrays, others = parts(unit, metadata)
        part = Part(unit, arrays, tuple(others))
        wanted = [f"{unit.unit}/{array}" for array in arrays]
        wanted += [f"{FILES}/{unit.unit}/{name}" for name in others]
        if missing := sorted(set(wanted) - names):
            raise Corrupt(f"{self.path}: lacks\n{listed(map(_told, missing), 5)}", ANEW)
        for array, meta in arrays.items():
            self._dataset(f"{unit.unit}/{array}", meta.dtype, meta.shape)
        for name in others:
            size = unit.files[name][0]
            self._dataset(f"{FILES}/{unit.unit}/{name}", np.dtype(np.uint8), (size,))
        if META in others and not unit.unit.startswith("weights/"):
            size = unit.files[META][0]
            if size > MAX_JSON_BYTES or b"".join(self.pieces(unit, META)) != group_json():
                raise Refused(f"{self.path}: {unit.unit}/{META} is not a group's of ours", ANEW)
        return part

    def _json(self, unit: Unit, name: str) -> dict[str, Any]:
        place = f"{self.path}/{unit.unit}/{name}"
        if unit.files[name][0] > MAX_JSON_BYTES:
            raise Refused(f"{place}: no metadata of a usual size", ANEW)
        return strict_json(b"".join(self.pieces(unit, name)), place, ANEW)

    def _check_names(self, names: set[str]) -> None:
        """Nothing but the units' own data sets, and their tables' columns.

        Raises:
            Refused: naming what no export holds.
        """
        known: set[str] = set()
        for part in self.parts:
            unit = part.unit.unit
            known |= {f"{unit}/{RECORD}", *(f"{unit}/{array}" for array in part.arrays)}
            known |= {f"{FILES}/{unit}/{name}" for name in part.others}
            if table := TABLES.get(unit):
                known |= {f"{unit}/{table}/{column}" for column in COLUMNS[table]}
        if strange := sorted(names - known):
            raise Refused(
                f"{self.path}: holds what no export does\n{listed(map(_told, strange), 5)}", ANEW
            )

    def _raw(self, name: str) -> Any:
        """A data set of which only the creation properties have been looked at, and are harmless.

        Raises:
            Refused: its values lie in other files, or pass through a filter but gzip and shuffle.
        """
        import h5py

        data = self._file[name]
        if not isinstance(data, h5py.Dataset):
            raise Refused(f"{self.path}: {_told(name)} is no data set", ANEW)
        made = data.id.get_create_plist()
        layouts = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
        if made.get_layout() not in layouts or made.get_external_count():
            raise Refused(f"{self.path}: {_told(name)} takes its values from other files", ANEW)
        filters = {made.get_filter(at)[0] for at in range(made.get_nfilters())}
        if filters - {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}:
            raise Refused(
                f"{self.path}: {_told(name)} passes through filters {sorted(filters)}",
                "`h5repack -f NONE` rewrites it without",
            )
        return data

    def _dataset(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
        """A data set of just this type and shape that holds as much as it claims."""
        import h5py

        with reading(self.path):
            data = self._raw(name)
            if data.id.get_type() != h5py.h5t.py_create(dtype):
                raise Refused(f"{self.path}: {_told(name)} is not of type {dtype.name}", ANEW)
            self._check_storage(data, name, shape, math.prod(shape) * dtype.itemsize)
        return data

    def _check_storage(self, data: Any, name: str, shape: tuple[int, ...], n_bytes: int) -> None:
        """Neither more than was stored, nor chunks that no memory holds."""
        import h5py

        if data.shape != shape:
            raise Refused(f"{self.path}: {_told(name)} has shape {data.shape}, not {shape}", ANEW)
        there = data.id.get_storage_size()
        made = data.id.get_create_plist()
        if made.get_layout() == h5py.h5d.CHUNKED:
            chunk = made.get_chunk()
            n_chunks = math.prod(-(-size // part) for size, part in zip(shape, chunk, strict=True))
            chunk_bytes = math.prod(chunk) * data.id.get_type().get_size()
            if chunk_bytes > MAX_CHUNK_BYTES or n_chunks > MAX_CHUNKS:
                raise Refused(
                    f"{self.path}: {_told(name)} lies in {n_chunks:,} chunks of {chunk_bytes:,} "
                    "bytes",
                    ANEW,
                )
            there *= _INFLATED
        if there < n_bytes:
            raise Corrupt(f"{self.path}: {_told(name)} claims {n_bytes:,} bytes, has fewer", ANEW)


def _is_text(kind: Any, most: int) -> bool:
    """Whether an HDF5 type is text of a fixed, usual size: nothing that leads to a heap."""
    import h5py

    return (
        kind.get_class() == h5py.h5t.STRING
        and not kind.is_variable_str()
        and 0 < kind.get_size() <= most
    )


def _told(name: str) -> str:
    return repr(printable(name)[:120])
