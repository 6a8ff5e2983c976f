"""The tasks of a build: audio, LLDs and teachers, each ending in a unit or a part of one.

Corpus and splits are none: they take a second, and everything else needs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from featstore.build import units as steps
from featstore.build.fit import TeacherJob, fit
from featstore.build.lld_unit import commit_lld, write_lld
from featstore.build.part_works import Gathered, Signals, audio_part, decoded, lld_part
from featstore.build.parts import Part, parted, remove_parts
from featstore.build.plan import Plan, Request, Step
from featstore.core.config import LldSettings
from featstore.core.console import say
from featstore.jobs.processes import default_jobs
from featstore.jobs.task import Demand, Task
from featstore.store.provenance import versions
from featstore.store.store import Store
from featstore.store.unit import Identity, folder_version

AUDIO_HOURS_A_PART = 20.0
LLD_HOURS_A_PART = 2.0
"""On a cluster, where nothing else is said: a job is to outweigh its own start."""


@dataclass(frozen=True)
class Resources:
    """What the tasks of a build are made for; changes no byte.

    Attributes:
        cluster: they become jobs, and none can rely on what another finds out.
        jobs: processes on this machine.
        gpu: whether a teacher wants a GPU.
    """

    cluster: bool = False
    jobs: int = 1
    gpu: bool = False

    @property
    def part_jobs(self) -> int | None:
        """Threads or processes of a part: one beside others, or all that a job was given."""
        return None if self.cluster else 1


def n_parts(plan: Plan, request: Request, hours_a_part: float, resources: Resources) -> int:
    """How many parts a unit is made in."""
    if request.shards is not None or not resources.cluster:
        return request.shards or 1
    hours = float(plan.table["duration_s"].sum()) / 3600
    return min(max(1, math.ceil(hours / hours_a_part)), 1000)


def audio_tasks(
    plan: Plan, request: Request, sums: dict[str, str], resources: Resources
) -> list[Task]:
    """The audio unit's parts, if it is made in any, and its commit; nothing where it is done."""
    step = plan.step("audio")
    if step.status == "done":
        return []
    manifest, settings = request.manifest, request.settings.audio
    durations = manifest.utterances["duration_s"].tolist()
    count = n_parts(plan, request, AUDIO_HOURS_A_PART, resources)
    parts = parted(request.store, step.identity, durations, count, versions())
    found = steps.sources(manifest.utterances)
    is_done = unit_done(request.store, step)
    write = partial(
        _write_audio, request.store, step, request, sums, resources, tuple(parts)
    )  # fmt: skip
    works = [
        partial(audio_part, part, found[part.rows.start : part.rows.stop], manifest.root,
                settings, resources.part_jobs)
        for part in parts
    ]  # fmt: skip
    return [*_part_tasks(parts, works, is_done, step), _unit_task(step, write, is_done, parts)]


def lld_tasks(plan: Plan, request: Request, resources: Resources) -> list[Task]:
    """The LLD unit's parts, if it is made in any, and its commit; nothing where it is done."""
    step = plan.step("lld")
    if step.status == "done":
        return []
    settings = request.settings
    count = n_parts(plan, request, LLD_HOURS_A_PART, resources)
    durations = plan.table["duration_s"].tolist()
    parts = parted(request.store, step.identity, durations, count, versions())
    found = steps.sources(plan.table)
    is_done = unit_done(request.store, step)

    def part_of(rows: range) -> Signals:
        return Signals(
            request.store, rows, tuple(found[rows.start : rows.stop]), request.manifest.root,
            settings.audio,
        )  # fmt: skip

    works = [
        partial(lld_part, part, settings.lld, part_of(part.rows), resources.part_jobs)
        for part in parts
    ]
    whole = part_of(range(len(found)))
    write = partial(
        _write_lld, request.store, step, settings.lld, whole, resources, tuple(parts)
    )  # fmt: skip
    needs = ("audio",) if settings.audio.embed_audio else ()
    return [
        *_part_tasks(parts, works, is_done, step, needs),
        _unit_task(step, write, is_done, parts, needs),
    ]


def teacher_tasks(plan: Plan, resources: Resources) -> list[Task]:
    """A task for each teacher that is still to be fitted."""
    demand = Demand(cpus=2, gpus=1, memory_gb=16) if resources.gpu else Demand()
    return [
        Task(
            key=job.unit,
            work=partial(fit, job),
            is_done=partial(_fitted, job, unit_done(job.store, plan.step(job.unit))),
            why=plan.step(job.unit).why,
            needs=("lld",) if "lld" in job.identity.parents else (),
            demand=demand,
            n_steps=job.n_fits,
        )
        for job in plan.jobs
    ]


def unit_done(store: Path, step: Step) -> Callable[[], bool]:
    """What tells that a step's unit is there, and no more the one that is to be replaced."""
    before = folder_version(store / step.unit) if step.status == "replace" else None
    return partial(_committed, store, step.identity, before)


def _committed(store: Path, identity: Identity, before: tuple[int, int] | None) -> bool:
    if before is not None and folder_version(store / identity.unit) == before:
        return False
    return steps.stands(Store(store), identity)


def _fitted(job: TeacherJob, is_done: Callable[[], bool]) -> bool:
    return is_done() and (not job.keep or steps.stands(Store(job.store), job.weights))


def _part_tasks(
    parts: list[Part],
    works: list[Any],
    is_done: Callable[[], bool],
    step: Step,
    needs: tuple[str, ...] = (),
) -> Iterator[Task]:
    for part, work in zip(parts, works, strict=True):
        if not part.is_there():
            yield Task(part.key, work, partial(_part_done, part, is_done), step.why, needs)


def _part_done(part: Part, is_done: Callable[[], bool]) -> bool:
    """Whether a part is there, or not wanted any more."""
    return part.is_there() or is_done()


def _unit_task(
    step: Step,
    work: Callable[[], None],
    is_done: Callable[[], bool],
    parts: list[Part],
    needs: tuple[str, ...] = (),
) -> Task:
    return Task(
        step.unit, work, is_done, step.why, (*needs, *(part.key for part in parts)), here=True
    )


def _write_audio(
    path: Path,
    step: Step,
    request: Request,
    sums: dict[str, str],
    resources: Resources,
    parts: tuple[Part, ...],
) -> None:
    jobs = default_jobs() if resources.cluster else resources.jobs
    steps.write_audio(
        Store(path), step.identity, request.manifest, request.settings.audio, sums, jobs,
        replace=step.status == "replace", n_bytes=step.n_bytes,
        decoded=decoded(parts) if parts else None, complete=resources.cluster,
    )  # fmt: skip
    _drop(path, parts)


def _write_lld(
    path: Path,
    step: Step,
    settings: LldSettings,
    signals: Signals,
    resources: Resources,
    parts: tuple[Part, ...],
) -> None:
    store, n = Store(path), len(signals.found)
    replace = step.status == "replace"
    jobs = default_jobs() if resources.cluster else resources.jobs
    if parts:
        source = Gathered(parts)
        commit_lld(store, step.identity, settings, source, n, replace=replace, n_bytes=step.n_bytes)
        taken = source.taken
    else:
        taken = write_lld(
            store, step.identity, settings, signals.in_order(jobs), n, jobs,
            replace=replace, n_bytes=step.n_bytes,
        )  # fmt: skip
    if taken:
        say(f"LLDs of {taken} utterance(s) with unchanged signals were taken over")
    _drop(path, parts)


def _drop(store: Path, parts: tuple[Part, ...]) -> None:
    """Remove the parts of a unit that is committed, and leave the others' alone."""
    if parts:
        remove_parts(store, parts[0].whole)
