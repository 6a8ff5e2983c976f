"""One table row -> a checked stretch of audio with its speaker, or the fault that bars it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from featstore.core.schema import UTTERANCE_ID, Fault
from featstore.corpora.files import BadFile, fault, is_plain, kind_of, read_header, require
from featstore.corpora.tabular import Record, seconds_of
from featstore.corpora.text import has_controls, judged

END_TOLERANCE_S = 0.05
"""An end this little after the file's is rounding, and is cut; a later one is a fault."""

MAX_LABEL_CHARACTERS = 64

_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]+")


class Sound(NamedTuple):
    """A usable audio file: its path below the table's folder, and its length in seconds."""

    file: str
    length_s: float


class Segment(NamedTuple):
    """A usable row: where its audio is, in seconds, and who speaks."""

    record: Record
    file: str
    start_s: float
    duration_s: float
    speaker: str
    session: str


def read_sounds(folder: Path, files: Iterable[str]) -> dict[str, Sound | BadFile]:
    """Each audio file that a table names, or why it cannot be used; each is opened once."""
    sounds: dict[str, Sound | BadFile] = {}
    inside: dict[str, bool] = {}
    for written in dict.fromkeys(files):
        try:
            file = relative(written, folder)
            path, above = folder / file, file.rpartition("/")[0]
            if above not in inside:
                inside[above] = kind_of(folder / above, folder) == "folder"
            if not (inside[above] and is_plain(path)):
                require(kind_of(path, folder))
            sounds[written] = Sound(file, read_header(path).duration_s)
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


def check(record: Record, sounds: Mapping[str, Sound | BadFile], table: str) -> Segment | Fault:
    """A record with all of its fields checked.

    Args:
        record: the row.
        sounds: what :func:`read_sounds` found, by path as written.
        table: the table's file name, for faults.
    """
    written = record.text("file")
    sound = sounds[written]
    if isinstance(sound, BadFile):
        where = f"row {record.number} ({written[:80] or 'no file'}): {sound.message}"
        return _bad(record, table, f"{sound.reason}-audio", where, sound.remedy)
    speaker, session, name = (record.text(key) for key in ("speaker", "session", "utterance_id"))
    for column, value, may_be_empty in (
        ("speaker", speaker, False),
        ("session", session, True),
        ("utterance_id", name, True),
    ):
        if not (value or may_be_empty):
            text = f"row {record.number} has no {column}"
            return _bad(record, table, f"missing-{column}", text, f"fill in the column {column}")
        if value and not UTTERANCE_ID.match(value):
            text = f"row {record.number}: {column} {value[:40]!r} holds other characters"
            return _bad(
                record, table, f"bad-{column}", text, "use A-Z a-z 0-9 _ . - only, up to 128"
            )
    if (wrong := _wrong_words(record, table)) is not None:
        return wrong
    try:
        start_s, end_s = _times(record, sound.length_s)
    except ValueError as error:
        text = f"row {record.number}: {error}"
        return _bad(
            record, table, "bad-times", text, "give start and end in seconds within the file"
        )
    return Segment(record, sound.file, start_s, end_s - start_s, speaker, session)


def _wrong_words(record: Record, table: str) -> Fault | None:
    """What bars a row for its label or its transcript."""
    label = record.text("label")
    if not label:
        text = f"row {record.number} has no label"
        return _bad(record, table, "missing-label", text, "fill in the column label")
    if not is_label(label):
        text = f"row {record.number}: the label {label[:40]!r} is none"
        remedy = f"use readable characters only, up to {MAX_LABEL_CHARACTERS}"
        return _bad(record, table, "bad-label", text, remedy)
    _, wrong = judged(record.text("text"))
    if wrong is None or wrong.severity != "exclude":
        return None
    return _bad(record, table, wrong.reason, f"row {record.number}: {wrong.message}", wrong.remedy)


def is_label(text: str) -> bool:
    """Whether a field may name a class."""
    return 0 < len(text) <= MAX_LABEL_CHARACTERS and not has_controls(text)


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


def _bad(record: Record, table: str, reason: str, message: str, remedy: str) -> Fault:
    name = record.text("utterance_id")[:80]
    return fault(reason, table, message, remedy, line=record.line, utterance_id=name)


def names_of(segments: Iterable[Segment]) -> list[str]:
    """Each segment's utterance id: its own, or one made of the file's stem and the start.

    ``talk.wav`` from 1.5 s becomes ``talk_00001500`` (milliseconds). A stem that other files share,
    or that holds other characters, is told apart by a hash of the path, so that an id depends
    neither on the order of the rows nor on the machine.
    """
    segments = list(segments)
    files_of: dict[str, set[str]] = {}
    for segment in segments:
        files_of.setdefault(PurePosixPath(segment.file).stem, set()).add(segment.file)
    return [
        segment.record.text("utterance_id")
        or _derived(segment, len(files_of[PurePosixPath(segment.file).stem]) == 1)
        for segment in segments
    ]


def _derived(segment: Segment, stem_is_unique: bool) -> str:
    stem = PurePosixPath(segment.file).stem
    suffix = f"_{round(segment.start_s * 1000):08d}" if segment.start_s > 0 else ""
    if stem_is_unique and UTTERANCE_ID.match(stem + suffix):
        return stem + suffix
    mark = hashlib.sha256(segment.file.encode("utf-8")).hexdigest()[:8]
    plain = _FOREIGN.sub("_", stem)[:80].lstrip("_.-") or "file"
    return f"{plain}-{mark}{suffix}"
