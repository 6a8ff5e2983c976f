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
import socket
import subprocess
import time
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
from featstore.jobs.task import Demand, Outcome, Standing, Task, failed_needs

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
    watch = _Watch(root.absolute(), settings.slurm, {task.key: _Job(task) for task in tasks})
    try:
        watch.take_up(submit_new=not settings.attach)
        if settings.wait:
            yield from watch.outcomes()
            _remove_logs(watch.root)
    finally:
        arrays = sorted({job.number.partition("_")[0] for job in watch.left.values()} - {""})
        if arrays:
            jobs = " ".join(arrays)
            say(
                f"{len(watch.left)} task(s) go on as SLURM job(s) {jobs}: the same command, or "
                f"with --attach, waits for them; `scancel {jobs}` ends them"
            )


# --- the waiting command ---


@dataclass
class _Job:
    """A task that is not done yet, and what became of its jobs.

    Attributes:
        task: the task.
        number: its job's, such as ``7_3``; empty where it has none.
        again: how often it was queued anew.
        missed: its job was found gone and the task not done; it may only not be seen here yet.
    """

    task: Task
    number: str = ""
    again: int = 0
    missed: bool = False


@dataclass
class _Watch:
    """The tasks that are not settled yet."""

    root: Path
    settings: SlurmSettings
    left: dict[str, _Job]
    failed: set[str] = field(default_factory=set)
    n_done: int = 0
    _sizes: dict[str, int] = field(default_factory=dict)
    _line: tuple[float, str] = (0.0, "")

    def take_up(self, *, submit_new: bool) -> None:
        """Find what is queued or running already, and queue the rest.

        Raises:
            UserError: nothing was ever queued, and nothing is to be.
        """
        standings = self._standings()
        alive = living(str(one.facts["job"]) for one in standings.values() if "job" in one.facts)
        if alive is None:
            raise UserError(
                "squeue does not answer", "try again when it does: `squeue` tells what is wrong"
            )
        n_there, fresh = 0, []
        for key, job in self.left.items():
            standing = standings.get(key)
            number = str(standing.facts.get("job", "")) if standing else ""
            if standing and (number in alive or _at_work(standing, number, alive)):
                job.number = number if number in alive else ""
                n_there += 1
            elif submit_new or (standing and standing.state != "failed"):
                fresh.append(job)
        if not submit_new:
            self.left = {k: j for k, j in self.left.items() if k in standings or j in fresh}
            if not self.left:
                raise UserError("--attach: nothing was queued", "leave --attach out to queue it")
        self._submit([job for job in fresh if not job.task.is_done()])
        if n_there or fresh:
            say(f"{n_there} task(s) found queued or running, {len(fresh)} queued now")

    def outcomes(self) -> Iterator[Outcome]:
        """Each task once it is settled."""
        while self.left:
            standings = self._standings()
            alive = living(job.number for job in self.left.values() if job.number)
            if alive is not None:
                yield from self.settled(standings, alive)
            self._say(standings, "" if alive is not None else "squeue does not answer; ")
            if self.left:
                time.sleep(self.settings.poll_s)

    def settled(self, standings: Mapping[str, Standing], alive: set[str]) -> Iterator[Outcome]:
        """The tasks that are found done or failed now; the jobs that vanished are queued again."""
        again = []
        for key, job in list(self.left.items()):
            standing = standings.get(key)
            if standing is not None and standing.state == "failed":
                yield self._close(key, _noted_error(standing))
            elif job.number in alive or _at_work(standing, job.number, alive):
                job.missed = False
            elif job.task.is_done():
                yield self._close(key, None)
            elif not job.missed:
                job.missed = True
            elif not set(job.task.needs) & self.left.keys():
                if job.again < self.settings.retries:
                    again.append(job)
                else:
                    yield self._close(key, self._lost(key, job, standing))
        while lost := failed_needs([job.task for job in self.left.values()], self.failed):
            for task, error in lost:
                if error is not None:
                    facts = {"job": self.left[task.key].number}
                    notes.fail(self.root, task.key, error, facts)
                yield self._close(task.key, error)
        again = [job for job in again if job.task.key in self.left]
        for job in again:
            job.again += 1
            say(f"{job.task.key}: job {job.number} is gone and it is not done; once more")
        self._submit(again)

    def _close(self, key: str, error: Exception | None) -> Outcome:
        task = self.left.pop(key).task
        if error is None:
            notes.forget(self.root, key)
            self.n_done += 1
        else:
            self.failed.add(key)
        return task, error

    def _lost(self, key: str, job: _Job, standing: Standing | None) -> TaskFailed:
        log = printable(str(standing.facts.get("log", ""))) if standing else ""
        error = TaskFailed(
            f"its job ended {job.again + 1} times without a word (log: {log})",
            "look there for lack of memory or time: --time, memory_gb in the --slurm file",
        )
        notes.fail(self.root, key, error, {"log": log, "job": job.number})
        return error

    def _submit(self, jobs: Sequence[_Job]) -> None:
        """Queue tasks, those that others wait for first; alike ones as one array."""
        waiting = {job.task.key: job for job in jobs}
        for job in jobs:
            job.number, job.missed = "", False
        while waiting:
            alike: dict[tuple[Demand, frozenset[str]], list[_Job]] = {}
            for job in waiting.values():
                if not waiting.keys() & set(job.task.needs):
                    queued = (one for one in job.task.needs if one in self.left)
                    first = frozenset(n for one in queued if (n := self.left[one].number))
                    alike.setdefault((job.task.demand, first), []).append(job)
            if not alike:
                raise ValueError(f"tasks that wait for each other: {', '.join(waiting)}")
            for (demand, first), group in alike.items():
                for at in range(0, len(group), self.settings.array_size):
                    self._submit_array(demand, group[at : at + self.settings.array_size], first)
                for job in group:
                    del waiting[job.task.key]

    def _submit_array(self, demand: Demand, group: Sequence[_Job], first: Iterable[str]) -> None:
        bodies = []
        for job in group:
            needs = (self.left[need].task for need in job.task.needs if need in self.left)
            bodies.append(Body(self.root, job.task, tuple((t.key, t.is_done) for t in needs)))
        after = dependency(first, self._sizes)
        numbers = submit(bodies, demand, self.settings, _logs(self.root), after)
        for job, (number, log) in zip(group, numbers, strict=True):
            job.number = number
            notes.queue(self.root, job.task.key, {"job": number, "log": log})
        self._sizes[numbers[0][0].partition("_")[0]] = len(numbers)

    def _standings(self) -> dict[str, Standing]:
        return {one.key: one for one in notes.standings(self.root) if one.key in self.left}

    def _say(self, standings: Mapping[str, Standing], note: str) -> None:
        """A line now and then, when something has changed."""
        running = sum(one.state == "running" for one in standings.values())
        line = f"{note}{self.n_done} done, {running} running, {len(self.left) - running} queued" + (
            f", {len(self.failed)} failed" if self.failed else ""
        )
        now = time.monotonic()
        if line != self._line[1] and (now - self._line[0] >= LINE_EVERY_S or not self.left):
            say(line)
            self._line = now, line


def _at_work(standing: Standing | None, number: str, alive: set[str]) -> bool:
    """Whether a process is at it although its job is not among the living: no job, or just gone."""
    if standing is None or standing.state != "running":
        return False
    noted = str(standing.facts.get("job", ""))
    return not noted or noted in alive or standing.age_s < _FOREIGN_SILENCE_S


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
    wanted = set(jobs)
    if not wanted:
        return set()
    numbers = ",".join(sorted({job.partition("_")[0] for job in wanted}))
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={numbers}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:  # what it says of one that is gone
        return None
    return wanted & set(done.stdout.split())


def submit(
    bodies: Sequence[Body], demand: Demand, settings: SlurmSettings, folder: Path, after: str = ""
) -> list[tuple[str, str]]:
    """Queue some bodies that want the same, as one array.

    Args:
        bodies: what each job does.
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
        words = " ".join(str(error).replace("sbatch: error: ", "").split())
        raise UserError(
            f"sbatch refuses the jobs: {printable(words)}",
            "mend --partition, --account, --time or the --slurm file; `sinfo` lists partitions",
        ) from error
    return [(job.job_id, str(job.paths.stdout)) for job in jobs]


def parameters(demand: Demand, settings: SlurmSettings, after: str = "") -> dict[str, Any]:
    """What submitit is told of a demand: the cluster's settings where they say something.

    A job has as many processes on each node as the task demands; each runs the task and learns its
    rank from SLURM's own variables.

    >>> told = parameters(Demand(gpus=1, hours=1.5), SlurmSettings(partition="a", account="b"))
    >>> told["time"], told["partition"], told["mem"], told["additional_parameters"]
    (90, 'a', '4096M', {'gpus-per-node': '1'})
    """
    cpus = settings.cpus or demand.cpus
    memory_gb = demand.memory_gb if settings.memory_gb is None else settings.memory_gb
    on_cpu = settings.cpu_partition if not demand.gpus else None
    n_gpus = demand.gpus * demand.processes
    gpus: dict[str, Any] = {}
    if n_gpus and settings.gpus != 0:
        gpus["gpus-per-node"] = str(n_gpus if settings.gpus is None else settings.gpus)
    asked: dict[str, Any] = {
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
        asked["mem"] = f"{math.ceil(1024 * memory_gb * demand.processes)}M"
    return {key: value for key, value in asked.items() if value is not None}


def dependency(jobs: Iterable[str], sizes: Mapping[str, int]) -> str:
    """What sbatch's ``--dependency`` is told, a whole array by its own number.

    ``afterany``, not ``afterok``: one failed job of an array would hold back all that depends on
    the array, also what does not need it. Each task looks for itself whether what it needs is done.

    Args:
        jobs: that come first.
        sizes: how many jobs an array has, by its number.

    >>> dependency(["7_0", "7_1", "8_3", "9"], {"7": 2, "8": 5})
    'afterany:7:8_3:9'
    """
    by_array: dict[str, list[str]] = {}
    for job in jobs:
        by_array.setdefault(job.partition("_")[0], []).append(job)
    parts: list[str] = []
    for array, members in sorted(by_array.items()):
        parts += [array] if len(members) == sizes.get(array) else sorted(members)
    return ":".join(["afterany", *parts]) if parts else ""


# --- what a job does ---


@dataclass(frozen=True)
class Body:
    """A task as a job; submitit dumps it again and requeues it at its time limit.

    Attributes:
        root: where notes are kept.
        task: what to do.
        needs: the tasks that come first, each with what tells that it is done.
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
    is_told = False
    while not task.is_done():
        other = notes.attendant(root, task.key)
        job = notes.job_id()
        mine = (socket.gethostname(), os.getpid())
        if other is None or (job and other.get("job") == job):  # itself, on another machine before
            with notes.attended(root, task.key):
                other = notes.attendant(root, task.key)
                if other is None or (other.get("host"), other.get("pid")) == mine:
                    perform(root, task)
                    return
        if not is_told:
            say(f"{task.key}: process {other.get('pid')} on {other.get('host')} is at it; waiting")
            is_told = True
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
