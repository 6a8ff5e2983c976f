"""What a store holds, as plain data: for people, for ``--json`` and for the tests."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.metrics import soften
from featstore.core.schema import SAMPLING_RATE, UserError
from featstore.features.lld import F0, LOUDNESS
from featstore.folds import ROLE_NAMES
from featstore.inspection.teachers import outputs_of
from featstore.store.store import Store, unit_name

TAUS = (0.5, 1.0, 5.0)
"""Temperatures at which an utterance is shown: the paper's two, and none."""
POINTS = 60
"""Points of a curve of LLDs over an utterance."""
NEIGHBOURS = 5


def overview(store: Store) -> dict[str, Any]:
    """Corpus, folds, teachers with their scores, sizes and provenance."""
    table = store.utterances
    corpus = store.unit("corpus")
    units = [store.record(name) for name in store.units()]
    audio = store.record("audio").facts
    return {
        "store": store.name,
        "corpus": {
            "name": corpus.facts["name"],
            "utterances": len(table),
            "hours": round(audio["n_samples"] / SAMPLING_RATE / 3600, 4),
            "classes": {c: int((table["label"] == c).sum()) for c in store.classes},
            "speakers": corpus.facts["speakers"],
            "excluded": excluded(store),
            "other_labels": corpus.facts["other_labels"],
            "full_release": corpus.facts["full_release"],
        },
        "folds": [
            {
                "fold": fold.number,
                "test": list(fold.test),
                "validation": list(fold.validation),
                "utterances": {
                    name: int((store.roles[fold.number - 1] == role).sum())
                    for role, name in ROLE_NAMES.items()
                },
                "teachers": store.target_names(fold.number),
            }
            for fold in store.folds
        ],
        "teachers": _teachers(store),
        "units": [
            {"unit": unit.unit, "bytes": unit.n_bytes, "fingerprint": unit.fingerprint}
            for unit in units
        ],
        "bytes": sum(unit.n_bytes for unit in units),
        "fingerprint": store.fingerprint(),
        "content": store.content_hash(),
        "settings": {unit.unit: unit.settings for unit in units if "/" not in unit.unit},
        "provenance": corpus.provenance,
    }


def excluded(store: Store) -> dict[str, int]:
    """How many utterances were left out for a fault of label or audio, by reason."""
    counts = Counter(store.record("corpus").facts["excluded"])
    counts.update(item["reason"] for item in store.record("audio").facts["excluded"])
    return dict(counts)


def utterance(
    store: Store,
    fold: int,
    utterance_id: str,
    taus: Sequence[float] = TAUS,
    teachers: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything the store knows of one utterance in one fold.

    Args:
        store: the store.
        fold: whose teachers to ask.
        utterance_id: which utterance.
        taus: positive temperatures of the teachers' probabilities (eq. 2).
        teachers: only these; all where empty.

    Raises:
        UserError: there is no such utterance, fold or teacher.
    """
    matches = np.flatnonzero((store.utterances["utterance_id"] == utterance_id).to_numpy())
    if not len(matches):
        ids = store.utterances["utterance_id"].tolist()
        near = ", ".join(difflib.get_close_matches(utterance_id, ids, n=3, cutoff=0.8))
        raise UserError(
            f"{utterance_id}: no such utterance in {store.path}",
            f"did you mean {near}?" if near else "corpus/utterances.parquet lists all ids",
        )
    row = int(matches[0])
    outputs = outputs_of(store, fold, teachers)
    record, table = store.utterances.iloc[row], store.utterances[["utterance_id", "label"]]
    columns = ("speaker", "session", "gender", "kind", "text", "label", "label_raw", "file")
    lld, names = store.lld.read(row), tuple(store.unit("lld").facts["names"])
    return {
        "utterance_id": utterance_id,
        "row": row,
        **{column: str(record[column]) for column in columns},
        "duration_s": round(float(store.lengths[row]) / SAMPLING_RATE, 4),
        "fold": fold,
        "role": ROLE_NAMES[int(store.roles[fold - 1, row])],
        "lld": lld_summary(lld, names),
        "curves": curves(lld, names),
        "taus": list(taus),
        "classes": list(store.classes),
        "teachers": {
            name: {
                "logits": output.logits[row].astype(float).tolist(),
                "probabilities": [soften(output.logits[row], tau).tolist() for tau in taus],
                "prediction": store.classes[int(output.logits[row].argmax())],
                "embedding_norm": float(np.linalg.norm(output.embeddings[row])),
                "neighbours": [
                    {**table.iloc[other].to_dict(), "cosine": cosine}
                    for other, cosine in nearest(output.embeddings, row, NEIGHBOURS)
                ],
            }
            for name, output in outputs.items()
        },
    }


def nearest(embeddings: npt.NDArray[np.float32], row: int, k: int) -> list[tuple[int, float]]:
    """The rows whose embeddings point most nearly the same way, with their cosines.

    Args:
        embeddings: ``[N, D]``.
        row: whose neighbours; it is none of its own.
        k: how many.

    >>> nearest(np.array([[1, 0], [0, 1], [2, 0], [1, 1]], np.float32), 0, 2)
    [(2, 1.0), (3, 0.707107)]
    """
    wide = embeddings.astype(np.float64)
    norms = np.maximum(np.linalg.norm(wide, axis=1), 1e-12)
    cosines = wide @ wide[row] / (norms * norms[row])
    order = [int(other) for other in np.argsort(-cosines, kind="stable") if other != row]
    return [(other, round(float(cosines[other]), 6)) for other in order[:k]]


def curves(
    lld: npt.NDArray[np.float32], names: tuple[str, ...], points: int = POINTS
) -> dict[str, list[float | None]]:
    """F0 and loudness over an utterance, in at most so many points: means over equal stretches.

    Returns:
        ``f0_hz``, over the voiced frames of each stretch and None where there are none, and
        ``loudness``.
    """
    hertz, loudness = _pitch_and_loudness(lld, names)
    n_stretches = min(points, len(lld))
    voiced = [one[~np.isnan(one)] for one in np.array_split(hertz, n_stretches)]
    return {
        "f0_hz": [round(float(one.mean()), 2) if len(one) else None for one in voiced],
        "loudness": [round(float(one.mean()), 4) for one in np.array_split(loudness, n_stretches)],
    }


def lld_summary(lld: npt.NDArray[np.float32], names: tuple[str, ...]) -> dict[str, Any]:
    """Frames, share of voiced frames, F0 over these, and loudness over all."""
    pitch, loudness = _pitch_and_loudness(lld, names)
    hertz = pitch[~np.isnan(pitch)]
    return {
        "frames": len(lld),
        "descriptors": lld.shape[1],
        "voiced": round(len(hertz) / len(lld), 4),
        "f0_mean_hz": round(float(hertz.mean()), 2) if len(hertz) else None,
        "f0_std_hz": round(float(hertz.std()), 2) if len(hertz) else None,
        "loudness_mean": round(float(loudness.mean()), 4),
        "loudness_max": round(float(loudness.max()), 4),
    }


def _pitch_and_loudness(
    lld: npt.NDArray[np.float32], names: tuple[str, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """F0 in Hz, NaN where a frame is not voiced, and loudness: ``[frames]`` each."""
    f0 = lld[:, names.index(F0)].astype(np.float64)
    hertz = np.where(f0 > 0, 27.5 * 2 ** (f0 / 12), np.nan)
    return hertz, lld[:, names.index(LOUDNESS)].astype(np.float64)


def _teachers(store: Store) -> dict[str, Any]:
    """Each teacher's settings; by fold its scores, and which epoch it kept.

    Of cross-fitted targets, which epoch each part kept, and whom it has seen.
    """
    out: dict[str, Any] = {}
    for fold in store.folds:
        for name in store.target_names(fold.number):
            unit = store.record(unit_name(fold.number, name))
            entry = out.setdefault(
                name,
                {
                    "settings": unit.settings["teacher"],
                    "parameters": unit.facts["parameters"],
                    "embedding_width": unit.facts["embedding_width"],
                    "cross_fit": unit.settings.get("cross_fit", 0),
                    "folds": {},
                },
            )
            fits: dict[str, Any] = {}
            if parts := unit.facts.get("parts"):
                keys = ("held_out", "fitted_on", "residual", "best_epoch")
                fits["parts"] = [{key: part[key] for key in keys} for part in parts]
                fits["agreement"] = unit.facts["agreement"]
            else:
                fits["best_epoch"] = unit.facts["best_epoch"]
            for role, score in unit.facts["scores"].items():
                fits[role] = {key: score[key] for key in ("wa", "ua", "n")}
            entry["folds"][str(fold.number)] = fits
    return out
