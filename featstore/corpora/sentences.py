"""The words of the synthetic corpus: a small grammar in which a few cue words carry the emotion.

Every frame takes any filler, so nothing but the four cue words of a class tells the class: a reader
of the transcripts alone is right where the cue is, misled where it contradicts, and left guessing
where there is none. About 250 words in all; tens of thousands of short sentences.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Literal

Cue = Literal["agreeing", "contradicting", "absent"]

CUES: Mapping[str, tuple[str, ...]] = {
    "ang": ("furious", "outraged", "insulted", "disgusted"),
    "hap": ("delighted", "thrilled", "overjoyed", "excited"),
    "neu": ("calm", "certain", "curious", "patient"),
    "sad": ("heartbroken", "miserable", "gloomy", "tearful"),
}
"""Class -> the words that tell it. They fit one slot of one grammar, so no frame gives it away."""

SHARE_ABSENT = 0.25
"""Share of utterances without any cue word."""
SHARE_CONTRADICTING = 0.07
"""Share of utterances whose cue word belongs to another class."""

_CUE_FRAMES = (
    "I am {cue}",
    "you sound {cue} {now}",
    "I feel {cue} {now}",
    "{person} is {cue} {now}",
    "{thing} left me {cue}",
    "I am {cue} about {thing}",
    "{person} sounds {cue} about {thing}",
    "are you {cue} about {thing}?",
    "I was {cue} when {person} {did}",
    "{person} {did} and I felt {cue}",
    "{past} I was {cue} about {thing}",
    "{person} looked {cue} when I asked about {thing}",
)
_PLAIN_FRAMES = (
    "{short}",
    "what about {thing}?",
    "{person} {did}",
    "{thing} came {past}",
    "I heard about {thing} {past}",
    "{thing} is for {person}",
    "did {person} ask about {thing}?",
    "{person} {did} {past}",
    "I asked {person} about {thing}",
    "I heard that {person} {did} {past}",
    "{person} talked about {thing} {past}",
    "{person} {did} and we talked about {thing}",
    "{past} {person} asked me about {thing}",
)
_FILLERS: Mapping[str, tuple[str, ...]] = {
    "short": (
        *("all right then", "what was that?", "is that so?", "never mind that", "let me see now"),
        *("I thought so", "just a moment", "who told you?", "maybe later", "very well then"),
    ),
    "opener": ("well", "look", "listen", "okay", "you know", "I mean", "anyway", "by the way"),
    "now": (
        *("today", "this morning", "tonight", "again", "right now", "these days", "this time"),
        *("on the phone", "this evening", "at work"),
    ),
    "past": (
        *("yesterday", "last night", "on Monday", "after lunch", "last week", "on the way home"),
        *("at the station", "before breakfast", "in the hallway", "two days ago", "in the car"),
        *("on Friday", "at the market", "in September", "an hour ago"),
    ),
    "person": (
        *("my brother", "my sister", "the doctor", "your mother", "my boss", "our neighbor"),
        *("Peter", "Maria", "the landlord", "the teacher", "my uncle", "the driver", "Anna"),
        *("Daniel", "her lawyer", "the waiter", "my cousin", "Julia", "the manager", "Thomas"),
        *("your father", "the plumber", "Susan", "the coach", "his roommate", "Robert", "my aunt"),
    ),
    "did": (
        *("called back", "sold the boat", "left town", "missed the bus", "found the keys"),
        *("came home", "changed the plan", "painted the door", "moved to Boston", "won a race"),
        *("forgot the umbrella", "locked the office", "bought a guitar", "signed the papers"),
        *("closed the shop", "wrote to us", "waited outside", "took the train", "cooked dinner"),
        *("paid the bill", "fixed the window", "cancelled the trip", "opened the box"),
        *("drove to the lake", "turned off the radio", "rented a truck", "cut the grass"),
        *("walked the dog", "cleaned the basement", "ordered coffee", "borrowed my jacket"),
    ),
    "thing": (
        *("the letter", "the new job", "your car", "that house", "the wedding", "the exam"),
        *("the money", "our vacation", "the party", "this apartment", "the phone call"),
        *("the meeting", "the garden", "the puppy", "her birthday", "the ticket", "that song"),
        *("the interview", "the kitchen", "my old piano", "the contract", "the storm"),
        *("his story", "the photograph", "the garage", "the flight", "that suitcase"),
        *("the concert", "the newspaper", "the blue coat", "our bicycle", "the museum"),
        *("the camera", "her speech", "the library", "that movie", "the elevator", "my computer"),
        *("the insurance", "your recipe", "the picnic", "the school play", "the furniture"),
        *("the parking lot", "his uniform", "the baseball game", "our basketball team"),
    ),
}
_OPENER_SHARE = 0.3
_CANDIDATES = 10
"""How many sentences are written for one that fits the length best."""

_SENTENCE_END = re.compile(r"[.?]")


def draw_cue(rng: random.Random) -> Cue:
    """Whether an utterance's words will tell its class, another, or none."""
    at = rng.random()
    if at < SHARE_ABSENT:
        return "absent"
    return "contradicting" if at < SHARE_ABSENT + SHARE_CONTRADICTING else "agreeing"


def write(rng: random.Random, emotion: str, cue: Cue, target_s: float) -> str:
    """An utterance of about ``target_s`` seconds: one telling sentence, padded with plain ones.

    Args:
        rng: all chance comes from here.
        emotion: the class that the words tell, or, for ``contradicting``, do not tell.
        cue: what :func:`draw_cue` drew.
        target_s: wanted length at 190 words a minute; met within about half a second.

    >>> write(random.Random(1), "ang", "agreeing", 1.5) == write(
    ...     random.Random(1), "ang", "agreeing", 1.5)
    True
    """
    said = emotion
    if cue == "contradicting":
        said = rng.choice([name for name in CUES if name != emotion])
    frames, words = (_PLAIN_FRAMES, ()) if cue == "absent" else (_CUE_FRAMES, CUES[said])
    sentences = [_nearest(rng, frames, words, target_s)]
    while target_s - estimate_s(" ".join(sentences)) > 0.6:
        rest_s = target_s - estimate_s(" ".join(sentences))
        place = rng.randint(0, len(sentences))
        sentences.insert(place, _nearest(rng, _PLAIN_FRAMES, (), rest_s))
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


def _nearest(
    rng: random.Random, frames: tuple[str, ...], cues: tuple[str, ...], target_s: float
) -> str:
    drafts = [_sentence(rng, rng.choice(frames), cues) for _ in range(_CANDIDATES)]
    return min(drafts, key=lambda draft: abs(estimate_s(draft) - target_s))


def _sentence(rng: random.Random, frame: str, cues: tuple[str, ...]) -> str:
    words = {slot: rng.choice(fillers) for slot, fillers in _FILLERS.items()}
    if cues:
        words["cue"] = rng.choice(cues)
    text = frame.format(**words)
    if rng.random() < _OPENER_SHARE:
        text = f"{words['opener']}, {text}"
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")
