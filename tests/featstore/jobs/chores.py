"""Tasks that leave a line in a log: what ran, how often, where, and beside how many others."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from featstore.core.schema import TaskFailed
from featstore.jobs.task import Demand, Task


@dataclass(frozen=True)
class Chore:
    """Appends its name, and the GPU it sees, to ``ran.log`` and makes its file."""

    folder: Path
    name: str
    fails: bool = False
    sleep_s: float = 0.0

    def __call__(self) -> None:
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        with (self.folder / "ran.log").open("a") as log:
            log.write(f"{self.name} {os.getpid()} {gpu}\n")
        time.sleep(self.sleep_s)
        if self.fails:
            raise TaskFailed(f"{self.name} is poisoned", "throw it away")
        (self.folder / self.name).touch()


def is_there(folder: Path, name: str) -> bool:
    return (folder / name).exists()


def chore(folder: Path, name: str, *needs: str, gpus: int = 0, **how: object) -> Task:
    demand = Demand(memory_gb=0.5, hours=0.1, gpus=gpus)
    work = Chore(folder, name, **how)  # type: ignore[arg-type]
    return Task(name, work, partial(is_there, folder, name), needs=needs, demand=demand)


def ran(folder: Path) -> list[str]:
    """Names of what ran, in order."""
    return [line.split()[0] for line in (folder / "ran.log").read_text().splitlines()]


def who(folder: Path) -> list[list[str]]:
    """Name, process and GPU of what ran, in order."""
    return [line.split() for line in (folder / "ran.log").read_text().splitlines()]
