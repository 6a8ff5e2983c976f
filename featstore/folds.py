"""Folds: who is held out, what each utterance is to a fold, and the proof that nothing leaks.

Leave one speaker out is the paper's protocol (section 4.2), with the test speaker's session partner
as validation (PAPER.md row 20); leave one session out and speaker groups are the others. Draws are
by SHA-256 of seed and name, so a fold depends neither on the order of the rows nor on the version
of a random generator.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from featstore.core.config import FoldSettings
from featstore.core.schema import Refused, UserError, listed, printable

if TYPE_CHECKING:
    import pandas as pd

OUT, TRAIN, VALIDATION, TEST = 0, 1, 2, 3
"""What an utterance is to a fold; OUT is left out (script-disjoint folds)."""

ROLE_NAMES: Mapping[int, str] = {
    OUT: "left out",
    TRAIN: "training",
    VALIDATION: "validation",
    TEST: "test",
}

Roles = npt.NDArray[np.int8]
"""``[n_folds, N]``: role of utterance n in fold f, in the manifest's order."""


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


def roles(utterances: pd.DataFrame, folds: Sequence[Fold], script_disjoint: bool) -> Roles:
    """What each utterance is to each fold.

    Args:
        utterances: a manifest's table.
        folds: as :func:`make_folds` returns them.
        script_disjoint: leave out training and validation utterances whose words (see
            :func:`normalised`) the fold's test speakers also say.

    Returns:
        ``[n_folds, N]`` int8 of OUT, TRAIN, VALIDATION, TEST.
    """
    speakers = list(utterances["speaker"])
    texts = np.array([normalised(text) for text in utterances["text"]], dtype=object)
    table = np.full((len(folds), len(speakers)), OUT, dtype=np.int8)
    for row, fold in zip(table, folds, strict=True):
        role_of = dict.fromkeys(fold.train, TRAIN)
        role_of |= dict.fromkeys(fold.validation, VALIDATION) | dict.fromkeys(fold.test, TEST)
        row[:] = [role_of.get(speaker, OUT) for speaker in speakers]
        if script_disjoint:
            said = set(texts[row == TEST]) - {""}
            row[np.array([text in said for text in texts], dtype=bool) & (row != TEST)] = OUT
    return table


_APOSTROPHES = re.compile("['\u2018\u2019`\u02bc]")
_NO_WORD = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """Words alone: case, punctuation and extra white space do not tell two texts apart.

    >>> normalised("  Don't -- go!  ") == normalised("don\u2019t GO")
    True
    """
    text = _APOSTROPHES.sub("", unicodedata.normalize("NFKC", text).casefold())
    return _NO_WORD.sub(" ", text).strip()


def prove(utterances: pd.DataFrame, folds: Sequence[Fold], assigned: Roles) -> None:
    """Nothing, where these roles leak no speaker and lose no test utterance.

    Args:
        utterances: a manifest's table.
        folds: what was promised.
        assigned: ``[n_folds, N]`` roles, as :func:`roles` returns them.

    Raises:
        Refused: a speaker with two roles in one fold or another role than the fold says; a test
            speaker without all of their utterances; an utterance not tested exactly once; a fold
            without training, or without the validation that it says it has.
        UserError: a class that a fold cannot train on.
    """
    shape = (len(folds), len(utterances))
    if assigned.shape != shape or not np.isin(assigned, list(ROLE_NAMES)).all():
        raise Refused(
            f"roles of shape {assigned.shape}, expected {shape} of values 0 to 3",
            "make the folds again from this manifest",
        )
    names, speakers = np.unique(np.array(utterances["speaker"], dtype=str), return_inverse=True)
    faults = [
        f"fold {fold.number}: {wrong}"
        for fold, row in zip(folds, assigned, strict=True)
        for wrong in _leaks(fold, row, [str(name) for name in names], speakers)
    ]
    tested = (assigned == TEST).sum(axis=0)
    faults += [
        f"{printable(str(utterances['utterance_id'].iloc[at]))} is tested {tested[at]} times"
        for at in np.flatnonzero(tested != 1)
    ]
    if faults:
        raise Refused(
            f"these folds would falsify the result:\n{listed(faults)}",
            "set folds.script_disjoint to false if it left nothing over; else report this",
        )
    labels = np.array(utterances["label"], dtype=object)
    untrained = [
        f"fold {fold.number}: {', '.join(printable(name) for name in missing)}"
        for fold, row in zip(folds, assigned, strict=True)
        if (missing := sorted(set(labels) - set(labels[row == TRAIN])))
    ]
    if untrained:
        raise UserError(
            f"classes without a training utterance:\n{listed(untrained)}",
            "leave them out of corpus.classes, or hold fewer speakers out",
        )


def _leaks(
    fold: Fold,
    row: npt.NDArray[np.int8],
    names: Sequence[str],
    speakers: npt.NDArray[np.intp],
) -> list[str]:
    """What is wrong with one fold; ``speakers`` index ``names``, one for each utterance."""
    promised: dict[str, set[int]] = {}
    for role, members in ((TRAIN, fold.train), (VALIDATION, fold.validation), (TEST, fold.test)):
        for name in members:
            promised.setdefault(name, set()).add(role)
    n_roles = len(ROLE_NAMES)
    counts = np.bincount(speakers * n_roles + row, minlength=len(names) * n_roles)
    by_name = dict(zip(names, counts.reshape(len(names), n_roles).tolist(), strict=True))
    faults: list[str] = []
    for name in sorted({*names, *promised}):
        found = by_name.get(name, [0] * n_roles)
        # Lists that name a speaker twice leak even where the rows happen not to.
        has = {role for role in (TRAIN, VALIDATION, TEST) if found[role]} | promised.get(
            name, set()
        )
        if len(has) > 1:
            which = " and ".join(ROLE_NAMES[role] for role in sorted(has))
            faults.append(f"speaker {printable(name)} is in {which}")
        elif TEST in has and found[TEST] != sum(found):
            faults.append(f"test speaker {printable(name)} is not tested on every utterance")
        elif has and name not in promised:
            faults.append(f"speaker {printable(name)} has a role but stands in no list")
        elif not sum(found):
            faults.append(f"speaker {printable(name)} has no utterance")
    needed = [TRAIN, *([VALIDATION] if fold.validation else []), TEST]
    return faults + [f"no {ROLE_NAMES[role]} utterance" for role in needed if role not in row]


def text_overlap(utterances: pd.DataFrame, assigned: Roles) -> pd.DataFrame:
    """How many test utterances of each fold have their exact words in training.

    Empty texts count as test utterances and never as shared.

    Returns:
        One row per fold (``fold`` from 1) and ``n_test``, ``n_shared``, ``share`` for all kinds,
        then the same with ``_scripted`` and ``_improvised``; a share of nothing is NaN.
    """
    import pandas as pd

    texts = np.array([normalised(text) for text in utterances["text"]], dtype=object)
    kinds = np.array(utterances["kind"], dtype=object)
    rows: list[dict[str, float]] = []
    for number, row in enumerate(assigned, start=1):
        trained = set(texts[row == TRAIN]) - {""}
        tested = row == TEST
        shared = tested & np.array([text in trained for text in texts], dtype=bool)
        one: dict[str, float] = {"fold": number}
        for suffix, chosen in (
            ("", np.ones(len(texts), dtype=bool)),
            ("_scripted", kinds == "scripted"),
            ("_improvised", kinds == "improvised"),
        ):
            n_test, n_shared = int((tested & chosen).sum()), int((shared & chosen).sum())
            one[f"n_test{suffix}"] = n_test
            one[f"n_shared{suffix}"] = n_shared
            one[f"share{suffix}"] = n_shared / n_test if n_test else float("nan")
        rows.append(one)
    return pd.DataFrame(rows)


_RANGE = re.compile(r"(\d{1,9})(?:\.\.(\d{1,9}))?\Z", re.ASCII)


def parse_numbers(text: str, n: int) -> list[int]:
    """Fold numbers as a command line has them, each once, ascending.

    Args:
        text: ``all``, or numbers and ranges such as ``1..10`` and ``1,3,5..7``.
        n: how many folds there are.

    Raises:
        UserError: anything else, or a number beyond 1 to n.

    >>> parse_numbers("1,3,5..7", 10), parse_numbers("all", 3)
    ([1, 3, 5, 6, 7], [1, 2, 3])
    """
    hint = f"there are folds 1..{n}; give all, 1..{n} or a list such as 1,2"
    if text.strip() == "all":
        return list(range(1, n + 1))
    numbers: set[int] = set()
    for part in text.split(","):
        match = _RANGE.match(part.strip())
        if match is None:
            raise UserError(f"--fold {printable(text)}: {printable(part)!r} is no fold", hint)
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if not 1 <= first <= last <= n:
            wrong = "runs backwards" if last < first else f"is not within 1..{n}"
            raise UserError(f"--fold {printable(text)}: {part.strip()} {wrong}", hint)
        numbers.update(range(first, last + 1))
    return sorted(numbers)
