"""Starting the processes that train each run together, on this machine: ``--processes N``.

PyTorch's elastic agent starts them as ``torchrun`` would, tells each its place, and ends all where
one has died. It is not asked to start any anew: a run resumes when its command is given again.
"""

from __future__ import annotations

import logging
import signal
import tempfile
import uuid
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from featstore.core import console
from featstore.core.schema import TaskFailed
from featstore.jobs.processes import worker_setup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed.launcher.api import LaunchConfig

T = TypeVar("T")


def start(work: Callable[[], T], processes: int) -> T:
    """Have several processes call ``work`` at a time, each told its place among them.

    Args:
        work: can be pickled, and so can what it returns.
        processes: how many.

    Returns:
        What it returned in the first process.

    Raises:
        TaskFailed: a process has died; the others are ended.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    with tempfile.TemporaryDirectory(prefix="distill-") as logs, _in_silence():
        try:
            results = elastic_launch(_config(processes, logs), _enter)(work, console.verbose())
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise TaskFailed(
                f"process {rank} of {processes} {_end(failure.exitcode)}, so the others were ended",
                "what is done is kept: the same command resumes (-v shows an error's place)",
            ) from None
    found: T = results[0]
    return found


def _enter(work: Callable[[], T], verbose: bool) -> T:
    """First thing in each process: it leaves Ctrl-C to its parent, and dies with it."""
    worker_setup()
    console.set_verbose(verbose)
    return work()


def _config(processes: int, logs: str) -> LaunchConfig:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0,
        start_method="spawn", logs_specs=DefaultLogsSpecs(log_dir=logs),
        signals_to_handle="SIGQUIT",  # the command has its own way with Ctrl-C and SIGTERM
    )  # fmt: skip


def _end(code: int) -> str:
    """How a process ended, by its exit code.

    >>> _end(-9), _end(1)
    ('was killed by SIGKILL', 'ended with exit code 1')
    """
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


@contextmanager
def _in_silence() -> Iterator[None]:
    """The agent logs what we say ourselves, in one line."""
    names = ("torch.distributed.elastic", "torch.multiprocessing.spawn")
    before = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in before:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
