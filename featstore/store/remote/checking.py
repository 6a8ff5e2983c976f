"""A remote store read byte by byte, as it lies there: the mirror has no part in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.core.console import progress
from featstore.core.schema import Corrupt, TaskFailed, UserError, printable
from featstore.store.array_files import META
from featstore.store.arrays import group_json
from featstore.store.export_hdf5 import mebibytes
from featstore.store.remote.contents import differs, faults_of
from featstore.store.remote.objects import again
from featstore.store.unit import RECORD, Unit

if TYPE_CHECKING:
    from featstore.store.remote.mirror import RemoteStore


def sound_units(store: RemoteStore) -> tuple[list[Unit], list[UserError]]:
    """The units that are there to the byte, and what is wrong with the rest.

    Sums, names and parents are looked at; that the values fit each other, as
    :func:`featstore.store.verify.verify` also shows, needs them in a folder.
    """
    sound: list[Unit] = []
    names = store.units()
    faults: list[UserError] = list(_between(store, names))
    if not names:
        faults.append(TaskFailed(f"{store.url}: no unit is complete", "copy a store there"))
    records: list[Unit] = []
    for name in names:
        try:
            records.append(store.record(name))
        except UserError as error:
            faults.append(error)
    with progress("verify", sum(map(mebibytes, records)), unit="MiB") as advance:
        for unit in records:
            try:
                _check(store, unit)
                sound.append(unit)
            except TaskFailed:  # of the network, which will not do for the next one either
                raise
            except UserError as error:
                faults.append(error)
            advance(mebibytes(unit), unit.unit)
    return sound, faults


def _check(store: RemoteStore, unit: Unit) -> None:
    """Refuse a unit that is not there to the byte, or was made from others."""
    bad = faults_of(store.objects, unit)
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        fault = differs(store.objects, unit, bad[0])
        raise Corrupt(fault.message + more, fault.hint)
    store.check_parents(unit)


def _between(store: RemoteStore, names: list[str]) -> Iterator[UserError]:
    """Objects that belong to no unit, and groups that are none."""
    remedy = again(store.url)
    groups = {above.as_posix() for name in names for above in Path(name).parents[:-1]}
    for group in sorted(groups):
        name = f"{group}/{META}"
        if name not in store.sizes or store.objects.read(name, 4096) != group_json():
            yield Corrupt(f"{store.url}/{name}: not what was written", remedy)
    known = {META, *(f"{group}/{META}" for group in groups)}
    begun: set[str] = set()
    for name in sorted(set(store.sizes) - known):
        unit = next((unit for unit in names if name.startswith(f"{unit}/")), None)
        if unit is None:
            begun.add(name)
        elif name != f"{unit}/{RECORD}" and name.removeprefix(f"{unit}/") not in _files(
            store, unit
        ):
            yield Corrupt(f"{store.url}/{printable(name)}: no unit lists it", "remove it")
    if begun:
        first = printable(min(begun))[:200]
        yield Corrupt(
            f"{store.url}: {len(begun)} objects of no complete unit, e.g. {first}",
            f"finish the copy, `featstore copy STORE {store.url}`, or remove them",
        )


def _files(store: RemoteStore, unit: str) -> frozenset[str]:
    """What a unit lists; nothing where its record cannot be read, which is told elsewhere."""
    try:
        return frozenset({RECORD, *store.record(unit).files})
    except UserError:
        return frozenset(name.removeprefix(f"{unit}/") for name in store.sizes)
