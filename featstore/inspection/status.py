"""How a build stands, seen from any machine: its units, and the tasks that are not done yet.

Read only, and without trust: the folder may be another's.
"""

from __future__ import annotations

from contextlib import suppress
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
    units: list[dict[str, Any]] = []
    for name in store.units():
        try:
            n_bytes, why = store.unit(name).n_bytes, ""
        except (UserError, OSError) as error:
            n_bytes, why = 0, str(error)
        state = "damaged" if why else "done"
        units.append({"unit": name, "state": state, "bytes": n_bytes, "why": why})
    done = {unit["unit"] for unit in units if unit["state"] == "done"}
    tasks = tasks_of(path, done.__contains__)
    states: dict[str, str] = {task["key"]: task["state"] for task in tasks}
    states |= {unit["unit"]: unit["state"] for unit in units}
    matches = [match for name in states if (match := TEACHER_UNIT.match(name))]
    folds = {match[1] for match in matches}
    with suppress(UserError, OSError):
        folds |= {f"{fold.number:02d}" for fold in store.folds}
    return {
        "store": str(path),
        "counts": counts([one["state"] for one in (*units, *tasks)]),
        "units": units,
        "teachers": {
            teacher: {fold: states.get(f"folds/{fold}/{teacher}", "") for fold in sorted(folds)}
            for teacher in sorted({match[2] for match in matches})
        },
        "tasks": tasks,
    }
