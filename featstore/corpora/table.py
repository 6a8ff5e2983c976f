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
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from featstore.core.config import CorpusSettings
from featstore.core.schema import UTTERANCE_ID, Fault, Manifest, UserError, printable
from featstore.corpora.manifest import (
    Place,
    Row,
    Unusable,
    choose_labels,
    fault,
    has_controls,
    read_duration,
    read_text,
    require,
    require_any,
    to_manifest,
    unusable,
    words_of,
)

if TYPE_CHECKING:
    import pandas as pd

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


class Record(NamedTuple):
    """One row of a table: its number from 1, its line in a CSV file, and its fields.

    A field is text, empty where it is missing; a time is as it is written.
    """

    number: int
    line: int | None
    utterance_id: str
    file: str
    speaker: str
    session: str
    gender: str
    text: str
    kind: str
    label: str
    start_s: Any
    end_s: Any
    duration_s: Any


TEXTS = Record._fields[2:10]
TIMES = Record._fields[10:]


def read(root: Path, settings: CorpusSettings) -> Manifest:
    """Read a table and check the audio that it names.

    Raises:
        UserError: no readable table, needed columns missing, label settings that make no sense,
            or not one usable row.
    """
    path = _locate(root)
    records, faults = _read_table(path)
    records = [one for one in records if settings.kind in ("all", _kind(one))]
    labelled = [one.label for one in records if _is_label(one.label)]
    raw = sorted(set(labelled))
    if settings.label_map is None and settings.classes is None and len(raw) > MOST_LABELS:
        message = f"{path}: column label holds {len(raw)} different values, such as "
        raise UserError(f"{message}{raw[0][:20]!r}", "set corpus.classes or corpus.label_map")
    own_labels = {label: label for label in raw}
    classes, to_class = choose_labels(settings, own_labels) if raw else ((), {})
    other = Counter(label for label in labelled if label not in to_class)
    chosen = [one for one in records if one.label not in other]
    faults += _column_faults(path.name, records, chosen, settings)
    conflicting = _conflicting(path.name, records, faults)
    rows = _rows(path, chosen, to_class, conflicting, faults)
    speakers: dict[str, Place] = {}
    for one in chosen:
        if UTTERANCE_ID.match(one.speaker):
            speakers.setdefault(one.speaker, (path.name, one.line))
    manifest = to_manifest("table", path.parent, rows, classes, faults, other, speakers)
    return require_any(manifest, path)


def _kind(record: Record) -> str:
    kind = record.kind.lower()
    return kind if kind in KINDS else "unknown"


def _is_label(text: str) -> bool:
    """Whether a field can name a class."""
    return 0 < len(text) <= MAX_LABEL_CHARACTERS and not has_controls(text)


def _fault(file: str, record: Record, reason: str, message: str, remedy: str = "") -> Fault:
    """A fault of one row of the table, at its line."""
    message = f"row {record.number}{message}"
    return fault(reason, file, message, remedy, record.line, record.utterance_id[:80])


def _column_faults(
    file: str, records: Sequence[Record], chosen: Sequence[Record], settings: CorpusSettings
) -> list[Fault]:
    """Warnings about whole columns: each once, with how many rows it concerns."""
    faults: list[Fault] = []
    if chosen and not any(one.text for one in chosen):
        message = "no column text, or nothing in it: every text is empty"
        faults.append(fault("no-text", file, message))
    for column, allowed in (("gender", tuple(GENDERS)), ("kind", KINDS)):
        values = [(one, getattr(one, column)) for one in records]
        odd = [(one, value) for one, value in values if value.lower() not in ("", *allowed)]
        if odd:
            (first, value), names = odd[0], ", ".join(allowed)
            message = f"{len(odd)} rows with another {column} than {names}; "
            message += f"the first is row {first.number}: {value[:20]!r}"
            faults.append(fault(f"odd-{column}", file, message, line=first.line))
    if unused := sorted(set(settings.label_map or ()) - {one.label for one in records}):
        message = f"corpus.label_map names labels that do not occur: {', '.join(unused)}"
        faults.append(fault("unused-label", file, message))
    return faults


def _conflicting(file: str, records: Sequence[Record], faults: list[Fault]) -> set[str]:
    """Ids whose rows disagree on who speaks or with which label, usable or not."""
    firsts: dict[str, Record] = {}
    conflicting: set[str] = set()
    for one in records:
        name, first = one.utterance_id, firsts.setdefault(one.utterance_id, one)
        here, there = (one.label, one.speaker), (first.label, first.speaker)
        if UTTERANCE_ID.match(name) and here != there and all((*here, *there)):
            message = (
                f": {name} is {one.label[:40]} by {one.speaker[:40]} here, "
                f"and {first.label[:40]} by {first.speaker[:40]} in row {first.number}"
            )
            faults.append(_fault(file, one, "conflicting-label", message))
            conflicting.add(name)
    return conflicting


# ------------------------------------------------------------------------------------------- rows


def _rows(
    path: Path,
    chosen: Sequence[Record],
    to_class: Mapping[str, str],
    conflicting: Collection[str],
    faults: list[Fault],
) -> list[Row]:
    """The usable ones of the chosen rows, each id once; what is wrong is added to ``faults``.

    A second row of one id that is like the first is a warning, another one stops a build.
    """
    sounds = {file: _sound(file, path.parent) for file in {one.file for one in chosen}}
    has_text = any(one.text for one in chosen)
    usable: list[tuple[Record, str, float, float]] = []
    for one in chosen:
        _, reason, message = words_of(one.text)
        if reason and reason != "oversized-text" and has_text:
            faults.append(_fault(path.name, one, reason, f": {message}"))
        try:
            usable.append((one, *_stretch(one, sounds[one.file])))
        except Unusable as bad:
            faults.append(_fault(path.name, one, bad.reason, bad.message, bad.remedy))
    n_files = Counter(PurePosixPath(file).stem for file in {file for _, file, _, _ in usable})
    firsts: dict[str, tuple[Row, int]] = {}
    for one, file, start_s, duration_s in usable:
        name = one.utterance_id or derived_id(file, start_s, n_files[PurePosixPath(file).stem])
        gender, words = GENDERS.get(one.gender.lower(), ""), words_of(one.text)[0]
        what = (one.session, gender, words, _kind(one), to_class[one.label], one.label)
        row = Row(name, file, start_s, duration_s, one.speaker, *what)
        first, number = firsts.setdefault(name, (row, one.number))
        if number == one.number or name in conflicting:
            continue
        message = f": {name} is also row {number}"
        if first == row:
            faults.append(_fault(path.name, one, "duplicate-id", f"{message}, which is used"))
        else:
            message += ", with other content"
            faults.append(_fault(path.name, one, "conflicting-id", message))
    return [row for row, _ in firsts.values()]


def _sound(written: str, folder: Path) -> tuple[str, float] | Unusable:
    """A table's audio: its path below the table's folder, and its length in seconds."""
    if not written:
        return Unusable("missing", "the field file is empty", "name the audio file of each row")
    file = os.path.relpath(folder / written, folder).replace(os.sep, "/")
    if file.startswith("../"):
        return unusable("outside")
    try:
        require(folder / file, folder)
        return file, read_duration(folder / file)
    except Unusable as bad:
        return bad


def _stretch(row: Record, sound: tuple[str, float] | Unusable) -> tuple[str, float, float]:
    """Where a row's utterance is: the file, where it starts and its length in seconds.

    Raises:
        Unusable: a field of the row cannot be used.
    """
    if isinstance(sound, Unusable):
        message = f" ({row.file[:80] or 'no file'}): {sound.message}"
        raise Unusable(f"{sound.reason}-audio", message, sound.remedy)
    for column in ("speaker", "session", "utterance_id"):
        value = getattr(row, column)
        if not value and column == "speaker":
            raise Unusable("missing-speaker", " has no speaker")
        if value and not UTTERANCE_ID.match(value):
            message = f": {column} {value[:40]!r} holds other characters"
            raise Unusable(f"bad-{column}", message, "use A-Z a-z 0-9 _ . - only, up to 128")
    if not row.label:
        raise Unusable("missing-label", " has no label")
    if not _is_label(row.label):
        remedy = f"use readable characters only, up to {MAX_LABEL_CHARACTERS}"
        raise Unusable("bad-label", f": the label {row.label[:40]!r} is none", remedy)
    _, reason, message = words_of(row.text)
    if reason == "oversized-text":
        raise Unusable(reason, f": {message}")
    file, length_s = sound
    try:
        start_s, end_s, duration_s = map(seconds_of, (row.start_s, row.end_s, row.duration_s))
    except ValueError as error:
        raise Unusable("bad-times", f": {error}") from None
    start_s = start_s or 0.0
    if end_s is None:
        end_s = length_s if duration_s is None else start_s + duration_s
    if start_s < 0:
        raise Unusable("bad-times", f": start {start_s:g} s is negative")
    if end_s > length_s + END_TOLERANCE_S:
        raise Unusable("bad-times", f": end {end_s:g} s is after the file's, {length_s:g} s")
    end_s = min(end_s, length_s)
    if end_s <= start_s:
        raise Unusable("bad-times", f": end {end_s:g} s is not after start {start_s:g} s")
    return file, start_s, end_s - start_s


def derived_id(file: str, start_s: float, n_files: int = 1) -> str:
    """The utterance id of a row without one, made of the file's stem and the start.

    ``talk.wav`` from 1.5 s becomes ``talk_00001500`` (milliseconds). A stem that several files
    share, or that holds other characters, is told apart by a hash of the path, so that an id
    depends neither on the order of the rows nor on the machine.

    >>> derived_id("talk.wav", 1.5), derived_id("talk.wav", 0, n_files=2)
    ('talk_00001500', 'talk-8a5c1554')
    """
    stem = PurePosixPath(file).stem
    suffix = f"_{round(start_s * 1000):08d}" if start_s > 0 else ""
    if n_files == 1 and UTTERANCE_ID.match(stem + suffix):
        return stem + suffix
    mark = hashlib.sha256(file.encode("utf-8")).hexdigest()[:8]
    plain = _FOREIGN.sub("_", stem)[:80].lstrip("_.-") or "file"
    return f"{plain}-{mark}{suffix}"


# ----------------------------------------------------------------------------------------- tables


def _read_table(path: Path) -> tuple[list[Record], list[Fault]]:
    """The rows of a table, and those that cannot be read.

    Raises:
        UserError: an unreadable table, or needed columns missing.
    """
    faults: list[Fault] = []
    lines: Sequence[int | None]
    try:
        require(path, path.parent)
        if path.suffix.lower() == ".csv":
            table, lines = _read_csv(path, faults)
        else:
            table = _read_parquet(path)
            lines = [None] * len(table)
    except Unusable as bad:
        raise UserError(f"{path}: {bad.message}", bad.remedy) from None
    table.columns = canonical_columns(path, table.columns)
    table = table.reindex(columns=[*TEXTS, *TIMES]).astype(object)
    table = table.where(table.notna(), None)
    table[list(TEXTS)] = table[list(TEXTS)].map(text_of)
    values = zip(lines, table.itertuples(name=None), strict=True)
    return [Record(number, line, *fields) for line, (number, *fields) in values], faults


def _locate(root: Path) -> Path:
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


def canonical_columns(path: Path, names: Iterable[object]) -> list[str]:
    """Our name for each column as it is written.

    Raises:
        UserError: doubled or missing columns.

    >>> canonical_columns(Path("t.csv"), ["file", "Speaker", "emotion"])
    ['file', 'speaker', 'label']
    """
    own = [str(name).strip().lower() for name in names]
    if len(set(own)) != len(own):
        raise UserError(f"{path}: two columns of one name", "name each column once")
    columns = [key if ALIASES.get(key, key) in own else ALIASES.get(key, key) for key in own]
    if len(set(columns)) != len(columns):
        raise UserError(f"{path}: two columns for one thing", f"keep one of each of {ALIASES}")
    if missing := [name for name in NEEDED if name not in columns]:
        there = ", ".join(printable(str(name)) for name in names) or "none"
        raise UserError(
            f"{path}: no column {', '.join(missing)}; found: {there}",
            "needed are file, speaker and label (or emotion); text, start, end, utterance_id, "
            "session, gender and kind are optional",
        )
    return columns


def _read_csv(path: Path, faults: list[Fault]) -> tuple[pd.DataFrame, list[int]]:
    """The rows of a CSV file and their lines; a row of too many or few fields is a fault.

    pandas' own reader tells no lines, and takes a row that is too short for one of empty fields.
    """
    import pandas as pd

    text = read_text(path, path.parent, MAX_TABLE_BYTES)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: dict[int, list[str]] = {}
    lines: list[int] = []
    limit = csv.field_size_limit(MAX_TABLE_BYTES)
    try:
        names = next(reader)
        for number, fields in enumerate(filter(None, reader), start=1):
            if len(fields) == len(names):
                rows[number] = fields
                lines.append(reader.line_num)
                continue
            message = f"row {number} has {len(fields)} fields where the header has {len(names)}"
            faults.append(fault("malformed-row", path.name, message, line=reader.line_num))
    except csv.Error as error:
        message = f"{path}:{reader.line_num}: not CSV ({error})"
        raise UserError(message, "save it again as comma-separated text") from None
    finally:
        csv.field_size_limit(limit)
    return pd.DataFrame.from_dict(rows, orient="index", columns=names, dtype=object), lines


def _read_parquet(path: Path) -> pd.DataFrame:
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
    return table.set_axis(range(1, len(table) + 1))


def text_of(value: Any) -> str:
    """A field as text: stripped, empty where missing, whole floats without the dot.

    >>> text_of(" Ann "), text_of(3.0), text_of(None)
    ('Ann', '3', '')
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value).strip()


def seconds_of(value: Any) -> float | None:
    """A time in seconds, from a number, a timedelta or its text; ``None`` where missing.

    Raises:
        ValueError: where it is no time, or not finite.

    >>> seconds_of("1.5"), seconds_of("0 days 00:00:01.500000"), seconds_of("")
    (1.5, 1.5, None)
    """
    if not text_of(value):
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
