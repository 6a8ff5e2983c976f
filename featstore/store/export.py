"""A store taken elsewhere: the whole of it as HDF5, or its teachers' outputs as Parquet or NumPy.

The Parquet table has one row per utterance, fold and teacher, and opens in pandas, DuckDB, Polars
and Spotlight. Logits are raw; probabilities, confidence and entropy (in nats) are at tau 1.
Whatever the format, the file is written beside its place and renamed into it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featstore.core.files import replaced
from featstore.core.metrics import entropy, soften
from featstore.core.os_errors import io_failure, require_space
from featstore.core.schema import SAMPLING_RATE, UserError, printable
from featstore.core.settings import canonical
from featstore.folds import ROLE_NAMES, parse_numbers
from featstore.store.hdf5 import write_hdf5
from featstore.store.store import Store, unit_name

SUFFIXES = {".h5": "HDF5", ".hdf5": "HDF5", ".parquet": "Parquet", ".npz": "NumPy"}
"""What a file's ending asks for."""

_TEXTS = ("utterance_id", "speaker", "session", "gender", "kind", "label")


def export(
    store: Store,
    out: Path,
    *,
    folds: str = "all",
    teachers: Sequence[str] = (),
    embeddings: bool = False,
    audio: bool = True,
    text: bool = True,
    force: bool = False,
) -> dict[str, Any]:
    """Write a file in the format that its ending names.

    Args:
        store: the store, left as it is.
        out: the file: ``.h5``, ``.parquet`` or ``.npz``.
        folds: ``all``, or numbers and ranges such as ``1,3..5``; HDF5 takes all.
        teachers: their names, cross-fitted targets by their own; none takes all. HDF5 takes all.
        embeddings: a column of embeddings in Parquet; the other formats always have them.
        audio: whether the signals go along (HDF5 alone has them).
        text: whether the transcripts go along (NumPy never has them).
        force: replace a file that stands there.

    Returns:
        The file's name, format and size, and what it holds.

    Raises:
        UserError: the ending is none of ours, the place is taken, or the selection finds nothing.
        Corrupt: the store is damaged.
        TaskFailed: the disk is full, read-only or failing; nothing is left of the file.
    """
    kind = SUFFIXES.get(out.suffix.lower())
    if kind is None:
        raise UserError(
            f"{out}: no format is known by {out.suffix or 'no ending'!r}",
            f"end it in {', '.join(SUFFIXES)}",
        )
    _check_place(store, out, force)
    part = folds != "all" or bool(teachers)
    _check_options(kind, part=part, embeddings=embeddings, audio=audio, text=text)
    if not store.units():
        raise UserError(f"{store.path}: no unit is complete", "run `featstore build`")
    left_out = [name for name, taken in (("audio", audio), ("text", text)) if not taken]
    try:
        if kind == "HDF5":
            require_space(out, sum(store.unit(name).n_bytes for name in store.units()))
        else:
            targets = _targets(store, folds, teachers)
        with replaced(out) as beside:
            if kind == "HDF5":
                facts = write_hdf5(store, beside, left_out)
            elif kind == "Parquet":
                facts = _write_parquet(store, targets, beside, text=text, embeddings=embeddings)
            else:
                facts = _write_npz(store, targets, beside)
            _check_place(store, out, force)
    except OSError as error:
        raise io_failure(error, out) from error
    return {"file": str(out), "format": kind, "bytes": out.stat().st_size, **facts}


def _check_place(store: Store, out: Path, force: bool) -> None:
    """Refuse to replace what was not asked to be replaced, and to litter a store."""
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder", "make it, or write elsewhere")
    if store.path.resolve() in (out.parent.resolve() / out.name).parents:
        raise UserError(f"{out}: lies in the store", "a store holds only what it lists: go outside")
    if out.is_dir():
        raise UserError(f"{out}: a folder stands there", "choose another name")
    if os.path.lexists(out) and not force:
        raise UserError(f"{out}: a file stands there", "give --force to replace it")


def _check_options(kind: str, *, part: bool, embeddings: bool, audio: bool, text: bool) -> None:
    """An option that would be passed over is a mistake."""
    if kind == "HDF5" and (part or embeddings):
        raise UserError(
            "--fold, --teacher and --embeddings: HDF5 takes the whole store",
            "end the file in .parquet or .npz to take a part",
        )
    if kind != "HDF5" and not audio:
        raise UserError(f"--no-audio: {kind} never has the signals", "leave it out")
    if kind == "NumPy" and not text:
        raise UserError("--no-text: NumPy never has the transcripts", "leave it out")
    if kind == "NumPy" and embeddings:
        raise UserError("--embeddings: NumPy always has them", "leave it out")


def _targets(store: Store, folds: str, teachers: Collection[str]) -> list[tuple[int, str]]:
    """Fold and teacher of each selected target, in order."""
    numbers = parse_numbers(folds, len(store.folds))
    targets = [(number, name) for number in numbers for name in store.target_names(number)]
    names = sorted({name for _, name in targets})
    for teacher in teachers:
        if teacher not in names:
            raise UserError(
                f"--teacher {printable(teacher)}: not among the targets of folds "
                f"{printable(folds)} of {store.path}",
                f"there are {', '.join(names) or 'none yet: run `featstore build`'}",
            )
    if not targets:
        raise UserError(
            f"{store.path}: no teacher in fold {printable(folds)} yet",
            "run `featstore build`; `featstore inspect` lists what is there",
        )
    return [(number, name) for number, name in targets if name in (teachers or names)]


def _about(store: Store, targets: Sequence[tuple[int, str]]) -> dict[str, Any]:
    """Which store and which of its targets."""
    return {
        "classes": list(store.classes),
        "targets": [unit_name(fold, name) for fold, name in targets],
        "fingerprint": store.fingerprint(),
        "content": store.content_hash(),
    }


def _write_parquet(
    store: Store, targets: Sequence[tuple[int, str]], path: Path, *, text: bool, embeddings: bool
) -> dict[str, Any]:
    """Write the table, one row group for each fold and teacher."""
    import pyarrow
    from pyarrow import parquet

    units = {unit_name(fold, name): name for fold, name in targets}
    widths = {store.unit(unit).facts["embedding_width"]: name for unit, name in units.items()}
    if embeddings and len(widths) > 1:
        each = " and ".join(f"{width} ({name})" for width, name in sorted(widths.items()))
        raise UserError(
            f"--embeddings: a column has lists of one length, here are {each}",
            "choose by --teacher, one file each",
        )
    about = _about(store, targets)
    held = text and store.unit("corpus").settings["corpus"]["embed_text"]
    names = [*_TEXTS, *(["text"] if held else [])]
    common: dict[str, Any] = {name: store.utterances[name].tolist() for name in names}
    common["duration_s"] = store.lengths / SAMPLING_RATE

    def rows(fold: int, teacher: str) -> Any:
        columns = common | _columns(store, fold, teacher, embeddings)
        return pyarrow.table(columns, metadata={"emodistill": canonical(about)})

    first = rows(*targets[0])
    with parquet.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for fold, teacher in targets[1:]:
            writer.write_table(rows(fold, teacher))
    n_rows = len(store.utterances) * len(targets)
    return {"rows": n_rows, "columns": first.column_names, **about}


def _columns(store: Store, fold: int, teacher: str, embeddings: bool) -> dict[str, Any]:
    """The columns of one fold and teacher, [N] each."""
    import pyarrow

    outputs = store.outputs(unit_name(fold, teacher))
    logits = outputs.logits
    probabilities = soften(logits, 1.0)
    columns: dict[str, Any] = {
        "fold": np.full(len(logits), fold, dtype=np.int16),
        "role": [ROLE_NAMES[role] for role in store.roles[fold - 1].tolist()],
        "teacher": [teacher] * len(logits),
    }
    for index, label in enumerate(store.classes):
        columns[f"logit_{label}"] = logits[:, index]
    for index, label in enumerate(store.classes):
        columns[f"probability_{label}"] = probabilities[:, index].astype(np.float32)
    columns["prediction"] = [store.classes[index] for index in logits.argmax(axis=1).tolist()]
    columns["confidence"] = probabilities.max(axis=1).astype(np.float32)
    columns["entropy"] = entropy(probabilities).astype(np.float32)
    if embeddings:
        width = outputs.embeddings.shape[1]
        flat = pyarrow.array(outputs.embeddings.reshape(-1))
        columns["embedding"] = pyarrow.FixedSizeListArray.from_arrays(flat, width)
    return columns


def _write_npz(store: Store, targets: Sequence[tuple[int, str]], path: Path) -> dict[str, Any]:
    """Write arrays that ``numpy.load`` opens without pickle.

    ``folds/03/linguistic/logits`` [N, C] and ``.../embeddings`` [N, D] under the names that they
    have in the store; ``role`` [F, N] of the folds in ``folds`` [F], whose numbers ``role_names``
    spells; ``label`` [N] into ``classes``; ``utterance_id`` and ``speaker`` [N].
    """
    folds = sorted({fold for fold, _ in targets})
    arrays: dict[str, Any] = {
        "folds": np.array(folds),
        "role": store.roles[np.array(folds) - 1],
        "role_names": np.array([ROLE_NAMES[role] for role in sorted(ROLE_NAMES)]),
        "label": store.labels,
        "classes": np.array(store.classes),
        "utterance_id": np.array(store.utterances["utterance_id"].tolist()),
        "speaker": np.array(store.utterances["speaker"].tolist()),
    }
    for fold, teacher in targets:
        unit = unit_name(fold, teacher)
        outputs = store.outputs(unit)
        arrays |= {f"{unit}/logits": outputs.logits, f"{unit}/embeddings": outputs.embeddings}
    with path.open("wb") as file:  # by its name NumPy would write another that ends in .npz
        np.savez(file, **arrays)
    return {"arrays": list(arrays), **_about(store, targets)}
