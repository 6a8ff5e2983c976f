"""What the teachers say, as a table (Parquet) or as plain arrays (NumPy).

The table has one row per utterance, fold and teacher, and opens in pandas, DuckDB, Polars and
Spotlight. Logits are raw; probabilities, confidence and entropy (in nats) are theirs at tau 1.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.metrics import entropy, soften
from featstore.core.schema import SAMPLING_RATE, UserError
from featstore.core.settings import canonical
from featstore.folds import ROLE_NAMES
from featstore.store.store import Store, TeacherOutputs, unit_name

Targets = Sequence[tuple[int, str]]
"""Fold and name of each."""

_TEXTS = ("utterance_id", "speaker", "session", "gender", "kind", "label")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first time that a zip can tell: the same store gives the same bytes at any time."""


def write_parquet(
    store: Store, targets: Targets, path: Path, *, text: bool = True, embeddings: bool = False
) -> dict[str, Any]:
    """Write the table, one row group for each fold and teacher.

    Args:
        store: the store.
        targets: fold and teacher of each row group.
        path: the file, written over.
        text: also the transcripts, where the store holds them.
        embeddings: also a column of fixed-size lists.

    Returns:
        Rows, columns and what they are of.

    Raises:
        UserError: embeddings are wanted, and the teachers' differ in width.
    """
    from pyarrow import parquet

    if embeddings:
        _check_widths(store, targets)
    common = _common(store, text=text)
    writer = None
    try:
        for fold, name in targets:
            outputs = store.outputs(unit_name(fold, name))
            table = _rows(store, common, fold, name, outputs, embeddings)
            if writer is None:
                about = {b"emodistill": canonical(_about(store, targets))}
                table = table.replace_schema_metadata(about)
                writer = parquet.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table.replace_schema_metadata(writer.schema.metadata))
    finally:
        if writer is not None:
            writer.close()
    return {
        "rows": len(store.utterances) * len(targets),
        "columns": table.column_names,
        **_about(store, targets),
    }


def write_npz(store: Store, targets: Targets, path: Path) -> dict[str, Any]:
    """Write arrays that ``numpy.load`` opens without pickle, one at a time in memory.

    ``folds/03/linguistic/logits`` [N, C] and ``.../embeddings`` [N, D] under the names that they
    have in the store; ``role`` [F, N] of the folds in ``folds`` [F], whose numbers ``role_names``
    spells; ``label`` [N] into ``classes``; ``utterance_id`` and ``speaker`` [N].

    Returns:
        The arrays' names and what they are of.
    """
    folds = sorted({fold for fold, _ in targets})
    arrays: dict[str, npt.NDArray[Any]] = {
        "folds": np.array(folds, dtype=np.int64),
        "role": store.roles[np.array(folds) - 1],
        "role_names": np.array([ROLE_NAMES[role] for role in sorted(ROLE_NAMES)]),
        "label": store.labels,
        "classes": np.array(store.classes),
        "utterance_id": np.array(store.utterances["utterance_id"].tolist()),
        "speaker": np.array(store.utterances["speaker"].tolist()),
    }
    names = list(arrays)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, values in arrays.items():
            _add(archive, name, values)
        for fold, teacher in targets:
            unit = unit_name(fold, teacher)
            outputs = store.outputs(unit)
            for part in ("logits", "embeddings"):
                _add(archive, f"{unit}/{part}", getattr(outputs, part))
                names.append(f"{unit}/{part}")
    return {"arrays": names, **_about(store, targets)}


def _add(archive: zipfile.ZipFile, name: str, values: npt.NDArray[Any]) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
    with archive.open(entry, "w", force_zip64=True) as file:
        np.lib.format.write_array(file, values, allow_pickle=False)


def _about(store: Store, targets: Targets) -> dict[str, Any]:
    """Which store and which of its targets."""
    return {
        "classes": list(store.classes),
        "targets": [unit_name(fold, name) for fold, name in targets],
        "fingerprint": store.fingerprint(),
        "content": store.content_hash(),
    }


def _common(store: Store, *, text: bool) -> dict[str, Any]:
    """The columns that are the same in every fold."""
    table = store.utterances
    columns: dict[str, Any] = {name: table[name].tolist() for name in _TEXTS}
    if text and store.unit("corpus").settings["corpus"]["embed_text"]:
        columns["text"] = table["text"].tolist()
    columns["duration_s"] = store.lengths / SAMPLING_RATE
    return columns


def _rows(
    store: Store,
    common: Mapping[str, Any],
    fold: int,
    name: str,
    outputs: TeacherOutputs,
    embeddings: bool,
) -> Any:
    """The rows of one fold and teacher."""
    import pyarrow as pa

    n, logits = len(store.utterances), outputs.logits
    columns = {key: pa.array(values) for key, values in common.items()}
    columns["fold"] = pa.array(np.full(n, fold, dtype=np.int16))
    columns["role"] = pa.array([ROLE_NAMES[role] for role in store.roles[fold - 1].tolist()])
    columns["teacher"] = pa.array([name] * n)
    probabilities = soften(logits, 1.0)
    for index, label in enumerate(store.classes):
        columns[f"logit_{label}"] = pa.array(np.ascontiguousarray(logits[:, index]))
    for index, label in enumerate(store.classes):
        columns[f"probability_{label}"] = pa.array(probabilities[:, index].astype(np.float32))
    chosen = logits.argmax(axis=1)
    columns["prediction"] = pa.array([store.classes[index] for index in chosen.tolist()])
    columns["confidence"] = pa.array(probabilities.max(axis=1).astype(np.float32))
    columns["entropy"] = pa.array(entropy(probabilities).astype(np.float32))
    if embeddings:
        flat = pa.array(np.ascontiguousarray(outputs.embeddings).reshape(-1))
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, outputs.embeddings.shape[1])
    return pa.table(columns)


def _check_widths(store: Store, targets: Targets) -> None:
    widths: dict[int, str] = {}
    for fold, name in targets:
        width = store.unit(unit_name(fold, name)).facts["embedding_width"]
        widths.setdefault(width, name)
    if len(widths) > 1:
        told = " and ".join(f"{width} ({name})" for width, name in sorted(widths.items()))
        raise UserError(
            f"--embeddings: a column has lists of one length, here are {told}",
            "choose by --teacher, one file each",
        )
