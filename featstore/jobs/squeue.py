"""What SLURM itself is asked: whether jobs are still there. Never its accounts, which may lie.

A job that squeue does not know has ended, however it ended; whether its task is done, the file
system tells.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable

from featstore.core.schema import UserError

_TIMEOUT_S = 60.0


def require_slurm() -> None:
    """Refuse where there is no SLURM to talk to.

    Raises:
        UserError: naming what is missing.
    """
    for command in ("sbatch", "squeue", "srun"):
        if shutil.which(command) is None:
            raise UserError(
                f"{command}: no such command here",
                "--executor slurm works on a login node of a SLURM cluster; "
                "without it the same work is done on this machine",
            )
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError(
            "--executor slurm: submitit is not installed", "pip install 'emodistill[slurm]'"
        ) from None


def living(jobs: Iterable[str], timeout_s: float = _TIMEOUT_S) -> set[str] | None:
    """Which of some jobs are waiting, running or just ending.

    Args:
        jobs: as sbatch numbers them: ``7``, or ``7_3`` in an array.
        timeout_s: so long it may take to answer.

    Returns:
        Those that squeue lists; None where SLURM cannot be asked now.
    """
    asked = set(jobs)
    if not asked:
        return set()
    numbers = ",".join(sorted({job.partition("_")[0] for job in asked}))
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={numbers}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:  # what it says of one that is gone
        return None
    return asked & set(done.stdout.split())
