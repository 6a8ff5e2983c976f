"""Tasks on this machine: processes that do one task at a time, one a GPU where there are several.

Each process is a pool of its own, so one that the system kills (out of memory, say) takes nothing
but its own task with it, and the others go on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from featstore.core.config import device_kind
from featstore.core.schema import TaskFailed
from featstore.jobs.task import Outcome, Task, attended, settle

_POLL_S = 0.2


@dataclass(frozen=True)
class Worker:
    """One process that works beside others.

    Attributes:
        gpu: whether it is for tasks that want a GPU.
        device: what CUDA_VISIBLE_DEVICES is set to; as it is where empty.
    """

    gpu: bool = False
    device: str = ""


def default_jobs() -> int:
    """How many CPUs this process may use; in a SLURM job, those it was given."""
    cpus = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if cpus.isdecimal() and int(cpus):
        return int(cpus)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers(jobs: int | None, device: str) -> list[Worker]:
    """The processes that work at a time: one for each CPU, or for each GPU, which it sees alone.

    Args:
        jobs: how many; None for one a CPU or a GPU, and one where a single GPU is named.
        device: auto, cpu, cuda or cuda:N.
    """
    if device_kind(device) == "cpu":
        return [Worker()] * (jobs or default_jobs())
    from featstore.core.training import pick_device

    chosen = pick_device(device)
    gpus: list[str] = visible_gpus() if chosen.index is None else []
    if len(gpus) < 2:
        return [Worker(gpu=True)] * (jobs or 1)
    return [Worker(True, name) for name in islice(cycle(gpus), jobs or len(gpus))]


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name: the GPUs that this process sees."""
    import torch

    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names or [str(index) for index in range(torch.cuda.device_count())]


def worker_setup(device: str = "") -> None:
    """Called first in every worker.

    A worker leaves Ctrl-C to its parent, and ends when the parent is gone, even by SIGKILL: an
    orphan would go on burning a shared machine's CPU and hold the locks of its staging folder.

    Args:
        device: the GPU that it is to see alone, if any.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def leave() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=leave, daemon=True).start()
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device


def carry_out(
    root: Path, tasks: Sequence[Task], jobs: int | None, device: str
) -> Generator[Outcome, None, None]:
    """Every task in an order that ``needs`` allows; yields each with why it failed, if it did.

    Args:
        root: where notes are kept.
        tasks: with all that they need, but for what is done already.
        jobs: processes at a time; see :func:`workers`.
        device: where the tasks that want a GPU compute.
    """
    left = {task.key: task for task in tasks}
    team = workers(jobs, device if any(task.demand.gpus for task in tasks) else "cpu")
    has_gpu = any(worker.gpu for worker in team)
    if has_gpu:
        team = [*team, *workers(jobs, "cpu")]
    pools: dict[int, ProcessPoolExecutor] = {}
    running: dict[Future[None], tuple[Task, int]] = {}

    def ready(worker: Worker) -> Iterator[Task]:
        begun = {task.key for task, _ in running.values()}
        for task in left.values():
            suits = worker.gpu == (has_gpu and task.demand.gpus > 0)
            if suits and task.key not in begun and not left.keys() & set(task.needs):
                yield task

    try:
        while left:
            for at in sorted(set(range(len(team))) - {at for _, at in running.values()}):
                if task := next(ready(team[at]), None):
                    running[_submit(pools, at, team[at].device, root, task)] = task, at
            if not running:
                raise ValueError(f"tasks that wait for each other: {', '.join(left)}")
            finished, _ = wait(running, _POLL_S, return_when=FIRST_COMPLETED)
            for future in sorted(finished, key=list(running).index):
                task, at = running.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    del pools[at]
                    why = "its process was killed by the system, or crashed"
                    error = TaskFailed(why, "look for lack of memory in the system's log")
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield from settle(left, task, error)
    except BaseException:
        for pool in pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        processes = multiprocessing.active_children()
        for process in processes:
            process.terminate()
        for process in processes:  # until they are gone, they hold the locks of their staging
            process.join()
        raise
    for pool in pools.values():
        pool.shutdown()


def perform(root: Path, task: Task) -> None:
    """Do a task unless it is done, with notes for all to see.

    What another process has committed meanwhile is no failure.
    """
    if task.is_done():
        return
    with attended(root, task.key):
        try:
            task.work()
        except Exception:
            if not task.is_done():
                raise


def _submit(
    pools: dict[int, ProcessPoolExecutor], at: int, device: str, root: Path, task: Task
) -> Future[None]:
    """Hand a task to a worker; one that died while it had nothing to do is replaced."""
    for _ in range(2):
        if at not in pools:
            context = multiprocessing.get_context("spawn")
            pools[at] = ProcessPoolExecutor(
                1, mp_context=context, initializer=worker_setup, initargs=(device,)
            )
        try:
            return pools[at].submit(perform, root, task)
        except BrokenProcessPool:
            del pools[at]
    raise TaskFailed("a worker process does not start", "look for lack of memory")
