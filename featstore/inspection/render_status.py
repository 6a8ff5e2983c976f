"""How a store or a folder of runs stands -> what a terminal shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featstore.inspection.render import clean, size, table

SHOWN = 10
"""Queued tasks that are named; the others are counted."""

_MARKS = {"": "-", "done": "done", "damaged": "[bold]damaged[/]", "failed": "[bold]failed[/]"}


def store(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``featstore status STORE``."""
    yield f"[bold]{clean(facts['store'])}[/]: {counted(facts['counts'])}"
    units = table("Units", "unit", "size")
    for unit in facts["units"]:
        if not unit["unit"].startswith("folds/"):
            units.add_row(clean(unit["unit"]), _size(unit))
    if units.row_count:
        yield units
    if facts["teachers"]:
        yield _teachers(facts)
    yield from tasks(facts["tasks"])
    for unit in facts["units"]:
        if unit["state"] == "damaged":
            yield f"[bold]damaged[/] {clean(unit['why'])}"


def counted(counts: Mapping[str, int]) -> str:
    """How many are in each state that there is.

    >>> counted({"done": 3, "running": 0, "failed": 1})
    '3 done, 1 failed'
    """
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "nothing yet"


def span(seconds: float | None) -> str:
    """A length of time for people.

    >>> span(42.4), span(90), span(3 * 3600 + 300), span(None)
    ('42 s', '2 min', '3 h 5 min', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def tasks(found: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """What is not done: who is at it and how far, and what came to nothing and why."""
    order = {"running": 0, "silent": 1, "failed": 2, "stopped": 3, "queued": 4}
    listed = sorted(found, key=lambda task: (order[task["state"]], task["key"]))
    queued = [task for task in listed if task["state"] == "queued"]
    rows = table("Not done yet", "task", "state", "where", "progress", "left", "note")
    for column in rows.columns:
        column.justify = "left"
    for task in [*(task for task in listed if task["state"] != "queued"), *queued[:SHOWN]]:
        rows.add_row(
            clean(task["key"]), task["state"], clean(_place(task)), _progress(task),
            span(task["left_s"]), clean(_note(task)),
        )  # fmt: skip
    if rows.row_count:
        yield rows
    if len(queued) > SHOWN:
        yield f"and {len(queued) - SHOWN} more queued"
    for task in listed:
        yield from _trouble(task)


def _trouble(task: Mapping[str, Any]) -> Iterator[str]:
    """Whole and unwrapped, to be copied."""
    if task["state"] not in ("failed", "silent"):
        return
    yield f"[bold]{task['state']}[/] {clean(task['key'])}: {clean(task['message'])}"
    if task["hint"]:
        yield f"  hint: {clean(task['hint'])}"
    if task["log"]:
        yield f"  log: {clean(task['log'])}"


def _teachers(facts: Mapping[str, Any]) -> Any:
    folds = sorted({fold for teacher in facts["teachers"].values() for fold in teacher})
    sizes = {unit["unit"]: _size(unit) for unit in facts["units"] if unit["state"] == "done"}
    rows = table("Teachers", "fold", *map(clean, facts["teachers"]))
    for fold in folds:
        cells = []
        for name, teacher in facts["teachers"].items():
            state = teacher.get(fold, "")
            cells.append(sizes.get(f"folds/{fold}/{name}") or _MARKS.get(state, state))
        rows.add_row(clean(fold), *cells)
    return rows


def _size(unit: Mapping[str, Any]) -> str:
    return size(unit["bytes"]) if unit["state"] == "done" else _MARKS["damaged"]


def _place(task: Mapping[str, Any]) -> str:
    parts = [f"job {task['job']}" if task["job"] else "", task["host"]]
    return ", ".join(filter(None, parts))


def _progress(task: Mapping[str, Any]) -> str:
    return f"{task['done']}/{task['total']}" if task["total"] else "-"


def _note(task: Mapping[str, Any]) -> str:
    if task["state"] == "queued":
        return f"for {span(task['age_s'])}"
    if task["state"] == "running":
        return str(task["note"])
    return str(task["message"]).split("\n")[0][:60]
