"""What a store holds, as plain data: for people, for ``--json`` and for the tests."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.metrics import soften
from featstore.core.schema import SAMPLING_RATE, UserError
from featstore.features.lld import F0, LOUDNESS
from featstore.folds import ROLE_NAMES
from featstore.inspection.teachers import outputs_of, refuse_tau
from featstore.store.store import Store, unit_name
from featstore.store.unit import Unit

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
        "folds": [_fold(store, number) for number in range(1, len(store.folds) + 1)],
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
    counts = dict(store.record("corpus").facts["excluded"])
    for item in store.record("audio").facts["excluded"]:
        counts[item["reason"]] = counts.get(item["reason"], 0) + 1
    return counts


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
        taus: temperatures of the teachers' probabilities (eq. 2); the stored logits have none.
        teachers: only these; all where empty.

    Raises:
        UserError: there is no such utterance, fold or teacher, or a tau is not positive.
    """
    for tau in taus:
        refuse_tau(tau)
    matches = np.flatnonzero((store.utterances["utterance_id"] == utterance_id).to_numpy())
    if not len(matches):
        ids = store.utterances["utterance_id"].tolist()
        near = ", ".join(difflib.get_close_matches(utterance_id, ids, n=3, cutoff=0.8))
        raise UserError(
            f"{utterance_id}: no such utterance in {store.path}",
            f"did you mean {near}?" if near else "corpus/utterances.parquet lists all ids",
        )
    row = int(matches[0])
    record = store.utterances.iloc[row]
    outputs = outputs_of(store, fold, teachers)
    lld, names = store.lld.read(row), tuple(store.unit("lld").facts["names"])
    return {
        "utterance_id": utterance_id,
        "row": row,
        **{key: str(record[key]) for key in
           ("speaker", "session", "gender", "kind", "text", "label", "label_raw", "file")},
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
                    {
                        "utterance_id": str(store.utterances["utterance_id"].iloc[other]),
                        "label": str(store.utterances["label"].iloc[other]),
                        "cosine": cosine,
                    }
                    for other, cosine in nearest(output.embeddings, row, NEIGHBOURS)
                ],
            }
            for name, output in outputs.items()
        },
    }  # fmt: skip


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
    f0 = lld[:, names.index(F0)].astype(np.float64)
    hertz = np.where(f0 > 0, 27.5 * 2 ** (f0 / 12), np.nan)
    loudness = lld[:, names.index(LOUDNESS)].astype(np.float64)
    stretches = np.array_split(np.arange(len(lld)), min(points, len(lld)))
    voiced = [hertz[one][~np.isnan(hertz[one])] for one in stretches]
    return {
        "f0_hz": [round(float(one.mean()), 2) if len(one) else None for one in voiced],
        "loudness": [round(float(loudness[one].mean()), 4) for one in stretches],
    }


def lld_summary(lld: npt.NDArray[np.float32], names: tuple[str, ...]) -> dict[str, Any]:
    """Frames, share of voiced frames, F0 over these, and loudness over all."""
    f0 = lld[:, names.index(F0)].astype(np.float64)
    loudness = lld[:, names.index(LOUDNESS)].astype(np.float64)
    voiced = f0 > 0
    hertz = 27.5 * 2 ** (f0[voiced] / 12)
    return {
        "frames": len(lld),
        "descriptors": lld.shape[1],
        "voiced": round(float(voiced.mean()), 4),
        "f0_mean_hz": round(float(hertz.mean()), 2) if len(hertz) else None,
        "f0_std_hz": round(float(hertz.std()), 2) if len(hertz) else None,
        "loudness_mean": round(float(loudness.mean()), 4),
        "loudness_max": round(float(loudness.max()), 4),
    }


def _fold(store: Store, number: int) -> dict[str, Any]:
    fold, roles = store.folds[number - 1], store.roles[number - 1]
    return {
        "fold": number,
        "test": list(fold.test),
        "validation": list(fold.validation),
        "utterances": {name: int((roles == role).sum()) for role, name in ROLE_NAMES.items()},
        "teachers": store.target_names(number),
    }


def _teachers(store: Store) -> dict[str, Any]:
    """Each teacher's settings and its scores by fold."""
    out: dict[str, Any] = {}
    for number in range(1, len(store.folds) + 1):
        for name in store.target_names(number):
            unit = store.record(unit_name(number, name))
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
            entry["folds"][str(number)] = {
                **_fits(unit),
                **{part: {key: score[key] for key in ("wa", "ua", "n")}
                   for part, score in unit.facts["scores"].items()},
            }  # fmt: skip
    return out


def _fits(unit: Unit) -> dict[str, Any]:
    """Which epoch a fit kept; of cross-fitted targets, of each part, and whom it has seen."""
    if parts := unit.facts.get("parts"):
        keys = ("held_out", "fitted_on", "residual", "best_epoch")
        kept = [{key: part[key] for key in keys} for part in parts]
        return {"parts": kept, "agreement": unit.facts["agreement"]}
    return {"best_epoch": unit.facts["best_epoch"]}
