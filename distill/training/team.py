"""One run trained by several processes, as ``torchrun``, ``accelerate launch`` or ``srun`` start.

Each process computes its share of every optimiser step; PyTorch's DistributedDataParallel averages
the gradients. A micro-batch's loss is scaled by its part of the whole step times the number of
processes, so the average is the gradient that one process would have computed, however uneven the
shares are.

Where one process fails, all fail with its error: collectives begin by agreeing that all are well,
so that none waits for a process that will not come.
"""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from inspect import signature
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed, nn

from featstore.core.console import trace
from featstore.core.schema import TaskFailed, UserError
from featstore.core.training import Indices, generator, pick_device

T = TypeVar("T")

TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher sets beside WORLD_SIZE."""


class TeamLost(TaskFailed):
    """Another process has ended, and nothing that needs all of them can be done any more."""


class _Agreed(Exception):
    """Carries an error that every process of the team has."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Team:
    """The processes that train a run together. Alone, as by default, every method is for free.

    :meth:`any`, :meth:`gather`, :meth:`wrap` and :meth:`together` are collectives: every process
    must call them, in the same order.

    Attributes:
        rank: which of the processes this is; 0 leads: it writes, locks and talks.
        size: how many there are.
        local_size: how many of them are on this machine.
        device: what this process computes on; None where the caller picks.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    device: torch.device | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """Of this process' dropout: the run's own seed alone, else one that no other process has.

        >>> Team().seed(42)
        42
        """
        return int(generator(seed, self.rank).integers(2**63)) if self.rank else seed

    def share(self, rows: Indices, lengths: Indices) -> Indices:
        """The part of some rows that this process computes: dealt out by falling length.

        Sizes differ by one at most, and may be 0. Alone, the rows as they are.

        >>> lengths = np.array([5, 9, 7])
        >>> [Team(rank, size=2).share(np.arange(3), lengths).tolist() for rank in (0, 1)]
        [[1, 0], [2]]
        """
        if self.size == 1:
            return rows
        order: Indices = rows[np.argsort(-lengths[rows], kind="stable")]
        return order[self.rank :: self.size]

    def any(self, here: bool = False, *, error: Exception | None = None) -> bool:
        """Whether ``here`` is true in any process.

        Args:
            here: this process' own.
            error: what it has failed with; every process then leaves :meth:`together` with it.

        Raises:
            TeamLost: a process has ended.
        """
        if self.size == 1:
            return here
        flags = torch.tensor([here, error is not None], dtype=torch.float32, device=self.device)
        with _reaching():
            distributed.all_reduce(flags)
        if flags[1] > 0:
            raise _Agreed(next(one for one in self._gather(error) if one is not None))
        return bool(flags[0] > 0)

    def gather(self, item: T) -> list[T]:
        """Each process' item, by rank; for small things, which cross over by pickle."""
        if self.size == 1:
            return [item]
        self.any()
        return self._gather(item)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module as it is called in training; in a team all start with the first's weights."""
        if self.size == 1:
            return module
        self.any()
        ddp: Any = nn.parallel.DistributedDataParallel
        new = "forward_sync_buffers"
        old = "broadcast_buffers"  # its name in torch 2.13
        option = new if new in signature(ddp.__init__).parameters else old
        with _reaching():
            wrapped: nn.Module = ddp(module, find_unused_parameters=True, **{option: False})
        return wrapped

    def exchanging(self, module: nn.Module, ends_step: bool) -> AbstractContextManager[Any]:
        """Around a micro-batch: gradients are averaged where it ends the step, and only there.

        Raises:
            TeamLost: another process has ended, or this one's memory is exhausted while they wait.
        """
        if self.size == 1:
            return nullcontext()
        return _reaching() if ends_step else module.no_sync()  # type: ignore[operator]

    @contextmanager
    def together(self) -> Iterator[None]:
        """All fail where one does, with the same error; none goes on before all are done.

        Raises:
            TeamLost: a process has ended without telling.
        """
        if self.size == 1:
            yield
            return
        try:
            try:
                yield
            except (_Agreed, TeamLost):
                raise
            except Exception as error:
                trace(error)
                self.any(error=self.portable(error))
            else:
                self.any()
        except _Agreed as agreed:
            raise agreed.error from None

    def hushed(self) -> AbstractContextManager[Any]:
        """Nothing on stderr but from the process that leads: all would say the same."""
        return nullcontext() if self.leads else redirect_stderr(io.StringIO())

    def leave(self) -> None:
        """End what connects the processes."""
        if self.size > 1:
            distributed.destroy_process_group()

    def portable(self, error: Exception) -> Exception:
        """An error that survives pickling; one that nobody foresaw might not."""
        if isinstance(error, UserError | OSError):
            return error
        again = "what is done is kept: mend the cause and run the same command again"
        return TaskFailed(f"process {self.rank}: {type(error).__name__}: {error}", again)

    def _gather(self, item: T) -> list[T]:
        items: list[Any] = [None] * self.size
        with _reaching():
            distributed.all_gather_object(items, item)
        return items


ALONE = Team()


def launched() -> int:
    """How many processes a launcher has started; 1 where none has.

    Raises:
        UserError: ``WORLD_SIZE`` is no number of processes.
    """
    size = os.environ.get("WORLD_SIZE") or "1"
    if not size.isdecimal() or int(size) < 1:
        raise UserError(
            f"WORLD_SIZE = {size!r}: no number of processes", "unset it, or leave it to torchrun"
        )
    step = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    if "WORLD_SIZE" in os.environ or "SLURM_PROCID" not in os.environ or not step.isdecimal():
        return int(size)
    return int(step)


def join(device: str = "auto") -> Team:
    """Meet the other processes that a launcher has started; :data:`ALONE` where none has.

    Each process takes the GPU of its own number (NCCL), or the CPU (Gloo).

    Args:
        device: auto, cpu or cuda.

    Raises:
        UserError: the device names one GPU for all, or this process has none, or the launcher has
            not set all that torchrun sets.
    """
    size = launched()
    if size == 1:
        return ALONE
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"--device {device}: {size} processes cannot share it", "use auto, cpu or cuda"
        )
    if "WORLD_SIZE" not in os.environ:
        _set_by_slurm()
    if lacking := [name for name in TORCHRUN if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE = {size}, but {' and '.join(lacking)} not set",
            "start it by torchrun or accelerate launch, or unset WORLD_SIZE to train alone",
        )
    # Imported later, as the optimiser does, it would keep the group and its threads alive beyond
    # leave(): such a thread that ends while the interpreter does aborts the process.
    from torch.distributed.nn import functional  # noqa: F401

    place = pick_device(device)
    if place.type == "cuda":
        place = pick_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(place)
    with _reaching():
        distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or size)
    return Team(distributed.get_rank(), size, local, place)


@contextmanager
def _reaching() -> Iterator[None]:
    """Say in words what a backend says of a process that is gone."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TeamLost(str(error), "lower stream.max_batch_s") from error
    except RuntimeError as error:
        raise TeamLost(
            "another process of this run has ended",
            "look for its message; what is done is kept: the same command resumes",
        ) from error


def _set_by_slurm() -> None:
    """Torchrun's variables, from those of a step of ``srun``."""
    from submitit.helpers import TorchDistributedEnvironment

    here = os.environ
    here.setdefault("SUBMITIT_EXECUTOR", "slurm")  # or it does not look at SLURM's variables
    here["SLURM_JOB_NODELIST"] = here.get("SLURM_STEP_NODELIST") or here["SLURM_JOB_NODELIST"]
    step = TorchDistributedEnvironment()
    step.master_addr = _address(step.master_addr)
    step.master_port += int(here.get("SLURM_STEP_ID") or 0)
    step.local_world_size = max(1, step.local_world_size)
    step.export(set_cuda_visible_devices=False)


def _address(node: str) -> str:
    """A node's address as SLURM has it, which need not be a name that resolves; else its name."""
    command = ["scontrol", "show", "node", "--oneliner", node]
    try:
        facts = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return node
    return dict(part.partition("=")[::2] for part in facts.stdout.split()).get("NodeAddr", node)
