"""A corpus looked at before anything is built: counts, durations, folds, leaks, faults.

Everything here is plain data; the command line renders it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.core.config import FoldSettings
from featstore.core.schema import Fault, Manifest, UserError
from featstore.corpora.iemocap import UTTERANCE, prefix_speaker_of, speaker_of
from featstore.folds import (
    OUT,
    TEST,
    TRAIN,
    VALIDATION,
    Fold,
    Roles,
    make_folds,
    prove,
    resolve_validation,
    roles,
    text_overlap,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Audit:
    """What ``featstore check`` tells.

    Attributes:
        corpus: the corpus' name.
        n_utterances: usable utterances.
        classes: class -> utterances, in logit order.
        kinds: scripted, improvised, unknown -> utterances.
        speakers: speaker -> session, gender, n, duration_s, classes.
        durations: hours, and in seconds mean, median, min, p95, p99, max.
        folds: for each fold its number, speakers and sizes by role, training class counts, and
            the text overlap of test with training; empty where no folds can be made.
        fold_settings: the settings with validation made explicit.
        text_overlap: test utterances with their exact words in training, summed over the folds.
        speaker_audit: see :func:`speaker_audit`; ``None`` beside IEMOCAP's layout.
        faults: the manifest's, then those found here.
        excluded: utterances excluded for a fault, by reason.
        other_labels: utterances of each label outside the classes.
    """

    corpus: str
    n_utterances: int
    classes: Mapping[str, int]
    kinds: Mapping[str, int]
    speakers: Mapping[str, Mapping[str, Any]]
    durations: Mapping[str, float]
    folds: tuple[Mapping[str, Any], ...]
    fold_settings: Mapping[str, Any]
    text_overlap: Mapping[str, Any]
    speaker_audit: Mapping[str, Any] | None
    faults: tuple[Fault, ...]
    excluded: Mapping[str, int]
    other_labels: Mapping[str, int]

    @property
    def stops(self) -> tuple[Fault, ...]:
        """The faults for which nothing would be built."""
        return tuple(fault for fault in self.faults if fault.severity == "stop")

    def to_dict(self) -> dict[str, Any]:
        """This as nested plain values that JSON can hold, ``None`` for shares of nothing."""
        plain: dict[str, Any] = _plain(asdict(self))
        by_severity = {
            severity: sum(fault.severity == severity for fault in self.faults)
            for severity in ("stop", "exclude", "warn")
        }
        return plain | {"n_faults": by_severity, "buildable": not self.stops}


def audit(manifest: Manifest, fold_settings: FoldSettings) -> Audit:
    """Look at a corpus: nothing is raised for what is wrong with it, everything is told.

    Folds that cannot be made are a fault of severity ``stop`` among the others.

    Args:
        manifest: a corpus as read, and heard (see :func:`featstore.corpora.audio_check.heard`).
        fold_settings: how speakers are held out.
    """
    utterances = manifest.utterances
    settings, folds, broken = _folds(utterances, fold_settings)
    return Audit(
        corpus=manifest.name,
        n_utterances=len(utterances),
        classes={name: int((utterances["label"] == name).sum()) for name in manifest.classes},
        kinds=_counts(utterances["kind"]),
        speakers=_speakers(utterances, manifest.classes),
        durations=durations(utterances),
        folds=folds,
        fold_settings=settings.model_dump(mode="json"),
        text_overlap=_total([fold["text_overlap"] for fold in folds]),
        speaker_audit=speaker_audit(utterances),
        faults=(*manifest.faults, *broken),
        excluded=manifest.excluded,
        other_labels=dict(manifest.other_labels or {}),
    )


def durations(utterances: pd.DataFrame) -> dict[str, float]:
    """Total hours, and the spread of utterance lengths in seconds; empty for no utterance."""
    lengths_s = utterances["duration_s"].to_numpy()
    if not len(lengths_s):
        return {}
    return {
        "hours": float(lengths_s.sum() / 3600),
        "mean": float(lengths_s.mean()),
        "median": float(np.median(lengths_s)),
        "min": float(lengths_s.min()),
        "p95": float(np.percentile(lengths_s, 95)),
        "p99": float(np.percentile(lengths_s, 99)),
        "max": float(lengths_s.max()),
    }


def _counts(column: pd.Series[str]) -> dict[str, int]:
    return {str(key): int(n) for key, n in sorted(column.value_counts().items())}


def _speakers(utterances: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    return {
        str(speaker): {
            "session": str(rows["session"].iloc[0]),
            "gender": str(rows["gender"].iloc[0]),
            "n": len(rows),
            "duration_s": float(rows["duration_s"].sum()),
            "classes": {name: int((rows["label"] == name).sum()) for name in classes},
        }
        for speaker, rows in utterances.groupby("speaker", sort=True)
    }


def _folds(
    utterances: pd.DataFrame, settings: FoldSettings
) -> tuple[FoldSettings, tuple[dict[str, Any], ...], list[Fault]]:
    if not len(utterances):
        return settings, (), []
    try:
        settings = resolve_validation(utterances, settings)
        folds = make_folds(utterances, settings)
    except UserError as error:
        return settings, (), [_fold_fault(error)]
    assigned = roles(utterances, folds, settings.script_disjoint)
    broken: list[Fault] = []
    try:
        prove(utterances, folds, assigned)
    except UserError as error:
        broken.append(_fold_fault(error))
    overlap = text_overlap(utterances, assigned).drop(columns="fold").to_dict("records")
    told = tuple(
        _fold(fold, row, utterances, {str(key): value for key, value in shares.items()})
        for fold, row, shares in zip(folds, assigned, overlap, strict=True)
    )
    return settings, told, broken


def _fold(
    fold: Fold, row: Roles, utterances: pd.DataFrame, shares: dict[str, Any]
) -> dict[str, Any]:
    return {
        "fold": fold.number,
        "test": list(fold.test),
        "validation": list(fold.validation),
        "train": list(fold.train),
        "n_test": int((row == TEST).sum()),
        "n_validation": int((row == VALIDATION).sum()),
        "n_train": int((row == TRAIN).sum()),
        "n_left_out": int((row == OUT).sum()),
        "train_classes": _counts(utterances["label"][row == TRAIN]),
        "text_overlap": shares,
    }


def _total(overlaps: list[dict[str, Any]]) -> dict[str, Any]:
    """The folds' counts added up, and the shares of the sums; empty without folds."""
    total: dict[str, Any] = {}
    for suffix in ("", "_scripted", "_improvised") if overlaps else ():
        n_test = sum(one[f"n_test{suffix}"] for one in overlaps)
        n_shared = sum(one[f"n_shared{suffix}"] for one in overlaps)
        total |= {f"n_test{suffix}": n_test, f"n_shared{suffix}": n_shared}
        total[f"share{suffix}"] = n_shared / n_test if n_test else float("nan")
    return total


def _fold_fault(error: UserError) -> Fault:
    message = error.message.replace(":\n", ": ").replace("\n", "; ")
    return Fault("folds", ".", message, error.hint, severity="stop")


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
    by_speaker: dict[str, dict[str, Any]] = {}
    for name in names:
        one = by_speaker.setdefault(speaker_of(name), {"n": 0, "n_differ": 0})
        one["n"] += 1
        one["n_differ"] += speaker_of(name) != prefix_speaker_of(name)
    for one in by_speaker.values():
        one["share_in_training"] = one["n_differ"] / one["n"]
    n_differ = sum(one["n_differ"] for one in by_speaker.values())
    return {
        "n": len(names),
        "n_differ": n_differ,
        "share": n_differ / len(names),
        "speakers": dict(sorted(by_speaker.items())),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
