"""Tasks on this machine: a bounded pool of processes, one a GPU where there are several."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from featstore.core.config import device_kind
from featstore.jobs.body import perform
from featstore.jobs.processes import default_jobs, each, worker_setup
from featstore.jobs.task import Task
from featstore.jobs.waves import failed_needs

Outcome = tuple[Task, Exception | None]


def carry_out(
    root: Path, tasks: Sequence[Task], jobs: int | None, device: str
) -> Generator[Outcome, None, None]:
    """Every task in an order that ``needs`` allows; yields each with why it failed, if it did.

    Args:
        root: where notes are kept.
        tasks: with all that they need, but for what is done already.
        jobs: processes at a time; see :func:`workers`.
        device: where the tasks compute.
    """
    left = {task.key: task for task in tasks}
    failed: set[str] = set()
    while left:
        for task, error in failed_needs(left.values(), failed):
            failed.add(left.pop(task.key).key)
            yield task, error
        ready = [task for task in left.values() if not left.keys() & set(task.needs)]
        if not left:
            return
        if not ready:
            raise ValueError(f"tasks that wait for each other: {', '.join(left)}")
        here = next((task for task in ready if task.here), None)
        settled = _here(root, here) if here else _pooled(root, ready, jobs, device)
        for task, result in settled:
            del left[task.key]
            if result is not None:
                failed.add(task.key)
            yield task, result


def workers(jobs: int | None, device: str) -> tuple[int, Callable[..., None], tuple[Any, ...]]:
    """How many processes work at a time, and what begins each of them.

    As many as there are CPUs; on GPUs as many as there are GPUs, each process seeing one; one where
    a single one was named.

    Args:
        jobs: as many as the user wants; None for as many as fit.
        device: auto, cpu, cuda or cuda:N.

    Returns:
        Their number, ``setup`` and ``setup_arguments`` of :func:`featstore.jobs.processes.each`.
    """
    if device_kind(device) == "cpu":
        return jobs or default_jobs(), worker_setup, ()
    from featstore.core.training import pick_device

    chosen = pick_device(device)
    gpus: list[str] = visible_gpus() if chosen.index is None else []
    if len(gpus) < 2:
        return jobs or 1, worker_setup, ()
    return jobs or len(gpus), on_one_gpu, (tuple(gpus), get_context("spawn").Value("i", 0))


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name: the GPUs that this process sees."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(index) for index in range(torch.cuda.device_count())]


def on_one_gpu(gpus: Sequence[str], taken: Any) -> None:
    """Called first in a worker: it sees one GPU alone, in turn with the others."""
    worker_setup()
    with taken.get_lock():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[taken.value % len(gpus)]
        taken.value += 1


class _Perform:
    """Does a task of a root; can be pickled."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, task: Task) -> None:
        perform(self.root, task)


def _here(root: Path, task: Task) -> Iterator[Outcome]:
    try:
        perform(root, task)
    except Exception as error:
        yield task, error
    else:
        yield task, None


def _pooled(root: Path, ready: Sequence[Task], jobs: int | None, device: str) -> Iterator[Outcome]:
    count, setup, arguments = workers(jobs, device)
    with closing(
        each(_Perform(root), ready, count, setup=setup, setup_arguments=arguments)
    ) as results:
        for task, result in results:
            yield task, result if isinstance(result, Exception) else None
