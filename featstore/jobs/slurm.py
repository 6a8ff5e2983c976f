"""Tasks as jobs of a SLURM cluster, in arrays, through submitit.

How they stand is read from the notes on the shared file system, so the submitting command may end,
die and be started again. ``squeue`` is asked for one thing alone: whether a job is still there.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.core.console import LINE_EVERY_S, say
from featstore.core.files import make_folders
from featstore.core.schema import Corrupt, Refused, TaskFailed, UserError, printable
from featstore.jobs import task as notes
from featstore.jobs.local import perform
from featstore.jobs.settings import ExecutorSettings, SlurmSettings
from featstore.jobs.task import Demand, Outcome, Standing, Task, settle

JOB_NAME = "emodistill"
PATIENCE_S = 20.0
"""What another machine has just committed may be seen here a little later."""
LOOK_S = 1.0
"""A job that waits for another process looks this often."""

_SQUEUE_S = 60.0
_FOREIGN_SILENCE_S = 20.0
"""So long after its last sign a process is believed gone whose job is."""
_ERRORS: Mapping[int, type[UserError]] = {1: TaskFailed, 2: UserError, 3: Corrupt, 4: Refused}

Needs = tuple[tuple[str, Callable[[], bool]], ...]
"""Keys of the tasks that come first, each with what tells that it is done."""


def carry_out(
    root: Path, tasks: Sequence[Task], settings: ExecutorSettings
) -> Generator[Outcome, None, None]:
    """Queue what is not queued yet, and wait; yields each task with why it failed, if it did.

    Args:
        root: where notes are kept, on a file system that all nodes share.
        tasks: with all that they need, but for what is done already.
        settings: of the cluster; without ``wait`` nothing is yielded.

    Raises:
        UserError: there is no SLURM, or it refuses the jobs.
    """
    if not tasks:
        _remove_logs(root)
        return
    require_slurm()
    watch = _Watch(root.absolute(), settings.slurm, {task.key: task for task in tasks})
    try:
        watch.take_up(submit_new=not settings.attach)
        if settings.wait:
            yield from watch.outcomes()
            _remove_logs(watch.root)
    finally:
        arrays = sorted({_array(job) for job in watch.jobs.values()})
        if arrays:
            say(
                f"{len(watch.left)} task(s) go on as SLURM job(s) {' '.join(arrays)}: the same "
                f"command, or with --attach, waits for them; `scancel {' '.join(arrays)}` ends them"
            )


# --- the waiting command ---


@dataclass
class _Watch:
    """The tasks that are not settled yet.

    Attributes:
        root: where notes are kept.
        settings: of the cluster.
        left: the tasks by key.
        jobs: of those that have one: its number, such as ``7_3``.
        again: how often each was queued anew.
        missed: whose job was found gone and the task not done; it may only not be seen here yet.
    """

    root: Path
    settings: SlurmSettings
    left: dict[str, Task]
    jobs: dict[str, str] = field(default_factory=dict)
    again: Counter[str] = field(default_factory=Counter)
    missed: set[str] = field(default_factory=set)
    n_done: int = 0
    n_failed: int = 0
    _line: tuple[float, str] = (0.0, "")

    def take_up(self, *, submit_new: bool) -> None:
        """Find what is queued or running already, and queue the rest.

        Raises:
            UserError: nothing was ever queued, and nothing is to be.
        """
        standings = self._standings()
        noted = {key: str(one.facts.get("job", "")) for key, one in standings.items()}
        alive = living(filter(None, noted.values()))
        if alive is None:
            raise UserError(
                "squeue does not answer", "try again when it does: `squeue` tells what is wrong"
            )
        self.jobs = {key: job for key, job in noted.items() if job in alive}
        going = {key for key, one in standings.items() if key in self.jobs or _at_work(one, alive)}
        fresh = [key for key in self.left if key not in going]
        if not submit_new:
            begun = {key for key, one in standings.items() if one.state != "failed"}
            fresh = [key for key in fresh if key in begun]
            self.left = {key: self.left[key] for key in self.left if key in standings}
            if not self.left:
                raise UserError("--attach: nothing was queued", "leave --attach out to queue it")
        self._submit([key for key in fresh if not self.left[key].is_done()])
        if going or fresh:
            say(f"{len(going)} task(s) found queued or running, {len(fresh)} queued now")

    def outcomes(self) -> Iterator[Outcome]:
        """Each task once it is settled."""
        while self.left:
            standings = self._standings()
            alive = living(self.jobs.values())
            if alive is not None:
                yield from self._settled(standings, alive)
            self._say(standings, "" if alive is not None else "squeue does not answer; ")
            if self.left:
                time.sleep(self.settings.poll_s)

    def _settled(self, standings: Mapping[str, Standing], alive: set[str]) -> Iterator[Outcome]:
        """The tasks that are found done or failed now; the jobs that vanished are queued again."""
        vanished = []
        for key, task in list(self.left.items()):
            standing = standings.get(key)
            if key not in self.left:  # it needs one that has just failed
                continue
            if standing is not None and standing.state == "failed":
                yield from self._close(task, _noted_error(standing))
            elif self.jobs.get(key) in alive or (standing and _at_work(standing, alive)):
                self.missed.discard(key)
            elif task.is_done():
                yield from self._close(task, None)
            elif key not in self.missed:
                self.missed.add(key)
            elif set(task.needs) & self.left.keys():
                continue
            elif self.again[key] < self.settings.retries:
                vanished.append(key)
            else:
                log = printable(str(standing.facts.get("log", ""))) if standing else ""
                error = TaskFailed(
                    f"its job ended {self.again[key] + 1} times without a word (log: {log})",
                    "look there for lack of memory or time: --time, memory_gb in the --slurm file",
                )
                notes.fail(self.root, key, error, {"log": log, "job": self.jobs.get(key, "")})
                yield from self._close(task, error)
        vanished = [key for key in vanished if key in self.left]
        for key in vanished:
            self.again[key] += 1
            say(f"{key}: job {self.jobs.get(key, '')} is gone and it is not done; once more")
        self._submit(vanished)

    def _close(self, task: Task, error: Exception | None) -> Iterator[Outcome]:
        """Settle a task; why it failed is noted already, but not yet of those that need it."""
        for one, why in settle(self.left, task, error):
            job = self.jobs.pop(one.key, "")
            self.n_done += why is None
            self.n_failed += why is not None
            if why is None:
                notes.forget(self.root, one.key)
            elif one is not task:
                notes.fail(self.root, one.key, why, {"job": job})
            yield one, why

    def _submit(self, keys: Sequence[str]) -> None:
        """Queue tasks, those that others wait for first; alike ones as one array.

        A job begins after the arrays of what it needs, ``afterany``: with ``afterok`` one failed
        job would hold back what does not need it. Each looks for itself whether it can begin.
        """
        waiting = {key: self.left[key] for key in keys}
        needed = {need for task in waiting.values() for need in task.needs}
        for key in waiting:
            self.jobs.pop(key, None)
            self.missed.discard(key)
        while waiting:
            alike: dict[tuple[Demand, str, bool], list[Task]] = {}
            for task in waiting.values():
                if not waiting.keys() & set(task.needs):
                    first = {_array(self.jobs[need]) for need in task.needs if need in self.jobs}
                    after = ":".join(["afterany", *sorted(first)]) if first else ""
                    # what others wait for is an array of its own: they wait for all of it
                    kind = task.demand, after, task.key in needed
                    alike.setdefault(kind, []).append(task)
            if not alike:
                raise ValueError(f"tasks that wait for each other: {', '.join(waiting)}")
            for (demand, after, _), group in alike.items():
                for at in range(0, len(group), self.settings.array_size):
                    self._submit_array(group[at : at + self.settings.array_size], demand, after)
                for task in group:
                    del waiting[task.key]

    def _submit_array(self, group: Sequence[Task], demand: Demand, after: str) -> None:
        """Queue tasks that want the same, as one array.

        Raises:
            UserError: SLURM refuses them, in its own words.
        """
        import submitit

        folder = _logs(self.root)
        make_folders(folder)
        logging.getLogger("submitit").setLevel(logging.CRITICAL)  # it tells what is told here again
        executor = submitit.SlurmExecutor(folder, max_num_timeout=self.settings.retries)
        executor.update_parameters(**parameters(demand, self.settings, after))
        try:
            with contextlib.redirect_stderr(io.StringIO()), executor.batch():
                jobs = []
                for task in group:
                    first = [self.left[need] for need in task.needs if need in self.left]
                    needs = tuple((one.key, one.is_done) for one in first)
                    jobs.append(executor.submit(Body(self.root, task, needs)))
        except submitit.core.utils.FailedJobError as error:
            words = " ".join(str(error).replace("sbatch: error: ", "").split())
            raise UserError(
                f"sbatch refuses the jobs: {printable(words)}",
                "mend --partition, --account, --time or the --slurm file; `sinfo` lists partitions",
            ) from error
        for task, job in zip(group, jobs, strict=True):
            self.jobs[task.key] = job.job_id
            facts = {"job": job.job_id, "log": str(job.paths.stdout)}
            notes.queue(self.root, task.key, facts)

    def _standings(self) -> dict[str, Standing]:
        return {one.key: one for one in notes.standings(self.root) if one.key in self.left}

    def _say(self, standings: Mapping[str, Standing], note: str) -> None:
        """A line now and then, when something has changed."""
        running = sum(one.state == "running" for one in standings.values())
        line = f"{note}{self.n_done} done, {running} running, {len(self.left) - running} queued" + (
            f", {self.n_failed} failed" if self.n_failed else ""
        )
        now = time.monotonic()
        if line != self._line[1] and (now - self._line[0] >= LINE_EVERY_S or not self.left):
            say(line)
            self._line = now, line


def _array(job: str) -> str:
    """The number of the whole array that a job is of."""
    return job.partition("_")[0]


def _at_work(standing: Standing, alive: set[str]) -> bool:
    """Whether a process is at it although its job is not among the living: no job, or just gone."""
    job = str(standing.facts.get("job", ""))
    here = not job or job in alive or standing.age_s < _FOREIGN_SILENCE_S
    return standing.state == "running" and here


def _noted_error(standing: Standing) -> UserError:
    """The error that a job noted, with the log it left."""
    facts = standing.facts
    kind = _ERRORS.get(facts.get("exit_code", 1), TaskFailed)
    message = printable(str(facts.get("message", "failed")))
    if log := facts.get("log"):
        message += f" (log: {printable(str(log))})"
    return kind(message, printable(str(facts.get("hint", ""))))


def _logs(root: Path) -> Path:
    return root / notes.FOLDER / "logs"


def _remove_logs(root: Path) -> None:
    """Remove the jobs' logs where no task is left that they could tell of."""
    if _logs(root).is_dir() and not notes.standings(root):
        shutil.rmtree(_logs(root), ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody has just noted something
            (root / notes.FOLDER).rmdir()


# --- what is asked of SLURM ---


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


def living(jobs: Iterable[str], timeout_s: float = _SQUEUE_S) -> set[str] | None:
    """Which of some jobs are waiting, running or just ending.

    A job that squeue does not know has ended, however it ended; whether its task is done, the file
    system tells. SLURM's accounts are not asked: they may lie.

    Args:
        jobs: as sbatch numbers them: ``7``, or ``7_3`` in an array.
        timeout_s: so long it may take to answer.

    Returns:
        Those that squeue lists; None where SLURM cannot be asked now.
    """
    jobs = set(jobs)
    if not jobs:
        return set()
    numbers = ",".join(sorted({_array(job) for job in jobs}))
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={numbers}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:  # what it says of one that is gone
        return None
    return jobs & set(done.stdout.split())


def parameters(demand: Demand, settings: SlurmSettings, after: str = "") -> dict[str, Any]:
    """What submitit is told of a demand: the cluster's settings where they say something.

    A job has as many processes on each node as the task demands; each runs the task and learns its
    rank from SLURM's own variables.

    >>> options = parameters(Demand(gpus=1, hours=1.5), SlurmSettings(partition="a", account="b"))
    >>> [options[name] for name in ("time", "partition", "mem", "additional_parameters")]
    [90, 'a', '4096M', {'gpus-per-node': '1'}]
    """
    cpus = settings.cpus or demand.cpus
    memory_gb = demand.memory_gb if settings.memory_gb is None else settings.memory_gb
    on_cpu = settings.cpu_partition if not demand.gpus else None
    n_gpus = demand.gpus * demand.processes
    gpus: dict[str, Any] = {}
    if n_gpus and settings.gpus != 0:
        gpus["gpus-per-node"] = str(n_gpus if settings.gpus is None else settings.gpus)
    options: dict[str, Any] = {
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
        "additional_parameters": {**gpus, **settings.sbatch},
    }
    if memory_gb:
        options["mem"] = f"{math.ceil(1024 * memory_gb * demand.processes)}M"
    return {key: value for key, value in options.items() if value is not None}


# --- what a job does ---


@dataclass(frozen=True)
class Body:
    """A task as a job; submitit dumps it again and requeues it at its time limit.

    Attributes:
        root: where notes are kept.
        task: what to do.
        needs: what comes first.
    """

    root: Path
    task: Task
    needs: Needs = ()

    def __call__(self) -> None:
        """Do it, unless it is done, or what it needs is not."""
        if missing := unmet(self.root, self.needs):
            say(f"{self.task.key}: needs {', '.join(missing)}: not done; nothing begun")
        elif int(os.environ.get("SLURM_PROCID", "0")):
            if not self.task.is_done():
                self.task.work()  # the first process of the team tells of it
        else:
            alone(self.root, self.task)

    def checkpoint(self) -> Any:
        """What submitit is to begin again: the same, since a task resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def alone(root: Path, task: Task) -> None:
    """Do a task that no other process is at; where one is, wait for what comes of it."""
    is_said = False
    while not task.is_done():
        other, job = notes.attendant(root, task.key), notes.job_id()
        if other is None or (job and other.get("job") == job):  # itself, on another machine before
            with notes.attended(root, task.key) as tell:
                if tell is not notes.unheard or notes.attendant(root, task.key) is None:
                    perform(root, task)
                    return
        elif not is_said:
            say(f"{task.key}: process {other.get('pid')} on {other.get('host')} is at it; waiting")
            is_said = True
        time.sleep(LOOK_S)


def unmet(root: Path, needs: Needs) -> list[str]:
    """Keys of what is not done, after waiting for what may merely not be seen yet."""
    until = time.monotonic() + PATIENCE_S
    while missing := [key for key, is_done in needs if not is_done()]:
        failed = {one.key for one in notes.standings(root) if one.state == "failed"}
        if failed & set(missing) or time.monotonic() > until:
            return missing
        time.sleep(LOOK_S)
    return []
