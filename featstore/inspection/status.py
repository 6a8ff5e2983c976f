"""How a build stands, seen from any machine: its units, and the tasks that are not done yet.

Read only, and without trust: the folder may be another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featstore.core.schema import UserError
from featstore.jobs.status import counts, tasks_of
from featstore.jobs.task import FOLDER
from featstore.store.store import TEACHER_UNIT, Store


def store_status(path: Path) -> dict[str, Any]:
    """A store's units with their sizes, teachers by fold, and its tasks, as plain data.

    Raises:
        UserError: there is neither a store nor a task of one.
    """
    if not (path / FOLDER).is_dir():
        Store.open(path)
    store = Store(path)
    units = [_unit(store, name) for name in store.units()]
    done = {unit["unit"] for unit in units if unit["state"] == "done"}
    tasks = tasks_of(path, done.__contains__)
    states = {task["key"]: task["state"] for task in tasks} | {
        unit["unit"]: unit["state"] for unit in units
    }
    return {
        "store": str(path),
        "counts": counts([*(unit["state"] for unit in units), *(task["state"] for task in tasks)]),
        "units": units,
        "teachers": _teachers(store, states),
        "tasks": tasks,
    }


def _unit(store: Store, name: str) -> dict[str, Any]:
    try:
        return {"unit": name, "state": "done", "bytes": store.unit(name).n_bytes, "why": ""}
    except UserError as error:
        return {"unit": name, "state": "damaged", "bytes": 0, "why": error.message}
    except OSError as error:
        return {"unit": name, "state": "damaged", "bytes": 0, "why": str(error)}


def _teachers(store: Store, states: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """How each teacher stands in each fold that the store has, or that somebody is at."""
    named = {name: match for name in states if (match := TEACHER_UNIT.match(name))}
    folds = sorted({f"{n:02d}" for n in _folds(store)} | {match[1] for match in named.values()})
    return {
        teacher: {fold: states.get(f"folds/{fold}/{teacher}", "") for fold in folds}
        for teacher in sorted({match[2] for match in named.values()})
    }


def _folds(store: Store) -> Sequence[int]:
    try:
        return [fold.number for fold in store.folds]
    except (UserError, OSError):
        return []
