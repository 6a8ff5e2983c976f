"""Which speakers are held out: leave one speaker out, leave one session out, or speaker groups.

Leave one speaker out is the paper's protocol (section 4.2), with the test speaker's session partner
as validation (PAPER.md row 20). Draws are by SHA-256 of seed and name, so a fold depends neither on
the order of the rows nor on the version of a random generator.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from featstore.core.config import FoldSettings
from featstore.core.schema import UserError, listed, printable

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


def cross_fit_groups(
    training: pd.DataFrame, fold: Fold, parts: int, seed: int
) -> tuple[tuple[str, ...], ...]:
    """A fold's training speakers in groups of about as many training utterances each.

    A group's targets will come from a teacher fitted on the other groups (PAPER.md row 21).

    Args:
        training: the fold's training rows of a manifest's table.
        fold: whose training speakers.
        parts: how many groups.
        seed: of the fold settings; decides between speakers of as many utterances.

    Raises:
        UserError: there are not that many speakers, or a group has a class that no other has.
    """
    counts = Counter(training["speaker"])
    if not 2 <= parts <= len(counts):
        raise UserError(
            f"--cross-fit {parts}: fold {fold.number} trains on {len(counts)} speaker(s)",
            f"give a number of speaker groups within 2..{len(counts)}"
            if len(counts) > 1
            else "hold fewer speakers out: a fold needs two training speakers to cross-fit",
        )
    loads = {name: counts[name] for name in fold.train}  # some may have no training utterance
    groups = tuple(_balanced(loads, parts, f"cross-fit {seed} {fold.number}"))
    classes = set(training["label"])
    faults = [
        f"fold {fold.number}: {', '.join(map(printable, sorted(missing)))} without the speakers "
        + ", ".join(map(printable, group))
        for group in groups
        if (missing := classes - set(training["label"][~training["speaker"].isin(group)]))
    ]
    if faults:
        raise UserError(
            f"--cross-fit {parts}: classes without a training utterance:\n{listed(faults)}",
            "another number of groups, or another folds.seed, may part the speakers better",
        )
    return groups


def cross_fit_fault(parts: Sequence[Mapping[str, Any]], fold: Fold) -> str:
    """What is wrong with the parts of cross-fitted targets; '' if nothing.

    Args:
        parts: of each teacher, ``fitted_on``, ``selected_on`` and ``held_out``, the speakers whose
            targets it gave.
        fold: whose training speakers are to have such targets.

    >>> fold = Fold(1, ("d",), ("c",), ("a", "b"))
    >>> seen = {"fitted_on": ["a"], "selected_on": ["c"], "held_out": ["a"]}
    >>> cross_fit_fault([seen, seen], fold)
    'part 1 teaches a, on whom it was fitted'
    """
    taught: list[str] = []
    for number, part in enumerate(parts, start=1):
        fitted, held_out = set(part["fitted_on"]), set(part["held_out"])
        if seen := fitted & held_out:
            return f"part {number} teaches {_names(seen)}, on whom it was fitted"
        if strange := (fitted | held_out) - set(fold.train):
            return f"part {number} has {_names(strange)}, on whom fold {fold.number} does not train"
        if strange := set(part["selected_on"]) - set(fold.validation):
            return f"part {number} was selected on {_names(strange)}"
        taught += held_out
    if sorted(taught) != sorted(fold.train):
        return f"teaches {_names(taught)}, fold {fold.number} trains on {_names(fold.train)}"
    return ""


def _names(speakers: Iterable[str]) -> str:
    return ", ".join(map(printable, sorted(speakers)))


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
    return _balanced(counts, settings.groups, f"groups {settings.seed}")


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


def _balanced(counts: Mapping[str, int], n_groups: int, draw: str) -> list[tuple[str, ...]]:
    """Speakers into groups of about as many utterances each: the largest first, to the lightest.

    >>> _balanced({"a": 5, "b": 4, "c": 1, "d": 2}, 2, "groups 0")
    [('a', 'c'), ('b', 'd')]
    """
    order = sorted(counts, key=lambda name: (-counts[name], _lot(draw, name)))
    groups: list[list[str]] = [[] for _ in range(n_groups)]
    loads = [0] * n_groups
    for name in order:
        lightest = min(range(n_groups), key=lambda at: (loads[at], len(groups[at]), at))
        groups[lightest].append(name)
        loads[lightest] += counts[name]
    return [tuple(sorted(group)) for group in groups]


def _lot(draw: str, name: str) -> bytes:
    return hashlib.sha256(f"{draw} {name}".encode()).digest()
