"""What is done with a task once it has a machine."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.core.console import say
from featstore.jobs.task import Task, attendant, attended, standings

PATIENCE_S = 20.0
"""What another machine has just committed may be seen here a little later."""

_LOOK_S = 1.0

Needs = tuple[tuple[str, Callable[[], bool]], ...]


@dataclass(frozen=True)
class Body:
    """A task as a job; submitit dumps it again and requeues it at its time limit.

    Attributes:
        root: where notes are kept.
        task: what to do.
        needs: the tasks that come first, each with what tells that it is done.
        log: where this job's output goes.
    """

    root: Path
    task: Task
    needs: Needs = ()
    log: str = ""

    def __call__(self) -> None:
        """Do it, unless it is done, or what it needs is not."""
        if missing := unmet(self.root, self.needs):
            say(f"{self.task.key}: needs {', '.join(missing)}: not done; nothing begun")
        elif int(os.environ.get("SLURM_PROCID", "0")):
            if not self.task.is_done():
                self.task.work()  # the first process of the team tells of it
        else:
            alone(self.root, self.task, self.log)

    def checkpoint(self) -> Any:
        """What submitit is to begin again: the same, since a task resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def perform(root: Path, task: Task, log: str = "") -> None:
    """Do a task, for all to see, unless it is done."""
    if not task.is_done():
        with attended(root, task.key, log=log):
            task.work()


def alone(root: Path, task: Task, log: str = "") -> None:
    """Do a task that no other process is at; where one is, wait for what comes of it."""
    told = False
    while not task.is_done():
        other = attendant(root, task.key)
        if other is None or _resumes(other):
            with attended(root, task.key, log=log):
                other = attendant(root, task.key)
                if other is None or _mine(other):
                    task.work()
                    return
        if not told:
            say(f"{task.key}: process {other.get('pid')} on {other.get('host')} is at it; waiting")
            told = True
        time.sleep(_LOOK_S)


def unmet(root: Path, needs: Needs) -> list[str]:
    """Keys of what is not done, after waiting for what may merely not be seen yet."""
    until = time.monotonic() + PATIENCE_S
    while missing := [key for key, is_done in needs if not is_done()]:
        failed = {standing.key for standing in standings(root) if standing.state == "failed"}
        if failed & set(missing) or time.monotonic() > until:
            return missing
        time.sleep(_LOOK_S)
    return []


def _mine(facts: dict[str, Any]) -> bool:
    return (facts.get("host"), facts.get("pid")) == (socket.gethostname(), os.getpid())


def _resumes(facts: dict[str, Any]) -> bool:
    """Whether it is this very job that was at it, on a machine that it was taken from."""
    from featstore.jobs.task import job_id

    return bool(job_id()) and facts.get("job") == job_id()
