"""Stores in object storage: published, fetched, verified, and read through a verified mirror.

A unit's files are objects of the same names and bytes. Its record goes last, and is taken away
before anything below it changes; a prefix without a root is no store. So whoever looks while a copy
runs, or after it was killed, sees whole units or nothing. Nothing there is believed: a record must
be one that this program could have written, and every size is bounded before a byte of it is read.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from featstore.core.console import progress, say
from featstore.core.files import MAX_JSON_BYTES, try_lock, write_file, write_pieces
from featstore.core.os_errors import io_failure, require_space
from featstore.core.places import checked, is_url
from featstore.core.schema import (
    Corrupt,
    OtherVersion,
    Refused,
    TaskFailed,
    UserError,
    listed,
    printable,
)
from featstore.core.settings import digest
from featstore.store.arrays import group_json, write_group
from featstore.store.objects import Objects, again
from featstore.store.records import check_record
from featstore.store.staging import staged
from featstore.store.store import SHARED_UNITS, TEACHER_UNIT, Store
from featstore.store.unit import NO_LINKS, RECORD, Identity, Unit, parse_record
from featstore.store.verify import verify

THREADS = 4
"""Objects read or written at once."""

_ROOT = "zarr.json"
_TOP = {_ROOT, *SHARED_UNITS, "folds"}
_MAX_ROOT_BYTES = 4096
_FILE = re.compile(r"(?!unit\.json\Z)\w+(/\w+)*(\.(json|parquet))?\Z", re.ASCII)
"""What a unit may list."""
_WAIT_S = 0.1
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")

Pieces = Callable[[str], Iterator[bytes]]
"""A file of a unit, by its name below the unit, piece by piece."""


def copy(source: Path | str, to: Path | str, *, replace: bool = False) -> dict[str, Any]:
    """Copy a store, unit by unit, between folders and object storage. Resumes.

    Args:
        source: a folder, or a URL as :func:`featstore.core.places.place` checks it.
        to: likewise.
        replace: put the store's units in the place of others.

    Returns:
        ``from``, ``to``, the units ``copied`` and ``there_before``, ``sent_bytes``,
        ``skipped_bytes`` and the store's ``content`` hash.

    Raises:
        UserError: there is nothing to copy, or something else in the way.
        Corrupt: a unit of the source is damaged; those before it are there.
        TaskFailed: the network fails, or what is read back is not what was sent.
    """
    if source == to:
        raise UserError(f"{source}: the same place twice", "name another to copy to")
    store = RemoteStore.at(str(source)) if is_url(source) else Store.open(source)
    if isinstance(to, str) and is_url(to):
        return _publish(store, Objects.open(to), replace)
    return _retrieve(store, Path(to), replace)


# ---------------------------------------------------------------------------- units in a bucket


def units_in(names: Iterable[str]) -> list[str]:
    """The units whose record is among some objects, parents first.

    >>> units_in(["folds/01/prosodic/unit.json", "../unit.json", "audio/unit.json"])
    ['audio', 'folds/01/prosodic']
    """
    units = {name.removesuffix(f"/{RECORD}") for name in names if name.endswith(f"/{RECORD}")}
    shared = [unit for unit in SHARED_UNITS if unit in units]
    return shared + sorted(unit for unit in units if TEACHER_UNIT.match(unit))


def read_record(objects: Objects, name: str) -> Unit:
    """What a unit's record there says; its ``path`` is the unit's name.

    Raises:
        Corrupt: it is not what was written.
        Refused: another version wrote it, or it lists a file that no unit has.
    """
    try:
        content = objects.read(f"{name}/{RECORD}", MAX_JSON_BYTES)
        unit = parse_record(content, Path(name), name)
        check_record(name, unit.settings, unit.facts, f"{name}/{RECORD}")
        for file in unit.files:
            if not _FILE.match(file):
                shown = printable(file)[:80]
                raise Refused(f"{name}/{RECORD}: lists {shown!r}, which no unit holds", "")
    except OtherVersion as error:
        raise OtherVersion(_named(objects, error), error.hint) from None
    except (Corrupt, Refused) as error:
        raise type(error)(_named(objects, error), again(objects.url)) from None
    return unit


def _named(objects: Objects, error: UserError) -> str:
    is_named = error.message.startswith(objects.url)
    return error.message if is_named else f"{objects.url}/{error.message}"


def same(a: Unit, b: Unit) -> bool:
    """Whether two records are of the same content, made from the same."""
    return (a.unit, a.fingerprint, a.files, a.facts) == (b.unit, b.fingerprint, b.files, b.facts)


def damaged(objects: Objects, unit: Unit) -> list[str]:
    """Files of a unit there that are not what its record lists; every byte is read."""

    def is_damaged(name: str) -> bool:
        size, sha = unit.files[name]
        n_bytes, content = 0, hashlib.sha256()
        try:
            for piece in objects.pieces(f"{unit.unit}/{name}", size):
                n_bytes += len(piece)
                content.update(piece)
        except Corrupt:
            return True
        return (n_bytes, content.hexdigest()) != (size, sha)

    with ThreadPoolExecutor(THREADS) as pool:
        bad = pool.map(is_damaged, unit.files)
        return [name for name, one in zip(unit.files, bad, strict=True) if one]


def _differs(objects: Objects, unit: Unit, name: str) -> Corrupt:
    return Corrupt(f"{objects.url}/{unit.unit}/{name}: content differs", again(objects.url))


def _require_root(objects: Objects, sizes: Mapping[str, int]) -> None:
    """Refuse what is no store of ours."""
    if _ROOT not in sizes:
        raise UserError(
            f"{objects.url}: no store there, or one that is still being copied",
            f"`featstore copy STORE {objects.url}` publishes one",
        )
    Store.check_root(objects.read(_ROOT, _MAX_ROOT_BYTES), objects.url)


def _mebibytes(unit: Unit) -> int:
    return unit.n_bytes // 1024**2


# ------------------------------------------------------------------------------------ publishing


@dataclass
class _Upload:
    """A copy to object storage in progress: what is there, and what was sent."""

    objects: Objects
    there: dict[str, int]
    sent: int = 0
    skipped: int = 0

    def send(self, name: str, content: bytes | Path, n_bytes: int) -> None:
        """Write an object unless one of its size is there: what it holds is read afterwards."""
        if self.there.get(name) == n_bytes:
            self.skipped += n_bytes
            return
        self.objects.put(name, content)
        self.there[name] = n_bytes
        self.sent += n_bytes

    def send_small(self, name: str, content: bytes) -> None:
        """Write one small object, and read it back.

        Raises:
            TaskFailed: it reads back as something else.
        """
        n_bytes = len(content)
        if self.there.get(name) == n_bytes and self.objects.read(name, n_bytes) == content:
            self.skipped += n_bytes
            return
        self.forget([name])
        self.send(name, content, n_bytes)
        if self.objects.read(name, n_bytes) != content:
            message = f"{self.objects.url}/{name}: reads back as something else"
            raise TaskFailed(message, "try again")

    def forget(self, names: Iterable[str]) -> None:
        """Remove those of some objects that are there."""
        names = [name for name in names if name in self.there]
        self.objects.delete(names)
        for name in names:
            del self.there[name]

    def below(self, unit: str) -> list[str]:
        """Objects of a unit, its record among them."""
        return [name for name in self.there if name.startswith(f"{unit}/")]


def _publish(store: Store, objects: Objects, replace: bool) -> dict[str, Any]:
    """A store into object storage: data first, its record last, all of it read back."""
    names = store.units()
    if not names:
        raise TaskFailed(f"{store.path}: no unit is complete", "run `featstore build`")
    upload = _Upload(objects, objects.sizes())
    records = {name: store.record(name) for name in names}
    _clear(upload, store.name, records, replace)
    copied: list[str] = []
    groups = {above.as_posix() for name in names for above in Path(name).parents[:-1]}
    with progress("copy", sum(map(_mebibytes, records.values())), unit="MiB") as advance:
        for name in names:
            if _publish_unit(upload, store.unit(name, deep=True)):
                copied.append(name)
            advance(_mebibytes(records[name]), name)
    for group in sorted(groups):  # so that any Zarr reader walks down to the units
        upload.send_small(f"{group}/{_ROOT}", group_json())
    upload.send_small(_ROOT, (store.path / _ROOT).read_bytes())
    return {
        "from": store.url or str(store.path),
        "to": objects.url,
        "copied": copied,
        "there_before": [name for name in names if name not in copied],
        "sent_bytes": upload.sent,
        "skipped_bytes": upload.skipped,
        "content": store.content_hash(),
    }


def _clear(upload: _Upload, name: str, records: Mapping[str, Unit], replace: bool) -> None:
    """Refuse a place that holds anything else; with ``replace``, remove units that are others.

    Raises:
        UserError: naming what is there.
    """
    objects = upload.objects
    strange = sorted(one for one in upload.there if one.partition("/")[0] not in _TOP)
    if _ROOT in upload.there:
        _require_root(objects, upload.there)
    elif strange:
        message = f"{objects.url}: holds {printable(strange[0])[:80]}, and no store"
        raise UserError(message, "give the store a prefix of its own")
    others = [one for one in units_in(upload.there) if _is_other(objects, records, one)]
    if others and not replace:
        raise UserError(
            f"{objects.url}: holds units that are not those of {name}\n{listed(others, 5)}",
            "copy to another prefix, or give --replace",
        )
    upload.forget(f"{one}/{RECORD}" for one in others)  # no unit from now on, whatever happens
    for one in others:
        upload.forget(upload.below(one))


def _is_other(objects: Objects, records: Mapping[str, Unit], name: str) -> bool:
    """Whether a unit there is not the store's; one that it lacks must fit to those that it has."""
    try:
        theirs = read_record(objects, name)
    except Corrupt:
        return True
    if name in records:
        return not same(theirs, records[name])
    parents = theirs.parents.items()
    return any(one in records and records[one].content != made for one, made in parents)


def _publish_unit(upload: _Upload, unit: Unit) -> bool:
    """Send a unit unless it is there to the byte; tell whether it was sent.

    Raises:
        TaskFailed: what was sent reads back as something else.
    """
    record = f"{unit.unit}/{RECORD}"
    if record in upload.there:
        if not damaged(upload.objects, unit):
            upload.skipped += sum(upload.there[name] for name in upload.below(unit.unit))
            return False
        upload.forget([record])
    objects = {f"{unit.unit}/{file}" for file in unit.files}
    upload.forget(name for name in upload.below(unit.unit) if name not in objects)
    for attempt in (1, 2):
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(partial(_send_file, upload, unit), unit.files))
        bad = damaged(upload.objects, unit)
        if not bad:
            upload.send_small(record, (unit.path / RECORD).read_bytes())
            return True
        if attempt == 1:
            upload.forget(f"{unit.unit}/{file}" for file in bad)
    raise TaskFailed(
        f"{upload.objects.url}/{unit.unit}/{bad[0]}: reads back as something else",
        "run the same command again; if it stays so, the storage is at fault",
    )


def _send_file(upload: _Upload, unit: Unit, name: str) -> None:
    upload.send(f"{unit.unit}/{name}", unit.path / name, unit.files[name][0])


# -------------------------------------------------------------------------------------- fetching


def _fetch(record: Unit, pieces: Pieces, store: Path, differs: Callable[[str], Corrupt]) -> None:
    """One unit into a store's folder, whole or not at all, in the place of what stands there.

    Raises:
        Corrupt: a file is not what the record lists.
        Refused: its place is below a link.
    """
    for above in reversed(Path(record.unit).parents[:-1]):
        if (store / above).is_symlink():
            raise Refused(f"{store / above}: a link", NO_LINKS)
        write_group(store / above)
    identity = Identity(record.unit, record.settings, record.parents)
    with staged(store / record.unit, identity, replace=True, n_bytes=record.n_bytes) as staging:

        def write(name: str) -> None:
            if write_pieces(staging.folder / name, pieces(name)) != record.files[name]:
                raise differs(name)

        with ThreadPoolExecutor(THREADS) as pool:
            waiting = [pool.submit(write, name) for name in record.files]
            try:
                for one in waiting:
                    one.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        staging.facts.update(record.facts)
        staging.provenance.update(record.provenance)


def _retrieve(source: Store, place: Path, replace: bool) -> dict[str, Any]:
    """Make a folder the store that ``source`` is."""
    where = source.url or str(source.path)
    units = [source.record(name) for name in source.units()]
    if not units:
        raise TaskFailed(f"{where}: no unit is complete", "copy a store there first")
    kept = _kept(place, units, replace)
    missing = [unit for unit in units if unit.unit not in kept]
    require_space(place, sum(unit.n_bytes for unit in missing))
    store = Store.create(place)
    with progress("copy", sum(map(_mebibytes, missing)), unit="MiB") as advance:
        for unit in missing:
            if isinstance(source, RemoteStore):
                source.fetch(unit, place)
            else:
                _fetch_locally(source.unit(unit.unit, deep=True), place)
            advance(_mebibytes(unit), unit.unit)
    verdict = verify(store)
    for fault in verdict.faults:
        hint = f"compare with `featstore verify {where}`"
        raise type(fault)(f"{place}: {fault.message}", hint)
    return {
        "from": where,
        "to": str(place),
        "copied": [unit.unit for unit in missing],
        "there_before": sorted(kept),
        "sent_bytes": sum(unit.n_bytes for unit in missing),
        "skipped_bytes": sum(unit.n_bytes for unit in units if unit.unit in kept),
        "content": verdict.content,
    }


def _fetch_locally(unit: Unit, place: Path) -> None:
    def pieces(name: str) -> Iterator[bytes]:
        with (unit.path / name).open("rb") as file:
            while piece := file.read(1024**2):
                yield piece

    message = f"{unit.path}: changed while it was copied"
    _fetch(unit, pieces, place, lambda name: Corrupt(f"{message} ({name})", "try again"))


def _kept(place: Path, units: list[Unit], replace: bool) -> set[str]:
    """The units that stand there already, to the byte; a damaged one is fetched again.

    Raises:
        UserError: another store's stand there.
    """
    if not (place / _ROOT).exists():
        return set()
    store, kept, others = Store.open(place), set(), []
    theirs = {unit.unit: unit for unit in units}
    for name in store.units():
        try:
            mine = store.unit(name, deep=True)
        except Corrupt:
            continue
        if name in theirs and same(mine, theirs[name]):
            kept.add(name)
        else:
            others.append(name)
    if others and not replace:
        raise UserError(
            f"{place}: holds units that are not those of the copied store\n{listed(others, 5)}",
            "copy into another folder, or give --replace",
        )
    return kept


# ------------------------------------------------------------------------------------ the mirror


def mirror_folder(url: str) -> Path:
    """Where the units of a remote store are kept: below ``FEATSTORE_CACHE``."""
    root = os.environ.get("FEATSTORE_CACHE") or "~/.cache/emodistill"
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    key = digest({"url": url, "endpoint": digest(endpoint)})
    return Path(root).expanduser() / "stores" / key[:32]


@dataclass(frozen=True)
class RemoteStore(Store):
    """A store in object storage, read through a mirror: a local store that grows unit by unit.

    A unit is fetched whole when first asked for, and compared with its record before it is
    committed. Later handles compare the record there with the mirror's: a unit that has changed is
    fetched again. ``path`` is the mirror's folder.
    """

    objects: Objects
    _records: dict[str, Unit] = field(default_factory=dict, compare=False, repr=False)
    _fetched: set[str] = field(default_factory=set, compare=False, repr=False)

    @staticmethod
    def at(url: str) -> RemoteStore:
        """Open a remote store.

        Raises:
            UserError: there is none, or it may not be read.
            TaskFailed: the network fails, or there is no room for the mirror.
        """
        objects = Objects.open(checked(url))
        store = RemoteStore(mirror_folder(objects.url), objects)
        _require_root(objects, store.sizes)
        try:
            Store.create(store.path)
            if not (store.path / ".url").exists():  # for whoever tidies the cache up
                write_file(store.path / ".url", f"{objects.url}\n".encode())
        except OSError as error:
            raise io_failure(error, store.path) from error
        return store

    @property
    def url(self) -> str:
        """Where it lies; without credentials, which only the environment holds."""
        return self.objects.url

    @property
    def name(self) -> str:
        """The last part of its URL."""
        return self.url.rpartition("/")[2]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each object there."""
        return self.objects.sizes()

    def units(self) -> list[str]:
        """The units whose record is there."""
        return units_in(self.sizes)

    def record(self, name: str, *, deep: bool = False) -> Unit:
        """A unit's record as it is there; none of its files is fetched."""
        if name not in self._records:
            if name not in self.units():
                raise UserError(
                    f"{printable(name)}: not complete in {self.url}",
                    f"copy it there: `featstore copy STORE {self.url}`",
                )
            self._records[name] = read_record(self.objects, name)
        return self._records[name]

    def unit(self, name: str, *, deep: bool = False) -> Unit:
        """A unit of the mirror, fetched where it is not there or another.

        Raises:
            Corrupt: an object there is not what the unit's record lists.
        """
        if name in self._fetched:
            return super().unit(name, deep=deep)
        record = self.record(name)
        with self._alone(name):
            unit = self._mirrored(record, deep)
            if unit is None:
                require_space(self.path, record.n_bytes)
                size = f"{record.n_bytes / 1024**2:.1f} MiB"
                say(f"fetching {record.unit}, {size}, from {self.url}")
                self.fetch(record, self.path)
                unit = super().unit(name, deep=deep)
        self._fetched.add(name)
        return unit

    def fetch(self, record: Unit, place: Path) -> None:
        """Fetch one unit into a store's folder."""

        def pieces(name: str) -> Iterator[bytes]:
            return self.objects.pieces(f"{record.unit}/{name}", record.files[name][0])

        _fetch(record, pieces, place, lambda name: _differs(self.objects, record, name))

    def content_hash(self) -> str:
        """As of the records; what they list is compared when it is fetched."""
        return digest({name: self.record(name).files for name in self.units()})

    def _mirrored(self, record: Unit, deep: bool) -> Unit | None:
        """What the mirror has of a unit; None where that is nothing, another or damaged."""
        if not os.path.lexists(self.path / record.unit):
            return None
        try:
            unit = super().unit(record.unit, deep=deep)
        except Corrupt:
            return None
        return unit if same(unit, record) else None

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """One process fetches a unit; others wait for it, and find it there."""
        path = self.path / f".{name.replace('/', '-')}.lock"
        while (lock := try_lock(path, create=True)) is None:
            time.sleep(_WAIT_S)
        try:
            yield
        finally:
            os.close(lock)

    # ---------------------------------------------------------------------------- verification

    def sound_units(self) -> tuple[list[Unit], list[UserError]]:
        """The units that are there to the byte, and what is wrong with the rest.

        The mirror has no part in it. Sums, names and parents are looked at; that the values fit
        each other, as :func:`featstore.store.verify.verify` also shows, needs them in a folder.
        """
        sound: list[Unit] = []
        records: list[Unit] = []
        faults: list[UserError] = []
        if not self.units():
            faults.append(TaskFailed(f"{self.url}: no unit is complete", "copy a store there"))
        for name in self.units():
            try:
                records.append(self.record(name))
            except UserError as error:
                faults.append(error)
        faults += self._strays({unit.unit: unit for unit in records})
        with progress("verify", sum(map(_mebibytes, records)), unit="MiB") as advance:
            for unit in records:
                try:
                    if bad := damaged(self.objects, unit):
                        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
                        fault = _differs(self.objects, unit, bad[0])
                        raise Corrupt(fault.message + more, fault.hint)
                    self.check_parents(unit)
                    sound.append(unit)
                except TaskFailed:  # of the network, which will not do for the next one either
                    raise
                except UserError as error:
                    faults.append(error)
                advance(_mebibytes(unit), unit.unit)
        return sound, faults

    def _strays(self, records: Mapping[str, Unit]) -> Iterator[UserError]:
        """Objects that belong to no unit, and groups that are none."""
        names = self.units()
        above = {one.as_posix() for name in names for one in Path(name).parents[:-1]}
        groups = {f"{one}/{_ROOT}" for one in above}
        for group in sorted(groups):
            if group not in self.sizes or self.objects.read(group, 4096) != group_json():
                yield Corrupt(f"{self.url}/{group}: not what was written", again(self.url))
        begun: list[str] = []
        for name in sorted(set(self.sizes) - groups - {_ROOT}):
            unit = next((unit for unit in names if name.startswith(f"{unit}/")), None)
            if unit is None:
                begun.append(name)
            elif unit in records:
                file = name.removeprefix(f"{unit}/")
                if file != RECORD and file not in records[unit].files:
                    message = f"{self.url}/{printable(name)}: no unit lists it"
                    yield Corrupt(message, "remove it")
        if begun:
            first = printable(begun[0])[:200]
            yield Corrupt(
                f"{self.url}: {len(begun)} objects of no complete unit, e.g. {first}",
                f"finish the copy, `featstore copy STORE {self.url}`, or remove them",
            )
