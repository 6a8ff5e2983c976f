"""IEMOCAP: ten actors in five two-person sessions, scripted and improvised dialogues.

Busso et al. 2008, "IEMOCAP: interactive emotional dyadic motion capture database", USC SAIL;
English, 16 kHz mono, about 12 h, 10,039 turns in 151 dialogues. Academic licence, on request from
https://sail.usc.edu/iemocap/ ::

    IEMOCAP_full_release/
      Session{1..5}/
        dialog/EmoEvaluation/<dialogue>.txt     consensus labels; its sub-folders are not read
        dialog/transcriptions/<dialogue>.txt
        sentences/wav/<dialogue>/<utterance>.wav

Four classes by default: ang, hap (hap and exc merged), neu, sad; 5,531 utterances. Any of the
release's other labels can be had through ``corpus.label_map`` and ``corpus.classes``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.core.config import CorpusSettings
from featstore.core.schema import FOUR_CLASSES, Fault, Manifest
from featstore.corpora.files import fault
from featstore.corpora.layout import read_layout as read_layout_with_count

if TYPE_CHECKING:
    import pandas as pd

ABOUT = "IEMOCAP: academic licence, on request from https://sail.usc.edu/iemocap/"

COUNT_DIFFERS = "count-differs"
N_DIALOGUES = 151
FULL_RELEASE = 5_000
"""More usable utterances than this must be a whole release, whatever its dialogues look like."""

TABLE: Mapping[str, tuple[int, int, int, int]] = {
    "Ses01F": (147, 132, 171, 78),
    "Ses01M": (82, 146, 213, 116),
    "Ses02F": (67, 166, 135, 113),
    "Ses02M": (70, 161, 227, 84),
    "Ses03F": (92, 128, 130, 172),
    "Ses03M": (148, 158, 190, 133),
    "Ses04F": (205, 185, 76, 62),
    "Ses04M": (122, 118, 182, 81),
    "Ses05F": (78, 159, 221, 132),
    "Ses05M": (92, 283, 163, 113),
}
"""Utterances of the full release by speaker, in the order of the four classes."""

KIND_TOTALS: Mapping[str, int] = {"improvised": 2943, "scripted": 2588}
"""Four-class utterances of the full release by kind of dialogue."""


def read(root: Path, settings: CorpusSettings) -> Manifest:
    """Read a release of IEMOCAP, and compare a full one with the published counts.

    Raises:
        UserError: where no session folder is found, or the label settings make no sense.
    """
    manifest, n_dialogues = read_layout_with_count(root, settings, "iemocap")
    faults = list(manifest.faults)
    if n_dialogues != N_DIALOGUES:
        faults.append(_warn(f"{n_dialogues} of {N_DIALOGUES} dialogues found"))
    is_full = n_dialogues == N_DIALOGUES or len(manifest.utterances) > FULL_RELEASE
    comparable = settings.label_map is None and set(manifest.classes) == set(FOUR_CLASSES)
    if is_full and comparable:
        faults += compare_counts(manifest.utterances, settings.kind)
    agrees = is_full and comparable and not any(f.reason == COUNT_DIFFERS for f in faults)
    return replace(manifest, faults=tuple(faults), full_release=agrees)


def read_layout(root: Path, settings: CorpusSettings, name: str = "iemocap") -> Manifest:
    """Read any corpus in IEMOCAP's layout, without comparing its counts; arguments as there."""
    return read_layout_with_count(root, settings, name).manifest


def compare_counts(utterances: pd.DataFrame, kind: str = "all") -> list[Fault]:
    """A warning for each row in which a full release differs from the published table.

    Args:
        utterances: the usable utterances of a manifest with the four classes.
        kind: ``all`` compares class by class for every speaker; ``improvised`` and ``scripted``
            are published as totals only.
    """
    if kind != "all":
        found, expected = len(utterances), KIND_TOTALS[kind]
        same = found == expected
        return [] if same else [_warn(f"{kind}: {found} utterances, published are {expected}")]
    counts = utterances.groupby(["speaker", "label"]).size().to_dict()
    faults: list[Fault] = []
    total = 0
    for speaker, expected_row in TABLE.items():
        row = tuple(int(counts.get((speaker, label), 0)) for label in FOUR_CLASSES)
        total += sum(row)
        if row != expected_row:
            faults.append(
                _warn(f"{speaker}: {_counts(row)}; published are {_counts(expected_row)}")
            )
    published = sum(map(sum, TABLE.values()))
    if total != published:
        faults.append(_warn(f"all speakers: {total} utterances; published are {published}"))
    return faults


def _counts(row: tuple[int, ...]) -> str:
    parts = (f"{label} {n}" for label, n in zip(FOUR_CLASSES, row, strict=True))
    return f"{', '.join(parts)} (all {sum(row)})"


def _warn(message: str) -> Fault:
    return fault(
        COUNT_DIFFERS,
        ".",
        message,
        "compare with the release; the paper's figures hold for a complete one",
        severity="warn",
    )
