"""The execution of a plan: corpus -> audio, LLDs, splits -> teachers -> store.

It can be interrupted anywhere and asked for again: what is done is skipped, and one teacher that
fails stops no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featstore import steps, teachers
from featstore.console import progress, say, trace
from featstore.corpora import CORPORA
from featstore.disk import io_failure, require_space
from featstore.files import remove_leftovers
from featstore.hearing import heard
from featstore.lld_unit import write_lld
from featstore.plan import Plan, Request, Step, make_plan
from featstore.processes import default_jobs, each
from featstore.schema import Manifest, TaskFailed, UserError, listed, printable
from featstore.staging import sweep
from featstore.store import Store
from featstore.teachers.fit import fit
from featstore.verification import verify

WARNINGS = 5
"""As many of a corpus' warnings are shown by a build; ``featstore check`` shows all."""


@dataclass
class Result:
    """What a build did."""

    plan: Plan
    built: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def heard_first(request: Request, sums: dict[str, str]) -> Request:
    """The request for those utterances whose audio can be used, with the faults of the others.

    A store that holds the very same corpus has heard it before.

    Args:
        request: the build.
        sums: SHA-256 of the corpus' audio files, see :func:`featstore.steps.source_sums`.
    """
    manifest, settings = request.manifest, request.settings
    store = Store(request.store)
    audio = steps.audio_identity(manifest, settings.audio, sums)
    corpus = steps.corpus_identity(manifest.utterances, manifest, settings.corpus)
    if steps.stands(store, audio) and steps.stands(store, corpus):
        return request
    return replace(request, manifest=heard(manifest, settings.audio))


def build(request: Request, sums: dict[str, str] | None = None) -> Result:
    """Do what :func:`make_plan` says, and say what was done.

    Args:
        request: the build.
        sums: SHA-256 of the corpus' audio files, where they are known already.

    Raises:
        UserError: units in the way were made from something else (listed with the difference).
        TaskFailed: some teachers failed; the others were committed. Or the disk is full.
        Corrupt: a unit is damaged, and this is no repair; or a repair left some damage.
    """
    sums = steps.source_sums(request.manifest) if sums is None else sums
    jobs = request.jobs or default_jobs()
    plan = make_plan(request, sums)
    _refuse_conflicts(plan, request)
    for settings in {job.name: job.settings for job in plan.jobs}.values():
        teachers.check(settings)
    require_space(request.store, sum(s.n_bytes for s in plan.steps if s.status != "done"))
    store = Store.create(request.store)
    _sweep(store)
    try:
        return _execute(store, plan, request, sums, jobs)
    finally:
        _sweep(store)


def _sweep(store: Store) -> None:
    """Remove what killed builds and killed workers left, wherever it is."""
    for folder in (store.path, *store.groups()):
        sweep(folder)
        remove_leftovers(folder)


def _execute(store: Store, plan: Plan, request: Request, sums: dict[str, str], jobs: int) -> Result:
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
    if request.repair:
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


def _refuse_conflicts(plan: Plan, request: Request) -> None:
    if not plan.conflicts:
        return
    lines = [f"{step.unit}: {step.why}" for step in plan.conflicts]
    lines += [f"{unit}: made from {parent}" for unit, parent in _dependents(plan, request)]
    raise UserError(
        f"{request.store} holds {len(lines)} unit(s) made from something else:\n{listed(lines)}",
        "--rebuild replaces them; another --store keeps both; a teacher under a new name "
        "(--set teachers.NAME.kind=...) stands beside the old one",
    )


def _dependents(plan: Plan, request: Request) -> list[tuple[str, str]]:
    """Units beyond the plan, such as other folds', that a unit in the way takes with it."""
    store = Store(request.store)
    planned = {step.unit for step in plan.steps}
    gone = {step.unit for step in plan.conflicts}
    others = [store.unit(name) for name in store.units() if name not in planned]
    return [
        (unit.unit, ", ".join(parents))
        for unit in others
        if (parents := sorted(gone & set(unit.parents)))
    ]


def _write_audio(
    store: Store, step: Step, request: Request, sums: dict[str, str], jobs: int
) -> None:
    steps.write_audio(
        store, step.identity, request.manifest, request.settings.audio, sums, jobs,
        replace=step.status == "replace", n_bytes=step.n_bytes,
    )  # fmt: skip
    excluded = store.unit("audio").facts["excluded"]
    if excluded:
        lines = [printable(f"{item['file']}: {item['reason']}") for item in excluded]
        say(f"{len(lines)} utterance(s) excluded for their audio:\n{listed(lines)}")


def _write_shared(store: Store, plan: Plan, request: Request, jobs: int, result: Result) -> None:
    """corpus, splits and LLDs, where they are not done."""
    settings = request.settings
    corpus, splits, lld = (plan.step(name) for name in ("corpus", "splits", "lld"))
    if corpus.status != "done":
        steps.write_corpus(
            store, corpus.identity, plan.table, request.manifest, settings.corpus,
            replace=corpus.status == "replace", n_bytes=corpus.n_bytes,
        )  # fmt: skip
        result.built.append("corpus")
    if splits.status != "done":
        steps.write_splits(
            store, splits.identity, plan.table, plan.folds, plan.roles,
            replace=splits.status == "replace", n_bytes=splits.n_bytes,
        )  # fmt: skip
        result.built.append("splits")
    if lld.status != "done":
        if settings.audio.embed_audio:
            signals: Iterator[Any] = store.audio.in_order()
        else:
            root = request.manifest.root
            signals = steps.corpus_signals(plan.table, root, settings.audio, jobs)
        taken = write_lld(
            store, lld.identity, settings.lld, signals, len(plan.table), jobs,
            replace=lld.status == "replace", n_bytes=lld.n_bytes,
        )  # fmt: skip
        if taken:
            say(f"LLDs of {taken} utterance(s) with unchanged signals were taken over")
        result.built.append("lld")


def _fit_teachers(plan: Plan, request: Request, jobs: int, result: Result) -> None:
    """Fit what is missing, each in a process of its own kind; one failure stops no other."""
    if not plan.jobs:
        return
    workers = jobs if _on_cpu(request.device) else request.jobs or 1
    with (
        progress("teachers", sum(job.n_fits for job in plan.jobs), unit="fits") as advance,
        closing(each(fit, plan.jobs, workers)) as fits,
    ):
        for job, facts in fits:
            if isinstance(facts, Exception):  # whatever it is, it must not stop the others
                trace(facts)
                result.failed[job.unit] = _why(facts)
                advance(job.n_fits, note=f"{job.unit}: failed")
            else:
                result.built.append(job.unit)
                ua = 100 * facts["scores"]["test"]["ua"]
                advance(job.n_fits, note=f"{job.unit}: test UA {ua:.1f}")


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        error = io_failure(error, Path("?"))
    if isinstance(error, UserError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return f"{type(error).__name__}: {error}"


def _on_cpu(device: str) -> bool:
    from featstore.training import pick_device

    return pick_device(device).type == "cpu"


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
    for fault in [fault for fault in manifest.faults if fault.severity == "warn"][:WARNINGS]:
        say(printable(f"warning: {fault.place}: {fault.message}; {fault.remedy}"))
    if manifest.excluded:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(manifest.excluded.items()))
        say(f"excluded for a fault: {reasons}; `featstore check` says which and why")


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
