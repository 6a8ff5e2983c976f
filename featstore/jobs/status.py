"""How tasks stand that are not done yet, seen from any machine.

Read only, and without trust: the folder may be another's. The scheduler is asked for one thing,
whether a queued job is still there; where it does not answer, the notes are all there is.
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from featstore.jobs.slurm import living
from featstore.jobs.task import Standing, standings

SQUEUE_S = 5.0
"""So long the scheduler may take to answer."""

STATES = ("done", "running", "queued", "stopped", "silent", "failed", "damaged")
"""``stopped`` was begun and let be, by Ctrl-C, say; ``silent`` lost the process that was at it."""

_JOB = re.compile(r"\d{1,12}(_\d{1,9})?\Z")

AGAIN = "the same command resumes it"


def exit_code(facts: Mapping[str, Any]) -> int:
    """1 where something has failed, is damaged or has died; else 0."""
    return int(any(facts["counts"][state] for state in ("silent", "failed", "damaged")))


def counts(states: Iterable[str]) -> dict[str, int]:
    """How many are in each state.

    >>> counts(["done", "done", "failed"])["done"]
    2
    """
    tally = Counter(states)
    return {state: tally[state] for state in STATES}


def tasks_of(root: Path, is_done: Callable[[str], bool]) -> list[dict[str, Any]]:
    """The tasks below ``root`` that are not done, by key, as plain data of known types.

    Args:
        root: the store, or the folder of runs.
        is_done: whether what a task makes is there, by its key.
    """
    left = [standing for standing in standings(root) if not is_done(standing.key)]
    jobs = {_text(one.facts, "job") for one in left if one.state == "queued"}
    alive = living(filter(_JOB.match, jobs), SQUEUE_S)
    return [_task(standing, alive) for standing in left]


def _task(standing: Standing, alive: set[str] | None) -> dict[str, Any]:
    facts = standing.facts
    task: dict[str, Any] = {"key": standing.key, "state": standing.state}
    task |= {name: _text(facts, name) for name in ("job", "host", "log", "note", "message", "hint")}
    task |= {name: _number(facts, name) for name in ("done", "total")}
    task |= {"left_s": standing.left_s, "age_s": round(standing.age_s, 1)}
    if standing.state == "silent":
        where = f" on {task['host']}" if task["host"] else ""
        task |= {"message": f"its process{where} is gone", "hint": AGAIN}
    elif standing.state == "queued" and (why := _waits_in_vain(facts, alive)):
        task |= {"state": "silent", "message": why, "hint": AGAIN}
    return task


def _waits_in_vain(facts: Mapping[str, Any], alive: set[str] | None) -> str:
    """Why nobody will begin a queued task; '' where somebody may."""
    if job := _text(facts, "job"):
        return "" if alive is None or job in alive else f"job {job} is no longer in the queue"
    pid = _number(facts, "pid")
    here = pid is not None and facts.get("host") == socket.gethostname()
    return "the command that was to begin it has ended" if here and not _lives(pid or 0) else ""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid > 0


def _text(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name)
    return value if isinstance(value, str) else ""


def _number(facts: Mapping[str, Any], name: str) -> int | None:
    value = facts.get(name)
    return value if type(value) is int and 0 <= value < 2**53 else None
