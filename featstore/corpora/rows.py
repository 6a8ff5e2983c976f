"""From what an adapter read to a manifest: label maps, class lists, and the checked table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from featstore.core.config import CorpusSettings
from featstore.core.schema import COLUMNS, Fault, Manifest, UserError, listed, printable
from featstore.corpora.files import fault


class Row(NamedTuple):
    """One utterance; the fields are :data:`featstore.core.schema.COLUMNS`, in order."""

    utterance_id: str
    file: str
    start_s: float
    duration_s: float
    speaker: str
    session: str
    gender: str
    text: str
    kind: str
    label: str
    label_raw: str


@dataclass(frozen=True)
class Labels:
    """Which raw label is which class; raw labels not in ``to_class`` are left out and counted."""

    classes: tuple[str, ...]
    to_class: Mapping[str, str]


def choose_labels(
    settings: CorpusSettings,
    default_map: Mapping[str, str],
    default_classes: Sequence[str],
    known: Collection[str] | None = None,
) -> Labels:
    """The label map and the class list that the settings ask of a corpus.

    Without a list of classes their order is that of ``default_classes`` where these hold all, else
    the alphabet: never the order of ``label_map``, which a fingerprint (JSON with sorted keys) does
    not keep. A list without a map takes raw labels of the same name first, so that
    ``classes = ["exc", ...]`` parts what the default map merges.

    Args:
        settings: ``label_map`` and ``classes`` override the corpus' own.
        default_map: the corpus' own raw label -> class.
        default_classes: the corpus' own classes, in logit order.
        known: every raw label that the corpus can hold; ``None`` where any may occur.

    Raises:
        UserError: a raw label or class that does not exist, fewer than two classes, or doubles.

    >>> choose_labels(CorpusSettings(), {"a": "A", "b": "B", "c": "B"}, ["A", "B"]).classes
    ('A', 'B')
    >>> few = CorpusSettings(classes=("c", "A"))
    >>> dict(choose_labels(few, {"a": "A", "b": "B", "c": "B"}, ["A", "B"], "abc").to_class)
    {'a': 'A', 'c': 'c'}
    """
    to_class = dict(default_map if settings.label_map is None else settings.label_map)
    unknown = [] if known is None else sorted(set(to_class) - set(known))
    if unknown:
        raise UserError(
            f"corpus.label_map: no such raw label: {_names(unknown)}",
            f"this corpus has {_names(known or ())}",
        )
    if settings.classes is None:
        reached = set(to_class.values())
        own_order = [name for name in default_classes if name in reached]
        classes = own_order if len(own_order) == len(reached) else sorted(reached)
    else:
        classes = list(settings.classes)
        if settings.label_map is None:
            own = set(to_class) if known is None else set(known)
            to_class |= {name: name for name in classes if name in own}
        unreached = [name for name in classes if name not in to_class.values()]
        if unreached:
            raise UserError(
                f"corpus.classes: no raw label leads to {_names(unreached)}",
                f"reachable are {_names(sorted({*to_class.values()}))}; else set corpus.label_map",
            )
    _check_classes(classes)
    kept = {raw: name for raw, name in to_class.items() if name in classes}
    return Labels(tuple(classes), kept)


def _check_classes(classes: Sequence[str]) -> None:
    if len(set(classes)) != len(classes) or not all(classes):
        raise UserError(
            f"corpus.classes: {_names(classes)} holds doubles or an empty name",
            "name each class once",
        )
    if reserved := sorted({"file", "label"} & set(classes)):
        raise UserError(
            f"corpus.classes: {_names(reserved)} would collide with a column of the predictions",
            "map it to another name with corpus.label_map",
        )
    if len(classes) < 2:
        raise UserError(
            f"corpus.classes: {len(classes)} class(es) ({_names(classes)}), at least 2 are needed",
            "widen corpus.classes or corpus.label_map",
        )


def _names(names: Iterable[str]) -> str:
    return ", ".join(printable(name) for name in names) or "none"


def to_manifest(
    name: str,
    root: Path,
    rows: Iterable[Row],
    classes: tuple[str, ...],
    faults: Sequence[Fault],
    other_labels: Mapping[str, int],
) -> Manifest:
    """The manifest of these rows: columns and dtypes of the schema, sorted by utterance id.

    A class that no usable utterance has stops a build: its logit could never be learned, and UA
    would mean over fewer classes than the table says.
    """
    import pandas as pd

    ordered = sorted(rows, key=lambda row: row.utterance_id)
    table = pd.DataFrame(ordered, columns=list(COLUMNS)).astype(dict(COLUMNS))
    stops = empty_classes(classes, {row.label for row in ordered}) if ordered else []
    return Manifest(
        name, root, table, classes, (*faults, *stops), dict(sorted(other_labels.items()))
    )


def empty_classes(classes: Iterable[str], present: Collection[str]) -> list[Fault]:
    """A fault for each class of which nothing is usable."""
    return [
        fault(
            "empty-class",
            ".",
            f"class {one} has no usable utterance",
            "leave it out of corpus.classes, or mend the faults above",
            severity="stop",
        )
        for one in classes
        if one not in present
    ]


def silent_speakers(
    expected: Mapping[str, tuple[str, int | None]], heard: Collection[str]
) -> list[Fault]:
    """A fault for each speaker without a usable turn: the folds would silently be fewer.

    Args:
        expected: speaker -> the file and line that name them, or all that is known of the place.
        heard: who has a usable turn.
    """
    return [
        fault(
            "silent-speaker",
            place,
            f"speaker {speaker} has no usable turn",
            "mend the faults above or complete the corpus; else widen corpus.kind, or take the "
            "speaker out of it",
            line=line,
            severity="stop",
        )
        for speaker, (place, line) in expected.items()
        if speaker not in heard
    ]


def require_any(name: str, found: Sequence[object], faults: Sequence[Fault], where: Path) -> None:
    """Nothing where something was found.

    Raises:
        UserError: where a corpus yields no utterance at all, with the first faults.
    """
    if found:
        return
    shown = listed((f"{one.place}: {one.message}" for one in faults), limit=5)
    raise UserError(
        f"{where}: no usable {name} utterance" + (f"\n{shown}" if shown else ""),
        "check --root, corpus.kind and corpus.label_map",
    )
