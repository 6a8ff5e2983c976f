"""Corpora whose file names say everything: one grammar, one reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from featstore.core.config import CorpusSettings
from featstore.core.schema import Fault, Manifest, UserError
from featstore.corpora.files import (
    AUDIO_SUFFIXES,
    BadFile,
    FileKind,
    fault,
    read_header,
    require,
    scan,
    walk,
)
from featstore.corpora.rows import Labels, Row, require_any, silent_speakers, to_manifest

DEPTH = 2
"""How many folders down files are looked for: an archive's own folder, then one a speaker."""


class Named(NamedTuple):
    """What one file name says."""

    utterance_id: str
    speaker: str
    gender: str
    text: str
    label_raw: str


class Skipped(NamedTuple):
    """A file of the corpus that this task has no use for, and why: counted, no fault."""

    why: str


Parse = Callable[[str], Named | Skipped | None]
"""File name -> what it says; ``None`` where it is not in the corpus' grammar."""


def read_named(
    name: str,
    root: Path,
    settings: CorpusSettings,
    labels: Labels,
    parse: Parse,
    grammar: str,
) -> Manifest:
    """Read a corpus of acted sentences from its file names and the files' headers.

    Args:
        name: what the corpus is called.
        root: the folder that holds the files, at most two folders down.
        settings: ``kind`` is looked at: acted sentences are ``scripted``.
        labels: raw label -> class.
        parse: the grammar.
        grammar: how a file name should look, for the remedy.

    Raises:
        UserError: where root is no folder, or no utterance is usable.
    """
    try:
        scan(root, root)
    except BadFile as bad:
        raise UserError(f"{root}: {bad.message}", "give --root the corpus folder") from None
    rows: list[Row] = []
    faults: list[Fault] = []
    skipped: Counter[str] = Counter()
    other: Counter[str] = Counter()
    seen: dict[str, str] = {}
    speakers: dict[str, tuple[str, int | None]] = {}
    for path, kind in walk(root, DEPTH):
        file = path.relative_to(root).as_posix()
        said = parse(path.name)
        if said is None:
            faults += _foreign(path, kind, file, grammar)
        elif isinstance(said, Skipped):
            skipped[said.why] += 1
        elif said.utterance_id in seen:
            faults.append(_double(said, file, seen[said.utterance_id]))
        else:
            seen[said.utterance_id] = file
            if said.label_raw not in labels.to_class:
                other[said.label_raw] += 1
            elif settings.kind in ("all", "scripted"):
                speakers.setdefault(said.speaker, (file, None))
                try:
                    rows.append(_row(said, path, kind, file, labels))
                except BadFile as bad:
                    faults.append(bad.fault("audio", file, said.utterance_id))
    faults += [_skip(why, n) for why, n in sorted(skipped.items())]
    faults += silent_speakers(speakers, {row.speaker for row in rows})
    require_any(name, rows, faults, root)
    return to_manifest(name, root, rows, labels.classes, faults, other)


def _row(said: Named, path: Path, kind: FileKind, file: str, labels: Labels) -> Row:
    require(kind)
    return Row(
        utterance_id=said.utterance_id,
        file=file,
        start_s=0.0,
        duration_s=read_header(path).duration_s,
        speaker=said.speaker,
        session="",
        gender=said.gender,
        text=said.text,
        kind="scripted",
        label=labels.to_class[said.label_raw],
        label_raw=said.label_raw,
    )


def _foreign(path: Path, kind: FileKind, file: str, grammar: str) -> list[Fault]:
    if kind == "file" and path.suffix.lower() in AUDIO_SUFFIXES:
        remedy = f"expected {grammar}; rename or remove it"
        return [fault("bad-name", file, "the name is not in the corpus' grammar", remedy)]
    if kind == "file":
        return []
    try:
        require(kind)
    except BadFile as bad:
        return [bad.fault("entry", file, severity="warn")]
    return []


def _double(said: Named, file: str, first: str) -> Fault:
    return fault(
        "duplicate-id",
        file,
        f"{said.utterance_id} is also {first}, which is used",
        "remove one of the two copies",
        utterance_id=said.utterance_id,
        severity="warn",
    )


def _skip(why: str, n: int) -> Fault:
    return fault("skipped", ".", f"{n} files skipped: {why}", "nothing to do", severity="warn")


def incomplete(manifest: Manifest, expected: dict[str, int]) -> list[Fault]:
    """A warning for each speaker whose usable files differ in number from the full corpus'.

    Args:
        manifest: what was read with the corpus' own labels.
        expected: speaker -> how many utterances the published corpus has.
    """
    found = Counter(manifest.utterances["speaker"].tolist())
    return [
        fault(
            "count-differs",
            ".",
            f"speaker {speaker}: {found.get(speaker, 0)} utterances; published are {n}",
            "compare with the corpus' distribution",
            severity="warn",
        )
        for speaker, n in expected.items()
        if found.get(speaker, 0) != n
    ]
