"""The grammar of IEMOCAP's ids, label files and transcripts: text in, turns and faults out."""

from __future__ import annotations

import re
from dataclasses import dataclass

from featstore.core.schema import Fault, Kind
from featstore.corpora.files import fault

CODES = ("ang", "hap", "exc", "sad", "neu", "fru", "fea", "sur", "dis", "oth", "xxx")
"""Every consensus label of the release; ``xxx`` is no agreement."""

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


@dataclass(frozen=True)
class Turn:
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
    over. Whether a label code is known is the caller's question.

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
            faults.append(_malformed(line, file, number))
            continue
        start, end, name, code = match.groups()
        if _NO_UTTERANCE.match(name):
            continue
        turn = Turn(name, code, float(start), float(end), file, number)
        wrong = _wrong(turn, session)
        if wrong is None:
            turns.append(turn)
        else:
            faults.append(wrong)
    return turns, faults


def _malformed(line: str, file: str, number: int) -> Fault:
    name = _UTTERANCE_WITHIN.search(line, 0, _MAX_SUMMARY)
    return fault(
        "malformed-line",
        file,
        f"not a summary line: {line[:60]!r}",
        "expected [start - end]<tab>utterance<tab>label<tab>[v, a, d]",
        line=number,
        utterance_id=name.group() if name else "",
    )


def _wrong(turn: Turn, session: str) -> Fault | None:
    name = turn.utterance_id
    if not UTTERANCE.match(name):
        return fault(
            "bad-id",
            turn.file,
            f"{name[:80]} is no utterance id",
            "expected such as Ses01F_impro01_M003 or Ses05M_script01_1b_F012",
            line=turn.line,
            utterance_id=name[:80],
        )
    if turn.session != session:
        return fault(
            "wrong-session",
            turn.file,
            f"{name} does not belong into {session}",
            f"move it to the folder of {turn.session}",
            line=turn.line,
            utterance_id=name,
        )
    if turn.end_s <= turn.start_s or turn.start_s < 0:
        return fault(
            "bad-times",
            turn.file,
            f"{name} ends at {turn.end_s} s but starts at {turn.start_s} s",
            "mend the times from the release",
            line=turn.line,
            utterance_id=name,
        )
    return None


def parse_transcript(text: str, file: str) -> tuple[dict[str, tuple[str, int]], list[Fault]]:
    """The timed lines of one ``dialog/transcriptions/*.txt``: id -> (words as written, line).

    Lines without id and time are no utterances. A second, different line of one id is reported
    and not used.

    >>> parse_transcript("Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.", "a.txt")[0]
    {'Ses01F_impro01_F000': ('Excuse me.', 1)}
    """
    spoken: dict[str, tuple[str, int]] = {}
    faults: list[Fault] = []
    for number, line in enumerate(text.split("\n"), start=1):
        match = _SPOKEN.match(line.strip())
        if match is None or not UTTERANCE.match(match.group(1)):
            continue
        name, words = match.group(1), match.group(4).strip()
        first = spoken.setdefault(name, (words, number))
        if first[0] != words:
            faults.append(
                fault(
                    "duplicate-transcript",
                    file,
                    f"{name} has other words here than in line {first[1]}, which is used",
                    "keep one of the two lines",
                    line=number,
                    utterance_id=name,
                    severity="warn",
                )
            )
    return spoken, faults
