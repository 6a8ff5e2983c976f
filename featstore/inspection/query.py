"""``featstore inspect``: which question is asked, and the answer as plain data."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from featstore.core.schema import UserError, printable
from featstore.inspection import overview as inspection
from featstore.inspection import render, render_teachers
from featstore.inspection.teachers import Wanted, opinions, refuse_tau, select, teachers_of
from featstore.store.store import Store


@dataclass(frozen=True)
class Question:
    """What is asked of a store; without anything, what it holds.

    Attributes:
        fold: whose teachers.
        utterance: one utterance in full.
        tau: temperature of the probabilities.
        teachers: how each teacher does.
        fitness: whether each is fit to teach.
        only: these teachers alone.
        wanted: which utterances to list.
    """

    fold: int | None = None
    utterance: str | None = None
    tau: float | None = None
    teachers: bool = False
    fitness: bool = False
    only: tuple[str, ...] = ()
    wanted: Wanted = field(default_factory=Wanted)

    @property
    def lists(self) -> bool:
        """Whether utterances are to be listed."""
        return self.wanted != Wanted()


@dataclass(frozen=True)
class Answer:
    """The answer as plain data, how a terminal shows it, and its rows where it is a table.

    ``columns`` name those of a table that may be without rows.
    """

    facts: Any
    render: Callable[[Any], Iterable[Any]]
    rows: tuple[Mapping[str, Any], ...] | None = None
    columns: tuple[str, ...] = ()


def answer(store: Store, question: Question) -> Answer:
    """Answer one question.

    Raises:
        UserError: it is several at once, none, or about what is not there.
    """
    if question.tau is not None:
        refuse_tau(question.tau)
    asked = {
        "--utterance": question.utterance is not None,
        "--teachers": question.teachers,
        "--fitness": question.fitness,
        "a list of utterances": question.lists,
    }
    if len(given := [name for name, there in asked.items() if there]) > 1:
        raise UserError(f"{' and '.join(given)}: two questions", "ask one at a time")
    if question.utterance is not None:
        return _utterance(store, question)
    if question.teachers:
        return _teachers(store, question)
    if question.fitness:
        return _fitness(store, question)
    if question.lists:
        return _listing(store, question)
    narrowed = {"--fold": question.fold, "--tau": question.tau, "--teacher": question.only}
    if idle := [flag for flag, value in narrowed.items() if value not in (None, ())]:
        raise UserError(
            f"{', '.join(idle)}: of what?",
            "add --teachers, --fitness, --utterance ID, or what to list, e.g. --wrong",
        )
    return Answer(inspection.overview(store), render.overview)


def to_csv(found: Answer, *, spreadsheet: bool = False) -> str:
    """The answer's table as CSV: the text as it is, but for control characters, which are escaped.

    Args:
        found: the answer.
        spreadsheet: put a quote before text that a spreadsheet would take for a formula.

    Raises:
        UserError: it is not a table.
    """
    if found.rows is None:
        raise UserError(
            "--csv: this answer is not a table",
            "--json prints it; --teachers, --fitness and lists of utterances are tables",
        )
    target = io.StringIO()
    names = list(found.rows[0]) if found.rows else found.columns
    writer = csv.DictWriter(target, names, lineterminator="\n")
    writer.writeheader()
    for row in found.rows:
        writer.writerow({name: _cell(value, spreadsheet) for name, value in row.items()})
    return target.getvalue()


def _cell(value: Any, spreadsheet: bool) -> Any:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if spreadsheet and text[:1] in ("=", "+", "-", "@") else text


def _utterance(store: Store, question: Question) -> Answer:
    taus = inspection.TAUS if question.tau is None else (question.tau,)
    fold = question.fold or 1
    facts = inspection.utterance(store, fold, str(question.utterance), taus, question.only)
    return Answer(facts, render_teachers.utterance)


def _teachers(store: Store, question: Question) -> Answer:
    from featstore.inspection.teacher_facts import teacher_facts

    folds = None if question.fold is None else [question.fold]
    facts = teacher_facts(store, folds, _tau(question), question.only)
    rows = [
        {**{key: value for key, value in row.items() if key != "agreement"},
         **{f"agreement:{name}": share for name, share in row["agreement"].items()}}
        for row in facts
    ]  # fmt: skip
    return Answer(facts, render_teachers.teachers, tuple(_even(rows)))


def _fitness(store: Store, question: Question) -> Answer:
    from featstore.inspection.fitness import fitness

    if question.fold is not None:
        store.fold(question.fold)  # refuses one that is not there
    folds = range(1, len(store.folds) + 1) if question.fold is None else (question.fold,)
    known = sorted({name for fold in folds for name in store.target_names(fold)})
    if missing := [name for name in question.only if name not in known]:
        raise UserError(
            f"no teacher {', '.join(missing)} in {store.path}", f"it has {', '.join(known)}"
        )
    found = fitness(store, None if question.fold is None else [question.fold])
    facts = [
        asdict(one) | {"reasons": list(one.reasons)}
        for one in found
        if not question.only or one.teacher in question.only
    ]
    rows = [one | {"reasons": "; ".join(one["reasons"])} for one in facts]
    return Answer(facts, render_teachers.fitness, tuple(rows))


def _listing(store: Store, question: Question) -> Answer:
    fold, tau = question.fold or 1, _tau(question)
    table = opinions(store, fold, tau, question.only)
    found = select(table, question.wanted, store.classes)
    shown = found.head(question.wanted.limit)
    names = teachers_of(table)
    rows: list[dict[str, Any]] = [
        {str(key): value for key, value in row.items()} for row in shown.to_dict("records")
    ]
    facts = {
        "fold": fold,
        "tau": tau,
        "teachers": names,
        "n": len(table),
        "n_found": len(found),
        "rows": [
            {key: value for key, value in row.items() if ":" not in key}
            | {
                "teachers": {
                    name: {
                        key: row[f"{name}:{key}"]
                        for key in ("prediction", "confidence", "entropy", "p_truth")
                    }
                    for name in names
                }
            }
            for row in rows
        ],
    }
    return Answer(facts, render_teachers.listing, tuple(rows), tuple(map(str, table.columns)))


def _tau(question: Question) -> float:
    return 1.0 if question.tau is None else question.tau


def _even(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows with all columns: folds may have different teachers."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]
