"""An exported HDF5 file -> a store with the same content, unit by unit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featstore.core.console import progress
from featstore.core.files import write_pieces
from featstore.core.os_errors import require_space
from featstore.core.schema import Corrupt, UserError
from featstore.store.array_files import encoded
from featstore.store.arrays import write_group
from featstore.store.export_hdf5 import mebibytes
from featstore.store.hdf5_file import ANEW, opened
from featstore.store.hdf5_source import Part, Source
from featstore.store.staging import staged
from featstore.store.store import Store
from featstore.store.unit import Identity, Unit
from featstore.store.verify import verify


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
    with opened(path) as file:
        source = Source(file)
        kept = _standing(place, source)
        wanted = [part for part in source.parts if part.unit.unit not in kept]
        require_space(place, sum(part.unit.n_bytes for part in wanted))
        store = Store.create(place)
        total = sum(mebibytes(part.unit) for part in wanted)
        with progress("import", total, unit="MiB") as advance:
            for part in wanted:
                _restore(store, source, part)
                advance(mebibytes(part.unit), part.unit.unit)
        found = verify(store)
        for fault in found.faults:  # sound sums over nonsense: a stranger's file
            raise type(fault)(f"{place}: {fault.message}", "remove the store; " + ANEW)
        return {
            "store": str(place),
            "restored": [part.unit.unit for part in wanted],
            "there_before": sorted(kept),
            "bytes": source.n_bytes,
            "content": found.content,
        }


def _standing(place: Path, source: Source) -> set[str]:
    """The units that stand there already, all of them the file's own.

    Raises:
        UserError: another store stands there.
    """
    names = Store(place).units() if (place / "zarr.json").exists() else []
    files = {part.unit.unit: part.unit.files for part in source.parts}
    for name in names:
        if Store.open(place).unit(name).files != files.get(name):
            raise UserError(
                f"{place}: holds {name}, which is not the one of {source.path}",
                "import into another --store; `featstore diff` tells how two stores differ",
            )
    return set(names)


def _restore(store: Store, source: Source, part: Part) -> None:
    """One unit, every file compared with its record before the unit is committed."""
    unit = part.unit
    for above in reversed(Path(unit.unit).parents[:-1]):
        write_group(store.path / above)
    identity = Identity(unit.unit, unit.settings, unit.parents)
    with staged(store.path / unit.unit, identity, n_bytes=unit.n_bytes) as staging:
        for name in part.others:
            _write(staging.folder, name, source.pieces(unit, name), source, unit)
        for array, meta in part.arrays.items():
            for file, pieces in encoded(meta, source.rows(part, array)):
                _write(staging.folder, f"{array}/{file}", pieces, source, unit)
        staging.facts.update(unit.facts)
        staging.provenance.update(unit.provenance)


def _write(folder: Path, name: str, pieces: Iterable[bytes], source: Source, unit: Unit) -> None:
    """Write one of the unit's files, which must be the one that its record lists.

    Raises:
        Corrupt: it is another.
    """
    if write_pieces(folder / name, pieces) != unit.files[name]:
        raise Corrupt(f"{source.path}: {unit.unit}/{name}: content differs", ANEW)
