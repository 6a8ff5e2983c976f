"""The plan of a build, and its execution: corpus -> audio, LLDs, splits -> teachers -> store.

A build asks for units by what they are made from. A unit that is there with the same fingerprint
is done; one that is there with another stops the build with the difference, unless it may be
replaced. So a build can be interrupted anywhere and asked for again.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from featstore import steps, teachers
from featstore.config import BuildSettings, TeacherSettings
from featstore.console import progress, say
from featstore.corpora import CORPORA
from featstore.folds import Fold, make_folds, parse_numbers, prove, resolve_validation, roles
from featstore.processes import default_jobs, worker_setup
from featstore.schema import Corrupt, Manifest, TaskFailed, UserError, listed
from featstore.settings import differences
from featstore.store import Store, unit_name
from featstore.teachers.fit import TeacherJob, fit
from featstore.units import Identity, Unit

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["done", "build", "replace", "conflict"]


@dataclass(frozen=True)
class Request:
    """What a user asks of ``featstore build``; of these only ``settings`` decide bytes."""

    manifest: Manifest
    settings: BuildSettings
    store: Path
    folds: str = "all"
    jobs: int | None = None
    device: str = "auto"
    rebuild: bool = False
    keep_teachers: bool = False


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


@dataclass
class Result:
    """What a build did."""

    plan: Plan
    built: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def make_plan(request: Request, sums: dict[str, str]) -> Plan:
    """Compare what is asked for with what is there; touches nothing.

    Args:
        request: the build.
        sums: SHA-256 of the corpus' audio files, see :func:`featstore.steps.source_sums`.

    Raises:
        UserError: the folds cannot be made from this corpus.
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
    lld = steps.lld_identity(settings.lld, audio)
    shared = {i.unit: i for i in (audio, corpus, splits, lld)}
    sizes = {"lld": round(float(table["duration_s"].sum()) * 10_000), "splits": role.size}
    plan = [audio_step] + [
        _step(store, identity, request, sizes.get(identity.unit, 0))
        for identity in (corpus, splits, lld)
    ]
    jobs = []
    for job in _teacher_jobs(request, table, folds, shared):
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


def build(request: Request) -> Result:
    """Do what :func:`make_plan` says, and say what was done.

    Raises:
        UserError: units in the way were made from something else (listed with the difference).
        TaskFailed: some teachers failed; the others were committed.
    """
    sums = steps.source_sums(request.manifest)
    store = Store.create(request.store)
    jobs = request.jobs or default_jobs()
    plan = make_plan(request, sums)
    _refuse_conflicts(plan, request)
    for settings in {job.name: job.settings for job in plan.jobs}.values():
        teachers.check(settings)
    result = Result(plan)
    if plan.step("audio").status != "done":
        _write_audio(store, plan.step("audio"), request, sums, jobs)
        plan = make_plan(request, sums)
        _refuse_conflicts(plan, request)
        result = Result(plan, ["audio"])
    _say_licence(plan, request)
    _write_shared(store, plan, request, jobs, result)
    _fit_teachers(plan, request, jobs, result)
    if result.failed:
        lines = [f"{unit}: {why}" for unit, why in result.failed.items()]
        raise TaskFailed(
            f"{len(lines)} teacher(s) failed, {len(result.built)} unit(s) were committed:\n"
            + listed(lines),
            "mend the cause and run the same command again; what is done is kept",
        )
    return result


def _teacher_jobs(
    request: Request, table: pd.DataFrame, folds: Sequence[Fold], shared: dict[str, Identity]
) -> Iterator[TeacherJob]:
    """A job for every fold and teacher asked for, fold by fold."""
    wanted = set(parse_numbers(request.folds, len(folds)))
    texts = tuple(table["text"])
    for fold in (fold for fold in folds if fold.number in wanted):
        for name, settings in request.settings.teachers.items():
            recorded, provenance = teachers.portable(settings)
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
    """Compare one unit with what stands in its place."""
    if not (store.path / identity.unit).is_dir():
        return Step(identity, "build", "not there yet", n_bytes)
    try:
        unit = store.unit(identity.unit)
    except Corrupt as error:
        if request.rebuild:
            return Step(identity, "replace", "damaged", n_bytes)
        raise Corrupt(error.message, f"mend it with --rebuild, or: {error.hint}") from error
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


def _refuse_conflicts(plan: Plan, request: Request) -> None:
    if not plan.conflicts:
        return
    lines = [f"{step.unit}: {step.why}" for step in plan.conflicts]
    raise UserError(
        f"{request.store} holds {len(lines)} unit(s) made from something else:\n{listed(lines)}",
        "--rebuild replaces them; another --store keeps both; a teacher under a new name "
        "(--set teachers.NAME.kind=...) stands beside the old one",
    )


def _write_audio(
    store: Store, step: Step, request: Request, sums: dict[str, str], jobs: int
) -> None:
    steps.write_audio(
        store, step.identity, request.manifest, request.settings.audio, sums, jobs,
        step.status == "replace",
    )  # fmt: skip
    excluded = store.unit("audio").facts["excluded"]
    if excluded:
        lines = [f"{item['file']}: {item['reason']}" for item in excluded]
        say(f"{len(lines)} utterance(s) excluded for their audio:\n{listed(lines)}")


def _write_shared(store: Store, plan: Plan, request: Request, jobs: int, result: Result) -> None:
    """corpus, splits and LLDs, where they are not done."""
    settings = request.settings
    corpus, splits, lld = (plan.step(name) for name in ("corpus", "splits", "lld"))
    if corpus.status != "done":
        steps.write_corpus(
            store, corpus.identity, plan.table, request.manifest, settings.corpus,
            corpus.status == "replace",
        )  # fmt: skip
        result.built.append("corpus")
    if splits.status != "done":
        steps.write_splits(
            store, splits.identity, plan.table, plan.folds, plan.roles, splits.status == "replace"
        )
        result.built.append("splits")
    if lld.status != "done":
        if settings.audio.embed_audio:
            ragged = store.audio
            signals: Iterator[Any] = (ragged.read(row) for row in range(len(ragged)))
        else:
            root = request.manifest.root
            signals = steps.corpus_signals(plan.table, root, settings.audio, jobs)
        steps.write_lld(
            store, lld.identity, settings.lld, signals, len(plan.table), jobs,
            lld.status == "replace",
        )  # fmt: skip
        result.built.append("lld")


def _fit_teachers(plan: Plan, request: Request, jobs: int, result: Result) -> None:
    """Fit what is missing, each in a process of its own kind; one failure stops no other."""
    if not plan.jobs:
        return
    context = multiprocessing.get_context("spawn")
    workers = min(jobs if _on_cpu(request.device) else request.jobs or 1, len(plan.jobs))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=worker_setup) as pool:
        futures: dict[Future[Any], TeacherJob] = {pool.submit(fit, job): job for job in plan.jobs}
        try:
            with progress("teachers", len(futures), unit="fits") as advance:
                for future in as_completed(futures):
                    job = futures[future]
                    try:
                        scores = future.result()["scores"]
                        result.built.append(job.unit)
                        note = f"{job.unit}: test UA {100 * scores['test']['ua']:.1f}"
                    except Exception as error:  # whatever it is, it must not stop the others
                        result.failed[job.unit] = _why(error)
                        note = f"{job.unit}: failed"
                    advance(note=note)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _why(error: Exception) -> str:
    if isinstance(error, UserError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return f"{type(error).__name__}: {error}"


def _on_cpu(device: str) -> bool:
    from featstore.training import pick_device

    return pick_device(device).type == "cpu"


def _audio_bytes(table: pd.DataFrame) -> int:
    return round(float(table["duration_s"].sum()) * 32_000)


def _say_licence(plan: Plan, request: Request) -> None:
    """Once, when the store is made: it holds derived data of licensed speech."""
    corpus, settings = CORPORA.get(request.manifest.name), request.settings
    if corpus is None or not corpus.licensed or plan.step("corpus").status == "done":
        return
    kept = ["signals"] * settings.audio.embed_audio + ["transcripts"] * settings.corpus.embed_text
    say(
        f"note: {corpus.about}. This store holds its {' and '.join(kept) or 'features'}: keep it "
        "under the same terms (--no-embed-audio, --no-embed-text keep both out)"
    )


def refuse_faults(manifest: Manifest, *, strict: bool) -> None:
    """Stop before anything is built where the corpus would falsify the protocol.

    Args:
        manifest: the corpus as read.
        strict: stop where an utterance would be excluded; else it is excluded and counted.

    Raises:
        UserError: with every fault, where it is and how to mend it.
    """
    grave = ("stop", "exclude") if strict else ("stop",)
    stops = [fault for fault in manifest.faults if fault.severity in grave]
    if stops:
        lines = [f"{fault.place}: {fault.message} ({fault.remedy})" for fault in stops]
        raise UserError(
            f"{manifest.root}: {len(lines)} fault(s) stop the build:\n{listed(lines)}",
            f"`featstore check --dataset {manifest.name}` lists everything",
        )
    if manifest.excluded:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(manifest.excluded.items()))
        say(f"excluded for a fault: {reasons}; `featstore check` says which and why")


def plan_dict(plan: Plan, settings: BuildSettings) -> dict[str, Any]:
    """A plan as plain data, with the settings that it comes from."""
    return {
        "steps": [
            {"unit": step.unit, "status": step.status, "why": step.why, "bytes": step.n_bytes}
            for step in plan.steps
        ],
        "utterances": len(plan.table),
        "folds": len(plan.folds),
        "fits": len(plan.jobs),
        "settings": settings.model_dump(mode="json"),
    }


def result_dict(result: Result, request: Request) -> dict[str, Any]:
    """What a build did, as plain data."""
    store = Store.open(request.store)
    done = [step.unit for step in result.plan.steps if step.status == "done"]
    return {
        "store": str(request.store),
        "built": sorted(result.built),
        "done_before": [unit for unit in done if unit not in result.built],
        "content": store.content_hash(),
    }
