"""What runs may use, of this machine or of a cluster, and how many are trained at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distill.runs.request import Outcome, RunRequest
from featstore.jobs import LOCAL, ExecutorSettings
from featstore.jobs.local import workers

Requests = Callable[[], Sequence[RunRequest]]
Result = tuple[RunRequest, Outcome | Exception]


@dataclass(frozen=True)
class Resources:
    """What the runs may use; changes no number but by the count of threads.

    Attributes:
        device: auto, cpu or cuda.
        jobs: runs at a time on this machine; as many as there are CPUs, or GPUs, where not given.
        threads: CPU threads of each run; the CPUs shared out where not given.
        processes: that train each run together, on each node.
        nodes: over which they are spread.
        executor: this machine, or a cluster.
    """

    device: str = "auto"
    jobs: int | None = None
    threads: int | None = None
    processes: int = 1
    nodes: int = 1
    executor: ExecutorSettings = LOCAL

    @property
    def team(self) -> int:
        """How many processes train each run together."""
        return self.processes * self.nodes


def default_workers(resources: Resources, n_runs: int) -> int:
    """How many of some runs are trained at a time."""
    if resources.executor.name == "slurm":
        most = resources.executor.slurm.array_limit
    elif resources.team > 1:
        most = 1
    else:
        most = workers(resources.jobs, resources.device)[0]
    return max(1, min(most, n_runs))
