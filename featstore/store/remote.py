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
from functools import cached_property
from pathlib import Path
from typing import Any

from featstore.core.console import progress, say
from featstore.core.files import MAX_JSON_BYTES, read_small, try_lock, write_file, write_pieces
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
from featstore.store.store import SHARED_UNITS, Store, in_order
from featstore.store.unit import NO_LINKS, RECORD, REPAIR, Unit, parse_record
from featstore.store.verify import verify

THREADS = 4
"""Objects read or written at once."""

_ROOT = "zarr.json"
_MAX_ROOT_BYTES = 4096
_FILE = re.compile(r"(?!unit\.json\Z)\w+(/\w+)*(\.(json|parquet))?\Z", re.ASCII)
"""What a unit may list."""
_WAIT_S = 0.1
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")


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
    units = [store.record(name) for name in store.units()]
    if not units:
        hint = "copy a store there first" if store.url else "run `featstore build`"
        raise TaskFailed(f"{store.url or store.path}: no unit is complete", hint)
    if isinstance(to, str) and is_url(to):
        done = _publish(store, units, Objects.open(to), replace)
    else:
        done = _retrieve(store, units, Path(to), replace)
    there_before = [unit.unit for unit in units if unit.unit not in done["copied"]]
    where = store.url or str(store.path)
    return {"from": where, "to": str(to), **done, "there_before": there_before}


# ---------------------------------------------------------------------------- units in a bucket


def units_in(names: Iterable[str]) -> list[str]:
    """The units whose record is among some objects, parents first.

    >>> units_in(["folds/01/prosodic/unit.json", "../unit.json", "audio/unit.json"])
    ['audio', 'folds/01/prosodic']
    """
    ending = f"/{RECORD}"
    return in_order({name.removesuffix(ending) for name in names if name.endswith(ending)})


def groups_above(units: Iterable[str]) -> list[str]:
    """The metadata of the groups above some units, so that any Zarr reader walks down to them.

    >>> groups_above(["audio", "folds/01/prosodic"])
    ['folds/01/zarr.json', 'folds/zarr.json']
    """
    return sorted({f"{above}/zarr.json" for unit in units for above in Path(unit).parents[:-1]})


def read_record(objects: Objects, name: str) -> Unit:
    """What a unit's record there says; its ``path`` is the unit's name.

    Raises:
        Corrupt: it is not what was written.
        Refused: another version wrote it, or it lists a file that no unit has.
    """
    shown = f"{objects.url}/{name}/{RECORD}"
    content = objects.read(f"{name}/{RECORD}", MAX_JSON_BYTES)
    try:
        unit = parse_record(content, Path(name), name, shown)
        check_record(name, unit.settings, unit.facts, shown)
        for file in unit.files:
            if not _FILE.match(file):
                raise Refused(f"{shown}: lists {printable(file)[:80]!r}, which no unit holds")
    except OtherVersion:
        raise
    except (Corrupt, Refused) as error:
        raise type(error)(error.message, again(objects.url)) from None
    return unit


def same(a: Unit, b: Unit) -> bool:
    """Whether two records are of the same content, made from the same."""
    return (a.unit, a.fingerprint, a.files, a.facts) == (b.unit, b.fingerprint, b.files, b.facts)


def objects_of(unit: Unit) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each object of a unit but its record."""
    return {f"{unit.unit}/{name}": facts for name, facts in unit.files.items()}


def damaged(objects: Objects, wanted: Mapping[str, tuple[int, str]]) -> list[str]:
    """Objects that do not have their size and SHA-256; every byte is read."""

    def is_damaged(name: str) -> bool:
        n_bytes, content = 0, hashlib.sha256()
        try:
            for piece in objects.pieces(name, wanted[name][0]):
                n_bytes += len(piece)
                content.update(piece)
        except Corrupt:
            return True
        return (n_bytes, content.hexdigest()) != wanted[name]

    with ThreadPoolExecutor(THREADS) as pool:
        bad = pool.map(is_damaged, wanted)
        return [name for name, one in zip(wanted, bad, strict=True) if one]


def _require_root(objects: Objects, sizes: Mapping[str, int]) -> None:
    """Refuse what is no store of ours."""
    if _ROOT not in sizes:
        raise UserError(
            f"{objects.url}: no store there, or one that is still being copied",
            f"`featstore copy STORE {objects.url}` publishes one",
        )
    Store.check_root(objects.read(_ROOT, _MAX_ROOT_BYTES), objects.url)


def _mebibytes(*units: Unit) -> int:
    return sum(unit.n_bytes // 1024**2 for unit in units)


# ------------------------------------------------------------------------------------ publishing


@dataclass
class _Upload:
    """A copy to object storage in progress: what is there, and what was sent."""

    objects: Objects
    there: dict[str, int]
    sent: int = 0
    skipped: int = 0

    def send(
        self, wanted: Mapping[str, tuple[int, str]], content: Callable[[str], bytes | Path]
    ) -> None:
        """Make objects hold what they should: send those of another size, and read back all.

        Args:
            wanted: size and SHA-256 of each object.
            content: gives what is sent, by the object's name.

        Raises:
            TaskFailed: one reads back as something else, although it was sent again.
        """
        bad = [name for name, (size, _) in wanted.items() if self.there.get(name) != size]
        self.skipped += sum(wanted[name][0] for name in wanted.keys() - set(bad))
        for _ in range(2):
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda name: self.objects.put(name, content(name)), bad))
            self.there |= {name: wanted[name][0] for name in bad}
            self.sent += sum(wanted[name][0] for name in bad)
            bad = damaged(self.objects, wanted)
            if not bad:
                return
            wanted = {name: wanted[name] for name in bad}
        raise TaskFailed(
            f"{self.objects.url}/{bad[0]}: reads back as something else",
            "run the same command again; if it stays so, the storage is at fault",
        )

    def send_small(self, name: str, content: bytes) -> None:
        """Send one small object."""
        facts = len(content), hashlib.sha256(content).hexdigest()
        self.send({name: facts}, lambda _: content)

    def delete(self, names: Iterable[str]) -> None:
        """Remove those of some objects that are there."""
        names = [name for name in names if self.there.pop(name, None) is not None]
        self.objects.delete(names)

    def below(self, unit: str) -> list[str]:
        """Objects of a unit, its record among them."""
        return [name for name in self.there if name.startswith(f"{unit}/")]


def _publish(store: Store, units: list[Unit], objects: Objects, replace: bool) -> dict[str, Any]:
    """A store into object storage: data first, its record last, all of it read back."""
    upload = _Upload(objects, objects.sizes())
    _clear(upload, store.name, {unit.unit: unit for unit in units}, replace)
    copied: list[str] = []
    with progress("copy", _mebibytes(*units), unit="MiB") as advance:
        for record in units:
            if _publish_unit(upload, store.unit(record.unit, deep=True)):
                copied.append(record.unit)
            advance(_mebibytes(record), record.unit)
    for group in groups_above(unit.unit for unit in units):
        upload.send_small(group, group_json())
    upload.send_small(_ROOT, read_small(store.path / _ROOT))
    return {
        "copied": copied,
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
    ours = {_ROOT, *SHARED_UNITS, "folds"}
    strange = sorted(one for one in upload.there if one.partition("/")[0] not in ours)
    if _ROOT in upload.there:
        _require_root(objects, upload.there)
    elif strange:
        message = f"{objects.url}: holds {printable(strange[0])[:80]}, and no store"
        raise UserError(message, "give the store a prefix of its own")

    def is_other(unit: str) -> bool:
        """A unit that the store lacks must fit to those that it has."""
        try:
            theirs = read_record(objects, unit)
        except Corrupt:
            return True
        if unit in records:
            return not same(theirs, records[unit])
        parents = theirs.parents.items()
        return any(one in records and records[one].content != made for one, made in parents)

    others = [unit for unit in units_in(upload.there) if is_other(unit)]
    if others and not replace:
        raise UserError(
            f"{objects.url}: holds units that are not those of {name}\n{listed(others, 5)}",
            "copy to another prefix, or give --replace",
        )
    upload.delete(f"{unit}/{RECORD}" for unit in others)  # no unit from now on, whatever happens
    for unit in others:
        upload.delete(upload.below(unit))


def _publish_unit(upload: _Upload, unit: Unit) -> bool:
    """Send a unit unless it is there to the byte; tell whether it was sent.

    Raises:
        TaskFailed: what was sent reads back as something else.
    """
    record, wanted = f"{unit.unit}/{RECORD}", objects_of(unit)
    if record in upload.there and not damaged(upload.objects, wanted):
        upload.skipped += sum(upload.there[name] for name in upload.below(unit.unit))
        return False
    upload.delete([record])
    upload.delete(name for name in upload.below(unit.unit) if name not in wanted)
    upload.send(wanted, lambda name: unit.path / name.removeprefix(f"{unit.unit}/"))
    upload.send_small(record, read_small(unit.path / RECORD))
    return True


# -------------------------------------------------------------------------------------- fetching


def _fetch(source: Store, record: Unit, place: Path) -> None:
    """One unit into a store's folder, whole or not at all, in the place of what stands there.

    Raises:
        Corrupt: a file is not what the record lists.
        Refused: its place is below a link.
    """
    objects = source.objects if isinstance(source, RemoteStore) else None
    if objects is None:
        record.check_sizes(record.files)

    def pieces(name: str) -> Iterator[bytes]:
        if objects is not None:
            yield from objects.pieces(f"{record.unit}/{name}", record.files[name][0])
            return
        with (record.path / name).open("rb") as file:
            while piece := file.read(1024**2):
                yield piece

    for above in reversed(Path(record.unit).parents[:-1]):
        if (place / above).is_symlink():
            raise Refused(f"{place / above}: a link", NO_LINKS)
        write_group(place / above)
    with staged(place / record.unit, record, replace=True, n_bytes=record.n_bytes) as staging:

        def write(name: str) -> None:
            if write_pieces(staging.folder / name, pieces(name)) != record.files[name]:
                raise _differs(source, f"{record.unit}/{name}")

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(write, record.files))
        staging.facts.update(record.facts)
        staging.provenance.update(record.provenance)


def _differs(store: Store, name: str) -> Corrupt:
    place = store.url or store.path
    hint = again(store.url) if store.url else REPAIR
    return Corrupt(f"{place}/{name}: content differs", hint)


def _retrieve(source: Store, units: list[Unit], place: Path, replace: bool) -> dict[str, Any]:
    """Make a folder the store that ``source`` is."""
    kept = _kept(place, units, replace)
    missing = [unit for unit in units if unit.unit not in kept]
    require_space(place, sum(unit.n_bytes for unit in missing))
    store = Store.create(place)
    with progress("copy", _mebibytes(*missing), unit="MiB") as advance:
        for unit in missing:
            _fetch(source, unit, place)
            advance(_mebibytes(unit), unit.unit)
    verdict = verify(store)
    for fault in verdict.faults:
        hint = f"compare with `featstore verify {source.url or source.path}`"
        raise type(fault)(f"{place}: {fault.message}", hint)
    return {
        "copied": [unit.unit for unit in missing],
        "sent_bytes": sum(unit.n_bytes for unit in missing),
        "skipped_bytes": sum(unit.n_bytes for unit in units if unit.unit in kept),
        "content": verdict.content,
    }


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

    def record(self, name: str) -> Unit:
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
                _fetch(self, record, self.path)
                unit = super().unit(name, deep=deep)
        self._fetched.add(name)
        return unit

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
        records: dict[str, Unit] = {}
        faults: list[UserError] = []
        if not self.units():
            faults.append(TaskFailed(f"{self.url}: no unit is complete", "copy a store there"))
        n_bytes = sum(self.sizes.values())
        with progress("verify", n_bytes // 1024**2, unit="MiB") as advance:
            for name in self.units():
                try:
                    unit = records[name] = self.record(name)
                    if bad := damaged(self.objects, objects_of(unit)):
                        fault = _differs(self, bad[0])
                        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
                        raise Corrupt(fault.message + more, fault.hint)
                    self.check_parents(unit)
                    sound.append(unit)
                    advance(_mebibytes(unit), name)
                except TaskFailed:  # of the network, which will not do for the next one either
                    raise
                except UserError as error:
                    faults.append(error)
        return sound, [*faults, *self._strays(records)]

    def _strays(self, records: Mapping[str, Unit]) -> Iterator[UserError]:
        """Objects that belong to no unit, and groups that are none."""
        names = self.units()
        groups = groups_above(names)
        for group in groups:
            if group not in self.sizes or self.objects.read(group, 4096) != group_json():
                yield Corrupt(f"{self.url}/{group}: not what was written", again(self.url))
        begun: list[str] = []
        for name in sorted(self.sizes.keys() - {_ROOT, *groups}):
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
