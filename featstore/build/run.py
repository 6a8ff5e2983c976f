"""The execution of a plan: corpus -> audio, LLDs, splits -> teachers -> store.

It can be interrupted anywhere and asked for again: what is done is skipped, and one teacher that
fails stops no other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from featstore import teachers
from featstore.build import units as steps
from featstore.build.building import (
    Result,
    build_tasks,
    carry_out_here,
    carry_out_there,
    refuse_conflicts,
    resources_of,
)
from featstore.build.estimates import task_plan
from featstore.build.parts import keep_parts
from featstore.build.plan import Plan, Request, make_plan, plan_dict
from featstore.core.console import say
from featstore.core.files import remove_leftovers
from featstore.core.os_errors import require_space
from featstore.core.schema import Manifest, TaskFailed, UserError, listed, printable
from featstore.corpora.audio_check import heard
from featstore.jobs import LOCAL, ExecutorSettings
from featstore.jobs.task import tidy
from featstore.store.staging import sweep
from featstore.store.store import Store
from featstore.store.verify import verify

WARNINGS = 5
"""As many of a corpus' warnings are shown by a build; ``featstore check`` shows all."""


def heard_first(request: Request, sums: dict[str, str]) -> Request:
    """The request for those utterances whose audio can be used, with the faults of the others.

    A store that holds the very same corpus has heard it before.

    Args:
        request: the build.
        sums: SHA-256 of the corpus' audio files, see :func:`featstore.build.units.source_sums`.
    """
    manifest, settings = request.manifest, request.settings
    store = Store(request.store)
    audio = steps.audio_identity(manifest, settings.audio, sums)
    corpus = steps.corpus_identity(manifest.utterances, manifest, settings.corpus)
    if steps.stands(store, audio) and steps.stands(store, corpus):
        return request
    return replace(request, manifest=heard(manifest, settings.audio))


def build(
    request: Request, sums: dict[str, str] | None = None, executor: ExecutorSettings = LOCAL
) -> Result:
    """Do what :func:`make_plan` says, and say what was done.

    Args:
        request: the build.
        sums: SHA-256 of the corpus' audio files, where they are known already.
        executor: where: on this machine, or as jobs of a cluster.

    Raises:
        UserError: units in the way were made from something else (listed with the difference).
        TaskFailed: some tasks failed; the others' units were committed. Or the disk is full.
        Corrupt: a unit is damaged, and this is no repair; or a repair left some damage.
    """
    sums = steps.source_sums(request.manifest) if sums is None else sums
    if executor.name == "slurm":
        request = _absolute(request)
    plan = make_plan(request, sums)
    refuse_conflicts(plan, request)
    for settings in {job.name: job.settings for job in plan.jobs}.values():
        teachers.check(settings)
    require_space(request.store, sum(s.n_bytes for s in plan.steps if s.status != "done"))
    store = Store.create(request.store)
    _sweep(store)
    tidy(store.path, {step.unit for step in plan.steps if step.status == "done"})
    keep_parts(store.path, [step.identity for step in plan.steps if step.status != "done"])
    try:
        return _execute(store, plan, request, sums, executor)
    finally:
        _sweep(store)
        tidy(store.path, ())


def _absolute(request: Request) -> Request:
    """The same where a job begins in another folder."""
    manifest = replace(request.manifest, root=request.manifest.root.absolute())
    return replace(request, manifest=manifest, store=request.store.absolute())


def _sweep(store: Store) -> None:
    """Remove what killed builds and killed workers left, wherever it is."""
    for folder in (store.path, *store.groups()):
        sweep(folder)
        remove_leftovers(folder)


def _execute(
    store: Store,
    plan: Plan,
    request: Request,
    sums: dict[str, str],
    executor: ExecutorSettings,
) -> Result:
    if executor.name == "slurm":
        result = carry_out_there(store, plan, request, sums, executor)
    else:
        result = carry_out_here(store, plan, request, sums)
    if result.failed:
        lines = [f"{unit}: {why}" for unit, why in result.failed.items()]
        what = (
            "teacher(s)" if all(unit.startswith("folds/") for unit in result.failed) else "task(s)"
        )
        raise TaskFailed(
            f"{len(lines)} {what} failed, {len(result.built)} unit(s) were committed:\n"
            + listed(lines),
            "mend the cause and run the same command again; what is done is kept",
        )
    if request.repair and not result.queued:
        _refuse_damage(store)
    return result


def _refuse_damage(store: Store) -> None:
    """What a repair could not mend is told: units of other settings, strays between the units.

    Raises:
        UserError: the gravest, with every fault.
    """
    if faults := verify(store).faults:
        worst = max(faults, key=lambda fault: fault.exit_code)
        lines = listed(fault.message for fault in faults)
        raise type(worst)(
            f"{len(faults)} fault(s) are beyond this build's settings:\n{lines}", worst.hint
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
    for fault in [fault for fault in manifest.faults if fault.severity == "warn"][:WARNINGS]:
        say(printable(f"warning: {fault.place}: {fault.message}; {fault.remedy}"))
    if manifest.excluded:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(manifest.excluded.items()))
        say(f"excluded for a fault: {reasons}; `featstore check` says which and why")


def dry_run(
    request: Request, sums: dict[str, str], executor: ExecutorSettings = LOCAL
) -> dict[str, Any]:
    """What a build would do, and what its tasks would cost, as plain data."""
    plan, resources = make_plan(request, sums), resources_of(request, executor)
    tasks = build_tasks(plan, request, sums, resources)
    costs = task_plan(plan, tasks, gpu=resources.gpu)
    return {**plan_dict(plan, request.settings), "tasks": costs}


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
