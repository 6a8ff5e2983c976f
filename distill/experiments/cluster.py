"""A run as a task of its own, done by a process of this machine or by a job of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.runs.attendance import epoch_note
from distill.runs.folder import RunFolder
from distill.runs.read import DONE
from distill.runs.request import RunRequest
from featstore.core.console import say
from featstore.core.schema import UserError
from featstore.jobs import ExecutorSettings
from featstore.jobs.task import Demand, Task

THREADS = 4
"""CPUs of each process of a job, where neither ``--threads`` nor the cluster's file says more."""

MEMORY_GB, MEMORY_GB_TINY = 16.0, 4.0
"""Of each process: PyTorch with CUDA takes 4, a large encoder on its way to the GPU twice 1.3."""


@dataclass(frozen=True)
class Training:
    """The work of a run's task, in each process of it; can be pickled.

    Attributes:
        request: the run.
        log: write each epoch to stderr, which is a job's log.
    """

    request: RunRequest
    log: bool = False

    def __call__(self) -> None:
        """Train it.

        Raises:
            UserError: as :func:`distill.training.loop.run_fold`.
        """
        from distill.training.loop import run_fold
        from distill.training.team import join

        team = join(self.request.device)
        with team.hushed():
            run_fold(self.request, _say_epoch if self.log else None, team)
        team.leave()


def _say_epoch(label: str, n_epochs: int, entry: dict[str, Any]) -> None:
    say(f"{label} epoch {entry['epoch']}/{n_epochs} {epoch_note(entry)}")


def device_of(device: str, executor: ExecutorSettings) -> str:
    """What a run is trained on: a job has a GPU unless it is told to use the CPU."""
    return "cuda" if executor.name == "slurm" and device == "auto" else device


def task_of(
    request: RunRequest,
    folder: RunFolder,
    executor: ExecutorSettings,
    processes: int = 1,
    nodes: int = 1,
) -> Task:
    """A run as a task.

    Args:
        request: the run.
        folder: where it lies.
        executor: that carries it out.
        processes: that train it together, on each node.
        nodes: how many.
    """
    slurm = executor.name == "slurm"
    tiny = request.settings.student.backbone == "tiny"
    demand = Demand(
        cpus=request.threads or executor.slurm.cpus or THREADS,
        gpus=0 if request.device == "cpu" else 1,
        memory_gb=MEMORY_GB_TINY if tiny else MEMORY_GB,
        processes=processes,
        nodes=nodes,
    )
    places: dict[str, Any] = {
        name: path.absolute()
        for name in ("store", "runs", "root", "weights")
        if isinstance(path := getattr(request, name), Path)  # a bucket is where it is
    }
    request = replace(request, threads=demand.cpus if slurm else request.threads, **places)
    return Task(
        key=folder.task,
        work=Training(request, log=slurm),
        is_done=(folder.path.absolute() / DONE).exists,
        demand=demand,
        n_steps=request.settings.optim.epochs,
    )


def refuse_flags(requests: Sequence[RunRequest]) -> None:
    """Refuse what no job of a cluster can follow.

    Raises:
        UserError: with what to give instead.
    """
    if any(request.max_steps is not None for request in requests):
        raise UserError(
            "--max-steps is for a trial on this machine: a job would never be done",
            "leave out --max-steps, or --executor slurm",
        )
    for request in requests:
        if request.device.startswith("cuda:"):
            raise UserError(
                f"--device {request.device}: a job has GPUs of its own", "use auto, cuda or cpu"
            )
