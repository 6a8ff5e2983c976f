"""The text files of a dialogue as IEMOCAP writes them: consensus with votes, and transcript."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

CATEGORIES: Mapping[str, str] = {
    "ang": "Anger",
    "hap": "Happiness",
    "exc": "Excited",
    "neu": "Neutral",
    "sad": "Sadness",
    "fru": "Frustration",
    "fea": "Fear",
    "sur": "Surprise",
    "oth": "Other",
}
"""Code -> what a rater ticks. ``xxx`` has none: it says that the raters did not agree."""

_ATTRIBUTES: Mapping[str, tuple[int, int, int]] = {
    "ang": (2, 4, 4),
    "hap": (4, 3, 3),
    "exc": (4, 4, 3),
    "neu": (3, 2, 3),
    "sad": (2, 2, 2),
}
"""Typical valence, activation and dominance, 1 to 5; (3, 3, 3) for the other codes."""
_SHARE_UNANIMOUS = 0.6
_RATERS = ("E2", "E3", "E4")
_HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]"


class Spoken(NamedTuple):
    """A turn of a dialogue, placed in time."""

    utterance_id: str
    code: str
    text: str
    start_s: float
    end_s: float


def evaluation(turns: Sequence[Spoken], rng: random.Random) -> str:
    r"""``dialog/EmoEvaluation/<dialogue>.txt``: a summary line a turn, and what each rater said.

    >>> turn = Spoken("Ses01F_impro01_F000", "neu", "Okay.", 5, 6.5)
    >>> evaluation([turn], random.Random(1)).splitlines()[3]
    'C-E2:\tNeutral;\t()'
    """
    return "\n".join([_HEADER, "", *(_block(turn, rng) for turn in turns)])


def transcript(turns: Sequence[Spoken]) -> str:
    r"""``dialog/transcriptions/<dialogue>.txt``.

    >>> transcript([Spoken("Ses01F_impro01_F000", "neu", "Okay.", 5, 6.5)])
    'Ses01F_impro01_F000 [005.0000-006.5000]: Okay.\n'
    """
    return "".join(
        f"{turn.utterance_id} [{turn.start_s:08.4f}-{turn.end_s:08.4f}]: {turn.text}\n"
        for turn in turns
    )


def _block(turn: Spoken, rng: random.Random) -> str:
    itself = turn.utterance_id.rpartition("_")[2][0] + "1"  # the actor's own rating
    votes = zip((*_RATERS, itself), _votes(turn.code, rng), strict=True)
    typical = _ATTRIBUTES.get(turn.code, (3, 3, 3))
    rated = {
        rater: [min(5, max(1, value + rng.choice((-1, 0, 0, 1)))) for value in typical]
        for rater in ("E3", "E4", itself)
    }
    val, act, dom = (fmean(pair) for pair in zip(rated["E3"], rated["E4"], strict=True))
    lines = [
        f"[{turn.start_s:.4f} - {turn.end_s:.4f}]\t{turn.utterance_id}\t{turn.code}"
        f"\t[{val:.4f}, {act:.4f}, {dom:.4f}]",
        *(f"C-{rater}:\t{category};\t()" for rater, category in votes),
        *(f"A-{who}:\tval {v}; act {a}; dom  {d};\t()" for who, (v, a, d) in rated.items()),
        "",
    ]
    return "\n".join(lines)


def _votes(code: str, rng: random.Random) -> list[str]:
    """Three raters and the actor: the code is what most raters say, or ``xxx`` where none wins."""
    if code not in CATEGORIES:
        apart = rng.sample(tuple(CATEGORIES.values()), 3)
        return [*apart, rng.choice(apart)]
    votes = [CATEGORIES[code]] * 3
    if rng.random() >= _SHARE_UNANIMOUS:
        votes[rng.randrange(3)] = rng.choice(tuple(CATEGORIES.values()))
    return [*votes, rng.choice(votes)]
