"""One fold trained by several processes, as ``torchrun`` or ``accelerate launch`` starts them.

The utterances of every optimiser step are dealt out and the gradients added up. As each process
weighs its micro-batches by their share of the whole step, the sum is the gradient that one process
would have computed, however uneven the last step is; an average over processes, which is what
``DistributedDataParallel`` takes, would be right only where all have equally many utterances.

Where one process fails, all of them fail with its error: every collective begins by asking whether
all are well, so that none waits for a process that will not come.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed, nn

from featstore.core.console import trace
from featstore.core.schema import TaskFailed, UserError
from featstore.core.training import Indices, pick_device

T = TypeVar("T")

BUCKET = 2**24
"""Gradients that are sent at once: 64 MiB of float32 beside the gradients themselves."""


class TeamLost(TaskFailed):
    """Another process has ended, and nothing that needs all of them can be done any more."""


class _Agreed(Exception):
    """Carries an error of which every process has been told."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Team:
    """The processes that train a fold together. Alone, as by default, every method is for free.

    All methods but :meth:`share` and :meth:`hushed` are collectives: every process must call them,
    in the same order.

    Attributes:
        rank: which of the processes this is; 0 leads: it writes, locks and talks.
        size: how many there are.
        local_size: how many of them are on this machine.
        device: what this process computes on; None where it is for the caller to pick.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    device: torch.device | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

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
            here: what this process has to say.
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
        """What each process has, by rank; for small things, which cross over by pickle."""
        if self.size == 1:
            return [item]
        self.any()
        return self._gather(item)

    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes; a process without one adds zero.

        A parameter that has a gradient nowhere keeps none, so that the optimiser passes it over.

        Args:
            parameters: the same ones in every process, of one dtype.
        """
        if self.size == 1:
            return
        self.any()
        for bucket in _buckets(list(parameters)):
            flat = _flattened(bucket)
            with _reaching():
                distributed.all_reduce(flat)
            _spread(flat, bucket)

    def align(self, module: nn.Module) -> None:
        """Give every process the first one's weights, lest another machine drew others."""
        if self.size == 1:
            return
        self.any()
        for tensor in module.state_dict().values():
            with _reaching():
                distributed.broadcast(tensor, 0)

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
                self.any(error=self._portable(error))
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
            from accelerate import PartialState

            PartialState().destroy_process_group()

    def _gather(self, item: T) -> list[T]:
        from accelerate.utils import gather_object

        with _reaching():
            return list(gather_object([item]))

    def _portable(self, error: Exception) -> Exception:
        """An error that survives pickling; one that nobody foresaw might not."""
        if isinstance(error, UserError | OSError):
            return error
        again = "what is done is kept: mend the cause and run the same command again"
        return TaskFailed(f"process {self.rank}: {type(error).__name__}: {error}", again)


ALONE = Team()


def launched() -> int:
    """How many processes a launcher has started; 1 where none has.

    Raises:
        UserError: ``WORLD_SIZE`` is no number of processes.
    """
    given = os.environ.get("WORLD_SIZE") or "1"
    if not given.isdecimal() or int(given) < 1:
        raise UserError(
            f"WORLD_SIZE = {given!r}: no number of processes", "unset it, or leave it to torchrun"
        )
    return int(given)


def join(device: str = "auto") -> Team:
    """Meet the other processes that a launcher has started; :data:`ALONE` where none has.

    Each process takes the GPU of its own number (NCCL), or the CPU (Gloo).

    Args:
        device: auto, cpu or cuda.

    Raises:
        UserError: the device names one GPU for all, or this process has none, or whatever started
            it has not told it all of what torchrun tells.
    """
    size = launched()
    if size == 1:
        return ALONE
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"--device {device}: {size} processes cannot share it", "use auto, cpu or cuda"
        )
    lacking = [
        name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        if not os.environ.get(name)
    ]  # fmt: skip
    if lacking:
        raise UserError(
            f"WORLD_SIZE = {size}, but {' and '.join(lacking)} not set",
            "start it by torchrun or accelerate launch, or unset WORLD_SIZE to train alone",
        )
    from accelerate import PartialState

    # Its functions' defaults are the group that exists as it is imported (the optimiser does that).
    # They would keep the group, and its threads, alive beyond leave(): such a thread that ends
    # while the interpreter does aborts the process.
    from torch.distributed.nn import functional  # noqa: F401

    place = pick_device(device)
    if place.type == "cuda":
        place = pick_device(f"cuda:{os.environ['LOCAL_RANK']}")
    state = PartialState(cpu=place.type == "cpu")
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or size)
    return Team(state.process_index, state.num_processes, local, place)


@contextmanager
def _reaching() -> Iterator[None]:
    """What a backend says of a process that is gone, in words."""
    try:
        yield
    except RuntimeError as error:
        raise TeamLost(
            "another process of this run has ended",
            "look for its message; what is done is kept: the same command resumes",
        ) from error


def _buckets(
    parameters: Sequence[nn.Parameter], size: int = BUCKET
) -> Iterator[list[nn.Parameter]]:
    """The parameters in order, in lists of up to ``size`` values (or of one parameter)."""
    bucket: list[nn.Parameter] = []
    held = 0
    for parameter in parameters:
        if bucket and held + parameter.numel() > size:
            yield bucket
            bucket, held = [], 0
        bucket.append(parameter)
        held += parameter.numel()
    if bucket:
        yield bucket


def _flattened(bucket: Sequence[nn.Parameter]) -> torch.Tensor:
    """The gradients end to end, zeros where there is none, then 1 or 0 for whether there is."""
    first = bucket[0]
    parts = [
        p.new_zeros(p.numel()) if p.grad is None else p.grad.detach().flatten() for p in bucket
    ]
    return torch.cat([*parts, first.new_tensor([float(p.grad is not None) for p in bucket])])


def _spread(flat: torch.Tensor, bucket: Sequence[nn.Parameter]) -> None:
    """Undo :func:`_flattened`, after the sum."""
    sizes = [*(p.numel() for p in bucket), len(bucket)]
    *gradients, counts = torch.split(flat, sizes)
    for parameter, gradient, count in zip(bucket, gradients, counts.tolist(), strict=True):
        parameter.grad = gradient.view_as(parameter) if count else None
