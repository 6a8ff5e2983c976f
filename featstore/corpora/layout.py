"""A folder in IEMOCAP's layout -> manifest; the synthetic corpus is read by the same code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from featstore.core.config import CorpusSettings
from featstore.core.schema import FOUR_CLASSES, Fault, Manifest, UserError, printable
from featstore.corpora.dialogues import read_dialogue
from featstore.corpora.files import BadFile, fault, kind_of, read_text, require, scan
from featstore.corpora.rows import Row, choose_labels, silent_speakers, to_manifest
from featstore.corpora.turns import CODES, DIALOGUE, UTTERANCE, Turn, parse_turns

LABEL_MAP: Mapping[str, str] = {
    "ang": "ang",
    "hap": "hap",
    "exc": "hap",
    "neu": "neu",
    "sad": "sad",
}
"""The paper's four classes: happiness and excitement are one."""

SESSIONS = (1, 2, 3, 4, 5)


class Layout(NamedTuple):
    """What was read: the manifest, and how many dialogues its label files hold."""

    manifest: Manifest
    n_dialogues: int


def read_layout(root: Path, settings: CorpusSettings, name: str = "iemocap") -> Layout:
    """Read any corpus in IEMOCAP's layout; its counts are the caller's to judge.

    Args:
        root: the folder that holds Session1, or the one above it.
        settings: which kind of dialogue, which labels.
        name: what the corpus is called.

    Raises:
        UserError: where no session folder is found, or the label settings make no sense.
    """
    labels = choose_labels(settings, LABEL_MAP, FOUR_CLASSES, CODES)
    base = find_layout(root)
    rows: list[Row] = []
    faults: list[Fault] = []
    other: Counter[str] = Counter()
    n_dialogues = 0
    for number in SESSIONS:
        folder = base / f"Session{number}"
        try:
            require(kind_of(folder, base), "folder")
        except BadFile as bad:
            faults.append(bad.fault("session", folder.name, severity="stop"))
            continue
        turns, found = read_session(folder, f"Ses0{number}", base)
        wanted = [turn for turn in turns if settings.kind in ("all", turn.kind)]
        used, others, unknown = select(wanted, labels.to_class)
        spoken, broken = _read_dialogues(folder, used, labels.to_class, base)
        both = {f"Ses0{number}{letter}": (folder.name, None) for letter in "FM"}
        silent = silent_speakers(both, {row.speaker for row in spoken})
        faults += [*found, *unknown, *broken, *silent]
        rows += spoken
        other += others
        n_dialogues += len({turn.dialogue for turn in turns})
    return Layout(to_manifest(name, base, rows, labels.classes, faults, other), n_dialogues)


def find_layout(root: Path) -> Path:
    """The folder that holds the sessions: ``root`` itself or a folder directly in it.

    Raises:
        UserError: where there is none, or more than one.
    """
    try:
        children = [name for name, kind in scan(root, root).items() if kind == "folder"]
    except BadFile as bad:
        raise UserError(f"{root}: {bad.message}", "give --root the corpus folder") from None
    holders = [
        folder
        for folder in (root, *(root / name for name in children))
        if any((folder / f"Session{number}").is_dir() for number in SESSIONS)
    ]
    if not holders:
        raise UserError(
            f"{root}: no Session1 ... Session5 here or one folder down",
            "give --root the folder that holds Session1; links out of a corpus are not followed",
        )
    if len(holders) > 1:
        several = ", ".join(printable(str(one)) for one in holders)
        raise UserError(
            f"{root}: sessions in several folders: {several}", "give --root one of them"
        )
    return holders[0]


def read_session(folder: Path, session: str, base: Path) -> tuple[list[Turn], list[Fault]]:
    """All labelled turns of a session, each id once, and what is wrong with its label files."""
    evaluations = folder / "dialog" / "EmoEvaluation"
    try:
        entries = scan(evaluations, base)
    except BadFile as bad:
        place = evaluations.relative_to(base).as_posix()
        return [], [bad.fault("labels", place, severity="stop")]
    turns: list[Turn] = []
    faults: list[Fault] = []
    for name, kind in entries.items():
        if not name.endswith(".txt"):
            continue
        file = (evaluations / name).relative_to(base).as_posix()
        try:
            require(kind)
            its_turns, wrong = parse_turns(read_text(evaluations / name, base), file, session)
        except BadFile as bad:
            faults.append(bad.fault("labels", file, severity="warn"))
            continue
        turns += its_turns
        faults += wrong or ([] if its_turns else [_no_turns(file)])
    firsts, doubles = first_of_each(turns)
    faults += doubles
    ids = [*(turn.utterance_id for turn in turns), *(one.utterance_id for one in faults)]
    named = {name for name in ids if UTTERANCE.match(name)}
    faults += _unlabelled(folder, named, base)
    return firsts, faults


def _no_turns(file: str) -> Fault:
    return fault(
        "empty-labels",
        file,
        "holds no summary line",
        "copy it again from the release, or remove it",
        severity="warn",
    )


def first_of_each(turns: Iterable[Turn]) -> tuple[list[Turn], list[Fault]]:
    """Each id once. A repetition is told; with another label it stops: nobody can say who is right.

    >>> one = Turn("Ses01F_impro01_F000", "neu", 0.0, 1.0, "a.txt", 3)
    >>> kept, faults = first_of_each([one, Turn(one.utterance_id, "sad", 0.0, 1.0, "a.txt", 9)])
    >>> len(kept), faults[0].reason, faults[0].severity
    (1, 'conflicting-label', 'stop')
    """
    firsts: dict[str, Turn] = {}
    faults: list[Fault] = []
    for turn in turns:
        first = firsts.setdefault(turn.utterance_id, turn)
        if first is turn:
            continue
        same = first.code == turn.code
        faults.append(
            fault(
                "duplicate-id" if same else "conflicting-label",
                turn.file,
                f"{turn.utterance_id} is {turn.code} here and {first.code} in "
                f"{first.file}:{first.line}" + (", which is used" if same else ""),
                "keep one of the two lines",
                line=turn.line,
                utterance_id=turn.utterance_id,
                severity="warn" if same else "stop",
            )
        )
    return list(firsts.values()), faults


def select(
    turns: Iterable[Turn], to_class: Mapping[str, str]
) -> tuple[list[Turn], Counter[str], list[Fault]]:
    """The turns whose label is in the map, how often each other label occurs, and unknown ones."""
    used: list[Turn] = []
    other: Counter[str] = Counter()
    faults: list[Fault] = []
    for turn in turns:
        if turn.code in to_class:
            used.append(turn)
        elif turn.code in CODES:
            other[turn.code] += 1
        else:
            faults.append(
                fault(
                    "unknown-label",
                    turn.file,
                    f"{turn.utterance_id} has the label {turn.code[:20]}",
                    f"expected one of {', '.join(CODES)}",
                    line=turn.line,
                    utterance_id=turn.utterance_id,
                )
            )
    return used, other, faults


def _read_dialogues(
    folder: Path, turns: Iterable[Turn], to_class: Mapping[str, str], base: Path
) -> tuple[list[Row], list[Fault]]:
    by_dialogue: dict[str, list[Turn]] = {}
    for turn in turns:
        by_dialogue.setdefault(turn.dialogue, []).append(turn)
    rows: list[Row] = []
    faults: list[Fault] = []
    for dialogue, its_turns in by_dialogue.items():
        more, wrong = read_dialogue(folder, dialogue, its_turns, to_class, base)
        rows += more
        faults += wrong
    return rows, faults


def _unlabelled(folder: Path, named: set[str], base: Path) -> list[Fault]:
    """Turns that were cut and dialogues that were transcribed, but no label file names.

    Args:
        folder: the session's folder.
        named: the ids in its label files, those with a fault among them.
        base: the corpus root.
    """
    wavs = folder / "sentences" / "wav"
    turns: dict[str, list[str]] = {}
    faults: list[Fault] = []
    for part in (folder / "dialog" / "transcriptions", wavs):
        try:
            names = [name.removesuffix(".txt") for name in scan(part, base)]
        except BadFile as bad:
            faults.append(bad.fault("folder", part.relative_to(base).as_posix(), severity="warn"))
            continue
        turns |= {name: [] for name in names if DIALOGUE.match(name)}
    labelled = {name.rpartition("_")[0] for name in named}
    for dialogue in sorted(turns):
        with suppress(BadFile):  # read_dialogue reports a folder that is none
            found = (name.removesuffix(".wav") for name in scan(wavs / dialogue, base))
            turns[dialogue] = [name for name in found if UTTERANCE.match(name)]
        file = (folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt").relative_to(base)
        if dialogue in labelled:
            lost = [name for name in turns[dialogue] if name not in named]
            faults += [_unlabelled_turn(name, file.as_posix()) for name in lost]
        else:
            faults.append(_unlabelled_dialogue(dialogue, len(turns[dialogue]), file.as_posix()))
    return faults


def _unlabelled_turn(name: str, file: str) -> Fault:
    return fault(
        "unlabelled-turn",
        file,
        f"{name} has audio but no summary line here",
        "copy the file again from the release",
        utterance_id=name,
    )


def _unlabelled_dialogue(dialogue: str, n_turns: int, file: str) -> Fault:
    return fault(
        "unlabelled-dialogue",
        file,
        f"{dialogue} is in the corpus ({n_turns} turns) but none of its turns has a label",
        "copy its label file again from the release",
    )
