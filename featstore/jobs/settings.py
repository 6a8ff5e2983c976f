"""How tasks are carried out: on this machine, or as jobs of a SLURM cluster.

None of this decides a byte of a result: it is part of no fingerprint, no run's key and no settings
file that travels with results. It has a file of its own, because its ``setup`` lines are commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from featstore.core.schema import UserError
from featstore.core.settings import Settings, load_toml, resolve

Word = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f]*$")]
"""One line: each becomes a line of the script that sbatch is given."""


class SlurmSettings(Settings):
    """What the cluster wants to be told; what is not given is as each task demands it."""

    partition: Word | None = None
    cpu_partition: Word | None = None
    """For tasks without a GPU, where the other partition takes none of them."""
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    hours: float | None = Field(None, gt=0, le=24 * 365)
    """Time limit of a job; at its end a task is queued again and resumes."""
    gpus: Annotated[int, Field(ge=0)] | Word | None = None
    """Of a task that wants a GPU, as ``--gpus-per-node`` takes it: 1, a100:1; 0 asks for none."""
    cpus: int | None = Field(None, ge=1)
    """Of each process."""
    memory_gb: float | None = Field(None, ge=0)
    """Of each process; 0 leaves it to the cluster."""
    array_limit: int = Field(100, ge=1)
    """Jobs of one array that run at a time."""
    array_size: int = Field(1000, ge=1)
    """Jobs in one array; SLURM itself takes up to 1000 (``MaxArraySize``)."""
    retries: int = Field(3, ge=0)
    """How often a job that vanished, or ran out of time, is begun again."""
    poll_s: float = Field(5.0, gt=0)
    """How often the waiting command looks."""
    setup: tuple[Word, ...] = ()
    """Shell lines before a task, such as ``module load cuda``."""
    sbatch: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z-]*$")], Word | int] = Field(
        default_factory=dict
    )
    """Any other option of sbatch without its dashes: ``{reservation = "ser"}``."""


class ExecutorSettings(Settings):
    """Where tasks are carried out, and whether the command stays until they are."""

    name: Literal["local", "slurm"] = "local"
    wait: bool = True
    """False submits and ends."""
    attach: bool = False
    """Wait for what was submitted before and submit nothing new, but for jobs that vanished."""
    slurm: SlurmSettings = SlurmSettings()


LOCAL = ExecutorSettings()


def executor_settings(
    name: str, file: Path | None = None, *, wait: bool = True, attach: bool = False, **flags: Any
) -> ExecutorSettings:
    """The executor that flags and a TOML file ask for; flags win.

    Args:
        name: ``local`` or ``slurm``.
        file: the cluster's settings, keys as in :class:`SlurmSettings`.
        wait: stay until all is done.
        attach: only wait for what was submitted before.
        **flags: of :class:`SlurmSettings`; None where not given.

    Raises:
        UserError: with every fault, or where a local run is told of a cluster.

    >>> executor_settings("slurm", partition="gpu", account=None).slurm.partition
    'gpu'
    """
    options = {key: value for key, value in flags.items() if value is not None}
    if name not in ("local", "slurm"):
        raise UserError(f"--executor {name}: not known", "choose one of local, slurm")
    if name == "local" and (options or file or attach or not wait):
        raise UserError("flags of a cluster, and no cluster", "add --executor slurm")
    if attach and not wait:
        raise UserError("--attach waits, --no-wait does not", "give one of the two")
    table: Mapping[str, Any] = load_toml(file) if file else {}
    slurm = resolve(SlurmSettings, table, options)
    return ExecutorSettings(name=name, wait=wait, attach=attach, slurm=slurm)
