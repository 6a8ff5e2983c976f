"""A corpus of your own: one CSV or Parquet table beside the audio.

Licence and languages are yours. ``--root`` is the table, or a folder with one ``table.csv`` or
``table.parquet``. Needed columns: ``file`` (audio, relative to the table's folder; any rate and
format that libsndfile reads), ``speaker``, ``label`` (or ``emotion``). Optional: ``text`` (the
transcript), ``start`` and ``end`` (seconds, or timedeltas as audformat writes them; a file may hold
several segments), ``utterance_id``, ``session``, ``gender``, ``kind``. Labels are taken as they
are, classes in alphabetical order, unless ``corpus.label_map`` or ``corpus.classes`` say otherwise.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from featstore.core.config import CorpusSettings
from featstore.core.schema import UTTERANCE_ID, Fault, Manifest, Severity, UserError, printable
from featstore.corpora.manifest import (
    BadFile,
    Labels,
    Row,
    choose_labels,
    fault,
    has_controls,
    kind_of,
    read_duration,
    read_text,
    require,
    require_any,
    silent_speakers,
    to_manifest,
    words_of,
)

ABOUT = "your own corpus: table.csv or table.parquet with the columns file, speaker, label, text"

FILE_NAMES = ("table.csv", "table.parquet")
SUFFIXES = (".csv", ".parquet")
NEEDED = ("file", "speaker", "label")
ALIASES: Mapping[str, str] = {
    "emotion": "label",
    "start": "start_s",
    "end": "end_s",
    "duration": "duration_s",
    "transcript": "text",
    "transcription": "text",
}
"""audformat's and other customary names of our columns; our own name wins where both stand."""
GENDERS: Mapping[str, str] = {
    "f": "female",
    "female": "female",
    "w": "female",
    "m": "male",
    "male": "male",
}
KINDS = ("scripted", "improvised", "unknown")

MAX_TABLE_BYTES = 1024**3
MAX_ROWS = 5_000_000
MAX_LABEL_CHARACTERS = 64
MOST_LABELS = 64
END_TOLERANCE_S = 0.05
"""An end this little after the file's is rounding, and is cut; a later one is a fault."""

_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Record:
    """One row of a table: its number from 1, its line in a CSV file, and its fields."""

    number: int
    line: int | None
    fields: Mapping[str, Any]

    def text(self, column: str) -> str:
        """A field as text, see :func:`text_of`; empty where there is no such column."""
        return text_of(self.fields.get(column))

    @property
    def kind(self) -> str:
        """Scripted, improvised or unknown."""
        kind = self.text("kind").lower()
        return kind if kind in KINDS else "unknown"

    @property
    def label(self) -> str:
        """The label, or nothing where the field cannot name a class."""
        label = self.text("label")
        return label if len(label) <= MAX_LABEL_CHARACTERS and not has_controls(label) else ""


@dataclass(frozen=True)
class Table:
    """A table as read: where it lies, its rows, and rows that could not be read."""

    folder: Path
    file: str
    records: tuple[Record, ...]
    faults: tuple[Fault, ...] = ()

    def fault(
        self,
        reason: str,
        record: Record,
        message: str,
        remedy: str | None = None,
        severity: Severity | None = None,
    ) -> Fault:
        """A fault of one row, at its line."""
        name = record.text("utterance_id")[:80]
        message = f"row {record.number}{message}"
        return fault(reason, self.file, message, remedy, record.line, name, severity)


class Segment(NamedTuple):
    """A usable row: where its audio is, in seconds, and who speaks."""

    record: Record
    file: str
    start_s: float
    duration_s: float


class Sound(NamedTuple):
    """A usable audio file: its path below the table's folder, and its length in seconds."""

    file: str
    length_s: float


def read(root: Path, settings: CorpusSettings) -> Manifest:
    """Read a table and check the audio that it names.

    Raises:
        UserError: no readable table, needed columns missing, label settings that make no sense,
            or not one usable row.
    """
    table = read_table(root)
    where = table.folder / table.file
    of_kind = [one for one in table.records if settings.kind in ("all", one.kind)]
    labelled = [one.label for one in of_kind if one.label]
    require_any("table", labelled, table.faults, where)
    labels = _labels(where, labelled, settings)
    chosen = [one for one in of_kind if not one.label or one.label in labels.to_class]
    sounds = read_sounds(table.folder, (one.text("file") for one in chosen))
    checked = [_check(one, sounds, table) for one in chosen]
    conflicts = _conflicts(of_kind, table)
    segments = [one for one in checked if isinstance(one, Segment)]
    rows, doubles = _rows(segments, labels, table, {one.utterance_id for one in conflicts})
    speakers: dict[str, tuple[str, int | None]] = {}
    for one in chosen:
        if UTTERANCE_ID.match(name := one.text("speaker")):
            speakers.setdefault(name, (table.file, one.line))
    faults = [
        *table.faults,
        *_text_faults(table, chosen),
        *_column_faults(table, of_kind, settings),
        *(one for one in checked if isinstance(one, Fault)),
        *conflicts,
        *doubles,
        *silent_speakers(speakers, {row.speaker for row in rows}),
    ]
    other = Counter(label for label in labelled if label not in labels.to_class)
    require_any("table", rows, faults, where)
    return to_manifest("table", table.folder, rows, labels.classes, faults, other)


def _labels(where: Path, labelled: Sequence[str], settings: CorpusSettings) -> Labels:
    raw = sorted(set(labelled))
    if settings.label_map is None and settings.classes is None and len(raw) > MOST_LABELS:
        message = f"{where}: column label holds {len(raw)} different values, such as "
        raise UserError(f"{message}{raw[0][:20]!r}", "set corpus.classes or corpus.label_map")
    return choose_labels(settings, {label: label for label in raw}, raw)


def _conflicts(records: Sequence[Record], table: Table) -> list[Fault]:
    """Rows of one id that disagree on who speaks or with which label, usable or not."""
    firsts: dict[str, Record] = {}
    faults: list[Fault] = []
    for record in records:
        name = record.text("utterance_id")
        first = firsts.setdefault(name, record)
        here, there = ((one.text("label"), one.text("speaker")) for one in (record, first))
        if UTTERANCE_ID.match(name) and here != there and all((*here, *there)):
            (label, who), (old_label, old_who) = ((a[:40], b[:40]) for a, b in (here, there))
            message = f": {name} is {label} by {who} here, and {old_label} by {old_who} in row "
            faults.append(table.fault("conflicting-label", record, f"{message}{first.number}"))
    return faults


def _rows(
    segments: Sequence[Segment], labels: Labels, table: Table, reported: Collection[str]
) -> tuple[list[Row], list[Fault]]:
    """A row for each segment; a second row of one id is told, and stops where the two disagree."""
    firsts: dict[str, tuple[Row, Record]] = {}
    faults: list[Fault] = []
    for segment, name in zip(segments, names_of(segments), strict=True):
        row = _row(segment, name, labels)
        first, record = firsts.setdefault(name, (row, segment.record))
        if record is segment.record or name in reported:
            continue
        same = first == row
        message = f": {name} is also row {record.number}"
        message += ", which is used" if same else ", with other content"
        reason = "duplicate-id" if same else "conflicting-id"
        faults.append(table.fault(reason, segment.record, message))
    return [row for row, _ in firsts.values()], faults


def _row(segment: Segment, name: str, labels: Labels) -> Row:
    record = segment.record
    return Row(
        utterance_id=name,
        file=segment.file,
        start_s=segment.start_s,
        duration_s=segment.duration_s,
        speaker=record.text("speaker"),
        session=record.text("session"),
        gender=GENDERS.get(record.text("gender").lower(), ""),
        text=words_of(record.text("text"))[0],
        kind=record.kind,
        label=labels.to_class[record.label],
        label_raw=record.label,
    )


def _text_faults(table: Table, records: Sequence[Record]) -> list[Fault]:
    """A warning for each odd text that is used nevertheless; one for a table without any."""
    if not any(one.text("text") for one in records):
        message = "no column text, or nothing in it: every text is empty"
        return [fault("no-text", table.file, message)]
    wrong = ((one, words_of(one.text("text"))[1]) for one in records)
    return [
        table.fault(odd.reason, one, f": {odd.message}", odd.remedy, severity="warn")
        for one, odd in wrong
        if odd is not None and odd.severity == "warn"
    ]


def _column_faults(
    table: Table, records: Sequence[Record], settings: CorpusSettings
) -> list[Fault]:
    """Warnings about whole columns: each once, with how many rows it concerns."""
    faults: list[Fault] = []
    for column, allowed in (("gender", tuple(GENDERS)), ("kind", KINDS)):
        odd = [one for one in records if one.text(column).lower() not in ("", *allowed)]
        if odd:
            first = f"the first is row {odd[0].number}: {odd[0].text(column)[:20]!r}"
            message = f"{len(odd)} rows with another {column} than {', '.join(allowed)}; {first}"
            faults.append(fault(f"odd-{column}", table.file, message, line=odd[0].line))
    unused = sorted(set(settings.label_map or ()) - {one.text("label") for one in records})
    if unused:
        message = f"corpus.label_map names labels that do not occur: {', '.join(unused)}"
        faults.append(fault("unused-label", table.file, message))
    return faults


# ------------------------------------------------------------------------------------------- rows


def read_sounds(folder: Path, files: Iterable[str]) -> dict[str, Sound | BadFile]:
    """Each audio file that a table names, or why it cannot be used; each is opened once."""
    sounds: dict[str, Sound | BadFile] = {}
    for written in dict.fromkeys(files):
        try:
            file = relative(written, folder)
            require(kind_of(folder / file, folder))
            sounds[written] = Sound(file, read_duration(folder / file))
        except BadFile as bad:
            sounds[written] = bad
    return sounds


def relative(file: str, folder: Path) -> str:
    """A table's path to audio as a plain path below the table's folder, with forward slashes.

    Raises:
        BadFile: where it is empty or leads out of the folder.

    >>> relative("./a//b.wav", Path("corpus"))
    'a/b.wav'
    """
    if not file:
        raise BadFile("missing", "the field file is empty", "name the audio file of each row")
    base = os.path.abspath(folder)  # noqa: PTH100 (links below are judged by kind_of)
    path = os.path.normpath(os.path.join(base, file))  # noqa: PTH118
    below = base.rstrip(os.sep) + os.sep
    if not path.startswith(below):
        require("outside")
    return path[len(below) :].replace(os.sep, "/")


def _check(record: Record, sounds: Mapping[str, Sound | BadFile], table: Table) -> Segment | Fault:
    """A record with all of its fields checked, or the first fault that bars it."""
    written = record.text("file")
    sound = sounds[written]
    if isinstance(sound, BadFile):
        message = f" ({written[:80] or 'no file'}): {sound.message}"
        return table.fault(f"{sound.reason}-audio", record, message, sound.remedy)
    for column in ("speaker", "session", "utterance_id"):
        value = record.text(column)
        if not value and column == "speaker":
            remedy = "fill in the column speaker"
            return table.fault("missing-speaker", record, " has no speaker", remedy)
        if value and not UTTERANCE_ID.match(value):
            message = f": {column} {value[:40]!r} holds other characters"
            remedy = "use A-Z a-z 0-9 _ . - only, up to 128"
            return table.fault(f"bad-{column}", record, message, remedy)
    if not (label := record.text("label")):
        return table.fault("missing-label", record, " has no label", "fill in the column label")
    if not record.label:
        remedy = f"use readable characters only, up to {MAX_LABEL_CHARACTERS}"
        return table.fault("bad-label", record, f": the label {label[:40]!r} is none", remedy)
    _, wrong = words_of(record.text("text"))
    if wrong is not None and wrong.severity == "exclude":
        return table.fault(wrong.reason, record, f": {wrong.message}", wrong.remedy)
    try:
        start_s, end_s = _times(record, sound.length_s)
    except ValueError as error:
        return table.fault("bad-times", record, f": {error}")
    return Segment(record, sound.file, start_s, end_s - start_s)


def _times(record: Record, length_s: float) -> tuple[float, float]:
    start_s = seconds_of(record.fields.get("start_s")) or 0.0
    end_s = seconds_of(record.fields.get("end_s"))
    duration_s = seconds_of(record.fields.get("duration_s"))
    if end_s is None:
        end_s = length_s if duration_s is None else start_s + duration_s
    if start_s < 0:
        raise ValueError(f"start {start_s:g} s is negative")
    if end_s > length_s + END_TOLERANCE_S:
        raise ValueError(f"end {end_s:g} s is after the file's, {length_s:g} s")
    end_s = min(end_s, length_s)
    if end_s <= start_s:
        raise ValueError(f"end {end_s:g} s is not after start {start_s:g} s")
    return start_s, end_s


def names_of(segments: Sequence[Segment]) -> list[str]:
    """Each segment's utterance id: its own, or one made of the file's stem and the start.

    ``talk.wav`` from 1.5 s becomes ``talk_00001500`` (milliseconds). A stem that other files share,
    or that holds other characters, is told apart by a hash of the path, so that an id depends
    neither on the order of the rows nor on the machine.
    """
    stems = Counter(PurePosixPath(file).stem for file in {one.file for one in segments})
    names: list[str] = []
    for one in segments:
        stem = PurePosixPath(one.file).stem
        suffix = f"_{round(one.start_s * 1000):08d}" if one.start_s > 0 else ""
        derived = stem + suffix
        if stems[stem] > 1 or not UTTERANCE_ID.match(derived):
            mark = hashlib.sha256(one.file.encode("utf-8")).hexdigest()[:8]
            plain = _FOREIGN.sub("_", stem)[:80].lstrip("_.-") or "file"
            derived = f"{plain}-{mark}{suffix}"
        names.append(one.record.text("utterance_id") or derived)
    return names


# ----------------------------------------------------------------------------------------- tables


def read_table(root: Path) -> Table:
    """Read the table that ``root`` is, or that lies in it as table.csv or table.parquet.

    Raises:
        UserError: none or two tables there, an unreadable one, or needed columns missing.
    """
    path = locate(root)
    faults: list[Fault] = []
    try:
        require(kind_of(path, path.parent))
        if path.suffix.lower() == ".csv":
            text = read_text(path, path.parent, MAX_TABLE_BYTES)
            names, records, faults = _read_csv(path, text)
        else:
            names, records = _read_parquet(path)
    except BadFile as bad:
        raise UserError(f"{path}: {bad.message}", bad.remedy) from None
    columns = canonical_columns(path, names)
    renamed = (
        Record(one.number, one.line, {columns[key]: value for key, value in one.fields.items()})
        for one in records
    )
    return Table(path.parent, path.name, tuple(renamed), tuple(faults))


def locate(root: Path) -> Path:
    """The table's path.

    Raises:
        UserError: where there is none, or two.
    """
    hint = "give --root a .csv or .parquet file, or a folder with one " + " or ".join(FILE_NAMES)
    if root.is_dir():
        paths = [root / name for name in FILE_NAMES if (root / name).exists()]
        if len(paths) != 1:
            what = "both tables are there" if paths else "no table here"
            raise UserError(f"{root}: {what}", hint)
        return paths[0]
    if root.suffix.lower() not in SUFFIXES:
        raise UserError(f"{root}: neither a folder nor a CSV or Parquet file", hint)
    return root


def canonical_columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Column as written -> our name for it.

    Raises:
        UserError: doubled or missing columns.

    >>> canonical_columns(Path("t.csv"), ["file", "Speaker", "emotion"])
    {'file': 'file', 'Speaker': 'speaker', 'emotion': 'label'}
    """
    plain = {name: name.strip().lower() for name in names}
    own = set(plain.values())
    if len(own) != len(names):
        raise UserError(f"{path}: two columns of one name", "name each column once")
    columns = {
        name: key if ALIASES.get(key, key) in own else ALIASES.get(key, key)
        for name, key in plain.items()
    }
    if len(set(columns.values())) != len(columns):
        raise UserError(f"{path}: two columns for one thing", f"keep one of each of {ALIASES}")
    if missing := [name for name in NEEDED if name not in columns.values()]:
        there = ", ".join(printable(name) for name in names) or "none"
        raise UserError(
            f"{path}: no column {', '.join(missing)}; found: {there}",
            "needed are file, speaker and label (or emotion); text, start, end, utterance_id, "
            "session, gender and kind are optional",
        )
    return columns


def _read_csv(path: Path, text: str) -> tuple[list[str], list[Record], list[Fault]]:
    """The rows of a CSV file; one endless field is that row's fault and not the table's."""
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[Record] = []
    faults: list[Fault] = []
    limit = csv.field_size_limit(MAX_TABLE_BYTES)
    try:
        names = next(reader)
        for number, values in enumerate((row for row in reader if row), start=1):
            line = reader.line_num
            if len(values) == len(names):
                records.append(Record(number, line, dict(zip(names, values, strict=True))))
                continue
            counts = f"{len(values)} fields where the header has {len(names)}"
            message = f"row {number} has {counts}"
            faults.append(fault("malformed-row", path.name, message, line=line))
    except csv.Error as error:
        message = f"{path}:{reader.line_num}: not CSV ({error})"
        raise UserError(message, "save it again as comma-separated text") from None
    finally:
        csv.field_size_limit(limit)
    return names, records, faults


def _read_parquet(path: Path) -> tuple[list[str], list[Record]]:
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        # A few bytes of run-length code can stand for more rows than memory holds.
        n_rows = pq.read_metadata(path).num_rows
        if n_rows > MAX_ROWS:
            raise ValueError(f"{n_rows} rows where at most {MAX_ROWS} are read")
        table = pd.read_parquet(path, engine="pyarrow")
    except Exception as error:
        # pyarrow and pandas raise half a dozen unrelated types for a damaged file.
        first = printable(str(error).partition("\n")[0])[:120]
        message = f"{path}: not a readable Parquet file ({first})"
        raise UserError(message, "write it again") from None
    if any(name is not None for name in table.index.names):
        table = table.reset_index()  # audformat keeps file, start and end in the index
    names = [str(name) for name in table.columns]
    rows = table.astype(object).itertuples(index=False, name=None)
    fields = (dict(zip(names, row, strict=True)) for row in rows)
    return names, [Record(number, None, one) for number, one in enumerate(fields, start=1)]


def is_missing(value: Any) -> bool:
    """Whether a field is empty: None, NaN, NaT or blank text.

    >>> is_missing(None), is_missing(float("nan")), is_missing(" "), is_missing(0)
    (True, True, True, False)
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    # NaN and NaT are unlike themselves; pandas.NA refuses to say so as a bool.
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"


def text_of(value: Any) -> str:
    """A field as text: stripped, empty where missing, whole floats without the dot.

    >>> text_of(" Ann "), text_of(3.0), text_of(None)
    ('Ann', '3', '')
    """
    if is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def seconds_of(value: Any) -> float | None:
    """A time in seconds, from a number, a timedelta or its text; ``None`` where missing.

    Raises:
        ValueError: where it is no time, or not finite.

    >>> seconds_of("1.5"), seconds_of("0 days 00:00:01.500000"), seconds_of("")
    (1.5, 1.5, None)
    """
    if is_missing(value):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        import pandas as pd

        try:
            seconds = pd.Timedelta(value).total_seconds()
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{text_of(value)[:40]!r} is no time") from None
    if not math.isfinite(seconds):
        raise ValueError(f"{seconds} is no time")
    return seconds
