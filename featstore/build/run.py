"""A build from beginning to end: the only place that knows the order of the work.

It can be interrupted anywhere and asked for again: what is done is skipped, and one teacher that
fails stops no other. What folds follow from (audio, corpus, splits) is written by the process that
builds; LLDs and teachers are tasks, carried out on this machine or on a cluster.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from featstore import teachers
from featstore.build import units
from featstore.build.plan import Plan, Request, make_plan
from featstore.build.units import LldPart, fit_teacher
from featstore.core.console import progress, say, trace
from featstore.core.files import remove_leftovers
from featstore.core.os_errors import io_failure, require_space
from featstore.core.schema import Manifest, TaskFailed, UserError, listed, printable
from featstore.corpora import CORPORA
from featstore.corpora.audio_check import checked, sources
from featstore.jobs import LOCAL, ExecutorSettings, carry_out
from featstore.jobs.local import default_jobs
from featstore.jobs.task import Demand, Task, tidy
from featstore.store.staging import sweep
from featstore.store.store import Store
from featstore.store.verify import verify

WARNINGS = 5
"""As many of a corpus' warnings are shown by a build; ``featstore check`` shows all."""
PART_HOURS = {"local": 0.1, "slurm": 2.0}
"""Audio whose LLDs one task extracts, where ``--shards`` does not say in how many parts: a job of
a cluster is to outweigh its own start."""
MOST_PARTS = 999
_KIND = re.compile(r"(?<=part-)\d+-of-\d+|(?<=^folds/)\d+")


@dataclass
class Result:
    """What a build did."""

    plan: Plan
    built: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    queued: list[str] = field(default_factory=list)
    """Tasks that are left to a cluster."""


def build(
    request: Request, executor: ExecutorSettings = LOCAL, sums: dict[str, str] | None = None
) -> Result:
    """Build what is asked for and not there yet.

    Args:
        request: the build.
        executor: where LLDs and teachers are made: on this machine, or as jobs of a cluster.
        sums: SHA-256 of the corpus' audio files, where they are known already.

    Raises:
        UserError: the corpus has faults that stop a build, or units in the way were made from
            something else (listed with the difference).
        TaskFailed: some tasks failed; the others' units were committed. Or the disk is full.
        Corrupt: a unit is damaged, and this is no repair; or a repair left some damage.
    """
    if executor.name == "slurm":  # a job begins in another folder
        corpus = replace(request.manifest, root=request.manifest.root.absolute())
        request = replace(request, manifest=corpus, store=request.store.absolute())
    manifest = request.manifest
    if any(fault.severity == "stop" for fault in manifest.faults):
        manifest = checked(manifest, request.settings.audio)  # all that is wrong, in one list
    units.refuse(manifest, manifest.faults, strict=request.strict)
    _say_faults(manifest)
    sums = units.source_sums(request.manifest) if sums is None else sums
    plan = make_plan(request, sums)
    if plan.step("audio").status in ("done", "conflict"):  # else what is left is not known yet
        _refuse_conflicts(plan, request)
    _refuse_excluded(plan, request)
    for settings in dict.fromkeys(job.settings for job in plan.jobs):
        teachers.check(settings)
    require_space(request.store, sum(s.n_bytes for s in plan.steps if s.status != "done"))
    store = Store.create(request.store)
    _sweep(store)
    tidy(store.path, {step.unit for step in plan.steps if step.status == "done"})
    try:
        result = _build_shared(plan, request, sums)
        _carry_out(result, request, executor)
    finally:
        _sweep(store)
        tidy(store.path, ())
    _raise_failures(result)
    if request.repair and not result.queued:
        _refuse_damage(store)
    return result


def _build_shared(plan: Plan, request: Request, sums: dict[str, str]) -> Result:
    """Audio, and what follows from those utterances whose audio can be used: corpus, splits."""
    store, settings, built = request.store, request.settings, []
    if (audio := plan.step("audio")).status != "done":
        left = units.write_audio(
            store, audio, request.manifest, settings.audio, sums, request.jobs or default_jobs(),
            strict=request.strict,
        )  # fmt: skip
        built.append("audio")
        faults = left.faults[len(request.manifest.faults) :]
        excluded = {fault.utterance_id: fault for fault in faults if fault.severity == "exclude"}
        if excluded:
            lines = [printable(f"{one.file}: {one.reason}") for one in excluded.values()]
            say(f"{len(lines)} utterance(s) excluded for their audio:\n{listed(lines)}")
        _say_faults(replace(left, faults=tuple(one for one in faults if one.severity == "warn")))
        if len(plan.manifest.utterances) != len(left.utterances) or excluded:
            plan = make_plan(request, sums, excluded)
        _refuse_conflicts(plan, request)
    _say_licence(plan, request)
    if (corpus := plan.step("corpus")).status != "done":
        units.write_corpus(store, corpus, plan.manifest, settings)
        built.append("corpus")
    if (splits := plan.step("splits")).status != "done":
        table = plan.manifest.utterances
        units.write_splits(store, splits, table, plan.folds, plan.roles)
        built.append("splits")
    return Result(plan, built)


def tasks_of(plan: Plan, request: Request, executor: ExecutorSettings = LOCAL) -> list[Task]:
    """The rest of a plan: LLDs in parts, the LLD unit, and each fold's teachers."""
    tasks = []
    if (lld := plan.step("lld")).status != "done":
        parts = lld_parts(plan, request, executor)
        tasks = [
            Task(part.key, partial(units.extract_part, part), part.is_done)
            for part in parts
            if not part.is_there()
        ]
        needs = tuple(task.key for task in tasks)
        commit = partial(units.commit_llds, parts)
        tasks.append(Task("lld", commit, partial(units.is_done, request.store, lld), needs))
    demand = Demand() if request.device == "cpu" else Demand(cpus=2, gpus=1, memory_gb=16)
    for job in plan.jobs:
        needs = ("lld",) if tasks and "lld" in job.step.identity.parents else ()
        is_done = partial(units.is_done, request.store, job.step)
        fit = partial(fit_teacher, job)
        tasks.append(Task(job.unit, fit, is_done, needs, demand, job.n_fits))
    return tasks


def lld_parts(plan: Plan, request: Request, executor: ExecutorSettings = LOCAL) -> list[LldPart]:
    """The LLD unit in parts of as many utterances each."""
    manifest, step, settings = plan.manifest, plan.step("lld"), request.settings
    rows = sources(manifest.utterances)
    hours = sum(row.duration_s for row in rows) / 3600
    count = request.shards or min(math.ceil(hours / PART_HOURS[executor.name]), MOST_PARTS)
    count = min(max(count, 1), len(rows))
    cuts = [len(rows) * number // count for number in range(count + 1)]
    return [
        LldPart(
            store=request.store,
            step=step,
            number=number,
            count=count,
            rows=range(first, stop),
            sources=tuple(rows[first:stop]),
            root=manifest.root,
            settings=settings,
        )
        for number, (first, stop) in enumerate(pairwise(cuts), start=1)
    ]


def _carry_out(result: Result, request: Request, executor: ExecutorSettings) -> None:
    """Every task that is left; each begins as soon as what it needs is there."""
    plan, store = result.plan, Store(request.store)
    is_left = plan.step("lld").status != "done"
    units.remove_parts(store.path, lld_parts(plan, request, executor) if is_left else [])
    tasks = tasks_of(plan, request, executor)
    if not executor.wait:
        result.queued = [task.key for task in tasks]
    outcomes = carry_out(store.path, tasks, executor, jobs=request.jobs, device=request.device)
    n_steps = sum(task.n_steps for task in tasks) if executor.wait else 0
    shown = progress("LLDs and teachers", n_steps, unit="tasks and fits")
    with closing(outcomes), shown if n_steps else nullcontext(_no_progress) as advance:
        for task, error in outcomes:
            if error is not None:  # whatever it is, it must not stop the others
                trace(error)
                result.failed[task.key], note = _why(error), "failed"
            elif task.key.startswith("lld/"):
                note = "done"
            else:
                result.built.append(task.key)
                note = _score(store, task.key)
            advance(task.n_steps, note=f"{task.key}: {note}")
    if units.is_done(store.path, plan.step("lld")):  # whoever has committed them
        units.remove_parts(store.path, [])


def _no_progress(n: int = 1, note: str = "") -> None:
    pass


def _score(store: Store, unit: str) -> str:
    if unit == "lld":
        return "done"
    return f"test UA {100 * store.unit(unit).facts['scores']['test']['ua']:.1f}"


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        error = io_failure(error, Path())
    if isinstance(error, UserError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return f"{type(error).__name__}: {error}"


def _raise_failures(result: Result) -> None:
    if not result.failed:
        return
    lines = [f"{unit}: {why}" for unit, why in result.failed.items()]
    teachers_only = all(unit.startswith("folds/") for unit in result.failed)
    raise TaskFailed(
        f"{len(lines)} {'teacher(s)' if teachers_only else 'task(s)'} failed, "
        f"{len(result.built)} unit(s) were committed:\n{listed(lines)}",
        "mend the cause and run the same command again; what is done is kept",
    )


def _refuse_conflicts(plan: Plan, request: Request) -> None:
    """Stop where a unit in the way was made from something else.

    Raises:
        UserError: with every such unit, and what depends on it.
    """
    if not plan.conflicts:
        return
    store, planned = Store(request.store), {step.unit for step in plan.steps}
    contents = {step.unit: step.identity.content for step in plan.conflicts}
    lines = [f"{step.unit}: {step.why}" for step in plan.conflicts]
    for unit in (store.unit(name) for name in store.units() if name not in planned):
        pairs = unit.parents.items()
        if parents := sorted(one for one, made in pairs if made != contents.get(one, made)):
            lines.append(f"{unit.unit}: made from {', '.join(parents)}")  # another fold's teacher
    raise UserError(
        f"{request.store} holds {len(lines)} unit(s) made from something else:\n{listed(lines)}",
        "--rebuild replaces them; another --store keeps both; a teacher under a new name "
        "(--set teachers.NAME.kind=...) stands beside the old one",
    )


def _refuse_excluded(plan: Plan, request: Request) -> None:
    """With ``strict``, stop where the store's audio unit lacks utterances of the corpus."""
    n_excluded = len(request.manifest.utterances) - len(plan.manifest.utterances)
    if request.strict and n_excluded and plan.step("audio").status == "done":
        raise UserError(
            f"{request.store}: {n_excluded} utterance(s) were excluded for their audio",
            f"`featstore check --dataset {request.manifest.name}` says which and why",
        )


def _refuse_damage(store: Store) -> None:
    """Say what a repair could not mend: units of other settings, strays between the units.

    Raises:
        UserError: the gravest, with every fault.
    """
    if faults := verify(store).faults:
        worst = max(faults, key=lambda fault: fault.exit_code)
        lines = listed(fault.message for fault in faults)
        raise type(worst)(
            f"{len(faults)} fault(s) are beyond this build's settings:\n{lines}", worst.hint
        )


def _say_faults(manifest: Manifest) -> None:
    for fault in [fault for fault in manifest.faults if fault.severity == "warn"][:WARNINGS]:
        say(printable(f"warning: {fault.place}: {fault.message}; {fault.remedy}"))
    if manifest.excluded:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(manifest.excluded.items()))
        say(f"excluded for a fault: {reasons}; `featstore check` says which and why")


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


def _sweep(store: Store) -> None:
    """Remove what killed builds and killed workers left, wherever it is."""
    for folder in (store.path, *store.groups()):
        sweep(folder)
        remove_leftovers(folder)
    parts = store.path / units.PARTS
    if parts.is_dir() and not parts.is_symlink():
        for folder in (*(one for one in parts.iterdir() if one.is_dir()), parts):
            sweep(folder)
            with suppress(OSError):  # it holds parts that are done
                folder.rmdir()


def dry_run(
    request: Request, executor: ExecutorSettings = LOCAL, sums: dict[str, str] | None = None
) -> dict[str, Any]:
    """What a build would do, as plain data; no audio is decoded for it.

    Raises:
        UserError: the corpus has faults that stop a build.
    """
    units.refuse(request.manifest, request.manifest.faults, strict=request.strict)
    _say_faults(request.manifest)
    sums = units.source_sums(request.manifest) if sums is None else sums
    plan = make_plan(request, sums)
    kinds = [_KIND.sub("*", task.key) for task in tasks_of(plan, request, executor)]
    return {
        "steps": [
            {"unit": step.unit, "status": step.status, "why": step.why, "bytes": step.n_bytes}
            for step in plan.steps
        ],
        "utterances": len(plan.manifest.utterances),
        "folds": len(plan.folds),
        "fits": sum(job.n_fits for job in plan.jobs),
        "settings": request.settings.model_dump(mode="json"),
        "tasks": dict(Counter(kinds)),
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
        **({"queued": result.queued} if result.queued else {}),
    }
