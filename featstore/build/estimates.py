"""What the tasks of a build will cost, before any is begun: estimates, and what they come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from featstore.build.fit import TeacherJob
from featstore.build.plan import Plan
from featstore.core.config import TeacherSettings
from featstore.folds import OUT, TRAIN, VALIDATION
from featstore.jobs.task import Task

AUDIO_PACE = 1000.0
"""Seconds of audio that one CPU decodes and writes in a second."""
LLD_PACE = 60.0
"""Seconds of audio whose LLDs one CPU extracts in a second (benchmarks/RESULTS.md)."""
GPU_PACE = 300.0
"""Utterances that one GPU learns from in a second: an assumption, not a measurement."""
AHEAD = 3.0
"""As much faster is saying what an utterance is than learning from it."""
BASIS = (
    f"estimates: audio at {AUDIO_PACE:g} and LLDs at {LLD_PACE:g} s of audio a second on one CPU; "
    f"teachers at {GPU_PACE:g} utterances a second on one GPU, which is an assumption; no time in "
    "the queue; while a unit is made in parts, its bytes are there twice"
)
_NUMBER = re.compile(r"(part-)\d+-of-\d+|(?<=^folds/)\d+")


def task_plan(plan: Plan, tasks: Iterable[Task], *, gpu: bool) -> dict[str, Any]:
    """Tasks of a kind in one row, with what they need, how many they are, and what they cost.

    Args:
        plan: of the build.
        tasks: of the plan.
        gpu: whether teachers are fitted on one; how long a CPU takes is anybody's guess.
    """
    rows: dict[str, dict[str, Any]] = {}
    jobs = {job.unit: job for job in plan.jobs}
    parts = sum("/part-" in task.key for task in tasks)
    for task in tasks:
        empty = {"tasks": kind(task.key), "count": 0, "needs": [], "bytes": 0,
                 "cpu_hours": 0.0, "gpu_hours": 0.0}  # fmt: skip
        row = rows.setdefault(kind(task.key), empty)
        row["count"] += 1
        row["needs"] = sorted({*row["needs"], *map(kind, task.needs)})
        for name, value in _cost(plan, task, jobs, in_parts=parts > 0, gpu=gpu).items():
            row[name] += value
    for row in rows.values():
        row |= {name: round(row[name], 2) for name in ("cpu_hours", "gpu_hours")}
    return {"groups": list(rows.values()), "basis": BASIS}


def kind(key: str) -> str:
    """What a task has in common with those of other parts or folds.

    >>> kind("lld/part-003-of-008"), kind("folds/02/prosodic"), kind("audio")
    ('lld/part-*', 'folds/*/prosodic', 'audio')
    """
    return _NUMBER.sub(lambda match: f"{match[1] or ''}*", key)


def _cost(
    plan: Plan, task: Task, jobs: Mapping[str, TeacherJob], *, in_parts: bool, gpu: bool
) -> dict[str, float]:
    unit, _, part = task.key.partition("/part-")
    if job := jobs.get(task.key):
        hours = _learning_s(plan, job) / 3600 if gpu else 0.0
        return {"gpu_hours": hours, "bytes": _outputs(plan, job)}
    seconds = float(plan.table["duration_s"].sum())
    pace = {"audio": AUDIO_PACE, "lld": LLD_PACE}[unit]
    n_bytes = plan.step(unit).n_bytes
    if part:
        count = int(part.rpartition("-")[2])
        return {"cpu_hours": seconds / pace / 3600 / count, "bytes": n_bytes // count}
    gathered = in_parts and any("/part-" in need for need in task.needs)
    return {"cpu_hours": seconds / (AUDIO_PACE if gathered else pace) / 3600, "bytes": n_bytes}


def _learning_s(plan: Plan, job: TeacherJob) -> float:
    """Seconds of all fits of a job on one GPU."""
    role = plan.roles[job.fold.number - 1]
    train, validation = (int((role == wanted).sum()) for wanted in (TRAIN, VALIDATION))
    known = int((role != OUT).sum())
    epochs = job.settings.optim.epochs
    return job.n_fits * (epochs * (train + validation / AHEAD) + known / AHEAD) / GPU_PACE


def _outputs(plan: Plan, job: TeacherJob) -> int:
    """Bytes of the logits and embeddings."""
    classes = int(plan.table["label"].nunique())
    return len(plan.table) * (classes + _width(job.settings)) * 4


def _width(settings: TeacherSettings) -> int:
    """Of an embedding: a ResNet's last channels; BERT-base's, or the tiny one's."""
    if settings.kind == "prosodic":
        return settings.channels[-1]
    return 128 if settings.model == "tiny" else 768
