"""Worker processes that die with their parent and use one thread each, and that may die alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from featstore.core.schema import TaskFailed

T = TypeVar("T")
R = TypeVar("R")

_POLL_S = 0.2


def default_jobs() -> int:
    """How many CPUs this process may use; in a SLURM job, those it was given."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdecimal() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_setup() -> None:
    """Called first in every worker.

    A worker leaves Ctrl-C to its parent, and ends when the parent is gone, even by SIGKILL: an
    orphan would go on burning a shared machine's CPU and hold the locks of its staging folder.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def leave() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=leave, daemon=True).start()


def each(
    function: Callable[[T], R],
    items: Sequence[T],
    workers: int,
    *,
    setup: Callable[..., None] = worker_setup,
    setup_arguments: tuple[Any, ...] = (),
    idle: Callable[[], None] = lambda: None,
) -> Generator[tuple[T, R | Exception], None, None]:
    """Every item in some worker process; yields each with its result, or why there is none.

    A pool of which the system kills one process (out of memory, say) is lost whole and does not
    tell which item it was. What was not finished is then tried again one at a time, so that only an
    item that kills its own process fails. Close the generator to end the workers.

    Args:
        function: the work; it and the items cross into processes by pickle.
        items: what is to be done, in order.
        workers: processes at a time.
        setup: called first in every worker.
        setup_arguments: for ``setup``.
        idle: called several times a second meanwhile.
    """
    left = list(items)
    while left:
        lost = False
        for item, result in _through_a_pool(function, left, workers, setup, setup_arguments, idle):
            if isinstance(result, BrokenProcessPool):
                lost = True
            else:
                left.remove(item)
                yield item, result
        if lost and workers == 1:
            why = "its process was killed by the system, or crashed"
            yield left.pop(0), TaskFailed(why, "look for lack of memory in the system's log")
        workers = 1


def _through_a_pool(
    function: Callable[[T], R],
    items: Sequence[T],
    workers: int,
    setup: Callable[..., None],
    setup_arguments: tuple[Any, ...],
    idle: Callable[[], None],
) -> Generator[tuple[T, R | Exception], None, None]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(items)), mp_context=context, initializer=setup, initargs=setup_arguments
    ) as pool:
        futures: dict[Future[R], T] = {}
        try:
            for item in items:
                futures[pool.submit(function, item)] = item
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, _POLL_S, return_when=FIRST_COMPLETED)
                idle()
                for future in sorted(finished, key=list(futures).index):
                    error = future.exception()
                    if error is not None and not isinstance(error, Exception):
                        raise error
                    yield futures[future], future.result() if error is None else error
        except BrokenProcessPool as error:  # already while submitting
            yield items[0], error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running = multiprocessing.active_children()
            for process in running:
                process.terminate()
            for process in running:  # until they are gone, they hold the locks of their staging
                process.join()
            raise
