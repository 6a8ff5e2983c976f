"""What runs that are left will cost, from what the finished ones of the same student did."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

from distill.experiments.resources import Resources, default_workers
from distill.runs.folder import STUDENT
from distill.runs.records import RunFacts
from featstore.core.files import read_small

CHECKPOINTS = 3 * 4
"""Two checkpoints are kept and a third may be under way, each with up to four times the weights:
those, the best ones, and AdamW's two moments."""

BASIS = (
    "time and disk: means of the finished runs of the same student here; while they are trained "
    f"up to {CHECKPOINTS} times its weights beside; no time in the queue"
)


def estimate(student: str, left: int, done: Iterable[Path], resources: Resources) -> dict[str, Any]:
    """Of a student's runs, as plain data; what no finished run tells is None.

    Args:
        student: its backbone.
        left: how many of its runs are to be trained.
        done: folders of those that are finished.
        resources: what the runs may use.
    """
    folders = list(done)
    seconds = [s for folder in folders if (s := _seconds(folder)) is not None]
    jobs = default_workers(resources, max(left, 1))
    each = fmean(seconds) if seconds else None
    size = fmean(map(_size, folders)) if folders else None
    weights = fmean(_size(folder / STUDENT) for folder in folders) if folders else 0.0
    hours = None if each is None else each * left * resources.team / 3600
    return {
        "student": student,
        "runs": left,
        "jobs": jobs,
        "processes": resources.team,
        "seconds_a_run": each,
        "seconds": None if each is None else each * left / jobs,
        "process_hours": hours,
        "bytes": None if size is None else round(size * left),
        "bytes_meanwhile": round(weights * CHECKPOINTS * min(jobs, left)) if folders else None,
        "measured_on": len(seconds),
    }


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _seconds(folder: Path) -> float | None:
    with suppress(OSError, ValueError):
        return RunFacts.model_validate_json(read_small(folder / "run.json")).seconds
    return None
