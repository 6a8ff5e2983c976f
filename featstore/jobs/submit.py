"""One array of jobs handed to SLURM, through submitit."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featstore.core.files import make_folders
from featstore.core.schema import UserError, printable
from featstore.jobs.body import Body
from featstore.jobs.settings import SlurmSettings
from featstore.jobs.task import Demand

JOB_NAME = "emodistill"


def submit(
    bodies: Sequence[Body], demand: Demand, settings: SlurmSettings, folder: Path, after: str = ""
) -> list[tuple[str, str]]:
    """Queue some bodies that want the same.

    Args:
        bodies: what each job does; each job's log is known to submitit alone.
        demand: what each wants of a machine.
        settings: of the cluster, which have the last word.
        folder: for scripts, pickles and logs; the nodes must see it.
        after: what ``--dependency`` is told.

    Returns:
        Number and log of each job, in order.

    Raises:
        UserError: SLURM refuses them, in its own words.
    """
    import submitit

    make_folders(folder)
    logging.getLogger("submitit").setLevel(logging.CRITICAL)  # it tells what is told here again
    executor = submitit.SlurmExecutor(folder, max_num_timeout=settings.retries)
    executor.update_parameters(**parameters(demand, settings, after))
    try:
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            jobs = [executor.submit(body) for body in bodies]
    except submitit.core.utils.FailedJobError as error:
        said = " ".join(str(error).replace("sbatch: error: ", "").split())
        raise UserError(
            f"sbatch refuses the jobs: {printable(said)}",
            "mend --partition, --account, --time or the --slurm file; `sinfo` lists partitions",
        ) from error
    return [(job.job_id, str(job.paths.stdout)) for job in jobs]


def parameters(demand: Demand, settings: SlurmSettings, after: str = "") -> dict[str, Any]:
    """What submitit is told of a demand: the cluster's settings where they say something.

    A job has as many processes on each node as the task demands; each runs the task and learns its
    rank from SLURM's own variables.

    >>> found = parameters(Demand(gpus=1, hours=1.5), SlurmSettings(partition="a", account="b"))
    >>> found["time"], found["partition"], found["mem"], found["additional_parameters"]
    (90, 'a', '4096M', {'gpus-per-node': '1'})
    """
    cpus = settings.cpus or demand.cpus
    memory_gb = demand.memory_gb if settings.memory_gb is None else settings.memory_gb
    on_cpu = settings.cpu_partition if not demand.gpus else None
    found: dict[str, Any] = {
        "job_name": JOB_NAME,
        "time": max(1, math.ceil(60 * (settings.hours or demand.hours))),
        "nodes": demand.nodes,
        "ntasks_per_node": demand.processes,
        "cpus_per_task": cpus,
        "srun_args": [f"--cpus-per-task={cpus}"],  # since 22.05 srun does not learn it from sbatch
        "array_parallelism": settings.array_limit,
        "partition": on_cpu or settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "dependency": after or None,
        "stderr_to_stdout": True,
        "wckey": None,
        "setup": [f"export OMP_NUM_THREADS={cpus}", *settings.setup],
        "additional_parameters": {**_gpus(demand, settings), **settings.sbatch},
    }
    if memory_gb:
        found["mem"] = f"{math.ceil(1024 * memory_gb * demand.processes)}M"
    return {key: value for key, value in found.items() if value is not None}


def _gpus(demand: Demand, settings: SlurmSettings) -> dict[str, str]:
    count = demand.gpus * demand.processes
    if not count or settings.gpus == 0:
        return {}
    return {"gpus-per-node": str(count if settings.gpus is None else settings.gpus)}
