"""Units: what a store commits whole, or not at all.

A unit is a folder whose ``unit.json`` lists every other file with size and SHA-256. It is written
in a staging folder beside its place, fsynced, and renamed into place; a reader therefore meets the
whole unit or none. The first of two writers of one unit wins, and both would have written the same.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.locks import try_lock
from featstore.schema import Corrupt, Refused, UserError, listed
from featstore.settings import canonical, digest

SCHEMA = 1
"""Version of the store's schema; part of every fingerprint."""

RECORD = "unit.json"
STAGING = ".staging-"
_MAX_JSON_BYTES = 64 * 1024**2
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


@dataclass(frozen=True)
class Unit:
    """A committed unit as its record describes it."""

    path: Path
    unit: str
    fingerprint: str
    settings: Mapping[str, Any]
    parents: Mapping[str, str]
    facts: Mapping[str, Any]
    provenance: Mapping[str, str]
    files: Mapping[str, tuple[int, str]]  # name below the unit -> (bytes, SHA-256)

    @property
    def n_bytes(self) -> int:
        """Size of the unit's files, in bytes."""
        return sum(size for size, _ in self.files.values())


@contextmanager
def staged(place: Path, identity: Identity, *, replace: bool = False) -> Iterator[Staging]:
    """Write a unit: the body fills ``staging.folder``, and leaving it commits.

    Args:
        place: the unit's folder, which need not exist.
        identity: what the unit is made from.
        replace: swap out the unit that stands there (atomically where the kernel can).
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    sweep(place.parent)
    wrapper, lock = _new_wrapper(place)
    try:
        staging = Staging(wrapper / "unit", {}, {})
        staging.folder.mkdir()
        yield staging
        _write_record(staging, identity)
        _into_place(staging.folder, place, wrapper, replace)
    finally:
        _remove(wrapper)
        os.close(lock)


@dataclass
class Staging:
    """A unit being written: put files below ``folder``, outcomes into ``facts``."""

    folder: Path
    facts: dict[str, Any]
    provenance: dict[str, str]


def sweep(parent: Path) -> None:
    """Remove the staging folders below ``parent`` whose writers are gone."""
    for wrapper in parent.glob(f"{STAGING}*"):
        lock_file = wrapper / "lock"
        try:
            lock = try_lock(lock_file)
        except FileNotFoundError:
            with suppress(OSError):  # its writer is between mkdir and lock, or it is gone
                wrapper.rmdir()
            continue
        if lock is not None:
            _remove(wrapper)
            os.close(lock)


def read_unit(place: Path, unit: str, *, deep: bool = False) -> Unit:
    """Open a unit strictly.

    Args:
        place: the unit's folder.
        unit: the name it must carry.
        deep: read every file and compare SHA-256, else names and sizes only.

    Raises:
        UserError: the unit is not there (not built yet).
        Corrupt: its record is missing or damaged, or a file is missing, extra or different.
        Refused: it was written by a newer version.
    """
    if place.is_symlink():
        raise Refused(f"{place}: a link", "put the unit's own folder there: a store holds no links")
    if not place.is_dir():
        raise UserError(
            f"{unit}: not complete in {place}", "build or resume it with `featstore build`"
        )
    record = _read_record(place, unit)
    faults = _compare(record, deep)
    if faults:
        several = f"{unit}: {len(faults)} files are not what was written\n"
        raise Corrupt(
            (several if len(faults) > 1 else "") + listed(faults),
            f"remove {place} and run the same `featstore build` again; other units are kept",
        )
    return record


def fsync_folder(folder: Path) -> None:
    """Make a rename or a new name in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes) -> None:
    """Write beside the target, fsync, rename: a reader never sees half of it."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """What tells one local model from another: ``sha256:`` and the digest of all its files."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return f"sha256:{digest({path.name: sha256_of(path) for path in files})}"


def read_small(path: Path) -> bytes:
    """A JSON file from somebody else, which might be a pipe that never ends.

    Raises:
        FileNotFoundError: it is not there.
        Refused: it is no regular file, or larger than anything we write there.
    """
    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MAX_JSON_BYTES:
        raise Refused(f"{path}: not a regular file of a usual size", "remove it, then rebuild")
    return path.read_bytes()


def strict_json(content: bytes, name: str) -> dict[str, Any]:
    """A JSON object from somebody else: UTF-8, no duplicate key, no NaN.

    Raises:
        Corrupt: naming the file.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) != len(items):
            raise ValueError("a key stands twice")
        return out

    def constant(text: str) -> Any:
        raise ValueError(f"{text} is no number")

    try:
        value = json.loads(content, object_pairs_hook=pairs, parse_constant=constant)
        canonical(value)  # refuses 1e999, which reads as infinity, and half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{name}: not valid JSON ({error})", "restore the file or rebuild") from error
    if not isinstance(value, dict):
        raise Corrupt(f"{name}: not a JSON object", "restore the file or rebuild")
    return value


def _new_wrapper(place: Path) -> tuple[Path, int]:
    while True:
        wrapper = place.parent / f"{STAGING}{place.name}-{secrets.token_hex(8)}"
        wrapper.mkdir()
        with suppress(FileNotFoundError):  # another writer's sweep took the empty folder
            lock = try_lock(wrapper / "lock", create=True)
            if lock is not None:
                return wrapper, lock


def _remove(wrapper: Path) -> None:
    """Its lock goes last: killed on the way, a later sweep still finds whom to ask."""
    with suppress(OSError):
        for item in wrapper.iterdir():
            if item.name != "lock":
                shutil.rmtree(item, ignore_errors=True)
    shutil.rmtree(wrapper, ignore_errors=True)


def _files_below(folder: Path) -> dict[str, os.stat_result]:
    """Every file below, by name with forward slashes; a link or device is no file."""
    out: dict[str, os.stat_result] = {}
    for base, folders, names in os.walk(folder):
        for name in [*names, *folders]:
            path = Path(base, name)
            facts = path.lstat()
            if stat.S_ISDIR(facts.st_mode):
                continue
            if not stat.S_ISREG(facts.st_mode):
                raise Refused(f"{path}: not a regular file", "remove it: a store holds no links")
            out[path.relative_to(folder).as_posix()] = facts
    return out


def _write_record(staging: Staging, identity: Identity) -> None:
    """Fsync every file and folder of the staging folder, then list them in its record."""
    names = sorted(_files_below(staging.folder))
    files = {}
    for name in names:
        path = staging.folder / name
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        files[name] = [path.stat().st_size, sha256_of(path)]
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "unit": identity.unit,
        "fingerprint": identity.fingerprint,
        "settings": identity.settings,
        "parents": identity.parents,
        "facts": staging.facts,
        "provenance": staging.provenance,
        "files": files,
    }
    record["sha256"] = digest(record)
    write_file(staging.folder / RECORD, json.dumps(record, indent=1, sort_keys=True).encode())
    for base, _, _ in os.walk(staging.folder):
        fsync_folder(Path(base))


def _into_place(folder: Path, place: Path, wrapper: Path, replace: bool) -> None:
    try:
        folder.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if replace and not _exchange(folder, place):
            place.rename(wrapper / "old")
            folder.rename(place)
    fsync_folder(place.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step, so that no reader meets a gap; False where it can't be done."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_cwd, exchange = -100, 2
    return bool(renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0)


def _read_record(place: Path, unit: str) -> Unit:
    path = place / RECORD
    mend = f"remove {place} and run the same `featstore build` again; other units are kept"
    try:
        raw = strict_json(read_small(path), str(path))
    except FileNotFoundError:
        raise Corrupt(f"{unit}: {RECORD} is missing in {place}", mend) from None
    version = raw.get("schema")
    if isinstance(version, int) and version > SCHEMA:
        raise Refused(
            f"{path}: schema {version}, this version knows up to {SCHEMA}", "update emodistill"
        )
    claimed = raw.pop("sha256", None)
    if version != SCHEMA or not _well_formed(raw) or claimed != digest(raw):
        raise Corrupt(f"{path}: not what was written", mend)
    identity = Identity(raw["unit"], raw["settings"], raw["parents"])
    if raw["unit"] != unit:
        raise Refused(f"{path}: this is the unit {raw['unit']}, not {unit}", "restore its name")
    if identity.fingerprint != raw["fingerprint"]:
        raise Refused(f"{path}: its fingerprint does not fit its settings", mend)
    files = {name: (size, sha) for name, (size, sha) in raw["files"].items()}
    return Unit(
        place, unit, raw["fingerprint"], raw["settings"], raw["parents"], raw["facts"],
        raw["provenance"], files,
    )  # fmt: skip


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


def _compare(record: Unit, deep: bool) -> list[str]:
    """What differs between the record and the disk, one line a file."""
    found = _files_below(record.path)
    found.pop(RECORD, None)
    faults = [f"{record.unit}/{name}: missing" for name in sorted(set(record.files) - set(found))]
    faults += [
        f"{record.unit}/{name}: not listed" for name in sorted(set(found) - set(record.files))
    ]
    same_size = []
    for name in sorted(set(found) & set(record.files)):
        size = record.files[name][0]
        if found[name].st_size == size:
            same_size.append(name)
        else:
            faults.append(f"{record.unit}/{name}: {found[name].st_size} bytes instead of {size}")
    if deep:
        with ThreadPoolExecutor(4) as pool:
            sums = pool.map(sha256_of, [record.path / name for name in same_size])
            faults += [
                f"{record.unit}/{name}: content differs (array {name.split('/')[0]})"
                for name, found_sum in zip(same_size, sums, strict=True)
                if found_sum != record.files[name][1]
            ]
    return faults
