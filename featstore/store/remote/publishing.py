"""A store into object storage, unit by unit: data first, its record last, all of it read back.

A unit without a record is none to any reader, and a prefix without a root is no store; so whoever
looks while a copy runs, or after it was killed, sees whole units or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.core.console import progress
from featstore.core.schema import Corrupt, TaskFailed, UserError, listed, printable
from featstore.store.array_files import META, parts, stored
from featstore.store.arrays import Metadata, group_json, read_metadata
from featstore.store.export_hdf5 import mebibytes
from featstore.store.remote.contents import THREADS, faults_of, read_record, same, units_in
from featstore.store.remote.fetching import require_root
from featstore.store.remote.objects import Objects
from featstore.store.remote.packing import packed_files, packed_metadata, packs
from featstore.store.store import SHARED_UNITS, Store
from featstore.store.unit import RECORD, Unit

_ROOT = "zarr.json"
_TOP = {_ROOT, *SHARED_UNITS, "folds", "weights"}


@dataclass
class _Copy:
    """A copy in progress."""

    objects: Objects
    there: dict[str, int]
    compress: bool
    copied: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)
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

    def forget(self, names: list[str]) -> None:
        """Remove objects."""
        self.objects.delete(names)
        for name in names:
            self.there.pop(name, None)

    def below(self, unit: str) -> list[str]:
        """Objects of a unit, its record among them."""
        return [name for name in self.there if name.startswith(f"{unit}/")]


def publish(store: Store, objects: Objects, *, compress: bool, replace: bool) -> dict[str, Any]:
    """Copy a store to where ``objects`` lie. Resumes.

    Args:
        store: what to copy; every byte of it is compared with its records on the way.
        objects: where to.
        compress: send arrays compressed, where they are not there yet.
        replace: put its units in the place of others.

    Raises:
        UserError: another store, or something else, is there.
        Corrupt: a unit of the store is damaged; those before it are there.
        TaskFailed: what is read back is not what was sent.
    """
    names = store.units()
    if not names:
        raise TaskFailed(f"{store.path}: no unit is complete", "run `featstore build`")
    copy = _Copy(objects, objects.sizes(), compress)
    mine = {name: store.record(name) for name in names}
    _clear(copy, store, mine, replace)
    total = sum(map(mebibytes, mine.values()))
    with progress("copy", total, unit="MiB") as advance:
        for name in names:
            _unit(copy, store, name)
            _groups(copy, name)
            advance(mebibytes(mine[name]), name)
    _small(copy, _ROOT, (store.path / _ROOT).read_bytes())
    return {
        "from": store.url or str(store.path),
        "to": objects.url,
        "copied": copy.copied,
        "there_before": copy.before,
        "sent_bytes": copy.sent,
        "skipped_bytes": copy.skipped,
        "content": store.content_hash(),
    }


def _clear(copy: _Copy, store: Store, mine: Mapping[str, Unit], replace: bool) -> None:
    """Refuse a place that holds anything else; with ``replace``, make other units none.

    Raises:
        UserError: naming what is there.
    """
    strange = sorted(name for name in copy.there if name.partition("/")[0] not in _TOP)
    if _ROOT in copy.there:
        require_root(copy.objects, copy.objects.read(_ROOT, 4096))
    elif strange:
        raise UserError(
            f"{copy.objects.url}: holds {printable(strange[0])[:80]}, and no store",
            "give the store a prefix of its own",
        )
    others = [name for name in units_in(copy.there) if _other(copy, mine, name)]
    if others and not replace:
        raise UserError(
            f"{copy.objects.url}: holds units that are not those of {store.name}\n"
            f"{listed(others, 5)}",
            "copy to another prefix, or give --replace",
        )
    copy.forget([f"{name}/{RECORD}" for name in others])  # from now on no unit, whatever happens
    for name in others:
        copy.forget(copy.below(name))


def _other(copy: _Copy, mine: Mapping[str, Unit], name: str) -> bool:
    """Whether a unit there is not the store's; one that it lacks must fit to those that it has."""
    try:
        theirs = read_record(copy.objects, name)
    except Corrupt:
        return True
    if name in mine:
        return not same(theirs, mine[name])
    return any(
        parent in mine and mine[parent].fingerprint != fingerprint
        for parent, fingerprint in theirs.parents.items()
    )


def _unit(copy: _Copy, store: Store, name: str) -> None:
    """One unit: what is there already with the right content is not sent again.

    Raises:
        TaskFailed: what was sent reads back as something else.
    """
    unit = store.unit(name, deep=True)
    record = f"{name}/{RECORD}"
    whole = record in copy.there
    if whole:
        if not _faults(copy, unit):
            copy.before.append(name)
            copy.skipped += sum(copy.there[one] for one in copy.below(name))
            return
        copy.forget([record])
    packed = _packed(unit) if copy.compress else {}
    known = {f"{name}/{file}" for file in unit.files}
    copy.forget([one for one in copy.below(name) if one not in known])
    _data(copy, unit, packed)
    if bad := _faults(copy, unit):
        again = bad if set(bad) <= unit.files.keys() else list(unit.files)
        copy.forget([one for one in (f"{name}/{file}" for file in again) if one in copy.there])
        _data(copy, unit, packed)
        if bad := _faults(copy, unit):
            raise TaskFailed(
                f"{copy.objects.url}/{name}/{bad[0]}: reads back as something else",
                "run the same command again; if it stays so, the storage is at fault",
            )
    _small(copy, record, (unit.path / RECORD).read_bytes())
    copy.copied.append(name)


def _faults(copy: _Copy, unit: Unit) -> list[str]:
    """What does not read back as the record says."""
    try:
        return faults_of(copy.objects, unit)
    except Corrupt as error:
        return [error.message]


def _data(copy: _Copy, unit: Unit, packed: Mapping[str, Metadata]) -> None:
    """Send a unit's files, each array's metadata after its values."""

    def send(name: str) -> None:
        copy.send(f"{unit.unit}/{name}", unit.path / name, unit.files[name][0])

    plain = [name for name in unit.files if name.partition("/")[0] not in packed]
    with ThreadPoolExecutor(THREADS) as pool:
        for metadata in (False, True):
            list(pool.map(send, [one for one in plain if one.endswith(META) is metadata]))
    for array, meta in packed.items():
        for name, content in _compressed(unit.path / array, meta):
            copy.send(f"{unit.unit}/{array}/{name}", content, len(content))


def _packed(unit: Unit) -> dict[str, Metadata]:
    """The arrays of a unit that travel compressed."""
    arrays, _ = parts(unit, lambda array: read_metadata(unit.path / array))
    return {name: meta for name, meta in arrays.items() if packs(meta)}


def _compressed(folder: Path, meta: Metadata) -> Iterator[tuple[str, bytes]]:
    """The objects of an array, its metadata last."""
    text = packed_metadata((folder / META).read_bytes())
    yield from packed_files(text, meta, stored(folder, meta))
    yield META, text


def _groups(copy: _Copy, unit: str) -> None:
    """The groups above a unit, so that any Zarr reader walks down to it."""
    for above in Path(unit).parents[:-1]:
        if above.as_posix() not in copy.groups:
            _small(copy, f"{above.as_posix()}/{META}", group_json())
            copy.groups.add(above.as_posix())


def _small(copy: _Copy, name: str, content: bytes) -> None:
    """One small object, read back.

    Raises:
        TaskFailed: it reads back as something else.
    """
    there: Callable[[], bool] = lambda: copy.objects.read(name, len(content)) == content  # noqa: E731
    if copy.there.get(name) == len(content) and there():
        copy.skipped += len(content)
        return
    copy.objects.put(name, content)
    copy.there[name] = len(content)
    copy.sent += len(content)
    if not there():
        raise TaskFailed(f"{copy.objects.url}/{name}: reads back as something else", "try again")
