"""The plan of a build: what is asked for, what is there, and what has to happen to each unit.

A build asks for units by what they are made from. A unit that is there with the same fingerprint
is done; one that is there with another is in the way, and only ``rebuild`` replaces it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from featstore import teachers
from featstore.build import units
from featstore.build.units import Step, TeacherJob
from featstore.core.config import BuildSettings
from featstore.core.schema import Corrupt, Manifest, OtherVersion, Refused, UserError
from featstore.core.settings import differences
from featstore.corpora.audio_check import without
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
from featstore.store.store import Store
from featstore.store.unit import Identity, Unit, folder_version

_DIGESTS = ("rows", "files", "sources", "groups")
"""Settings that are SHA-256 of content: that they differ is all there is to say."""


@dataclass(frozen=True)
class Request:
    """What a user asks of ``featstore build``; of these only ``settings`` decide bytes.

    Attributes:
        manifest: the corpus as read; its audio has not been decoded yet.
        settings: of the build.
        store: the store's folder.
        folds: ``all``, or numbers such as ``1..3,7``.
        jobs: processes on this machine; one a CPU, or a GPU, where not given.
        device: where teachers are fitted.
        rebuild: replace units that were made from something else.
        repair: read every byte, and make damaged units anew.
        cross_fit: also targets that are cross-fitted by so many parts, beside the plain ones.
        shards: in how many parts LLDs are extracted, each kept if the build is interrupted.
        strict: stop where an utterance would be excluded.
    """

    manifest: Manifest
    settings: BuildSettings
    store: Path
    folds: str = "all"
    jobs: int | None = None
    device: str = "auto"
    rebuild: bool = False
    repair: bool = False
    cross_fit: int | None = None
    shards: int | None = None
    strict: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything a build will do, settled before it does anything.

    Attributes:
        steps: the units in the order they are made.
        manifest: the corpus without the utterances whose audio cannot be used, as far as known.
        folds: all folds of the corpus.
        roles: ``[fold, N]``.
        jobs: the teachers that are still to be fitted.
    """

    steps: tuple[Step, ...]
    manifest: Manifest
    folds: tuple[Fold, ...]
    roles: Roles
    jobs: tuple[TeacherJob, ...] = ()

    def step(self, unit: str) -> Step:
        """The step of a unit."""
        return next(step for step in self.steps if step.unit == unit)

    @property
    def conflicts(self) -> list[Step]:
        """Units in the way that were made from something else."""
        return [step for step in self.steps if step.status == "conflict"]


def make_plan(
    request: Request, sums: Mapping[str, str], excluded: Collection[str] | None = None
) -> Plan:
    """Compare what is asked for with what is there; touches nothing.

    Args:
        request: the build.
        sums: SHA-256 of the corpus' audio files, see :func:`featstore.build.units.source_sums`.
        excluded: utterances whose audio cannot be used; those that the store's audio unit lists
            where not given.

    Raises:
        UserError: the folds cannot be made from this corpus, or not parted to cross-fit.
        Refused: the folds would leak.
    """
    settings, manifest, store = request.settings, request.manifest, Store(request.store)
    audio = units.audio_identity(manifest, settings.audio, sums)
    seconds = float(manifest.utterances["duration_s"].sum())
    audio_step = _step(store, audio, request, round(seconds * 32_000))
    left = without(manifest.utterances, set(_excluded(store) if excluded is None else excluded))
    if len(left) < len(manifest.utterances):
        manifest = replace(manifest, utterances=left, full_release=False)
    fold_settings = resolve_validation(left, settings.folds)
    folds = make_folds(left, fold_settings)
    role = roles(left, folds, fold_settings.script_disjoint)
    prove(left, folds, role)
    corpus = units.corpus_identity(manifest, settings)
    splits = units.splits_identity(fold_settings, corpus)
    lld = units.lld_identity(settings, audio)
    steps = [
        audio_step,
        _step(store, corpus, request, int(left["text"].str.len().sum()) + 150 * len(left)),
        _step(store, splits, request, role.size),
        _step(store, lld, request, round(seconds * 10_000)),
    ]
    plan = Plan(tuple(steps), manifest, folds, role)
    jobs = list(_teachers(request, plan, store))
    fits = tuple(job for job in jobs if job.step.status != "done")
    return replace(plan, steps=(*steps, *(job.step for job in jobs)), jobs=fits)


def _teachers(request: Request, plan: Plan, store: Store) -> Iterator[TeacherJob]:
    """For each fold, for each teacher: the job; after them those of cross-fitted targets."""
    shared = {step.unit: step.identity for step in plan.steps}
    texts = tuple(plan.manifest.utterances["text"])
    portable = {
        name: (settings, *teachers.portable(settings))
        for name, settings in request.settings.teachers.items()
    }
    folds = [plan.folds[number - 1] for number in parse_numbers(request.folds, len(plan.folds))]
    for parts in (0, request.cross_fit) if request.cross_fit is not None else (0,):
        for fold in folds:
            training = plan.manifest.utterances[plan.roles[fold.number - 1] == TRAIN]
            seed = request.settings.folds.seed
            groups = cross_fit_groups(training, fold, parts, seed) if parts != 0 else ()
            for name, (settings, recorded, provenance) in portable.items():
                identity = units.teacher_identity(fold, name, recorded, shared, groups)
                yield TeacherJob(
                    request.store, _step(store, identity, request), fold, settings, texts,
                    provenance, groups, request.device,
                )  # fmt: skip


def _excluded(store: Store) -> list[str]:
    """Utterances that the store's audio unit could not use; none where there is no such unit."""
    with suppress(UserError):
        return [str(one["utterance_id"]) for one in store.unit("audio").facts["excluded"]]
    return []


def _step(store: Store, identity: Identity, request: Request, n_bytes: int = 0) -> Step:
    """Compare one unit with what stands in its place; to repair, byte by byte."""
    place = store.path / identity.unit
    if not os.path.lexists(place):
        return Step(identity, "build", "not there yet", n_bytes)
    replaced = partial(Step, identity, "replace", n_bytes=n_bytes, before=folder_version(place))
    try:
        unit = store.unit(identity.unit, deep=request.repair)
    except OtherVersion:
        raise
    except (Corrupt, Refused) as error:
        if request.repair or request.rebuild:
            return replaced("damaged")
        raise type(error)(error.message, "mend it with --repair") from error
    if unit.fingerprint == identity.fingerprint:
        return Step(identity, "done", "same fingerprint", unit.n_bytes)
    why = _difference(unit, identity)
    if why == ["files: another content"]:  # nothing else is lost, and nothing depends on them
        return replaced("its audio files have other names")
    if request.rebuild:
        return replaced("; ".join(why))
    return Step(identity, "conflict", "; ".join(why), n_bytes)


def _difference(unit: Unit, identity: Identity) -> list[str]:
    """What a unit was made from, and what is asked for."""
    before, after = dict(unit.settings), dict(identity.settings)
    digests = [name for name in _DIGESTS if before.pop(name, "") != after.pop(name, "")]
    parents = [
        f"another {name}"
        for name in identity.parents
        if unit.parents.get(name) != identity.parents[name]
    ]
    return [*differences(before, after), *(f"{one}: another content" for one in digests), *parents]
