"""What the synthetic corpus acts: words in which a few cues carry the emotion, voices, scenes.

Words: a small grammar whose every frame takes any filler, so nothing but the four cue words of a
class tells the class: a reader of the transcripts alone is right where the cue is, misled where it
contradicts, and left guessing where there is none. About 250 words; tens of thousands of sentences.

Scenes: ten voices in five sessions act dialogues under IEMOCAP's names. The class of a turn shows
in its words and, independently, in four overlapping prosodic offsets on top of the speaker's own;
some labels are wrong. Scripted dialogues repeat one script in every session, nearly half of it
verbatim, as IEMOCAP's do.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, NamedTuple

from featstore.core.schema import FOUR_CLASSES
from featstore.corpora.espeak import Line
from featstore.corpora.iemocap import speaker_of

Cue = Literal["agreeing", "contradicting", "absent"]
Durations = Literal["short", "iemocap"]

# ------------------------------------------------------------------------------------------ words

_WORDS = tomllib.loads(
    resources.files("featstore.corpora").joinpath("synthetic_words.toml").read_text("utf-8")
)
CUES: Mapping[str, Sequence[str]] = _WORDS["cues"]
"""Class -> the words that tell it."""

SHARE_ABSENT = 0.25
"""Share of utterances without any cue word."""
SHARE_CONTRADICTING = 0.07
"""Share of utterances whose cue word belongs to another class."""

_OPENER_SHARE = 0.3
_CANDIDATES = 10
"""How many sentences are written for one that fits the length best."""

_SENTENCE_END = re.compile(r"[.?]")


def write_words(rng: random.Random, emotion: str, cue: Cue, target_s: float) -> str:
    """An utterance of about ``target_s`` seconds: one telling sentence, padded with plain ones.

    Args:
        rng: all chance comes from here.
        emotion: the class that the words tell, or, for ``contradicting``, do not tell.
        cue: whether the words tell the class, another, or none.
        target_s: wanted length at 190 words a minute; met within about half a second.

    >>> write_words(random.Random(1), "ang", "agreeing", 1.5) == write_words(
    ...     random.Random(1), "ang", "agreeing", 1.5)
    True
    """
    shown = emotion
    if cue == "contradicting":
        shown = rng.choice([name for name in CUES if name != emotion])
    cues = () if cue == "absent" else CUES[shown]
    sentences = [_nearest(rng, target_s, cues)]
    while target_s - estimate_s(" ".join(sentences)) > 0.6:
        rest_s = target_s - estimate_s(" ".join(sentences))
        place = rng.randint(0, len(sentences))
        sentences.insert(place, _nearest(rng, rest_s))
    return " ".join(sentences)


def estimate_s(text: str) -> float:
    """About how long eSpeak NG takes to say this at 190 words a minute, in seconds.

    Fitted to its en-us voices: what is left over has a standard deviation of 0.13 s a sentence.

    >>> round(estimate_s("I am calm. Well, the letter?"), 2)
    1.8
    """
    letters = sum(character.isalpha() for character in text)
    sentences = len(_SENTENCE_END.findall(text))
    return 0.053 * letters + 0.2 * text.count(",") + 0.37 * sentences - 0.2


def _nearest(rng: random.Random, target_s: float, cues: Sequence[str] = ()) -> str:
    """Of several sentences, with one of these cue words or without any, the best fitting one."""
    frames = _WORDS["frames"]["cue" if cues else "plain"]
    drafts: list[str] = []
    for _ in range(_CANDIDATES):
        frame = rng.choice(frames)
        words = {slot: rng.choice(fillers) for slot, fillers in _WORDS["fillers"].items()}
        if cues:
            words["cue"] = rng.choice(cues)
        text = frame.format(**words)
        if rng.random() < _OPENER_SHARE:
            text = f"{words['opener']}, {text}"
        drafts.append(text[0].upper() + text[1:] + ("" if text.endswith("?") else "."))
    return min(drafts, key=lambda draft: abs(estimate_s(draft) - target_s))


# ----------------------------------------------------------------------------------------- scenes


@dataclass(frozen=True)
class Turn:
    """One utterance: its id and code as IEMOCAP writes them, and the line to speak."""

    utterance_id: str
    code: str
    line: Line

    @property
    def dialogue(self) -> str:
        """All before the last ``_``.

        >>> Turn("Ses01F_impro01_M003", "neu", None).dialogue
        'Ses01F_impro01'
        """
        return self.utterance_id.rpartition("_")[0]


class Prosody(NamedTuple):
    """eSpeak NG's four controls: pitch and range 0 to 99, words a minute, volume in percent."""

    pitch: float
    range: float
    rate: float
    volume: float


VOICES: Mapping[str, tuple[str, Prosody]] = {
    "Ses01F": ("en-us+f1", Prosody(50, 45, 190, 62)),
    "Ses01M": ("en-us+m1", Prosody(48, 50, 184, 76)),
    "Ses02F": ("en-us+f3", Prosody(44, 52, 196, 66)),
    "Ses02M": ("en-us+m3", Prosody(47, 42, 188, 66)),
    "Ses03F": ("en-us+steph", Prosody(50, 48, 182, 60)),
    "Ses03M": ("en-us+m7", Prosody(48, 46, 198, 58)),
    "Ses04F": ("en-us+f5", Prosody(47, 40, 186, 74)),
    "Ses04M": ("en-us+m8", Prosody(59, 52, 192, 96)),
    "Ses05F": ("en-us+Annie", Prosody(31, 44, 194, 70)),
    "Ses05M": ("en-us+m6", Prosody(42, 48, 180, 70)),
}
"""Speaker -> eSpeak NG voice and the prosody of its neutral speech. No Klatt voice is among them:
their noise comes from the C library's generator, which the seed does not reach."""

OFFSETS: Mapping[str, Prosody] = {
    "ang": Prosody(6, 12, 26, 20),
    "hap": Prosody(19, 22, 6, 2),
    "neu": Prosody(0, 0, 0, 0),
    "sad": Prosody(-10, -16, -24, -14),
}
"""Class -> mean offset from the speaker's neutral speech."""
SPREAD = Prosody(8, 12, 12, 9)
"""Standard deviation of every offset: wide enough for the classes to overlap."""

SHARE_MISLABELLED = 0.05
"""Share of the four-class turns that carry another class' code."""
SHARE_EXCITED = 0.64
"""Share of hap turns coded ``exc``, as in IEMOCAP (1041 of 1636)."""
SHARE_VERBATIM = 0.45
"""Share of scripted turns spoken as the script has them; the rest is ad-libbed."""
EXTRA_EVERY = 10
"""After this many four-class turns of a session comes one that has another code."""
OTHER_CODES = ("fru", "xxx", "fru", "sur", "xxx", "fru", "fea", "oth")

_BOUNDS = Prosody(0, 0, 110, 25), Prosody(99, 99, 300, 110)
"""What eSpeak NG takes, less what is unintelligible, inaudible or clips."""
_IMPROVISED = tuple(f"impro{n:02d}" for n in range(1, 8))
_SCRIPTED = (
    *("script01_1", "script01_2", "script01_3", "script02_1"),
    *("script02_2", "script03_1", "script03_2"),
)
_TURNS_A_DIALOGUE = 24
_LENGTHS_S: Mapping[Durations, tuple[float, float, float, float]] = {
    "short": (1.75, 0.3, 1.15, 3.0),
    "iemocap": (3.45, 0.68, 0.7, 28.0),
}
"""Aim of the lengths at 190 words a minute: median, sigma of the logarithm, shortest, longest. What
is spoken varies with the speaker's rate, which lengthens IEMOCAP's tail to where it belongs."""

Part = tuple[str, str]
"""The class to act, and the words."""


def plan(utterances: int, seed: int, durations: Durations) -> list[Turn]:
    """The whole corpus as turns, in dialogue order.

    Args:
        utterances: number of turns with a four-class code; one in ten more has another code.
        seed: all chance comes from here.
        durations: ``short`` (0.8 to 4 s) or ``iemocap`` (about its distribution of lengths).

    >>> [turn.utterance_id for turn in plan(80, 42, "short")][:2]
    ['Ses01F_impro01_M000', 'Ses01F_impro01_F000']
    """
    turns: list[Turn] = []
    for session in range(1, 6):
        n_turns = utterances // 5 + (session <= utterances % 5)
        turns += _session(session, n_turns, seed, durations)
    return turns


def _session(session: int, n_turns: int, seed: int, durations: Durations) -> Iterator[Turn]:
    rng = random.Random(f"{seed}/session{session}")
    improvised = {letter: _parts(rng, durations) for letter in "FM"}
    for name, scene in _scenes(_calls(rng, n_turns)):
        parts = improvised
        if "script" in name:
            parts = {who: _scripted(rng, f"{seed}/{name[2:]}/{who}", durations) for who in "FM"}
        numbers = {letter: itertools.count() for letter in "FM"}
        for letter, is_extra in scene:
            utterance_id = f"Ses{session:02d}{name}_{letter}{next(numbers[letter]):03d}"
            if is_extra:
                yield _unclear(rng, utterance_id, durations)
            else:
                yield _acted(rng, utterance_id, *next(parts[letter]))


def _calls(rng: random.Random, n_turns: int) -> list[tuple[str, bool]]:
    """Who speaks when, evenly but not strictly by turns, and whether it is one of the extras."""
    letters = [letter for _ in range((n_turns + 1) // 2) for letter in rng.sample("FM", 2)]
    calls: list[tuple[str, bool]] = []
    for index, letter in enumerate(letters[:n_turns], start=1):
        calls.append((letter, False))
        if index % EXTRA_EVERY == 0:
            calls.append((rng.choice("FM"), True))
    return calls


def _scenes(calls: list[tuple[str, bool]]) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """Cut a session into dialogues, improvised and scripted by turns, under IEMOCAP's names."""
    names: list[str] = []
    for one, other in ("FM", "MF"):  # no script twice before all were played once
        for improvised, scripted in zip(_IMPROVISED, _SCRIPTED, strict=True):
            names += [f"{one}_{improvised}", f"{other}_{scripted}"]
            one, other = other, one
    n_scenes = min(len(names), max(2, round(len(calls) / _TURNS_A_DIALOGUE)))
    for index, name in enumerate(names[:n_scenes]):
        yield name, calls[index * len(calls) // n_scenes : (index + 1) * len(calls) // n_scenes]


def _parts(rng: random.Random, durations: Durations) -> Iterator[Part]:
    """Classes in rounds of ten, in IEMOCAP's shares to within a point; the first four are all."""
    while True:
        for stratum in (FOUR_CLASSES, FOUR_CLASSES, ("hap", "neu")):
            for emotion in rng.sample(stratum, len(stratum)):
                yield emotion, _words(rng, emotion, durations)


def _scripted(rng: random.Random, script: str, durations: Durations) -> Iterator[Part]:
    """One performance of a role: the script is the same in every session, the ad-libs are not."""
    for emotion, text in _parts(random.Random(script), durations):
        verbatim = rng.random() < SHARE_VERBATIM
        yield emotion, text if verbatim else _words(rng, emotion, durations)


def _words(rng: random.Random, emotion: str, durations: Durations) -> str:
    median, sigma, shortest, longest = _LENGTHS_S[durations]
    length_s = min(longest, max(shortest, rng.lognormvariate(math.log(median), sigma)))
    at = rng.random()
    cue: Cue = "contradicting" if at < SHARE_ABSENT + SHARE_CONTRADICTING else "agreeing"
    return write_words(rng, emotion, "absent" if at < SHARE_ABSENT else cue, length_s)


def _acted(rng: random.Random, utterance_id: str, emotion: str, text: str) -> Turn:
    label = emotion
    if rng.random() < SHARE_MISLABELLED:
        label = rng.choice([name for name in FOUR_CLASSES if name != emotion])
    if label == "hap" and rng.random() < SHARE_EXCITED:
        label = "exc"
    return Turn(utterance_id, label, _line(rng, speaker_of(utterance_id), emotion, text))


def _unclear(rng: random.Random, utterance_id: str, durations: Durations) -> Turn:
    """A turn whose words say one thing and whose voice another: no class of the four."""
    spoken, shown = rng.sample(FOUR_CLASSES, 2)
    line = _line(rng, speaker_of(utterance_id), shown, _words(rng, spoken, durations))
    return Turn(utterance_id, rng.choice(OTHER_CODES), line)


def _line(rng: random.Random, speaker: str, emotion: str, text: str) -> Line:
    voice, neutral = VOICES[speaker]
    controls = zip(neutral, OFFSETS[emotion], SPREAD, *_BOUNDS, strict=True)
    pitch, range_, rate, volume = (
        round(min(high, max(low, own + offset + rng.gauss(0, spread))))
        for own, offset, spread, low, high in controls
    )
    return Line(text, voice, rate, pitch, range_, volume)
