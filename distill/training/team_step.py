"""The processes that SLURM has started, told their places: a step of ``srun``.

SLURM tells each process its number; what PyTorch asks for beside that, an address and a port where
the first of them is to be met, follows from the step's nodes and the job's number.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping

from featstore.core.schema import UserError

ANSWER_S = 30
"""So long ``scontrol`` may take."""

FIRST_PORT, PORTS = 20_000, 12_000
"""Below those that Linux gives out by itself."""

HOW = "start it with `srun --nodes {0} --ntasks-per-node {1} distill ...`, or --executor slurm"


def size_of_step() -> int:
    """How many processes ``srun`` has started of this one; 0 where it has not."""
    given = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    return int(given) if given.isdecimal() and "SLURM_PROCID" in os.environ else 0


def tell_step(processes: int, nodes: int) -> bool:
    """Tell this process its place in its step, in the words of ``torchrun``.

    Args:
        processes: on each node, as asked for.
        nodes: how many, as asked for.

    Returns:
        False where it is for us to start the processes: they are to be on this machine, and no
        step has started several.

    Raises:
        UserError: the step has another number of processes, or there is none for several nodes.
    """
    size = size_of_step()
    if size <= 1 and nodes == 1:
        return False
    if size != processes * nodes:
        there = f"SLURM has started {size} process(es)" if size else "there is no SLURM step"
        raise UserError(
            f"--processes {processes} --nodes {nodes}, but {there}", HOW.format(nodes, processes)
        )
    os.environ.update(step_environment(os.environ, processes))
    return True


def step_environment(told: Mapping[str, str], processes: int) -> dict[str, str]:
    """What ``torchrun`` would have told a process, from what SLURM tells.

    Args:
        told: SLURM's variables.
        processes: of the step on each node.

    Raises:
        UserError: the step's first node is not to be found.
    """
    job, step = int(told["SLURM_JOB_ID"]), int(told.get("SLURM_STEP_ID", "0"))
    nodes = told.get("SLURM_STEP_NODELIST") or told["SLURM_JOB_NODELIST"]
    return {
        "RANK": told["SLURM_PROCID"],
        "LOCAL_RANK": told["SLURM_LOCALID"],
        "WORLD_SIZE": told["SLURM_STEP_NUM_TASKS"],
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": _address(nodes),
        "MASTER_PORT": str(port_of(job, step)),
    }


def port_of(job: int, step: int) -> int:
    """Where the processes of a step meet; steps at the same time on one node seldom share it.

    >>> port_of(1234, 0), port_of(1234, 1)
    (29872, 29873)
    """
    return FIRST_PORT + (8 * job + step) % PORTS


def _address(nodes: str) -> str:
    """Of the first of some nodes: its name where that resolves, else what SLURM has for it."""
    name = _asked("show", "hostnames", nodes).split()[0]
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        facts = dict(
            part.partition("=")[::2] for part in _asked("show", "node", "--oneliner", name).split()
        )
        return facts.get("NodeAddr", name)
    return name


def _asked(*arguments: str) -> str:
    command = ["scontrol", *arguments]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"`{' '.join(command)}` gave no answer ({error})", "is the job still in its allocation?"
        ) from error
    if not said.strip():
        raise UserError(f"`{' '.join(command)}` names no node", "give the job a node")
    return said
