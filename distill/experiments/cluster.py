"""Runs as tasks that a cluster carries out: ``distill run|experiment --executor slurm``.

A job trains what the same run would train here, in as many processes as were asked for; it ends in
the run's ``DONE``, from which its scores are read. What cannot begin is refused before it is
queued.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.experiments.resources import Resources, Result
from distill.runs.attendance import epoch_note
from distill.runs.folder import RunFolder
from distill.runs.read import DONE
from distill.runs.records import RunFacts
from distill.runs.request import Keys, Outcome, RunRequest, require_teachers
from distill.training.loop import run_fold, skipped
from distill.training.parallel import join
from distill.training.team_step import tell_step
from featstore.core.console import say
from featstore.core.files import read_small
from featstore.core.schema import Corrupt, UserError
from featstore.jobs import carry_out
from featstore.jobs.task import Demand, Task
from featstore.store import open_store
from featstore.store.store import Store

THREADS = 4
"""CPUs of each process, where neither ``--threads`` nor the cluster's file says how many."""

MEMORY_GB, MEMORY_GB_TINY = 16.0, 4.0
"""Of each process: PyTorch with CUDA takes 4, a large encoder on its way to the GPU twice 1.3."""


@dataclass(frozen=True)
class Training:
    """The work of a run's task, in each process of its job; can be pickled."""

    request: RunRequest
    processes: int = 1
    nodes: int = 1

    def __call__(self) -> None:
        """Train it.

        Raises:
            UserError: as :func:`distill.training.loop.run_fold`, or SLURM has started other
                processes.
        """
        if self.processes * self.nodes > 1:
            tell_step(self.processes, self.nodes)
        team = join(self.request.device)
        with team.hushed():
            run_fold(self.request, _told, team)
        team.leave()


def _told(label: str, n_epochs: int, entry: dict[str, Any]) -> None:
    say(f"{label} epoch {entry['epoch']}/{n_epochs} {epoch_note(entry)}")


def on_cluster(requests: Sequence[RunRequest], resources: Resources) -> Iterator[Result]:
    """Each run with what became of it; where the command does not wait, what was done before.

    Raises:
        UserError: flags that no job can follow; there is no cluster, or it refuses the jobs.
    """
    _refuse(requests, resources)
    tasks: dict[str, Task] = {}
    waiting: dict[str, list[RunRequest]] = {}
    stores: dict[Path | str, tuple[Store, Keys]] = {}
    for request in requests:
        if request.store not in stores:
            store = open_store(request.store)
            stores[request.store] = store, Keys(store)
        store, keys = stores[request.store]
        try:
            run = keys.folder(request)
            losses, cross_fit = request.settings.losses, request.settings.targets.cross_fit
            require_teachers(store, request.fold, losses, cross_fit)
            if run.done:
                yield request, skipped(request.fold, run, store.classes, "finished before")
                continue
        except UserError as error:
            yield request, error
            continue
        key = run.task(request.runs)
        waiting.setdefault(key, []).append(request)
        tasks[key] = _task(key, request, run, resources)
    if not tasks:
        return
    for task, failure in carry_out(requests[0].runs, list(tasks.values()), resources.executor):
        for request in waiting[task.key]:
            store, keys = stores[request.store]
            yield request, failure or _outcome(request, keys.folder(request), store.classes)


def demand(request: RunRequest, resources: Resources) -> Demand:
    """What a run wants of the machines that it is trained on."""
    tiny = request.settings.student.backbone == "tiny"
    return Demand(
        cpus=resources.threads or resources.executor.slurm.cpus or THREADS,
        gpus=0 if resources.device == "cpu" else 1,
        memory_gb=MEMORY_GB_TINY if tiny else MEMORY_GB,
        processes=resources.processes,
        nodes=resources.nodes,
    )


def _task(key: str, request: RunRequest, run: RunFolder, resources: Resources) -> Task:
    wanted = demand(request, resources)
    places: dict[str, Any] = {
        name: path.absolute()
        for name in ("store", "runs", "root", "weights")
        if isinstance(path := getattr(request, name), Path)  # a bucket is where it is
    }
    request = replace(request, threads=wanted.cpus, **places)
    return Task(
        key=key,
        work=Training(request, resources.processes, resources.nodes),
        is_done=(run.path.absolute() / DONE).exists,
        demand=wanted,
        n_steps=request.settings.optim.epochs,
    )


def _outcome(request: RunRequest, run: RunFolder, classes: tuple[str, ...]) -> Outcome | UserError:
    """The scores of a run that a job has just finished."""
    try:
        found = skipped(request.fold, run, classes, "")
        facts = RunFacts.model_validate_json(read_small(run.path / "run.json"))
    except (UserError, ValueError, OSError) as error:
        return Corrupt(f"{run.path}: {error}", "remove it and run it again")
    return Outcome(request.fold, "done", run.path, "", found.wa, found.ua, facts.seconds or 0.0)


def _refuse(requests: Sequence[RunRequest], resources: Resources) -> None:
    if any(request.max_steps is not None for request in requests):
        raise UserError(
            "--max-steps is for a trial on this machine: a job would never be done",
            "leave out --max-steps, or --executor slurm",
        )
    if resources.device.startswith("cuda:"):
        raise UserError(
            f"--device {resources.device}: a job has GPUs of its own", "use auto, cuda or cpu"
        )
