"""The plan of a build: what is asked for, what is there, and what has to happen to each unit.

A build asks for units by what they are made from. A unit that is there with the same fingerprint
is done; one that is there with another is in the way, and only ``rebuild`` replaces it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from featstore import teachers
from featstore.build import units as steps
from featstore.build.fit import TeacherJob
from featstore.build.lld_unit import lld_identity
from featstore.core.config import BuildSettings, TeacherSettings, cross_fitted
from featstore.core.schema import Corrupt, Manifest, OtherVersion, Refused, UserError
from featstore.core.settings import differences
from featstore.folds import (
    TRAIN,
    Fold,
    Roles,
    cross_fit_groups,
    make_folds,
    parse_numbers,
    prove,
    resolve_validation,
    roles,
)
from featstore.store.store import TEACHER_UNIT, Store, unit_name
from featstore.store.unit import Identity, Unit

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["done", "build", "replace", "conflict"]


@dataclass(frozen=True)
class Request:
    """What a user asks of ``featstore build``; of these only ``settings`` decide bytes.

    ``cross_fit`` asks for units beside the plain ones: targets cross-fitted by so many parts.
    ``shards`` is how many parts audio and LLDs are made in before one process commits them; as the
    executor sees fit where not given.
    """

    manifest: Manifest
    settings: BuildSettings
    store: Path
    folds: str = "all"
    jobs: int | None = None
    device: str = "auto"
    rebuild: bool = False
    keep_teachers: bool = False
    repair: bool = False
    cross_fit: int | None = None
    shards: int | None = None


@dataclass(frozen=True)
class Step:
    """One unit of a plan: what is to happen to it, and why."""

    identity: Identity
    status: Status
    why: str
    n_bytes: int = 0

    @property
    def unit(self) -> str:
        """The unit's name."""
        return self.identity.unit


@dataclass(frozen=True)
class Plan:
    """Everything a build will do, settled before it does anything.

    Attributes:
        steps: the units in the order they are made.
        table: the utterances that the store will hold.
        folds: all folds of the corpus.
        roles: ``[fold, N]``.
        jobs: the teachers that are still to be fitted.
    """

    steps: tuple[Step, ...]
    table: pd.DataFrame
    folds: tuple[Fold, ...]
    roles: npt.NDArray[np.int8]
    jobs: tuple[TeacherJob, ...] = ()

    def step(self, unit: str) -> Step:
        """The step of a unit."""
        return next(step for step in self.steps if step.unit == unit)

    @property
    def conflicts(self) -> list[Step]:
        """Units in the way that were made from something else."""
        return [step for step in self.steps if step.status == "conflict"]


def make_plan(request: Request, sums: dict[str, str]) -> Plan:
    """Compare what is asked for with what is there; touches nothing.

    Args:
        request: the build.
        sums: SHA-256 of the corpus' audio files, see :func:`featstore.build.units.source_sums`.

    Raises:
        UserError: the folds cannot be made from this corpus, or not parted to cross-fit.
        Refused: the folds would leak.
    """
    settings, manifest = request.settings, request.manifest
    store = Store(request.store)
    audio = steps.audio_identity(manifest, settings.audio, sums)
    audio_step = _step(store, audio, request, _audio_bytes(manifest.utterances))
    table = manifest.utterances
    if audio_step.status == "done":
        table = steps.without_excluded(manifest, store)
    corpus = steps.corpus_identity(table, manifest, settings.corpus)
    fold_settings = resolve_validation(table, settings.folds)
    folds = make_folds(table, fold_settings)
    role = roles(table, folds, fold_settings.script_disjoint)
    prove(table, folds, role)
    splits = steps.splits_identity(fold_settings, corpus)
    lld = lld_identity(settings.lld, audio)
    shared = {i.unit: i for i in (audio, corpus, splits, lld)}
    sizes = {
        "corpus": int(table["text"].str.len().sum()) + 150 * len(table),
        "lld": round(float(table["duration_s"].sum()) * 10_000),
        "splits": role.size,
    }
    plan = [audio_step] + [
        _step(store, identity, request, sizes.get(identity.unit, 0))
        for identity in (corpus, splits, lld)
    ]
    jobs = []
    for job in _all_jobs(request, table, folds, role, shared):
        step = _step(store, job.identity, request, 0)
        keep = job.keep or (store.path / job.weights.unit).is_dir()
        if step.status == "done" and keep:
            weights = _step(store, job.weights, request, 0)
            if weights.status != "done":
                step = replace(step, status="build", why=f"its weights: {weights.why}")
        plan.append(step)
        if step.status != "done":
            jobs.append(replace(job, keep=keep, replace=step.status == "replace"))
    return Plan(tuple(plan), table, folds, role, tuple(jobs))


def _all_jobs(
    request: Request,
    table: pd.DataFrame,
    folds: Sequence[Fold],
    role: Roles,
    shared: dict[str, Identity],
) -> Iterator[TeacherJob]:
    """The plain teachers of all folds, and after them the cross-fitted ones."""
    jobs = list(_teacher_jobs(request, table, folds, shared))
    yield from jobs
    if request.cross_fit is None:
        return
    if request.keep_teachers:
        raise UserError(
            f"--keep-teachers --cross-fit {request.cross_fit}: the parts of cross-fitted targets "
            "are not kept",
            "build twice: once with each of the two",
        )
    seed = request.settings.folds.seed
    groups = {
        number: cross_fit_groups(
            table[role[number - 1] == TRAIN], folds[number - 1], request.cross_fit, seed
        )
        for number in {job.fold.number for job in jobs}
    }
    yield from (_parted(job, groups[job.fold.number]) for job in jobs)


def _parted(job: TeacherJob, groups: tuple[tuple[str, ...], ...]) -> TeacherJob:
    """The job that makes a teacher's cross-fitted targets; its unit's name tells it from others."""
    name = cross_fitted(job.name, len(groups))
    unit = unit_name(job.fold.number, name)
    if not TEACHER_UNIT.match(unit):
        raise UserError(f"--cross-fit: {name} is too long a name", "name that teacher shorter")
    settings = {**job.identity.settings, "cross_fit": len(groups)}
    identity = Identity(unit, settings, job.identity.parents)
    return replace(job, name=name, identity=identity, groups=groups)


def _teacher_jobs(
    request: Request, table: pd.DataFrame, folds: Sequence[Fold], shared: dict[str, Identity]
) -> Iterator[TeacherJob]:
    """A job for every fold and teacher asked for, fold by fold."""
    wanted = set(parse_numbers(request.folds, len(folds)))
    texts = tuple(table["text"])
    named = request.settings.teachers
    portable = {name: teachers.portable(settings) for name, settings in named.items()}
    for fold in (fold for fold in folds if fold.number in wanted):
        for name, settings in named.items():
            recorded, provenance = portable[name]
            yield TeacherJob(
                store=request.store,
                fold=fold,
                name=name,
                settings=settings,
                identity=_teacher_identity(fold, name, recorded, shared),
                texts=texts,
                provenance=provenance,
                keep=request.keep_teachers,
                device=request.device,
            )


def _teacher_identity(
    fold: Fold, name: str, settings: TeacherSettings, shared: dict[str, Identity]
) -> Identity:
    parents = {unit: shared[unit].fingerprint for unit in teachers.parents(settings)}
    record = {"fold": fold.number, "teacher": settings.model_dump(mode="json")}
    return Identity(unit_name(fold.number, name), record, parents)


def _step(store: Store, identity: Identity, request: Request, n_bytes: int) -> Step:
    """Compare one unit with what stands in its place; to repair, byte by byte."""
    if not os.path.lexists(store.path / identity.unit):
        return Step(identity, "build", "not there yet", n_bytes)
    try:
        unit = store.unit(identity.unit, deep=request.repair)
    except OtherVersion:
        raise
    except (Corrupt, Refused) as error:
        if request.repair or request.rebuild:
            return Step(identity, "replace", "damaged", n_bytes)
        raise type(error)(error.message, "mend it with --repair") from error
    if unit.fingerprint == identity.fingerprint:
        return Step(identity, "done", "same fingerprint", unit.n_bytes)
    why = "; ".join(_difference(unit, identity))
    return Step(identity, "replace" if request.rebuild else "conflict", why, n_bytes)


def _difference(unit: Unit, identity: Identity) -> list[str]:
    """What a unit was made from, and what is asked for."""
    settings = differences(unit.settings, identity.settings)
    parents = [
        f"another {name}"
        for name in identity.parents
        if unit.parents.get(name) != identity.parents[name]
    ]
    return settings + parents


def _audio_bytes(table: pd.DataFrame) -> int:
    return round(float(table["duration_s"].sum()) * 32_000)


def plan_dict(plan: Plan, settings: BuildSettings) -> dict[str, Any]:
    """A plan as plain data, with the settings that it comes from."""
    return {
        "steps": [
            {"unit": step.unit, "status": step.status, "why": step.why, "bytes": step.n_bytes}
            for step in plan.steps
        ],
        "utterances": len(plan.table),
        "folds": len(plan.folds),
        "fits": sum(job.n_fits for job in plan.jobs),
        "settings": settings.model_dump(mode="json"),
    }
