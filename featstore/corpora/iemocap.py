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
release's other labels can be had through ``corpus.label_map`` and ``corpus.classes``. The synthetic
corpus lies in the same layout and is read by :func:`read_layout`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from featstore.core.config import CorpusSettings
from featstore.core.schema import FOUR_CLASSES, Fault, Kind, Manifest, UserError, printable
from featstore.corpora.manifest import (
    BadFile,
    FileKind,
    Row,
    choose_labels,
    fault,
    kind_of,
    read_duration,
    read_text,
    require,
    scan,
    silent_speakers,
    to_manifest,
    words_of,
)

if TYPE_CHECKING:
    import pandas as pd

ABOUT = "IEMOCAP: academic licence, on request from https://sail.usc.edu/iemocap/"

LABEL_MAP: Mapping[str, str] = {
    "ang": "ang", "hap": "hap", "exc": "hap", "neu": "neu", "sad": "sad",
}  # fmt: skip
"""The paper's four classes: happiness and excitement are one."""
CODES = ("ang", "hap", "exc", "sad", "neu", "fru", "fea", "sur", "dis", "oth", "xxx")
"""Every consensus label of the release; ``xxx`` is no agreement."""
SESSIONS = (1, 2, 3, 4, 5)

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

# ---------------------------------------------------------------------------------------- grammar

_DIALOGUE = r"Ses0[1-5][FM]_(?:impro\d\d[ab]?|script\d\d_\d[ab]?)"
DIALOGUE = re.compile(rf"{_DIALOGUE}\Z", re.ASCII)
UTTERANCE = re.compile(rf"(?P<dialogue>{_DIALOGUE})_(?P<letter>[FM])\d{{3}}\Z", re.ASCII)
_NO_UTTERANCE = re.compile(rf"{_DIALOGUE}_[FM]XX\d\Z", re.ASCII)
"""Overlapping talk and noises have ids such as ``..._MXX0``: they are no utterances."""

_NUMBER = r"\s*(-?\d+(?:\.\d*)?)\s*"
_SUMMARY = re.compile(rf"\[{_NUMBER}-{_NUMBER}\]\s+(\S+)\s+(\S+)(?:\s+\[.*)?\s*\Z", re.ASCII)
_MAX_SUMMARY = 1_000
_SPOKEN = re.compile(rf"(\S+)\s*\[{_NUMBER}-{_NUMBER}\]\s*:?(.*)\Z", re.ASCII)
_TAG = re.compile(r"\[[^\[\]]*\]")
"""No bracket within brackets: else a line of opening ones would take quadratic time."""
_UTTERANCE_WITHIN = re.compile(rf"{_DIALOGUE}_[FM]\d{{3}}(?!\d)", re.ASCII)


class Turn(NamedTuple):
    """One labelled turn of a dialogue, as its label file has it."""

    utterance_id: str
    code: str
    start_s: float
    end_s: float
    file: str
    line: int

    @property
    def dialogue(self) -> str:
        """All before the last ``_``; it names the transcript and the folder of wavs."""
        return self.utterance_id.rpartition("_")[0]

    @property
    def session(self) -> str:
        """``Ses01`` to ``Ses05``."""
        return self.utterance_id[:5]

    @property
    def speaker(self) -> str:
        """Who speaks: see :func:`speaker_of`."""
        return speaker_of(self.utterance_id)

    @property
    def gender(self) -> str:
        """Female or male, which the speaker's letter says."""
        return "female" if self.speaker.endswith("F") else "male"

    @property
    def kind(self) -> Kind:
        """Whether the dialogue was scripted or improvised."""
        return "scripted" if "_script" in self.utterance_id else "improvised"

    def fault(self, reason: str, message: str, remedy: str | None = None) -> Fault:
        """A fault of this turn, at its line of the label file."""
        name = self.utterance_id[:80]
        return fault(reason, self.file, message, remedy, line=self.line, utterance_id=name)


def speaker_of(utterance_id: str) -> str:
    """The session and the letter of the *last* token.

    The first letter only says who wore the motion-capture markers; both people talk in every
    dialogue, so taking it puts half of each "held-out speaker" into training.

    >>> speaker_of("Ses01F_impro01_M003")
    'Ses01M'
    """
    return utterance_id[:5] + utterance_id.rpartition("_")[2][0]


def prefix_speaker_of(utterance_id: str) -> str:
    """The wrong speaker that the dialogue's prefix letter suggests; for the audit only.

    >>> prefix_speaker_of("Ses01F_impro01_M003")
    'Ses01F'
    """
    return utterance_id[:6]


def strip_tags(text: str) -> str:
    """Words only: ``[LAUGHTER]`` and the like out, white space collapsed.

    >>> strip_tags(" [LAUGHTER]  Excuse   me.[BREATHING] ")
    'Excuse me.'
    """
    return " ".join(_TAG.sub(" ", text).split())


def parse_turns(text: str, file: str, session: str) -> tuple[list[Turn], list[Fault]]:
    r"""The summary lines of one ``dialog/EmoEvaluation/*.txt``.

    Votes (``C-E2:``), attributes (``A-E3:``) and the header are optional detail and are passed
    over. Whether a label code exists is the caller's question.

    >>> turns, _ = parse_turns("[6.29 - 8.23]\tSes01F_impro01_F000\tneu\t[2.5, 2.5, 2.5]",
    ...                        "a.txt", "Ses01")
    >>> turns[0].utterance_id, turns[0].code, turns[0].start_s
    ('Ses01F_impro01_F000', 'neu', 6.29)
    """
    turns: list[Turn] = []
    faults: list[Fault] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if not line.startswith("["):
            continue
        match = _SUMMARY.match(line) if len(line) <= _MAX_SUMMARY else None
        if match is None:
            within = _UTTERANCE_WITHIN.search(line, 0, _MAX_SUMMARY)
            name = within.group() if within else ""
            message = f"not a summary line: {line[:60]!r}"
            faults.append(fault("malformed-line", file, message, line=number, utterance_id=name))
        elif not _NO_UTTERANCE.match(match[3]):
            turn = Turn(match[3], match[4], float(match[1]), float(match[2]), file, number)
            wrong = _wrong(turn, session)
            if wrong is None:
                turns.append(turn)
            else:
                faults.append(wrong)
    return turns, faults


def _wrong(turn: Turn, session: str) -> Fault | None:
    name = turn.utterance_id
    if not UTTERANCE.match(name):
        return turn.fault("bad-id", f"{name[:80]} is no utterance id")
    if turn.session != session:
        message = f"{name} does not belong into {session}"
        return turn.fault("wrong-session", message, f"move it to the folder of {turn.session}")
    if turn.end_s <= turn.start_s or turn.start_s < 0:
        message = f"{name} ends at {turn.end_s} s but starts at {turn.start_s} s"
        return turn.fault("bad-times", message, "mend the times from the release")
    return None


def parse_transcript(text: str, file: str) -> tuple[dict[str, tuple[str, int]], list[Fault]]:
    """The timed lines of one ``dialog/transcriptions/*.txt``: id -> (words as written, line).

    Lines without id and time are no utterances. A second, different line of one id is reported
    and not used.

    >>> parse_transcript("Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.", "a.txt")[0]
    {'Ses01F_impro01_F000': ('Excuse me.', 1)}
    """
    lines: dict[str, tuple[str, int]] = {}
    faults: list[Fault] = []
    for number, line in enumerate(text.split("\n"), start=1):
        match = _SPOKEN.match(line.strip())
        if match is None or not UTTERANCE.match(match[1]):
            continue
        name, words = match[1], match[4].strip()
        first = lines.setdefault(name, (words, number))
        if first[0] != words:
            message = f"{name} has other words here than in line {first[1]}, which is used"
            more = fault("duplicate-transcript", file, message, line=number, utterance_id=name)
            faults.append(more)
    return lines, faults


# ---------------------------------------------------------------------------------------- reading


def read(root: Path, settings: CorpusSettings) -> Manifest:
    """Read a release of IEMOCAP, and compare a full one with the published counts.

    Raises:
        UserError: where no session folder is found, or the label settings make no sense.
    """
    manifest, n_dialogues = _read(root, settings, "iemocap")
    faults = list(manifest.faults)
    if n_dialogues != N_DIALOGUES:
        faults.append(_differs(f"{n_dialogues} of {N_DIALOGUES} dialogues found"))
    is_full = n_dialogues == N_DIALOGUES or len(manifest.utterances) > FULL_RELEASE
    comparable = settings.label_map is None and set(manifest.classes) == set(FOUR_CLASSES)
    if is_full and comparable:
        faults += compare_counts(manifest.utterances, settings.kind)
    differs = any(one.reason == "count-differs" for one in faults)
    full_release = is_full and comparable and not differs
    return replace(manifest, faults=tuple(faults), full_release=full_release)


def read_layout(root: Path, settings: CorpusSettings, name: str = "iemocap") -> Manifest:
    """Read any corpus in IEMOCAP's layout, without comparing its counts; arguments as there."""
    return _read(root, settings, name)[0]


def compare_counts(utterances: pd.DataFrame, kind: str = "all") -> list[Fault]:
    """A warning for each row in which a full release differs from the published table.

    Args:
        utterances: the usable utterances of a manifest with the four classes.
        kind: ``all`` compares class by class for every speaker; ``improvised`` and ``scripted``
            are published as totals only.
    """
    if kind != "all":
        n, expected = len(utterances), KIND_TOTALS[kind]
        message = f"{kind}: {n} utterances, published are {expected}"
        return [] if n == expected else [_differs(message)]
    counts = utterances.groupby(["speaker", "label"]).size().to_dict()
    rows = {who: tuple(int(counts.get((who, one), 0)) for one in FOUR_CLASSES) for who in TABLE}
    faults = [
        _differs(f"{who}: {_counts(rows[who])}; published are {_counts(TABLE[who])}")
        for who in TABLE
        if rows[who] != TABLE[who]
    ]
    total, published = (sum(map(sum, table.values())) for table in (rows, TABLE))
    if total != published:
        faults.append(_differs(f"all speakers: {total} utterances; published are {published}"))
    return faults


def _counts(row: tuple[int, ...]) -> str:
    parts = (f"{label} {n}" for label, n in zip(FOUR_CLASSES, row, strict=True))
    return f"{', '.join(parts)} (all {sum(row)})"


def _differs(message: str) -> Fault:
    remedy = "compare with the release; the paper's figures hold for a complete one"
    return fault("count-differs", ".", message, remedy)


def _read(root: Path, settings: CorpusSettings, name: str) -> tuple[Manifest, int]:
    """The manifest, and how many dialogues the label files hold."""
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
        turns, wrong = _read_labels(folder, f"Ses0{number}", base)
        faults += wrong
        n_dialogues += len({turn.dialogue for turn in turns})
        usable: list[Row] = []
        of_kind = [turn for turn in turns if settings.kind in ("all", turn.kind)]
        other.update(turn.code for turn in of_kind if turn.code not in labels.to_class)
        faults += [_unknown(turn) for turn in of_kind if turn.code not in CODES]
        used = sorted(
            (turn for turn in of_kind if turn.code in labels.to_class), key=lambda one: one.dialogue
        )
        for dialogue, its_turns in groupby(used, key=lambda one: one.dialogue):
            more, wrong = _read_dialogue(folder, dialogue, its_turns, labels.to_class, base)
            usable += more
            faults += wrong
        both = {f"Ses0{number}{letter}": (folder.name, None) for letter in "FM"}
        faults += silent_speakers(both, {row.speaker for row in usable})
        rows += usable
    others = {code: n for code, n in other.items() if code in CODES}
    return to_manifest(name, base, rows, labels.classes, faults, others), n_dialogues


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
        message = f"{root}: sessions in several folders: {several}"
        raise UserError(message, "give --root one of them")
    return holders[0]


def _read_labels(folder: Path, session: str, base: Path) -> tuple[list[Turn], list[Fault]]:
    """All labelled turns of a session, each id once, and what is wrong with its label files."""
    evaluations = folder / "dialog" / "EmoEvaluation"
    place = evaluations.relative_to(base).as_posix()
    try:
        entries = scan(evaluations, base)
    except BadFile as bad:
        return [], [bad.fault("labels", place, severity="stop")]
    turns: list[Turn] = []
    faults: list[Fault] = []
    for name, kind in entries.items():
        if not name.endswith(".txt"):
            continue
        file = f"{place}/{name}"
        try:
            require(kind)
            its_turns, wrong = parse_turns(read_text(evaluations / name, base), file, session)
        except BadFile as bad:
            faults.append(bad.fault("labels", file, severity="warn"))
            continue
        turns += its_turns
        faults += wrong
        if not its_turns and not wrong:
            faults.append(fault("empty-labels", file, "holds no summary line"))
    firsts, doubles = first_of_each(turns)
    faults += doubles
    ids = [*(turn.utterance_id for turn in turns), *(one.utterance_id for one in faults)]
    labelled = {name for name in ids if UTTERANCE.match(name)}
    return firsts, [*faults, *_unlabelled(folder, labelled, base)]


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
        there = f"{first.code} in {first.file}:{first.line}"
        message = f"{turn.utterance_id} is {turn.code} here and {there}"
        if first.code == turn.code:
            faults.append(turn.fault("duplicate-id", f"{message}, which is used"))
        else:
            faults.append(turn.fault("conflicting-label", message, "keep one of the two lines"))
    return list(firsts.values()), faults


def _unknown(turn: Turn) -> Fault:
    message = f"{turn.utterance_id} has the label {turn.code[:20]}"
    return turn.fault("unknown-label", message, f"expected one of {', '.join(CODES)}")


def _unlabelled(folder: Path, labelled: set[str], base: Path) -> list[Fault]:
    """Turns that were cut and dialogues that were transcribed, but no label file names.

    Args:
        folder: the session's folder.
        labelled: the ids in its label files, those with a fault among them.
        base: the corpus root.
    """
    wavs = folder / "sentences" / "wav"
    names: set[str] = set()
    faults: list[Fault] = []
    for part in (folder / "dialog" / "transcriptions", wavs):
        try:
            names |= {name.removesuffix(".txt") for name in scan(part, base)}
        except BadFile as bad:
            faults.append(bad.fault("folder", part.relative_to(base).as_posix(), severity="warn"))
    in_labels = {name.rpartition("_")[0] for name in labelled}
    for dialogue in sorted(filter(DIALOGUE.match, names)):
        turns: list[str] = []
        with suppress(BadFile):  # _read_dialogue reports a folder that is none
            turns = [name.removesuffix(".wav") for name in scan(wavs / dialogue, base)]
        turns = [name for name in turns if UTTERANCE.match(name)]
        path = folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
        file = path.relative_to(base).as_posix()
        if dialogue not in in_labels:
            n_turns = f"{dialogue} is in the corpus ({len(turns)} turns)"
            message = f"{n_turns} but none of its turns has a label"
            faults.append(fault("unlabelled-dialogue", file, message))
            continue
        for name in turns:
            if name not in labelled:
                message = f"{name} has audio but no summary line here"
                faults.append(fault("unlabelled-turn", file, message, utterance_id=name))
    return faults


def _read_dialogue(
    folder: Path, dialogue: str, turns: Iterable[Turn], to_class: Mapping[str, str], base: Path
) -> tuple[list[Row], list[Fault]]:
    """Turns -> rows. A turn without audio or without a transcript line is an exclusion."""
    transcript = folder / "dialog" / "transcriptions" / f"{dialogue}.txt"
    place = transcript.relative_to(base).as_posix()
    wavs = folder / "sentences" / "wav" / dialogue
    lines: Mapping[str, tuple[str, int]] | BadFile
    sounds: Mapping[str, FileKind] | BadFile
    faults: list[Fault] = []
    try:
        lines, faults = parse_transcript(read_text(transcript, base), place)
    except BadFile as bad:
        lines = bad
    try:
        sounds = scan(wavs, base)
    except BadFile as bad:
        sounds = bad
    rows: list[Row] = []
    for turn in turns:
        file = (wavs / f"{turn.utterance_id}.wav").relative_to(base).as_posix()
        text, wordless = _words(turn, lines, place)
        duration_s, soundless = _duration(turn, wavs, sounds, file)
        if soundless is not None:
            faults.append(soundless)
        if wordless is not None and (soundless is None or wordless.severity == "warn"):
            # One exclusion per utterance, so that the counts by reason add up.
            faults.append(wordless)
        if text is not None and duration_s is not None:
            who = (turn.speaker, turn.session, turn.gender)
            what = (text, turn.kind, to_class[turn.code], turn.code)
            rows.append(Row(turn.utterance_id, file, 0.0, duration_s, *who, *what))
    return rows, faults


def _words(
    turn: Turn, lines: Mapping[str, tuple[str, int]] | BadFile, transcript: str
) -> tuple[str | None, Fault | None]:
    name = turn.utterance_id
    if isinstance(lines, BadFile):
        message = f"{name} has no words: {lines.message}"
        reason = f"{lines.reason}-transcript"
        return None, fault(reason, transcript, message, lines.remedy, utterance_id=name)
    if name not in lines:
        message = f"no line for {name}"
        return None, fault("missing-transcript", transcript, message, utterance_id=name)
    written, line = lines[name]
    text, wrong = words_of(written, strip_tags)
    if wrong is None:
        return text, None
    what = (f"{name}: {wrong.message}", wrong.remedy, line, name, wrong.severity)
    is_used = wrong.severity != "exclude"
    return text if is_used else None, fault(wrong.reason, transcript, *what)


def _duration(
    turn: Turn, wavs: Path, sounds: Mapping[str, FileKind] | BadFile, file: str
) -> tuple[float | None, Fault | None]:
    name = f"{turn.utterance_id}.wav"
    try:
        if isinstance(sounds, BadFile):
            raise sounds
        require(sounds.get(name, "missing"))
        return read_duration(wavs / name), None
    except BadFile as bad:
        return None, bad.fault("audio", file, turn.utterance_id)
