"""``featstore inspect``: which one question the flags ask, its answer, and the answer as CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from featstore.core.schema import UserError, printable
from featstore.inspection import overview, render
from featstore.inspection import teachers as outputs
from featstore.store.store import Store


class Answer(NamedTuple):
    """Plain data, how a terminal shows it, and its rows where it is a table."""

    facts: Any
    render: Callable[[Any], Iterable[Any]]
    table: pd.DataFrame | None = None


def answer(
    store: Store,
    *,
    fold: int | None = None,
    utterance: str | None = None,
    tau: float | None = None,
    teachers: bool = False,
    fitness: bool = False,
    only: Sequence[str] = (),
    filters: Mapping[str, Any] | None = None,
) -> Answer:
    """Answer one question about a store; without any, what it holds.

    Args:
        store: the store.
        fold: whose teachers.
        utterance: one utterance in full.
        tau: temperature of the probabilities.
        teachers: how each teacher does.
        fitness: whether each is fit to teach.
        only: these teachers alone.
        filters: which utterances to list, as :func:`featstore.inspection.teachers.select` takes
            them, and how many, ``limit``; None or False where not given.

    Raises:
        UserError: it is several questions at once, none, or about what is not there.
    """
    chosen = {key: value for key, value in (filters or {}).items() if value not in (None, False)}
    if tau is not None and not 0 < tau < math.inf:
        raise UserError(f"--tau {tau}: a temperature is finite and above 0", "e.g. --tau 1")
    questions = {
        "--utterance": utterance is not None,
        "--teachers": teachers,
        "--fitness": fitness,
        "a list of utterances": bool(chosen),
    }
    if len(names := [name for name, there in questions.items() if there]) > 1:
        raise UserError(f"{' and '.join(names)}: two questions", "ask one at a time")
    folds = None if fold is None else [fold]
    if utterance is not None:
        taus = overview.TAUS if tau is None else (tau,)
        facts = overview.utterance(store, fold or 1, utterance, taus, only)
        return Answer(facts, render.utterance)
    if teachers:
        rows = outputs.scores(store, folds, tau or 1.0, only)
        return Answer(rows, render.teachers, flat(rows, ":"))
    if fitness:
        verdicts = outputs.fitness(store, folds, only)
        rows = [one | {"reasons": "; ".join(one["reasons"])} for one in verdicts]
        return Answer(verdicts, render.fitness, flat(rows, ":"))
    if chosen:
        return _listing(store, fold or 1, tau or 1.0, only, chosen)
    narrowed = {"--fold": fold, "--tau": tau, "--teacher": only or None}
    if idle := [flag for flag, value in narrowed.items() if value is not None]:
        raise UserError(
            f"{', '.join(idle)}: of what?",
            "add --teachers, --fitness, --utterance ID, or what to list, e.g. --wrong",
        )
    return Answer(overview.overview(store), render.overview)


def _listing(
    store: Store, fold: int, tau: float, only: Sequence[str], filters: dict[str, Any]
) -> Answer:
    limit = filters.pop("limit", 20)
    table = outputs.outputs_table(store, fold, tau, only)
    matching = outputs.select(table, store.classes, **filters)
    names = outputs.teachers_of(table)
    keys = ("prediction", "confidence", "entropy", "p_truth")
    rows = []
    for row in matching.head(limit).to_dict("records"):
        of_teachers = {name: {key: row[f"{name}:{key}"] for key in keys} for name in names}
        own = {str(key): value for key, value in row.items() if ":" not in str(key)}
        rows.append(own | {"teachers": of_teachers})
    facts = {"fold": fold, "tau": tau, "teachers": names, "n": len(table),
             "n_found": len(matching), "rows": rows}  # fmt: skip
    return Answer(facts, render.listing, matching.head(limit))


def flat(rows: Sequence[Mapping[str, Any]], separator: str) -> pd.DataFrame:
    """Rows as a table: a mapping inside a row becomes a column for each of its keys.

    >>> flat([{"n": 1, "agreement": {"test": 0.5}}], "_").to_dict("records")
    [{'n': 1, 'agreement_test': 0.5}]
    """
    return pd.json_normalize([dict(row) for row in rows], sep=separator)


def to_csv(table: pd.DataFrame | None, *, spreadsheet: bool = False) -> str:
    """A table as CSV: the text as it is, but for control characters, which are escaped.

    Args:
        table: of an answer.
        spreadsheet: put a quote before text that a spreadsheet would take for a formula.

    Raises:
        UserError: the answer is not a table.
    """
    if table is None:
        raise UserError(
            "--csv: this answer is not a table",
            "--json prints it; --teachers, --fitness and lists of utterances are tables",
        )

    def cell(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = printable(value)
        return f"'{text}" if spreadsheet and text[:1] in ("=", "+", "-", "@") else text

    return table.map(cell).to_csv(index=False, lineterminator="\n")
