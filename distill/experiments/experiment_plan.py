"""``distill experiment --dry-run``: what is done, what would be run, and how long it would take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.experiments.estimates import BASIS, estimate
from distill.experiments.launch import BEGINS, refuse_runs, standing, weights_note
from distill.experiments.rows import ExperimentOrder, Line, lines, runs_of
from featstore.core.schema import UserError
from featstore.folds import parse_numbers
from featstore.store import open_store
from featstore.store.store import Store


@dataclass(frozen=True)
class Standing:
    """How a run stands, see :func:`distill.experiments.launch.standing`."""

    status: str
    why: str
    folder: str


def plan(order: ExperimentOrder) -> dict[str, Any]:
    """The experiment as plain data; touches nothing.

    Raises:
        UserError: the store, folds or settings are not there, or do not fit.
    """
    refuse_runs(order.runs)
    store = open_store(order.store)
    folds = parse_numbers(order.folds, len(store.folds))
    rows = lines(order, folds)
    runs = runs_of(rows)
    found = {name: Standing(*standing(store, run)) for name, run in runs.items()}
    return {
        "experiment": order.grid.name,
        "title": order.grid.title,
        "rows": [_row(store, line, folds, found) for line in rows],
        "runs": dict(Counter(one.status for one in found.values())),
        "left": sum(one.status in BEGINS for one in found.values()),
        "estimates": list(_estimates(order, rows, found)),
        "basis": BASIS,
        "weights": list(_weights(order, rows, found)),
    }


def exit_code(facts: Mapping[str, Any]) -> int:
    """0 where every run could begin; else 2: a teacher, a fold or weights are not there."""
    blocked = set(facts["runs"]) - {"done", *BEGINS}
    teachers = any("missing" in row["runs"] for row in facts["rows"])
    return 2 if blocked or teachers or any(one["missing"] for one in facts["weights"]) else 0


def _row(
    store: Store, line: Line, folds: Sequence[int], found: Mapping[str, Standing]
) -> dict[str, Any]:
    if line.teacher is not None:
        lacking = [fold for fold in folds if line.teacher not in store.teacher_names(fold)]
        counts = {"done": len(folds) - len(lacking), "missing": len(lacking)}
        why = f"not in the store for fold(s) {', '.join(map(str, lacking))}" if lacking else ""
        runs = {name: count for name, count in counts.items() if count}
        return {"row": line.label, "student": None, "runs": runs, "left": 0, "why": why}
    states = [found[name] for name, _ in line.runs()]
    reasons = [one.why for one in states if one.why]
    return {
        "row": line.label,
        "student": line.student,
        "runs": dict(Counter(one.status for one in states)),
        "left": sum(one.status in BEGINS for one in states),
        "why": reasons[0] if reasons else "",
    }


def _estimates(
    order: ExperimentOrder, rows: Sequence[Line], found: Mapping[str, Standing]
) -> Iterator[dict[str, Any]]:
    """Of each student, from its runs that are finished."""
    for student in dict.fromkeys(line.student for line in rows if line.teacher is None):
        mine = {name for line in rows if line.student == student for name, _ in line.runs()}
        left = sum(found[name].status in BEGINS for name in mine)
        done = [Path(found[name].folder) for name in mine if found[name].status == "done"]
        yield estimate(student, left, done, order.resources)


def _weights(
    order: ExperimentOrder, rows: Sequence[Line], found: Mapping[str, Standing]
) -> Iterator[dict[str, Any]]:
    """What each student that would be trained needs first."""
    for student in dict.fromkeys(line.student for line in rows if line.teacher is None):
        mine = [name for line in rows if line.student == student for name, _ in line.runs()]
        if not any(found[name].status in BEGINS for name in mine):
            continue
        try:
            told, hint, missing = weights_note(student, order.weights), "", False
        except UserError as error:
            told, hint, missing = error.message, error.hint, True
        if told:
            yield {"student": student, "message": told, "hint": hint, "missing": missing}
