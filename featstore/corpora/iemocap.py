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
corpus lies in the same layout and is read by the same :func:`read`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from featstore.core.config import CorpusSettings
from featstore.core.schema import FOUR_CLASSES, Fault, Kind, Manifest, UserError, printable
from featstore.corpora.manifest import (
    Place,
    Row,
    Unusable,
    choose_labels,
    entries,
    fault,
    kind_of,
    read_duration,
    read_text,
    regular_files,
    require,
    to_manifest,
    words_of,
)

if TYPE_CHECKING:
    import pandas as pd

ABOUT = "IEMOCAP: academic licence, on request from https://sail.usc.edu/iemocap/"

LABEL_MAP: Mapping[str, str] = {name: name for name in FOUR_CLASSES} | {"exc": "hap"}
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
    file: str
    line: int

    @property
    def dialogue(self) -> str:
        """All before the last ``_``; it names the transcript and the folder of wavs."""
        return self.utterance_id.rpartition("_")[0]

    @property
    def kind(self) -> Kind:
        """Whether the dialogue was scripted or improvised."""
        return "scripted" if "_script" in self.utterance_id else "improvised"

    def fault(self, reason: str, message: str, remedy: str = "") -> Fault:
        """A fault of this turn, at its line of the label file."""
        return fault(reason, self.file, message, remedy, self.line, self.utterance_id[:80])


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


def parse_turns(text: str, file: str, session: str) -> tuple[list[Turn], list[Fault]]:
    r"""The summary lines of one ``dialog/EmoEvaluation/*.txt``.

    Votes (``C-E2:``), attributes (``A-E3:``) and the header are optional detail and are passed
    over. Whether a label code exists is the caller's question.

    >>> turns, _ = parse_turns("[6.29 - 8.23]\tSes01F_impro01_F000\tneu\t[2.5, 2.5, 2.5]",
    ...                        "a.txt", "Ses01")
    >>> turns[0].utterance_id, turns[0].code, turns[0].line
    ('Ses01F_impro01_F000', 'neu', 1)
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
            message = f"not a summary line: {line[:60]!r}"
            name = within.group() if within else ""
            faults.append(fault("malformed-line", file, message, line=number, utterance_id=name))
            continue
        start_s, end_s, name = float(match[1]), float(match[2]), match[3]
        turn = Turn(name, match[4], file, number)
        if _NO_UTTERANCE.match(name):
            continue
        if not UTTERANCE.match(name):
            faults.append(turn.fault("bad-id", f"{name[:80]} is no utterance id"))
        elif name[:5] != session:
            message = f"{name} does not belong into {session}"
            remedy = f"move it to the folder of {name[:5]}"
            faults.append(turn.fault("wrong-session", message, remedy))
        elif not 0 <= start_s < end_s:
            message = f"{name} ends at {end_s} s but starts at {start_s} s"
            faults.append(turn.fault("bad-times", message, "mend the times from the release"))
        else:
            turns.append(turn)
    return turns, faults


def parse_transcript(text: str, file: str) -> tuple[dict[str, tuple[str, int]], list[Fault]]:
    """The timed lines of one ``dialog/transcriptions/*.txt``: id -> (words, line).

    Lines without id and time are no utterances, and tags such as ``[LAUGHTER]`` no words. A second,
    different line of one id is reported and not used.

    >>> parse_transcript("Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.[SIGH]", "a.txt")[0]
    {'Ses01F_impro01_F000': ('Excuse me. ', 1)}
    """
    lines: dict[str, tuple[str, int]] = {}
    faults: list[Fault] = []
    for number, line in enumerate(text.split("\n"), start=1):
        match = _SPOKEN.match(line.strip())
        if match is None or not UTTERANCE.match(match[1]):
            continue
        name, words = match[1], _TAG.sub(" ", match[4].strip())
        first = lines.setdefault(name, (words, number))
        if first[0] != words:
            message = f"{name} has other words here than in line {first[1]}, which is used"
            more = fault("duplicate-transcript", file, message, line=number, utterance_id=name)
            faults.append(more)
    return lines, faults


# ---------------------------------------------------------------------------------------- reading


def read(root: Path, settings: CorpusSettings, name: str = "iemocap") -> Manifest:
    """Read a corpus in IEMOCAP's layout, and compare a full release with the published counts.

    Args:
        root: the folder that holds the sessions, or the one above it.
        settings: the dialogues and labels that are asked for.
        name: of the corpus; another than IEMOCAP is not compared.

    Raises:
        UserError: where no session folder is found, or the label settings make no sense.
    """
    classes, to_class = choose_labels(settings, LABEL_MAP, CODES)
    base = find_layout(root)
    rows: list[Row] = []
    faults: list[Fault] = []
    other: Counter[str] = Counter()
    speakers: dict[str, Place] = {}
    n_dialogues = 0
    for number in SESSIONS:
        folder = base / f"Session{number}"
        try:
            require(folder, base, "folder")
        except Unusable as bad:
            faults.append(bad.fault("session", folder.name, severity="stop"))
            continue
        speakers |= {f"Ses0{number}{letter}": (folder.name, None) for letter in "FM"}
        turns = _read_labels(folder, faults)
        n_dialogues += len({turn.dialogue for turn in turns})
        used: dict[str, list[Turn]] = defaultdict(list)
        for turn in turns:
            if settings.kind not in ("all", turn.kind):
                continue
            if turn.code in to_class:
                used[turn.dialogue].append(turn)
            elif turn.code in CODES:
                other[turn.code] += 1
            else:
                message = f"{turn.utterance_id} has the label {turn.code[:20]}"
                remedy = f"expected one of {', '.join(CODES)}"
                faults.append(turn.fault("unknown-label", message, remedy))
        for dialogue in sorted(used):
            rows += _read_dialogue(folder, used[dialogue], to_class, faults)
    manifest = to_manifest(name, base, rows, classes, faults, other, speakers)
    if name != "iemocap":
        return manifest
    comparable = settings.label_map is None and set(classes) == set(FOUR_CLASSES)
    return _compared(manifest, n_dialogues, settings.kind if comparable else None)


def _compared(manifest: Manifest, n_dialogues: int, kind: str | None) -> Manifest:
    """The manifest with a warning for each number in which it differs from the full release."""
    messages: list[str] = []
    if n_dialogues != N_DIALOGUES:
        messages.append(f"{n_dialogues} of {N_DIALOGUES} dialogues found")
    is_full = n_dialogues == N_DIALOGUES or len(manifest.utterances) > FULL_RELEASE
    if is_full and kind is not None:
        messages += compare_counts(manifest.utterances, kind)
    remedy = "compare with the release; the paper's figures hold for a complete one"
    faults = [fault("count-differs", ".", message, remedy) for message in messages]
    full_release = is_full and kind is not None and not messages
    return replace(manifest, faults=(*manifest.faults, *faults), full_release=full_release)


def compare_counts(utterances: pd.DataFrame, kind: str = "all") -> list[str]:
    """A line for each row in which a full release differs from the published table.

    Args:
        utterances: the usable utterances of a manifest with the four classes.
        kind: ``all`` compares class by class for every speaker; ``improvised`` and ``scripted``
            are published as totals only.
    """
    total = len(utterances)
    if kind != "all":
        published = KIND_TOTALS[kind]
        message = f"{kind}: {total} utterances, published are {published}"
        return [] if total == published else [message]
    counts = utterances.groupby(["speaker", "label"]).size().to_dict()
    messages: list[str] = []
    for who, row in TABLE.items():
        own = tuple(int(counts.get((who, label), 0)) for label in FOUR_CLASSES)
        if own != row:
            messages.append(f"{who}: {_counts(own)}; published are {_counts(row)}")
    published = sum(map(sum, TABLE.values()))
    if total != published:
        messages.append(f"all speakers: {total} utterances; published are {published}")
    return messages


def _counts(row: tuple[int, ...]) -> str:
    parts = (f"{label} {n}" for label, n in zip(FOUR_CLASSES, row, strict=True))
    return f"{', '.join(parts)} (all {sum(row)})"


def find_layout(root: Path) -> Path:
    """The folder that holds the sessions: ``root`` itself or a folder directly in it.

    Raises:
        UserError: where there is none, or more than one.
    """
    try:
        folders = [path for path in entries(root, root) if kind_of(path, root) == "folder"]
    except Unusable as bad:
        raise UserError(f"{root}: {bad.message}", "give --root the corpus folder") from None
    sessions = ((one, path) for one in (root, *folders) for path in one.glob("Session[1-5]"))
    holders = list(dict.fromkeys(one for one, path in sessions if path.is_dir()))
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


def _read_labels(folder: Path, faults: list[Fault]) -> list[Turn]:
    """All labelled turns of a session, each id once; what is wrong is added to ``faults``.

    A repetition is a warning; with another label it stops: nobody can say which one is right.
    """
    session, base = f"Ses0{folder.name[-1]}", folder.parent
    evaluations = folder / "dialog" / "EmoEvaluation"
    place = evaluations.relative_to(base).as_posix()
    try:
        paths = [path for path in entries(evaluations, base) if path.suffix == ".txt"]
    except Unusable as bad:
        faults.append(bad.fault("labels", place, severity="stop"))
        return []
    firsts: dict[str, Turn] = {}
    labelled: set[str] = set()
    for path in paths:
        file = f"{place}/{path.name}"
        try:
            turns, wrong = parse_turns(read_text(path, base), file, session)
        except Unusable as bad:
            faults.append(bad.fault("labels", file, severity="warn"))
            continue
        if not turns and not wrong:
            faults.append(fault("empty-labels", file, "holds no summary line"))
        faults += wrong
        labelled |= {turn.utterance_id for turn in turns} | {one.utterance_id for one in wrong}
        for turn in turns:
            first = firsts.setdefault(turn.utterance_id, turn)
            message = f"{turn.utterance_id} is {turn.code} here and "
            message += f"{first.code} in {first.file}:{first.line}"
            if first.code != turn.code:
                remedy = "keep one of the two lines"
                faults.append(turn.fault("conflicting-label", message, remedy))
            elif first is not turn:
                faults.append(turn.fault("duplicate-id", f"{message}, which is used"))
    faults += _unlabelled(folder, set(filter(UTTERANCE.match, labelled)))
    return list(firsts.values())


def _unlabelled(folder: Path, labelled: set[str]) -> list[Fault]:
    """Turns that were cut and dialogues that were transcribed, but no label file names.

    Args:
        folder: the session's folder.
        labelled: the ids in its label files, those with a fault among them.
    """
    base, wavs = folder.parent, folder / "sentences" / "wav"
    names: set[str] = set()
    faults: list[Fault] = []
    for part in (folder / "dialog" / "transcriptions", wavs):
        try:
            names |= {path.name.removesuffix(".txt") for path in entries(part, base)}
        except Unusable as bad:
            faults.append(bad.fault("folder", part.relative_to(base).as_posix(), severity="warn"))
    in_labels = {name.rpartition("_")[0] for name in labelled}
    for dialogue in sorted(filter(DIALOGUE.match, names)):
        turns: list[str] = []
        with suppress(Unusable):  # its turns are reported as without audio, where they have labels
            turns = [path.name.removesuffix(".wav") for path in entries(wavs / dialogue, base)]
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
    folder: Path, turns: Sequence[Turn], to_class: Mapping[str, str], faults: list[Fault]
) -> list[Row]:
    """Turns of one dialogue -> rows. One without audio or without a transcript line is excluded."""
    base, dialogue = folder.parent, turns[0].dialogue
    transcript = folder / "dialog" / "transcriptions" / f"{dialogue}.txt"
    place = transcript.relative_to(base).as_posix()
    lines: Mapping[str, tuple[str, int]] | Unusable
    try:
        lines, wrong = parse_transcript(read_text(transcript, base), place)
        faults += wrong
    except Unusable as bad:
        lines = bad
    wavs = folder / "sentences" / "wav" / dialogue
    regular, place_of_wavs = regular_files(wavs, base), wavs.relative_to(base).as_posix()
    rows: list[Row] = []
    for turn in turns:
        name, speaker = turn.utterance_id, speaker_of(turn.utterance_id)
        wav, file = wavs / f"{name}.wav", f"{place_of_wavs}/{name}.wav"
        text, bad_text = _words(name, lines, place)
        excludes = bad_text is not None and bad_text.severity != "warn"
        try:
            if wav.name not in regular:
                require(wavs, base, "folder")
                require(wav, base)
            duration_s = read_duration(wav)
        except Unusable as bad:
            faults.append(bad.fault("audio", file, name))
            if bad_text is not None and not excludes:  # one reason a turn: their counts add up
                faults.append(bad_text)
            continue
        if bad_text is not None:
            faults.append(bad_text)
        if not excludes:
            gender = "female" if speaker.endswith("F") else "male"
            what = (speaker, name[:5], gender, text, turn.kind, to_class[turn.code], turn.code)
            rows.append(Row(name, file, 0.0, duration_s, *what))
    return rows


def _words(
    name: str, lines: Mapping[str, tuple[str, int]] | Unusable, transcript: str
) -> tuple[str, Fault | None]:
    """A turn's words, and what is wrong with them."""
    if isinstance(lines, Unusable):
        bad = Unusable(lines.reason, f"{name} has no words: {lines.message}", lines.remedy)
        return "", bad.fault("transcript", transcript, name)
    if name not in lines:
        message = f"no line for {name}"
        return "", fault("missing-transcript", transcript, message, utterance_id=name)
    written, line = lines[name]
    words, reason, message = words_of(written)
    if not reason:
        return words, None
    return words, fault(reason, transcript, f"{name}: {message}", line=line, utterance_id=name)
