"""Which speakers are held out: leave one speaker out, leave one session out, or speaker groups.

Leave one speaker out is the paper's protocol (section 4.2), with the test speaker's session partner
as validation (PAPER.md row 20). Draws are by SHA-256 of seed and name, so a fold depends neither on
the order of the rows nor on the version of a random generator.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from featstore.config import FoldSettings
from featstore.schema import UserError, listed, printable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Fold:
    """One way to hold speakers out; numbers start at 1, speakers are sorted."""

    number: int
    test: tuple[str, ...]
    validation: tuple[str, ...]
    train: tuple[str, ...]


def make_folds(utterances: pd.DataFrame, settings: FoldSettings) -> tuple[Fold, ...]:
    """The folds of a corpus; every speaker is tested in exactly one.

    Args:
        utterances: a manifest's table; ``speaker`` and ``session`` are read.
        settings: scheme, number of groups, validation, seed.

    Raises:
        UserError: where the corpus has too few speakers, or not the sessions that are asked for.
    """
    settings = resolve_validation(utterances, settings)
    speakers = sorted(set(utterances["speaker"]))
    partners = _partners(utterances) if settings.validation == "partner" else {}
    folds: list[Fold] = []
    for number, test in enumerate(_test_groups(utterances, settings), start=1):
        others = [speaker for speaker in speakers if speaker not in test]
        validation: tuple[str, ...] = ()
        if settings.validation == "partner":
            validation = (partners[test[0]],)
        elif settings.validation == "random" and others:
            draw = f"validation {settings.seed} {number}"
            validation = (min(others, key=lambda name: _lot(draw, name)),)
        train = tuple(speaker for speaker in others if speaker not in validation)
        if not train:
            raise UserError(
                f"fold {number}: no speaker is left to train on (corpus has {len(speakers)})",
                "set folds.validation to none, fewer groups, or use a corpus with more speakers",
            )
        folds.append(Fold(number, test, validation, train))
    return tuple(folds)


def resolve_validation(utterances: pd.DataFrame, settings: FoldSettings) -> FoldSettings:
    """The settings with ``validation`` made explicit: partner where there is one, else random.

    Raises:
        UserError: where partner is asked for but the corpus or the scheme has none.
    """
    pairs = settings.scheme == "speaker" and bool(_partners(utterances))
    if settings.validation is None:
        choice: Literal["partner", "random"] = "partner" if pairs else "random"
        return settings.model_copy(update={"validation": choice})
    if settings.validation == "partner" and not pairs:
        why = (
            f"scheme {settings.scheme} has no session partner to validate on"
            if settings.scheme != "speaker"
            else "this corpus has no sessions of exactly two speakers"
        )
        raise UserError(f"folds.validation: {why}", "set folds.validation to random or none")
    return settings


def _partners(utterances: pd.DataFrame) -> dict[str, str]:
    """Speaker -> the other one of the session; empty unless all sessions are pairs."""
    members = _sessions(utterances)
    pairs = [tuple(sorted(names)) for names in members.values()]
    flat = [name for pair in pairs for name in pair]
    if "" in members or any(len(pair) != 2 for pair in pairs) or len(set(flat)) != len(flat):
        return {}
    return {a: b for pair in pairs for a, b in (pair, pair[::-1])}


def _sessions(utterances: pd.DataFrame) -> dict[str, set[str]]:
    members: dict[str, set[str]] = {}
    for session, speaker in zip(utterances["session"], utterances["speaker"], strict=True):
        members.setdefault(session, set()).add(speaker)
    return members


def _test_groups(utterances: pd.DataFrame, settings: FoldSettings) -> list[tuple[str, ...]]:
    counts = Counter(utterances["speaker"])
    if len(counts) < 2:
        raise UserError(
            f"{len(counts)} speaker(s) in the corpus: nobody can be held out",
            "folds need at least 2 speakers",
        )
    if settings.scheme == "speaker":
        return [(speaker,) for speaker in sorted(counts)]
    if settings.scheme == "session":
        return _session_groups(utterances)
    if settings.groups > len(counts):
        raise UserError(
            f"folds.groups: {settings.groups} groups of {len(counts)} speakers",
            f"set folds.groups to {len(counts)} or fewer",
        )
    return _balanced(counts, settings.groups, settings.seed)


def _session_groups(utterances: pd.DataFrame) -> list[tuple[str, ...]]:
    members = _sessions(utterances)
    if "" in members or len(members) < 2:
        raise UserError(
            "folds.scheme session: the corpus has utterances without a session, or only one",
            "set folds.scheme to speaker or groups",
        )
    homes = Counter(name for names in members.values() for name in names)
    several = sorted(printable(name) for name, n in homes.items() if n > 1)
    if several:
        raise UserError(
            f"folds.scheme session: speakers in several sessions:\n{listed(several)}",
            "set folds.scheme to speaker or groups",
        )
    return [tuple(sorted(members[session])) for session in sorted(members)]


def _balanced(counts: Mapping[str, int], n_groups: int, seed: int) -> list[tuple[str, ...]]:
    """Speakers into groups of about as many utterances each: the largest first, to the lightest.

    >>> _balanced({"a": 5, "b": 4, "c": 1, "d": 2}, 2, seed=0)
    [('a', 'c'), ('b', 'd')]
    """
    order = sorted(counts, key=lambda name: (-counts[name], _lot(f"groups {seed}", name)))
    groups: list[list[str]] = [[] for _ in range(n_groups)]
    loads = [0] * n_groups
    for name in order:
        lightest = min(range(n_groups), key=lambda at: (loads[at], len(groups[at]), at))
        groups[lightest].append(name)
        loads[lightest] += counts[name]
    return [tuple(sorted(group)) for group in groups]


def _lot(draw: str, name: str) -> bytes:
    return hashlib.sha256(f"{draw} {name}".encode()).digest()
