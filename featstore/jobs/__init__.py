"""Tasks carried out: on this machine, or as jobs of a SLURM cluster. The same tasks for both."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

from featstore.jobs.settings import LOCAL, ExecutorSettings, executor_settings
from featstore.jobs.task import Task

__all__ = ["LOCAL", "ExecutorSettings", "carry_out", "executor_settings"]


def carry_out(
    root: Path,
    tasks: Sequence[Task],
    settings: ExecutorSettings = LOCAL,
    *,
    jobs: int | None = None,
    device: str = "auto",
) -> Generator[tuple[Task, Exception | None], None, None]:
    """Do every task in an order that ``needs`` allows; one that fails stops only what needs it.

    Args:
        root: the store or the folder of runs, where notes are kept.
        tasks: with all that they need, but for what is done already.
        settings: where. On a cluster, all must see ``root`` under the same path.
        jobs: processes at a time on this machine; as many as it has CPUs, or GPUs.
        device: where the tasks compute on this machine.

    Yields:
        Each task as it is settled, with why it failed, or None. On a cluster that is not waited
        for, nothing: the tasks are queued.

    Raises:
        UserError: there is no such cluster, or it refuses the jobs.
    """
    if settings.name == "slurm":
        from featstore.jobs import slurm

        yield from slurm.carry_out(root, tasks, settings)
    else:
        from featstore.jobs import local

        yield from local.carry_out(root, tasks, jobs, device)
