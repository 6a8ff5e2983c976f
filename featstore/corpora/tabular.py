"""A CSV or Parquet file -> records with the manifest's column names, values still as written."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.core.schema import Fault, UserError, printable
from featstore.corpora.files import BadFile, fault, kind_of, read_text, require

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

MAX_TABLE_BYTES = 1024**3
MAX_ROWS = 5_000_000


@dataclass(frozen=True)
class Record:
    """One row of a table: its number from 1, its line in a CSV file, and its fields."""

    number: int
    line: int | None
    fields: Mapping[str, Any]

    def text(self, column: str) -> str:
        """A field as text, see :func:`text_of`; empty where there is no such column."""
        return text_of(self.fields.get(column))


@dataclass(frozen=True)
class Table:
    """A table as read: where it lies, its columns, its rows, and rows that could not be read."""

    folder: Path
    file: str
    columns: frozenset[str]
    records: tuple[Record, ...]
    faults: tuple[Fault, ...] = ()


def read_table(root: Path) -> Table:
    """Read the table that ``root`` is, or that lies in it as table.csv or table.parquet.

    Raises:
        UserError: none or two tables there, an unreadable one, or needed columns missing.
    """
    path = locate(root)
    try:
        require(kind_of(path, path.parent))
        if path.suffix.lower() == ".csv":
            text = read_text(path, path.parent, MAX_TABLE_BYTES)
            names, records, faults = _read_csv(path, text)
        else:
            (names, records), faults = _read_parquet(path), []
    except BadFile as bad:
        raise UserError(f"{path}: {bad.message}", bad.remedy) from None
    columns = canonical_columns(path, names)
    table = tuple(
        Record(record.number, record.line, {columns[key]: v for key, v in record.fields.items()})
        for record in records
    )
    return Table(path.parent, path.name, frozenset(columns.values()), table, tuple(faults))


def locate(root: Path) -> Path:
    """The table's path.

    Raises:
        UserError: where there is none, or two.
    """
    hint = "give --root a .csv or .parquet file, or a folder with one " + " or ".join(FILE_NAMES)
    if root.is_dir():
        found = [root / name for name in FILE_NAMES if (root / name).exists()]
        if len(found) != 1:
            what = "both tables are there" if found else "no table here"
            raise UserError(f"{root}: {what}", hint)
        return found[0]
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
        name: key if key not in ALIASES or ALIASES[key] in own else ALIASES[key]
        for name, key in plain.items()
    }
    if len(set(columns.values())) != len(columns):
        raise UserError(f"{path}: two columns for one thing", f"keep one of each of {ALIASES}")
    missing = [name for name in NEEDED if name not in columns.values()]
    if missing:
        raise UserError(
            f"{path}: no column {', '.join(missing)}; found: "
            + (", ".join(printable(name) for name in names) or "none"),
            "needed are file, speaker and label (or emotion); text, start, end, utterance_id, "
            "session, gender and kind are optional",
        )
    return columns


def _read_csv(path: Path, text: str) -> tuple[list[str], list[Record], list[Fault]]:
    """The rows of a CSV file; one endless field is that row's fault and not the table's."""
    before = csv.field_size_limit(MAX_TABLE_BYTES)
    try:
        return _parse_csv(path, text)
    finally:
        csv.field_size_limit(before)


def _parse_csv(path: Path, text: str) -> tuple[list[str], list[Record], list[Fault]]:
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[Record] = []
    faults: list[Fault] = []
    try:
        names = next(reader)
        for number, values in enumerate(_filled(reader), start=1):
            if len(values) == len(names):
                fields = dict(zip(names, values, strict=True))
                records.append(Record(number, reader.line_num, fields))
                continue
            faults.append(
                fault(
                    "malformed-row",
                    path.name,
                    f"row {number} has {len(values)} fields where the header has {len(names)}",
                    "put text that holds the delimiter into double quotes",
                    line=reader.line_num,
                )
            )
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num}: not CSV ({error})", "save it again as comma-separated text"
        ) from None
    return names, records, faults


def _filled(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    return (row for row in rows if row)


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
        raise UserError(
            f"{path}: not a readable Parquet file ({first})", "write it again"
        ) from None
    if any(name is not None for name in table.index.names):
        # audformat keeps file, start and end in the index.
        table = table.reset_index()
    names = [str(name) for name in table.columns]
    columns = [table.iloc[:, at].tolist() for at in range(len(names))]
    rows = zip(*columns, strict=True) if columns else iter(())
    records = [
        Record(number, None, dict(zip(names, values, strict=True)))
        for number, values in enumerate(rows, start=1)
    ]
    return names, records


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
    if isinstance(value, str):
        return value.strip()
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
