"""A corpus of your own: one CSV or Parquet table beside the audio.

Licence and languages are yours. ``--root`` is the table, or a folder with one ``table.csv`` or
``table.parquet``. Needed columns: ``file`` (audio, relative to the table's folder; any rate and
format that libsndfile reads), ``speaker``, ``label`` (or ``emotion``). Optional: ``text`` (the
transcript), ``start`` and ``end`` (seconds, or timedeltas as audformat writes them; a file may hold
several segments), ``utterance_id``, ``session``, ``gender``, ``kind``. Labels are taken as they
are, classes in alphabetical order, unless ``corpus.label_map`` or ``corpus.classes`` say otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from featstore.core.config import CorpusSettings
from featstore.core.schema import UTTERANCE_ID, Fault, Manifest, UserError
from featstore.corpora.files import fault
from featstore.corpora.rows import (
    Labels,
    Row,
    choose_labels,
    require_any,
    silent_speakers,
    to_manifest,
)
from featstore.corpora.segments import Segment, check, is_label, names_of, read_sounds
from featstore.corpora.tabular import Record, Table, read_table
from featstore.corpora.text import judged

ABOUT = "your own corpus: table.csv or table.parquet with the columns file, speaker, label, text"

MOST_LABELS = 64
GENDERS: Mapping[str, str] = {
    "f": "female",
    "female": "female",
    "w": "female",
    "m": "male",
    "male": "male",
}
KINDS = ("scripted", "improvised", "unknown")


def read(root: Path, settings: CorpusSettings) -> Manifest:
    """Read a table and check the audio that it names.

    Raises:
        UserError: no readable table, needed columns missing, label settings that make no sense,
            or not one usable row.
    """
    table = read_table(root)
    wanted = [one for one in table.records if settings.kind in ("all", _kind(one))]
    labelled = [label for one in wanted if is_label(label := one.text("label"))]
    where = table.folder / table.file
    require_any("table", labelled, table.faults, where)
    labels = _labels(where, labelled, settings)
    known = [one for one in wanted if not is_label(label := one.text("label"))
             or label in labels.to_class]  # fmt: skip
    sounds = read_sounds(table.folder, (one.text("file") for one in known))
    checked = [check(one, sounds, table.file) for one in known]
    segments = [one for one in checked if isinstance(one, Segment)]
    conflicts = _conflicts(wanted, table.file)
    rows, doubles = _rows(segments, labels, table.file, {one.utterance_id for one in conflicts})
    faults = [
        *table.faults,
        *_text_faults(table, known),
        *_column_faults(table, wanted, settings),
        *(one for one in checked if isinstance(one, Fault)),
        *conflicts,
        *doubles,
        *silent_speakers(_speakers(known, table.file), {row.speaker for row in rows}),
    ]
    other = Counter(label for label in labelled if label not in labels.to_class)
    require_any("table", rows, faults, where)
    return to_manifest("table", table.folder, rows, labels.classes, faults, other)


def _labels(where: Path, found: Sequence[str], settings: CorpusSettings) -> Labels:
    raw = sorted(set(found))
    if settings.label_map is None and settings.classes is None and len(raw) > MOST_LABELS:
        raise UserError(
            f"{where}: column label holds {len(raw)} different values, such as {raw[0][:20]!r}",
            "set corpus.classes or corpus.label_map",
        )
    return choose_labels(settings, {label: label for label in raw}, raw)


def _kind(record: Record) -> str:
    kind = record.text("kind").lower()
    return kind if kind in KINDS else "unknown"


def _speakers(records: Sequence[Record], table: str) -> dict[str, tuple[str, int | None]]:
    """Each speaker that the table names, and where it does so first."""
    speakers: dict[str, tuple[str, int | None]] = {}
    for one in records:
        if UTTERANCE_ID.match(name := one.text("speaker")):
            speakers.setdefault(name, (table, one.line))
    return speakers


def _conflicts(records: Sequence[Record], table: str) -> list[Fault]:
    """Rows of one id that disagree on who speaks or with which label, usable or not."""
    firsts: dict[str, Record] = {}
    faults: list[Fault] = []
    for record in records:
        name = record.text("utterance_id")
        first = firsts.setdefault(name, record)
        told = [(one.text("label"), one.text("speaker")) for one in (first, record)]
        if not UTTERANCE_ID.match(name) or told[0] == told[1] or not all(map(all, told)):
            continue
        faults.append(
            fault(
                "conflicting-label",
                table,
                f"row {record.number}: {name} is {told[1][0][:40]} by {told[1][1][:40]} here, and "
                f"{told[0][0][:40]} by {told[0][1][:40]} in row {first.number}",
                "find out which is right and remove the other row",
                line=record.line,
                utterance_id=name,
                severity="stop",
            )
        )
    return faults


def _rows(
    segments: Sequence[Segment], labels: Labels, table: str, told: Collection[str]
) -> tuple[list[Row], list[Fault]]:
    """A row for each segment; a second row of one id is told, and stops where the two disagree."""
    firsts: dict[str, tuple[Row, Record]] = {}
    faults: list[Fault] = []
    for segment, name in zip(segments, names_of(segments), strict=True):
        row = _row(segment, name, labels)
        first, record = firsts.setdefault(name, (row, segment.record))
        if record is segment.record or name in told:
            continue
        same = first == row
        faults.append(
            fault(
                "duplicate-id" if same else "conflicting-id",
                table,
                f"row {segment.record.number}: {name} is also row {record.number}"
                + (", which is used" if same else ", with other content"),
                "remove one of the two rows" if same else "give each row its own utterance_id",
                line=segment.record.line,
                utterance_id=name,
                severity="warn" if same else "stop",
            )
        )
    return [row for row, _ in firsts.values()], faults


def _row(segment: Segment, name: str, labels: Labels) -> Row:
    record = segment.record
    raw = record.text("label")
    return Row(
        utterance_id=name,
        file=segment.file,
        start_s=segment.start_s,
        duration_s=segment.duration_s,
        speaker=segment.speaker,
        session=segment.session,
        gender=GENDERS.get(record.text("gender").lower(), ""),
        text=judged(record.text("text"))[0],
        kind=_kind(record),
        label=labels.to_class[raw],
        label_raw=raw,
    )


def _text_faults(table: Table, records: Sequence[Record]) -> list[Fault]:
    """A warning for each odd text that is used nevertheless; one for a table without any."""
    if not any(one.text("text") for one in records):
        return [
            fault(
                "no-text",
                table.file,
                "no column text, or nothing in it: every text is empty",
                "a linguistic teacher needs it",
                severity="warn",
            )
        ]
    judgements = ((one, judged(one.text("text"))[1]) for one in records)
    return [
        fault(
            wrong.reason,
            table.file,
            f"row {one.number}: {wrong.message}",
            wrong.remedy,
            line=one.line,
            utterance_id=one.text("utterance_id")[:80],
            severity="warn",
        )
        for one, wrong in judgements
        if wrong is not None and wrong.severity == "warn"
    ]


def _column_faults(
    table: Table, records: Sequence[Record], settings: CorpusSettings
) -> list[Fault]:
    """Warnings about whole columns: each once, with how many rows it concerns."""

    def tell(reason: str, message: str, remedy: str, line: int | None = None) -> Fault:
        return fault(reason, table.file, message, remedy, line=line, severity="warn")

    faults: list[Fault] = []
    for column, allowed in (("gender", tuple(GENDERS)), ("kind", KINDS)):
        odd = [one for one in records if one.text(column).lower() not in ("", *allowed)]
        if odd:
            message = (
                f"{len(odd)} rows with another {column} than {', '.join(allowed)}; the first is "
                f"row {odd[0].number}: {odd[0].text(column)[:20]!r}"
            )
            faults.append(tell(f"odd-{column}", message, "it is kept as unknown", odd[0].line))
    unused = sorted(set(settings.label_map or ()) - {one.text("label") for one in records})
    if unused:
        message = f"corpus.label_map names labels that do not occur: {', '.join(unused)}"
        faults.append(tell("unused-label", message, "check their spelling"))
    return faults
