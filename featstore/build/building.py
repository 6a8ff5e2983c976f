"""A build's tasks carried out: unit by unit on this machine, or all at once on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from featstore.build import units as steps
from featstore.build.build_tasks import Resources, audio_tasks, lld_tasks, teacher_tasks
from featstore.build.plan import Plan, Request, make_plan
from featstore.core import console
from featstore.core.console import progress, say, trace
from featstore.core.os_errors import io_failure
from featstore.core.schema import UserError, listed, printable
from featstore.corpora import CORPORA
from featstore.jobs import ExecutorSettings, carry_out
from featstore.jobs.processes import default_jobs
from featstore.jobs.task import Task
from featstore.store.store import Store


@dataclass
class Result:
    """What a build did."""

    plan: Plan
    built: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    queued: list[str] = field(default_factory=list)
    """Tasks that are left to a cluster."""


def carry_out_here(store: Store, plan: Plan, request: Request, sums: dict[str, str]) -> Result:
    """Unit by unit on this machine: what audio cannot be used is known before the folds are."""
    result, jobs = Result(plan), request.jobs or default_jobs()
    resources = Resources(jobs=jobs)
    if audio := audio_tasks(plan, request, sums, resources):
        _each_or_stop(audio, request, "audio")
        _say_excluded(store)
        plan = make_plan(request, sums)
        refuse_conflicts(plan, request)
        result = Result(plan, ["audio"])
    _say_licence(plan, request)
    _write_tables(store, plan, request, result)
    if lld := lld_tasks(plan, request, resources):
        _each_or_stop(lld, request, "LLDs")
        result.built.append("lld")
    _fit_teachers(plan, request, jobs, result)
    return result


def _each_or_stop(tasks: Sequence[Task], request: Request, what: str) -> None:
    """A shared unit's parts, if it has any, side by side; then the unit, which tells by itself."""
    *parts, unit = tasks
    if parts:
        with progress(f"{what} in parts", len(parts), unit="parts") as advance:
            _all_or_stop(parts, request, advance)
    _all_or_stop([unit], request, lambda: None)


def _all_or_stop(tasks: Sequence[Task], request: Request, advance: Callable[[], None]) -> None:
    with closing(carry_out(request.store, tasks, jobs=request.jobs, device="cpu")) as outcomes:
        for _, error in outcomes:
            if error is not None:
                raise error
            advance()


def _say_excluded(store: Store) -> None:
    excluded = store.unit("audio").facts["excluded"]
    if excluded:
        lines = [printable(f"{item['file']}: {item['reason']}") for item in excluded]
        say(f"{len(lines)} utterance(s) excluded for their audio:\n{listed(lines)}")


def _write_tables(store: Store, plan: Plan, request: Request, result: Result) -> None:
    """Corpus and splits, where they are not done."""
    corpus, splits = plan.step("corpus"), plan.step("splits")
    if corpus.status != "done":
        steps.write_corpus(
            store, corpus.identity, plan.table, request.manifest, request.settings.corpus,
            replace=corpus.status == "replace", n_bytes=corpus.n_bytes,
        )  # fmt: skip
        result.built.append("corpus")
    if splits.status != "done":
        steps.write_splits(
            store, splits.identity, plan.table, plan.folds, plan.roles,
            replace=splits.status == "replace", n_bytes=splits.n_bytes,
        )  # fmt: skip
        result.built.append("splits")


def _fit_teachers(plan: Plan, request: Request, jobs: int, result: Result) -> None:
    """Fit what is missing, each in a process of its own kind; one failure stops no other."""
    tasks = [replace(task, needs=()) for task in teacher_tasks(plan, Resources(jobs=jobs))]
    if not tasks:
        return
    n_fits = sum(task.n_steps for task in tasks)
    store, device = Store(request.store), request.device
    with (
        progress("teachers", n_fits, unit="fits") as advance,
        closing(carry_out(request.store, tasks, jobs=request.jobs, device=device)) as outcomes,
    ):
        for task, error in outcomes:
            _take_in(result, task, error)
            note = "failed" if error is not None else _score(store, task.key)
            advance(task.n_steps, note=f"{task.key}: {note}")


def carry_out_there(
    store: Store,
    plan: Plan,
    request: Request,
    sums: dict[str, str],
    executor: ExecutorSettings,
) -> Result:
    """Everything at once, as jobs of a cluster."""
    result = Result(plan)
    _say_licence(plan, request)
    if not executor.attach:
        _write_tables(store, plan, request, result)
    tasks = build_tasks(plan, request, sums, resources_of(request, executor))
    if not executor.wait:
        result.queued = [task.key for task in tasks]
    with closing(carry_out(request.store, tasks, executor)) as outcomes:
        for task, error in outcomes:
            _take_in(result, task, error)
            if error is not None:
                say(f"{task.key}: failed: {console.printable_lines(_why(error))}")
            elif task.key.startswith("folds/"):
                say(f"{task.key}: {_score(store, task.key)}")
    return result


def build_tasks(
    plan: Plan, request: Request, sums: dict[str, str], resources: Resources
) -> list[Task]:
    """A plan as tasks; what is done already is nobody's need."""
    tasks = [
        *audio_tasks(plan, request, sums, resources),
        *lld_tasks(plan, request, resources),
        *teacher_tasks(plan, resources),
    ]
    keys = {task.key for task in tasks}
    return [replace(task, needs=tuple(n for n in task.needs if n in keys)) for task in tasks]


def resources_of(request: Request, executor: ExecutorSettings) -> Resources:
    """What the tasks are made for."""
    jobs = request.jobs or default_jobs()
    return Resources(executor.name == "slurm", jobs, gpu=request.device != "cpu")


def _take_in(result: Result, task: Task, error: Exception | None) -> None:
    if error is not None:  # whatever it is, it must not stop the others
        trace(error)
        result.failed[task.key] = _why(error)
    elif "/part-" not in task.key:
        result.built.append(task.key)


def _score(store: Store, unit: str) -> str:
    return f"test UA {100 * store.unit(unit).facts['scores']['test']['ua']:.1f}"


def refuse_conflicts(plan: Plan, request: Request) -> None:
    """Stop where a unit in the way was made from something else.

    Raises:
        UserError: with every such unit, and what depends on it.
    """
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


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        error = io_failure(error, Path())
    if isinstance(error, UserError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return f"{type(error).__name__}: {error}"


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
