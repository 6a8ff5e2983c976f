"""Tasks as jobs of a SLURM cluster, in arrays, through submitit.

How they stand is read from the notes on the shared file system, so the submitting command may end,
die and be started again. ``squeue`` is asked for one thing alone: whether a job is still there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from featstore.core.console import LINE_EVERY_S, say
from featstore.core.schema import Corrupt, Refused, TaskFailed, UserError, printable
from featstore.jobs import task as notes
from featstore.jobs.body import Body
from featstore.jobs.settings import ExecutorSettings, SlurmSettings
from featstore.jobs.squeue import living, require_slurm
from featstore.jobs.submit import submit
from featstore.jobs.task import Demand, Standing, Task
from featstore.jobs.waves import dependency, failed_needs, ready_groups

Outcome = tuple[Task, Exception | None]

_FOREIGN_SILENCE_S = 20.0
"""So long after its last sign a process is believed gone whose job is."""

_ERRORS: Mapping[int, type[UserError]] = {1: TaskFailed, 2: UserError, 3: Corrupt, 4: Refused}


def logs(root: Path) -> Path:
    """Where jobs write what they say, beside the notes."""
    return root / notes.FOLDER / "logs"


def remove_logs(root: Path) -> None:
    """Remove the jobs' logs where no task is left that they could tell of."""
    if logs(root).is_dir() and not notes.standings(root):
        shutil.rmtree(logs(root), ignore_errors=True)
        with suppress(OSError):  # somebody has just noted something
            (root / notes.FOLDER).rmdir()


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
        remove_logs(root)
        return
    require_slurm()
    watch = _Watch(root.absolute(), settings.slurm, {task.key: task for task in tasks})
    try:
        watch.take_up(submit_new=not settings.attach)
        if not settings.wait:
            return
        yield from watch.outcomes()
        remove_logs(watch.root)
    finally:
        if arrays := sorted(watch.arrays()):
            say(_afterwards(len(watch.left), arrays))


def _afterwards(count: int, arrays: Sequence[str]) -> str:
    jobs = " ".join(arrays)
    return (
        f"{count} task(s) go on as SLURM job(s) {jobs}: the same command, or with --attach, "
        f"waits for them; `scancel {jobs}` ends them"
    )


@dataclass
class _Watch:
    """The tasks that are not done yet, and what became of their jobs."""

    root: Path
    settings: SlurmSettings
    left: dict[str, Task]
    failed: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    _jobs: dict[str, str] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _missed: set[str] = field(default_factory=set)
    _held_up: set[str] = field(default_factory=set)
    """Jobs that may have found their need undone, since its own job had vanished."""
    _told: tuple[float, str] = (0.0, "")

    def arrays(self) -> set[str]:
        """Numbers of the jobs and arrays that are still wanted."""
        jobs = (job for key, job in self._jobs.items() if job and key in self.left)
        return {job.partition("_")[0] for job in jobs}

    def take_up(self, *, submit_new: bool) -> None:
        """Find what is queued or running already, and queue the rest.

        Raises:
            UserError: nothing was ever queued, and nothing is to be.
        """
        standings = self._standings()
        alive = living(str(s.facts["job"]) for s in standings.values() if "job" in s.facts)
        if alive is None:
            raise UserError(
                "squeue does not answer", "try again when it does: `squeue` tells what is wrong"
            )
        fresh = []
        for key, task in self.left.items():
            standing = standings.get(key)
            job = str(standing.facts.get("job", "")) if standing else ""
            if standing and (job in alive or _at_work(standing, job, alive)):
                self._jobs[key] = job if job in alive else ""
            elif submit_new or (standing and standing.state != "failed"):
                fresh.append(task)
        found = len(self._jobs)
        if not submit_new:
            self.left = {k: t for k, t in self.left.items() if k in standings or t in fresh}
            if not self.left:
                raise UserError("--attach: nothing was queued", "leave --attach out to queue it")
        self._submit([task for task in fresh if not task.is_done()])
        if found or fresh:
            say(f"{found} task(s) found queued or running, {len(fresh)} queued now")

    def outcomes(self) -> Iterator[Outcome]:
        """Each task once it is settled."""
        while self.left:
            standings = self._standings()
            alive = living(job for key, job in self._jobs.items() if job and key in self.left)
            if alive is None:
                self._tell(standings, note="squeue does not answer; ")
            else:
                yield from self._settled(standings, alive)
                self._tell(standings)
            if self.left:
                time.sleep(self.settings.poll_s)

    def _settled(self, standings: Mapping[str, Standing], alive: set[str]) -> Iterator[Outcome]:
        again = []
        for key, task in list(self.left.items()):
            standing = standings.get(key)
            if standing is not None and standing.state == "failed":
                yield self._close(task, self._failure(standing))
            elif self._jobs.get(key) in alive or _at_work(standing, self._jobs.get(key), alive):
                self._missed.discard(key)
            elif task.is_done():
                yield self._close(task, None)
            elif key not in self._missed:  # what it did may only not be seen here yet
                self._missed.add(key)
            elif not set(task.needs) & self.left.keys():
                if key not in self._held_up and self._attempts.get(key, 0) >= self.settings.retries:
                    yield self._close(task, self._lost(key, standing))
                else:
                    again.append(task)
        while lost := list(failed_needs(self.left.values(), self.failed)):
            for task, error in lost:
                notes.fail(self.root, task.key, error, {"job": self._jobs.get(task.key, "")})
                yield self._close(task, error)
        self._submit_again([task for task in again if task.key in self.left])

    def _submit_again(self, tasks: Sequence[Task]) -> None:
        for key in [task.key for task in tasks]:
            self._held_up |= {other for other, task in self.left.items() if key in task.needs}
            if key in self._held_up:
                self._held_up.discard(key)
                continue
            self._attempts[key] = self._attempts.get(key, 0) + 1
            say(f"{key}: job {self._jobs.get(key)} is gone and it is not done; once more")
        self._submit(tasks)

    def _close(self, task: Task, error: Exception | None) -> Outcome:
        del self.left[task.key]
        if error is None:
            notes.forget(self.root, task.key)
            self.done.add(task.key)
        else:
            self.failed.add(task.key)
        return task, error

    def _failure(self, standing: Standing) -> UserError:
        """The error that a job noted, with the log it left."""
        facts = standing.facts
        kind = _ERRORS.get(facts.get("exit_code", 1), TaskFailed)
        message = printable(str(facts.get("message", "failed")))
        if log := facts.get("log"):
            message += f" (log: {printable(str(log))})"
        return kind(message, printable(str(facts.get("hint", ""))))

    def _lost(self, key: str, standing: Standing | None) -> TaskFailed:
        log = printable(str(standing.facts.get("log", ""))) if standing else ""
        tries = self._attempts.get(key, 0) + 1
        error = TaskFailed(
            f"its job ended {tries} times without a word (log: {log})",
            "look there for lack of memory or time: --time, memory_gb in the --slurm file",
        )
        facts = {"log": log, "job": self._jobs.get(key, "")}
        notes.fail(self.root, key, error, facts)
        return error

    def _submit(self, tasks: Sequence[Task]) -> None:
        """Queue tasks, those that others wait for first."""
        waiting = {task.key: task for task in tasks}
        for key in waiting:
            self._jobs.pop(key, None)
            self._missed.discard(key)
        while waiting:
            groups = ready_groups(list(waiting.values()), self._jobs)
            if not groups:
                raise ValueError(f"tasks that wait for each other: {', '.join(waiting)}")
            for demand, group in groups:
                for at in range(0, len(group), self.settings.array_size):
                    self._submit_array(demand, group[at : at + self.settings.array_size])
                for task in group:
                    del waiting[task.key]

    def _submit_array(self, demand: Demand, group: Sequence[Task]) -> None:
        first = [self._jobs.get(need, "") for need in group[0].needs if need in self.left]
        after = dependency(filter(None, first), self._sizes)
        by_key = {key: task.is_done for key, task in self.left.items()}
        bodies = [
            Body(self.root, task, tuple((n, by_key[n]) for n in task.needs if n in by_key))
            for task in group
        ]
        jobs = submit(bodies, demand, self.settings, logs(self.root), after)
        for task, (job, log) in zip(group, jobs, strict=True):
            self._jobs[task.key] = job
            notes.queue(self.root, task.key, {"job": job, "log": log})
        self._sizes[jobs[0][0].partition("_")[0]] = len(jobs)

    def _standings(self) -> dict[str, Standing]:
        return {s.key: s for s in notes.standings(self.root) if s.key in self.left}

    def _tell(self, standings: Mapping[str, Standing], note: str = "") -> None:
        """A line now and then, when something has changed."""
        running = sum(s.state == "running" for s in standings.values())
        line = (
            f"{note}{len(self.done)} done, {running} running, {len(self.left) - running} queued"
            + (f", {len(self.failed)} failed" if self.failed else "")
        )
        now = time.monotonic()
        if line != self._told[1] and (now - self._told[0] >= LINE_EVERY_S or not self.left):
            say(line)
            self._told = now, line


def _at_work(standing: Standing | None, job: str | None, alive: set[str]) -> bool:
    """Whether a process is at it although its job is not among the living: no job, or just gone."""
    if standing is None or standing.state != "running":
        return False
    noted = str(standing.facts.get("job", ""))
    return not noted or noted in alive or standing.age_s < _FOREIGN_SILENCE_S
