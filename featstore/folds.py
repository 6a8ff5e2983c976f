"""Folds as roles of utterances: training, validation or test, and the proof that nothing leaks.

:mod:`featstore.holdout` says which speakers a fold holds out; here this becomes a role for every
utterance, is proved disjoint, and is measured for words that test and training share.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from featstore.core.schema import Refused, UserError, listed, printable
from featstore.holdout import Fold, make_folds, resolve_validation

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "OUT",
    "ROLE_NAMES",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Fold",
    "Roles",
    "make_folds",
    "normalised",
    "parse_numbers",
    "prove",
    "resolve_validation",
    "roles",
    "text_overlap",
]

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
