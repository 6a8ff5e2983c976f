"""A corpus before anything is built: counts, durations, folds, leaks, faults, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from featstore.core.config import FoldSettings
from featstore.core.schema import Fault, Manifest, UserError
from featstore.corpora.iemocap import UTTERANCE, prefix_speaker_of, speaker_of
from featstore.folds import (
    OUT,
    TEST,
    TRAIN,
    VALIDATION,
    make_folds,
    prove,
    resolve_validation,
    roles,
    text_overlap,
)


def audit(manifest: Manifest, fold_settings: FoldSettings) -> dict[str, Any]:
    """Look at a corpus: what is wrong with it is listed, never raised.

    Folds that cannot be made are a fault of severity ``stop`` among the others.

    Args:
        manifest: a corpus as read, its audio checked.
        fold_settings: how speakers are held out.

    Returns:
        Values that JSON can hold, None for shares of nothing: ``corpus``, ``n_utterances``;
        ``classes``, ``kinds``, ``excluded`` (by reason), ``other_labels``, each with its number of
        utterances; ``speakers``; ``durations``; ``folds`` with speakers, sizes by role, training
        classes and text overlap; ``fold_settings`` with validation made explicit; ``text_overlap``
        summed over the folds; ``speaker_audit`` (:func:`speaker_audit`); ``faults``, their number
        by severity ``n_faults``; and whether anything can be built, ``buildable``.
    """
    table = manifest.utterances
    settings, folds, broken = _folds(table, fold_settings)
    faults = (*manifest.faults, *broken)
    severities = [fault.severity for fault in faults]
    facts: dict[str, Any] = _plain({
        "corpus": manifest.name,
        "n_utterances": len(table),
        "classes": {name: (table["label"] == name).sum() for name in manifest.classes},
        "kinds": table["kind"].value_counts().sort_index(),
        "speakers": {
            speaker: {
                "session": rows["session"].iloc[0],
                "gender": rows["gender"].iloc[0],
                "n": len(rows),
                "duration_s": rows["duration_s"].sum(),
                "classes": {name: (rows["label"] == name).sum() for name in manifest.classes},
            }
            for speaker, rows in table.groupby("speaker", sort=True)
        },
        "durations": durations(table),
        "folds": folds,
        "fold_settings": settings.model_dump(mode="json"),
        "text_overlap": _total([fold["text_overlap"] for fold in folds]),
        "speaker_audit": speaker_audit(table),
        "faults": [asdict(fault) for fault in faults],
        "excluded": manifest.excluded,
        "other_labels": manifest.other_labels or {},
        "n_faults": {name: severities.count(name) for name in ("stop", "exclude", "warn")},
        "buildable": "stop" not in severities,
    })  # fmt: skip
    return facts


def durations(utterances: pd.DataFrame) -> dict[str, float]:
    """Total hours, and the spread of utterance lengths in seconds; empty for no utterance."""
    lengths_s = utterances["duration_s"]
    if lengths_s.empty:
        return {}
    return {
        "hours": float(lengths_s.sum() / 3600),
        "mean": float(lengths_s.mean()),
        "median": float(lengths_s.median()),
        "min": float(lengths_s.min()),
        "p95": float(lengths_s.quantile(0.95)),
        "p99": float(lengths_s.quantile(0.99)),
        "max": float(lengths_s.max()),
    }


def _folds(
    utterances: pd.DataFrame, settings: FoldSettings
) -> tuple[FoldSettings, list[dict[str, Any]], list[Fault]]:
    """The settings made explicit, every fold's speakers and sizes, and what is wrong with them."""
    if not len(utterances):
        return settings, [], []
    broken, assigned = [], None
    try:
        settings = resolve_validation(utterances, settings)
        folds = make_folds(utterances, settings)
        assigned = roles(utterances, folds, settings.script_disjoint)
        prove(utterances, folds, assigned)
    except UserError as error:
        message = error.message.replace(":\n", ": ").replace("\n", "; ")
        broken.append(Fault("folds", ".", message, error.hint, severity="stop"))
    if assigned is None:
        return settings, [], broken
    overlap = text_overlap(utterances, assigned).drop(columns="fold").to_dict("records")
    facts = [
        {
            "fold": fold.number,
            "test": fold.test,
            "validation": fold.validation,
            "train": fold.train,
            "n_test": (row == TEST).sum(),
            "n_validation": (row == VALIDATION).sum(),
            "n_train": (row == TRAIN).sum(),
            "n_left_out": (row == OUT).sum(),
            "train_classes": utterances["label"][row == TRAIN].value_counts().sort_index(),
            "text_overlap": shares,
        }
        for fold, row, shares in zip(folds, assigned, overlap, strict=True)
    ]
    return settings, facts, broken


def _total(overlaps: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    """The folds' counts added up, and the shares of the sums; empty without folds."""
    total: dict[str, Any] = {}
    for suffix in ("", "_scripted", "_improvised") if overlaps else ():
        n_test = sum(one[f"n_test{suffix}"] for one in overlaps)
        n_shared = sum(one[f"n_shared{suffix}"] for one in overlaps)
        total |= {f"n_test{suffix}": n_test, f"n_shared{suffix}": n_shared}
        total[f"share{suffix}"] = n_shared / n_test if n_test else None
    return total


def speaker_audit(utterances: pd.DataFrame) -> dict[str, Any] | None:
    """What taking the dialogue's prefix letter for the speaker would do to IEMOCAP.

    Many tools do. The letter says who wore the motion-capture markers, while both people talk, so
    the prefix "speaker" holds half of each person, and the other half lands in training.

    Returns:
        ``None`` where the ids are not IEMOCAP's; else ``n`` and ``n_differ`` (utterances whose
        true speaker is not the prefix'), ``share``, and by true speaker ``n``, ``n_differ`` and
        ``share_in_training``: how much of the person would be trained on while the prefix
        "speaker" of that name is held out.
    """
    names = [str(name) for name in utterances["utterance_id"]]
    if not names or not all(UTTERANCE.match(name) for name in names):
        return None
    turns = pd.DataFrame(
        {
            "speaker": [speaker_of(name) for name in names],
            "differ": [speaker_of(name) != prefix_speaker_of(name) for name in names],
        }
    )
    by_speaker = turns.groupby("speaker")["differ"].agg(["count", "sum", "mean"])
    by_speaker.columns = pd.Index(["n", "n_differ", "share_in_training"])
    return {
        "n": len(turns),
        "n_differ": int(turns["differ"].sum()),
        "share": float(turns["differ"].mean()),
        "speakers": by_speaker.to_dict("index"),
    }


def _plain(value: Any) -> Any:
    """The same in types that JSON knows: what is not finite is None."""
    if hasattr(value, "items"):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
