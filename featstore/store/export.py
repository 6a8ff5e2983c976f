"""A store taken elsewhere: the whole of it as HDF5, or what the teachers say as Parquet or NumPy.

Whatever the format, the file is written beside its place and renamed into it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.core.files import replaced
from featstore.core.os_errors import io_failure, require_space
from featstore.core.schema import UserError, printable
from featstore.folds import parse_numbers
from featstore.store.store import Store

SUFFIXES = {".h5": "HDF5", ".hdf5": "HDF5", ".parquet": "Parquet", ".npz": "NumPy"}
"""What a file's ending asks for."""


@dataclass(frozen=True)
class Selection:
    """What of a store is taken.

    Attributes:
        folds: ``all``, or numbers and ranges such as ``1,3..5``.
        teachers: their names, cross-fitted targets by their own; none takes all.
        embeddings: a column of embeddings in Parquet; the other formats always have them.
        audio: whether the signals go along (HDF5 alone has them).
        text: whether the transcripts go along.
    """

    folds: str = "all"
    teachers: tuple[str, ...] = ()
    embeddings: bool = False
    audio: bool = True
    text: bool = True


def export(
    store: Store, out: Path, selection: Selection | None = None, *, force: bool = False
) -> dict[str, Any]:
    """Write a file in the format that its ending names.

    Args:
        store: the store, left as it is.
        out: the file: ``.h5``, ``.parquet`` or ``.npz``.
        selection: what of the store; all of it by default.
        force: replace a file that stands there.

    Returns:
        The file's name, format and size, and what it holds.

    Raises:
        UserError: the ending is none of ours, the place is taken, or the selection finds nothing.
        Corrupt: the store is damaged.
        TaskFailed: the disk is full, read-only or failing; nothing is left of the file.
    """
    selection = selection or Selection()
    kind = SUFFIXES.get(out.suffix.lower())
    if kind is None:
        raise UserError(
            f"{out}: no format is known by {out.suffix or 'no ending'!r}",
            f"end it in {', '.join(SUFFIXES)}",
        )
    _check_place(store, out, force)
    _check_selection(kind, selection)
    try:
        held = _write(kind, store, out, selection, force)
    except OSError as error:
        raise io_failure(error, out) from error
    return {"file": str(out), "format": kind, "bytes": out.stat().st_size, **held}


def _write(kind: str, store: Store, out: Path, selection: Selection, force: bool) -> dict[str, Any]:
    names = store.units()
    if not names:
        raise UserError(f"{store.path}: no unit is complete", "run `featstore build`")
    if kind == "HDF5":
        from featstore.store.export_hdf5 import write_hdf5

        absent = {"audio": selection.audio, "text": selection.text}
        left_out = frozenset(name for name, taken in absent.items() if not taken)
        require_space(out, sum(store.unit(name).n_bytes for name in names))
        with replaced(out) as beside:
            held = write_hdf5(store, beside, left_out)
            _check_place(store, out, force)
        return held
    from featstore.store.export_targets import write_npz, write_parquet

    targets = selected(store, selection)
    with replaced(out) as beside:
        if kind == "Parquet":
            held = write_parquet(
                store, targets, beside, text=selection.text, embeddings=selection.embeddings
            )
        else:
            held = write_npz(store, targets, beside)
        _check_place(store, out, force)
    return held


def selected(store: Store, selection: Selection) -> list[tuple[int, str]]:
    """The fold and name of all selected targets, in order.

    Raises:
        UserError: there are none, or a teacher is none of the store's.
    """
    numbers = parse_numbers(selection.folds, len(store.folds))
    found = [(number, name) for number in numbers for name in store.target_names(number)]
    known = sorted({name for _, name in found})
    for teacher in selection.teachers:
        if teacher not in known:
            raise UserError(
                f"--teacher {printable(teacher)}: not among the targets of folds "
                f"{printable(selection.folds)} of {store.path}",
                f"there are {', '.join(known) or 'none yet: run `featstore build`'}",
            )
    if not found:
        raise UserError(
            f"{store.path}: no teacher in fold {printable(selection.folds)} yet",
            "run `featstore build`; `featstore inspect` lists what is there",
        )
    return [(number, name) for number, name in found if name in (selection.teachers or known)]


def _check_place(store: Store, out: Path, force: bool) -> None:
    """Refuse to replace what was not asked to be replaced, and to litter a store."""
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder", "make it, or write elsewhere")
    if store.path.resolve() in (out.parent.resolve(), *out.parent.resolve().parents):
        raise UserError(f"{out}: lies in the store", "a store holds only what it lists: go outside")
    if os.path.lexists(out) and (out.is_dir() or not force):
        what = "a folder" if out.is_dir() else "a file"
        hint = "choose another name" if out.is_dir() else "give --force to replace it"
        raise UserError(f"{out}: {what} stands there", hint)


def _check_selection(kind: str, selection: Selection) -> None:
    """An option that would be passed over is a mistake."""
    partial = selection.folds != "all" or selection.teachers
    if kind == "HDF5" and (partial or selection.embeddings):
        raise UserError(
            "--fold, --teacher and --embeddings: HDF5 takes the whole store",
            "end the file in .parquet or .npz to take a part",
        )
    if kind != "HDF5" and not selection.audio:
        raise UserError(f"--no-audio: {kind} never has the signals", "leave it out")
    if kind == "NumPy" and not selection.text:
        raise UserError("--no-text: NumPy never has the transcripts", "leave it out")
    if kind == "NumPy" and selection.embeddings:
        raise UserError("--embeddings: NumPy always has them", "leave it out")
