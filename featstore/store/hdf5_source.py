"""A store's HDF5 file from somebody else: all that it holds must be what an export holds.

Its own records tell names, types and sizes; nothing else may be there, and nothing may lack, before
the first array is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.files import MAX_JSON_BYTES, strict_json
from featstore.core.schema import Corrupt, OtherVersion, Refused, listed, printable
from featstore.core.settings import digest
from featstore.store.array_files import META, TABLES, Rows, parts
from featstore.store.arrays import Metadata, group_json, parse_metadata
from featstore.store.export_hdf5 import COLUMNS, FILES, FORMAT
from featstore.store.hdf5_file import ANEW, CheckedFile, reading, told
from featstore.store.records import check_record
from featstore.store.store import SHARED_UNITS, TEACHER_UNIT
from featstore.store.unit import RECORD, SCHEMA, Unit, parse_record

MAX_RECORDS_BYTES = 16 * 1024**2
"""Of all records together; two teachers of ten folds have 0.1 MB. Read, one takes thirty times its
size."""
MAX_META_BYTES = 64 * 1024
"""Of an array's metadata; ours have one."""


@dataclass(frozen=True)
class Part:
    """One unit of the file: its record, and where its files are to come from."""

    unit: Unit
    arrays: Mapping[str, Metadata]
    others: tuple[str, ...]


class Source:
    """An opened file whose layout has been checked.

    Attributes:
        parts: its units, parents first.
        content: the content hash of the store that it makes.
    """

    def __init__(self, file: CheckedFile) -> None:
        self.path = file.path
        self._file = file
        self._check_root()
        names = file.names()
        units = self._records(self._units(names))
        self._check_parents(units)
        self.parts = tuple(self._part(unit, names) for unit in units)
        self._check_names(names)
        self.content = digest({unit.unit: unit.files for unit in units})
        if file.attribute("content") != self.content:
            raise Corrupt(f"{self.path}: its records are not those that were exported", ANEW)

    @property
    def n_bytes(self) -> int:
        """What the store will take on disk."""
        return sum(part.unit.n_bytes for part in self.parts)

    def rows(self, part: Part, array: str) -> Rows:
        """The rows of one of the unit's arrays."""
        meta = part.arrays[array]
        data = self._file.dataset(f"{part.unit.unit}/{array}", meta.dtype, meta.shape)

        def rows(start: int, stop: int) -> npt.NDArray[Any]:
            with reading(self.path):
                values: npt.NDArray[Any] = data[start:stop]
            return values

        return rows

    def pieces(self, unit: Unit, name: str, step: int = 1024**2) -> Iterator[bytes]:
        """The bytes of one of the unit's other files."""
        size = unit.files[name][0]
        data = self._file.dataset(f"{FILES}/{unit.unit}/{name}", np.dtype(np.uint8), (size,))
        for start in range(0, size, step):
            with reading(self.path):
                piece = data[start : min(start + step, size)].tobytes()
            yield piece

    def _check_root(self) -> None:
        """Ours, of our version, and whole."""
        if self._file.attribute("format") != FORMAT:
            raise Refused(
                f"{self.path}: an HDF5 file, but no exported store",
                "`featstore export STORE --to FILE.h5` writes one",
            )
        if (schema := self._file.attribute("schema")) != str(SCHEMA):
            raise OtherVersion(
                f"{self.path}: schema {printable(schema)}, this version reads {SCHEMA}",
                "import it with the version that wrote it",
            )
        if left_out := self._file.attribute("left_out"):
            raise Refused(
                f"{self.path}: exported without {printable(left_out)}, so no store with the same "
                "content can be made of it",
                "export without --no-audio and --no-text where the licence allows it",
            )

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
                raise Refused(f"{self.path}: {told(unit)} names no unit of a store", ANEW)
        if not found:
            raise Refused(f"{self.path}: holds no unit of a store", ANEW)
        shared = [unit for unit in SHARED_UNITS if unit in found]
        return shared + sorted(found - set(shared))

    def _records(self, names: list[str]) -> list[Unit]:
        """What each unit's record says, which must be what this version could have written."""
        units, left = [], MAX_RECORDS_BYTES
        for name in names:
            content = self._file.text(f"{name}/{RECORD}", min(left, MAX_JSON_BYTES))
            left -= len(content)
            unit = parse_record(content, self.path / name, name)
            check_record(name, unit.settings, unit.facts, f"{unit.path}/{RECORD}")
            units.append(unit)
        return units

    def _check_parents(self, units: list[Unit]) -> None:
        known = {unit.unit: unit.content for unit in units}
        for unit in units:
            for parent, fingerprint in unit.parents.items():
                if known.get(parent) != fingerprint:
                    raise Refused(
                        f"{unit.path}: made from another {told(parent)} than the file has", ANEW
                    )

    def _part(self, unit: Unit, names: set[str]) -> Part:
        """The unit's arrays and files; all are there, and as large as the record says."""

        def metadata(array: str) -> Metadata:
            return parse_metadata(
                self._json(unit, f"{array}/{META}"), f"{unit.path}/{array}/{META}"
            )

        arrays, others = parts(unit, metadata)
        part = Part(unit, arrays, tuple(others))
        wanted = [f"{unit.unit}/{array}" for array in arrays]
        wanted += [f"{FILES}/{unit.unit}/{name}" for name in others]
        if missing := sorted(set(wanted) - names):
            raise Corrupt(f"{self.path}: lacks\n{listed(map(told, missing), 5)}", ANEW)
        for array, meta in arrays.items():
            self._file.dataset(f"{unit.unit}/{array}", meta.dtype, meta.shape)
        for name in others:
            size = unit.files[name][0]
            self._file.dataset(f"{FILES}/{unit.unit}/{name}", np.dtype(np.uint8), (size,))
        if META in others:
            size = unit.files[META][0]
            if size > MAX_META_BYTES or b"".join(self.pieces(unit, META)) != group_json():
                raise Refused(f"{self.path}: {unit.unit}/{META} is not a group's of ours", ANEW)
        return part

    def _json(self, unit: Unit, name: str) -> dict[str, Any]:
        place = f"{self.path}/{unit.unit}/{name}"
        if unit.files[name][0] > MAX_META_BYTES:
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
                f"{self.path}: holds what no export does\n{listed(map(told, strange), 5)}", ANEW
            )
