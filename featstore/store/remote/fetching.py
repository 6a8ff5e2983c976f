"""Units from object storage into folders, each file compared before its unit is committed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from featstore.core.console import progress
from featstore.core.files import write_pieces
from featstore.core.os_errors import require_space
from featstore.core.schema import Corrupt, Refused, TaskFailed, UserError, listed
from featstore.store.arrays import write_group
from featstore.store.export_hdf5 import mebibytes
from featstore.store.remote.contents import (
    Files,
    contents,
    differs,
    read_record,
    same,
    side_by_side,
    units_in,
)
from featstore.store.remote.objects import Objects
from featstore.store.staging import staged
from featstore.store.store import Store
from featstore.store.unit import NO_LINKS, Identity, Unit
from featstore.store.verify import verify


def fetch_unit(objects: Objects, unit: Unit, store: Path, *, replace: bool = False) -> None:
    """One unit, whole or not at all.

    Args:
        objects: where it lies.
        unit: its record there.
        store: the folder of the store that it becomes part of.
        replace: swap out what stands in its place.

    Raises:
        Corrupt: an object is not what the record lists.
        Refused: its place is below a link.
    """
    found = contents(objects, unit)
    for above in reversed(Path(unit.unit).parents[:-1]):
        if (store / above).is_symlink():
            raise Refused(f"{store / above}: a link", NO_LINKS)
        write_group(store / above)
    identity = Identity(unit.unit, unit.settings, unit.parents)
    place = store / unit.unit
    with staged(place, identity, replace=replace, n_bytes=unit.n_bytes) as staging:

        def write(task: Callable[[], Files]) -> None:
            _write(staging.folder, task(), objects, unit)

        side_by_side(write, found.tasks)
        staging.facts.update(unit.facts)
        staging.provenance.update(unit.provenance)


def _write(folder: Path, files: Files, objects: Objects, unit: Unit) -> None:
    for name, pieces in files:
        if write_pieces(folder / name, pieces) != unit.files[name]:
            raise differs(objects, unit, name)


def require_root(objects: Objects, content: bytes | None) -> None:
    """Refuse what is no store of ours.

    Args:
        objects: what lies there.
        content: its ``zarr.json``, None where there is none.

    Raises:
        UserError, OtherVersion, Corrupt: as :meth:`featstore.store.store.Store.open` does.
    """
    if content is None:
        raise UserError(
            f"{objects.url}: no store there, or one that is still being copied",
            f"`featstore copy STORE {objects.url}` publishes one",
        )
    Store.check_root(content, objects.url)


def retrieve(objects: Objects, place: Path, *, replace: bool) -> dict[str, Any]:
    """Make a folder the store that lies in object storage. Resumes.

    Args:
        objects: where it lies.
        place: the folder: new, or of the same store.
        replace: put its units in the place of others.

    Raises:
        UserError: another store stands there.
        Corrupt: the remote store is damaged; units before the damage are kept.
    """
    names = units_in(sizes := objects.sizes())
    require_root(objects, objects.read("zarr.json", 4096) if "zarr.json" in sizes else None)
    units = [read_record(objects, name) for name in names]
    if not units:
        raise TaskFailed(f"{objects.url}: no unit is complete", "copy a store there first")
    kept = _standing(place, units, replace)
    wanted = [unit for unit in units if unit.unit not in kept]
    require_space(place, sum(unit.n_bytes for unit in wanted))
    store = Store.create(place)
    with progress("copy", sum(map(mebibytes, wanted)), unit="MiB") as advance:
        for unit in wanted:
            fetch_unit(objects, unit, place, replace=True)
            advance(mebibytes(unit), unit.unit)
    found = verify(store)
    for fault in found.faults:
        raise type(fault)(
            f"{place}: {fault.message}", f"compare with `featstore verify {objects.url}`"
        )
    return {
        "from": objects.url,
        "to": str(place),
        "copied": [unit.unit for unit in wanted],
        "there_before": sorted(kept),
        "sent_bytes": sum(unit.n_bytes for unit in wanted),
        "skipped_bytes": sum(unit.n_bytes for unit in units if unit.unit in kept),
        "content": found.content,
    }


def _standing(place: Path, units: list[Unit], replace: bool) -> set[str]:
    """The units that stand there already, to the byte; a damaged one is fetched again.

    Raises:
        UserError: another store's stand there.
    """
    if not (place / "zarr.json").exists():
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
