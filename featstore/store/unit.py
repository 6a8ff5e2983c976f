"""Units: what a store commits whole, or not at all.

A unit is a folder whose ``unit.json`` lists every other file with size and SHA-256. It is written
by :mod:`featstore.store.staging`, fsynced, and renamed into place; a reader therefore meets the
whole unit or none. The first of two writers of one unit wins, and both would have written the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from featstore.core.files import read_small, sha256_of, strict_json
from featstore.core.schema import Corrupt, OtherVersion, Refused, UserError, listed, printable
from featstore.core.settings import digest
from featstore.store.arrays import MAX_CHUNKS, MAX_OTHER_BYTES, read_metadata

T = TypeVar("T")

SCHEMA = 3
"""Version of the store's schema; part of every fingerprint."""

REPAIR = "run the `featstore build` that made this store with --repair; other units are kept"
"""The remedy for a damaged unit."""

NO_LINKS = "put the folder or file itself there: a store holds no links"

RECORD = "unit.json"
MAX_FILES = MAX_CHUNKS
"""In one unit, beside its few small ones."""
_KEYS = {"schema", "unit", "fingerprint", "settings", "parents", "facts", "provenance", "files"}


@dataclass(frozen=True)
class Identity:
    """What a unit is made from: its settings and its parents, and nothing of when or where."""

    unit: str  # e.g. "folds/01/linguistic"
    settings: Mapping[str, Any]
    parents: Mapping[str, str]  # unit -> fingerprint

    @property
    def fingerprint(self) -> str:
        """SHA-256 over schema version, settings and the parents' fingerprints."""
        return digest(
            {
                "schema": SCHEMA,
                "unit": self.unit,
                "settings": self.settings,
                "parents": self.parents,
            }
        )

    @property
    def content(self) -> str:
        """What the units made from this one depend on: all but how its values are kept.

        Without its signals or transcripts, or after its files were renamed, a unit has another
        fingerprint, but what teachers are fitted on is the same.
        """
        kept = {name: value for name, value in self.settings.items() if name != "files"}
        for name, option in (("audio", "embed_audio"), ("corpus", "embed_text")):
            if isinstance(table := kept.get(name), Mapping):
                kept[name] = {key: value for key, value in table.items() if key != option}
        return Identity(self.unit, kept, self.parents).fingerprint


@dataclass(frozen=True)
class Unit(Identity):
    """A committed unit as its record describes it.

    Attributes:
        path: its folder.
        facts: outcomes, see :mod:`featstore.store.records`.
        provenance: the versions of packages that made it.
        files: size in bytes and SHA-256 of each file, by its name below the unit.
    """

    path: Path
    facts: Mapping[str, Any]
    provenance: Mapping[str, str]
    files: Mapping[str, tuple[int, str]]
    _checked: set[str] = field(default_factory=set, compare=False, repr=False)
    """Files that have been compared with their SHA-256."""

    @property
    def n_bytes(self) -> int:
        """Size of the unit's files, in bytes."""
        return sum(size for size, _ in self.files.values())

    def check_sizes(self, names: Collection[str]) -> None:
        """Refuse sizes that cannot be right, before a terabyte of zeros is read.

        Args:
            names: files of the unit; all of an array's, or none.

        Raises:
            Corrupt, Refused: naming the first.
        """
        sizes = {name: self.files[name][0] for name in names}
        for array in [name.removesuffix("/zarr.json") for name in sizes if "/zarr.json" in name]:
            meta = read_metadata(self.path / array)
            needed = {f"{array}/{chunk}": size for chunk, size in meta.files()}
            chunks = {n: sizes.pop(n) for n in [*sizes] if n.startswith(f"{array}/c/")}
            for name, _ in sorted(needed.items() ^ chunks.items()):
                here, there = chunks.get(name, 0), needed.get(name, 0)
                raise Corrupt(f"{self.unit}/{name}: {here} bytes where {there} belong", REPAIR)
        for name, size in sizes.items():
            if size > MAX_OTHER_BYTES:
                raise Corrupt(
                    f"{self.unit}/{name}: {size} bytes, more than {MAX_OTHER_BYTES}", REPAIR
                )

    def check(self, part: str) -> None:
        """Compare one file, or all files of one array, with the record, once.

        Zarr's own checksums do not tell two swapped chunks, or rows swapped by another program.

        Raises:
            Corrupt: naming the first that differs.
        """
        names = {name for name in self.files if name == part or name.startswith(f"{part}/")}
        if not names:
            raise Corrupt(f"{self.unit}/{part}: missing", REPAIR)
        for name in self._differing(sorted(names - self._checked)):
            raise Corrupt(f"{self.unit}/{name}: content differs", REPAIR)

    def _differing(self, names: Collection[str]) -> list[str]:
        """Those files whose SHA-256 is not the record's; no longer there counts as such."""

        def differs(name: str) -> bool:
            try:
                return sha256_of(self.path / name) != self.files[name][1]
            except FileNotFoundError:
                return True

        self.check_sizes(names)
        with ThreadPoolExecutor(4) as pool:
            each = pool.map if len(names) > 4 else map  # threads cost more than they save
            bad = [name for name, one in zip(names, each(differs, names), strict=True) if one]
        self._checked.update(set(names) - set(bad))
        return bad


def read_unit(place: Path, unit: str, *, deep: bool = False) -> Unit:
    """Open a unit strictly.

    Args:
        place: the unit's folder.
        unit: the name it must carry.
        deep: read every file and compare SHA-256, else names and sizes only.

    Raises:
        UserError: the unit is not there (not built yet).
        Corrupt: its record is missing or damaged, or a file is missing, extra or different.
        Refused: it was written by another version, or is a link.
    """
    if place.is_symlink():
        raise Refused(f"{place}: a link", NO_LINKS)
    if not place.is_dir():
        if os.path.lexists(place):
            raise Corrupt(f"{place}: no folder of a unit", REPAIR)
        raise UserError(
            f"{unit}: not complete in {place}", "build or resume it with `featstore build`"
        )
    try:
        content = read_small(place / RECORD)
    except FileNotFoundError:
        raise Corrupt(f"{unit}: {RECORD} is missing in {place}", REPAIR) from None
    record = parse_record(content, place, unit)
    sizes = files_below(place)
    sizes.pop(RECORD, None)
    faults = []
    for name in sorted(sizes.keys() | record.files.keys()):
        if name not in sizes:
            faults.append(f"{unit}/{name}: missing")
        elif name not in record.files:
            faults.append(f"{unit}/{name}: not listed")
        elif sizes[name] != record.files[name][0]:
            faults.append(f"{unit}/{name}: {sizes[name]} bytes instead of {record.files[name][0]}")
    if deep and not faults:
        faults = [
            f"{unit}/{name}: content differs (array {name.split('/')[0]})"
            for name in record._differing(sorted(record.files))
        ]
    if faults:
        several = f"{unit}: {len(faults)} files are not what was written\n"
        raise Corrupt((several if len(faults) > 1 else "") + listed(faults), REPAIR)
    return record


def steady(place: Path, read: Callable[[], T]) -> T:
    """What is read of a unit, all of it of one version.

    A rebuild swaps the folder for another; what was read across the swap is read again.
    """
    while True:
        before = folder_version(place)
        try:
            value = read()
        except (Corrupt, FileNotFoundError):
            if folder_version(place) == before:
                raise
        else:
            if folder_version(place) == before:
                return value


def folder_version(place: Path) -> tuple[int, int] | None:
    """What tells a folder from the one that takes its place: a number is soon used again.

    None where nothing is there.
    """
    try:
        facts = place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return facts.st_ino, facts.st_ctime_ns


def files_below(folder: Path) -> dict[str, int]:
    """The size of every file below, by name with forward slashes.

    Raises:
        Refused: for a link or a device, or more files than any unit has.
    """
    sizes: dict[str, int] = {}
    folders, top = [os.fspath(folder)], len(os.fspath(folder)) + 1
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    sizes[entry.path[top:]] = entry.stat(follow_symlinks=False).st_size
                else:
                    raise Refused(f"{entry.path}: not a regular file", NO_LINKS)
                if max(len(sizes), len(folders)) > MAX_FILES:
                    raise Refused(
                        f"{folder}: over {MAX_FILES} files", "no unit has as many; remove it"
                    )
    return sizes


def parse_record(content: bytes, place: Path, unit: str, shown: str = "") -> Unit:
    """A unit's record, from its ``unit.json``; of the files it lists nothing is looked at.

    Args:
        content: the record as JSON.
        place: the unit's folder.
        unit: the name it must carry.
        shown: what messages call the record, where it does not lie in that folder.

    Raises:
        Corrupt: it is not what was written.
        Refused: it was written by another version, or for another unit.
    """
    path = shown or f"{place / RECORD}"
    raw = strict_json(content, path, REPAIR)
    version = raw.get("schema")
    if type(version) is int and version != SCHEMA:
        raise other_version(path, version)
    claimed = raw.pop("sha256", None)
    if version != SCHEMA or not _well_formed(raw) or claimed != digest(raw):
        raise Corrupt(f"{path}: not what was written", REPAIR)
    if raw["unit"] != unit:
        raise Refused(f"{path}: this is the unit {raw['unit']}, not {unit}", "restore its name")
    fingerprint = raw.pop("fingerprint")
    raw["files"] = {name: (size, sha) for name, (size, sha) in raw["files"].items()}
    record = Unit(path=place, **{key: raw[key] for key in raw.keys() - {"schema"}})
    if record.fingerprint != fingerprint:
        raise Refused(f"{path}: its fingerprint does not fit its settings", REPAIR)
    return record


def other_version(place: str, schema: object) -> OtherVersion:
    """What is wrong with a store or a record of another schema than ours."""
    return OtherVersion(
        f"{place}: schema {printable(str(schema))[:20]}, this version reads {SCHEMA}",
        "build it anew by the same `featstore build` into another --store, or use the version that "
        "wrote it",
    )


def _well_formed(raw: Mapping[str, Any]) -> bool:
    """Whether a record has the parts of one, each of its kind."""
    tables = ("settings", "parents", "facts", "provenance", "files")
    return (
        set(raw) == _KEYS
        and all(isinstance(raw[key], dict) for key in tables)
        and all(isinstance(raw[key], str) for key in ("unit", "fingerprint"))
        and all(
            isinstance(entry, list) and [type(part) for part in entry] == [int, str]
            for entry in raw["files"].values()
        )
    )
