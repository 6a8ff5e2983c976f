"""Tasks: the independent pieces of a build or a study, and how each stands.

A task ends in something committed (a unit, a run's ``DONE``), so anybody may begin it again at any
time. Until then small files in ``ROOT/.tasks``, on the file system that all nodes share, say how
it stands; a scheduler's accounts are never asked. The files vanish with the work.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from featstore.core.files import (
    make_folders,
    read_small,
    remove_leftovers,
    strict_json,
    try_lock,
    write_file,
)
from featstore.core.schema import TaskFailed, UserError, printable
from featstore.core.settings import digest

FOLDER = ".tasks"
BEAT_S = 10.0
"""A running task says so this often."""

STALE_S = 90.0
"""One on another machine that has been silent for so long is gone."""

_RECORD_BYTES = 2048
_NAME_CHARS = 180

State = Literal["queued", "running", "silent", "failed"]
Tell = Callable[..., None]
"""``tell(done, total, note="")``: how far a task is, in steps of its own. What the first call tells
of was done before."""


@dataclass(frozen=True)
class Demand:
    """What a task wants of a machine, in one process or in several.

    Attributes:
        cpus: threads of each process.
        gpus: of each process, 0 or 1.
        memory_gb: of each process.
        hours: after which it may be stopped; it resumes.
        processes: on each node.
        nodes: how many machines.
    """

    cpus: int = 1
    gpus: int = 0
    memory_gb: float = 4.0
    hours: float = 4.0
    processes: int = 1
    nodes: int = 1


@dataclass(frozen=True)
class Task:
    """A piece of work that can be done anywhere, again, and in any order that ``needs`` allows.

    Attributes:
        key: what it makes, e.g. ``folds/03/linguistic``; unique below its root.
        work: does it; can be pickled.
        is_done: whether what it makes is there; can be pickled, reads no large file.
        needs: keys of the tasks that come first.
        demand: what it wants of a machine.
        n_steps: as many steps its progress counts.
    """

    key: str
    work: Callable[[], Any]
    is_done: Callable[[], bool]
    needs: tuple[str, ...] = ()
    demand: Demand = field(default_factory=Demand)
    n_steps: int = 1


Outcome = tuple[Task, Exception | None]


def settle(left: dict[str, Task], task: Task, error: Exception | None) -> Iterator[Outcome]:
    """A task has ended: take it, and where it failed all that need it, out of those that are left.

    Yields:
        Each task that is left no more, with why it failed, or None.
    """
    del left[task.key]
    yield task, error
    if error is None:
        return
    lost = TaskFailed(
        f"needs {task.key}, which failed", "mend its cause and run the same command again"
    )
    for other in [one for one in left.values() if task.key in one.needs]:
        if other.key in left:  # it may need another one of these
            yield from settle(left, other, lost)


@dataclass(frozen=True)
class Standing:
    """How a task stands that is not done.

    Attributes:
        key: which.
        state: ``silent`` has begun, and nobody is at it any more.
        facts: what was noted: ``job``, ``log``, ``host``, ``pid``, ``began``, ``before``,
            ``done``, ``total``, ``note``, ``message``, ``hint``, as far as they apply. From disk:
            not to be trusted.
        age_s: seconds since the last sign.
    """

    key: str
    state: State
    facts: dict[str, Any]
    age_s: float

    @property
    def left_s(self) -> float | None:
        """Seconds until a running task is done, at its pace so far; None where it cannot be told.

        >>> Standing("a", "running", {"began": 0.0, "beat": 30.0, "done": 3, "total": 4}, 0).left_s
        10.0
        """
        try:
            done, total = float(self.facts["done"]), float(self.facts["total"])
            spent = float(self.facts["beat"]) - float(self.facts["began"])
            here = done - float(self.facts.get("before", 0))
        except (KeyError, TypeError, ValueError):
            return None
        if self.state != "running" or not 0 < here <= done <= total or spent < 0:
            return None
        return spent / here * (total - done)


def queue(root: Path, key: str, facts: dict[str, Any]) -> None:
    """Note that a task waits for a machine, and with whom; forgets that it ever failed."""
    record = {"key": key, "since": time.time(), **facts}
    make_folders(root / FOLDER)
    _path(root, key, "failed").unlink(missing_ok=True)
    write_file(_path(root, key, "queued"), json.dumps(record, sort_keys=True).encode())


@contextmanager
def queued(root: Path, keys: Iterable[str]) -> Iterator[None]:
    """Show tasks as waiting for this command, as long as it lasts.

    What another process or a job of a cluster does is left alone; so is a note of a failure.
    """
    here = socket.gethostname()
    others = {
        one.key
        for one in standings(root)
        if one.state == "running" or (one.state == "queued" and one.facts.get("job"))
    }
    mine = set(keys) - others
    try:
        for key in mine:
            with suppress(OSError):  # a full disk, say: the task itself will fail with it
                queue(root, key, {"host": here, "pid": os.getpid()})
        yield
    finally:
        with suppress(OSError):
            for key in mine:
                _path(root, key, "queued").unlink(missing_ok=True)
            for one in standings(root):  # a process that was killed, by this one or by the system
                if one.key in mine and one.state == "silent" and one.facts.get("host") == here:
                    _remove_unheld(_path(root, one.key, "running"))
            (root / FOLDER).rmdir()


def forget(root: Path, key: str) -> None:
    """Remove every note of a task, and the folder with the last of them."""
    for kind in ("queued", "running", "failed"):
        _path(root, key, kind).unlink(missing_ok=True)
    with suppress(OSError):
        (root / FOLDER).rmdir()


def tidy(root: Path, done: Collection[str]) -> None:
    """Remove notes that tell of nothing any more: of what is done, and what killed processes left.

    Args:
        root: the store, or the folder of runs.
        done: keys of what is committed; their parts are done, too.
    """
    folder = root / FOLDER
    if not folder.is_dir():
        return
    remove_leftovers(folder)
    for standing in standings(root):
        left = standing.state == "silent" and "job" not in standing.facts
        over = standing.key.partition("/part-")[0] in done
        if standing.state != "running" and (left or over):
            forget(root, standing.key)
    for path in folder.glob("*.running"):
        with suppress(OSError):
            if path.stat().st_size == 0:  # killed before a word
                _remove_unheld(path)
    with suppress(OSError):
        folder.rmdir()


def _remove_unheld(path: Path) -> None:
    """Remove a record of a running task, unless a process has just begun it."""
    with suppress(OSError):
        if (handle := try_lock(path)) is not None:
            path.unlink()
            os.close(handle)


def fail(root: Path, key: str, error: Exception, facts: dict[str, Any]) -> None:
    """Note of a task that nobody is at any more that it came to nothing."""
    if not isinstance(error, UserError):
        error = TaskFailed(f"{type(error).__name__}: {error}")
    record = {
        **facts,
        "key": key,
        "message": printable(error.message)[:4000],
        "hint": printable(error.hint)[:1000],
        "exit_code": error.exit_code,
        "at": time.time(),
    }
    make_folders(root / FOLDER)
    write_file(_path(root, key, "failed"), json.dumps(record, sort_keys=True).encode())


def unheard(done: int, total: int, note: str = "") -> None:
    """The ``tell`` of a process without a note: another one has it, or none can be kept."""


@contextmanager
def attended(root: Path, key: str) -> Iterator[Tell]:
    """Be at a task: whoever looks sees that it runs, how far it is, and why it failed.

    Where another process is at the same task, or no note can be kept, nothing is noted
    (:func:`unheard`); what comes of that is for the commit to settle. Where this one is already, it
    tells with the same voice. A failure is noted and goes on; an interrupted task leaves no note.

    Args:
        root: the store, or the folder of runs.
        key: the task's.
    """
    path = _path(root, key, "running").absolute()
    if path in _HERE:
        yield _HERE[path]
        return
    handle = _attend(path)
    if handle is None:
        yield unheard
        return
    facts = {"key": key, "log": "", "host": socket.gethostname(), "pid": os.getpid()}
    facts |= {"began": time.time(), **({"job": job} if (job := job_id()) else {})}
    with suppress(OSError, UserError):  # it was not queued
        facts["log"] = str(_standing(_path(root, key, "queued"), "queued").facts.get("log", ""))
    _path(root, key, "failed").unlink(missing_ok=True)
    try:
        with _beating(handle, facts) as tell:
            _HERE[path] = tell
            yield tell
    except Exception as error:
        with suppress(OSError):  # a full disk, say: the error itself is told anyway
            fail(root, key, error, facts)
        raise
    else:
        forget(root, key)
    finally:
        _HERE.pop(path, None)
        path.unlink(missing_ok=True)
        os.close(handle)


_HERE: dict[Path, Tell] = {}
"""What this process is at, by the path of its record."""


@contextmanager
def _beating(handle: int, facts: dict[str, Any]) -> Iterator[Tell]:
    """Write a record every now and then from a thread, always as many bytes: none is torn."""
    guard, over = threading.Lock(), threading.Event()

    def write(**more: Any) -> None:
        with guard, suppress(OSError):  # work does not end because nobody can be told of it
            facts.update(more)
            record = json.dumps({**facts, "beat": time.time()}, sort_keys=True).encode()
            os.pwrite(handle, record.ljust(_RECORD_BYTES), 0)

    def tell(done: int, total: int, note: str = "") -> None:
        before = facts.get("before", done)
        write(before=before, done=done, total=total, note=printable(note)[:400])

    def beat() -> None:
        while not over.wait(BEAT_S):
            write()

    thread = threading.Thread(target=beat, daemon=True)
    write()
    thread.start()
    try:
        yield tell
    finally:
        over.set()
        thread.join()


def _attend(path: Path) -> int | None:
    """The locked record of a task; None where another process is at it, or none can be kept."""
    for _ in range(5):
        try:
            with suppress(OSError):
                make_folders(path.parent)
            if (handle := try_lock(path, create=True)) is not None:
                return handle
        except FileNotFoundError:  # its last holder took it, or the folder, away
            pass
        except OSError:
            return None
        time.sleep(0.02)  # somebody may just be looking whether it is held
    return None


def attendant(root: Path, key: str) -> dict[str, Any] | None:
    """What the process that is at a task has noted of itself; None where nobody is at it."""
    with suppress(OSError, UserError):  # gone meanwhile, or not one of ours
        standing = _standing(_path(root, key, "running"), "running")
        return standing.facts if standing.state == "running" else None
    return None


def job_id() -> str:
    """The SLURM job that this process is part of, as squeue and scancel call it; else empty."""
    array, index = (os.environ.get(f"SLURM_ARRAY_{part}_ID", "") for part in ("JOB", "TASK"))
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID", "")


def standings(root: Path) -> list[Standing]:
    """How each task below ``root`` stands that is not done, by key."""
    by_key: dict[str, Standing] = {}
    for kind in ("queued", "failed", "running"):  # the later one is the later news
        paths: list[Path] = []
        with suppress(FileNotFoundError):  # the folder goes with its last note
            paths = sorted((root / FOLDER).glob(f"*.{kind}"))
        for path in paths:
            with suppress(OSError, UserError):  # gone meanwhile, or not one of ours
                standing = _standing(path, kind)
                if standing.key in by_key:
                    standing.facts.update(by_key[standing.key].facts | standing.facts)
                by_key[standing.key] = standing
    return [by_key[key] for key in sorted(by_key)]


def _standing(path: Path, kind: str) -> Standing:
    facts = strict_json(read_small(path), str(path))
    state: State = "failed" if kind == "failed" else "queued"
    age = max(time.time() - path.stat().st_mtime, 0.0)
    if kind == "running":
        state = "running" if _is_attended(path, facts, age) else "silent"
    return Standing(str(facts.get("key", path.stem)), state, facts, age)


def _is_attended(path: Path, facts: dict[str, Any], age_s: float) -> bool:
    """Whether somebody is at it; some cluster file systems show no machine the others' locks.

    Who may only read cannot ask for the lock, and goes by how long it has been silent.
    """
    try:
        lock = try_lock(path)
    except FileNotFoundError:
        raise
    except OSError:
        return age_s < STALE_S
    if lock is None:
        return True
    os.close(lock)
    return facts.get("host") != socket.gethostname() and age_s < STALE_S


def _path(root: Path, key: str, kind: str) -> Path:
    """Where a note of a task lies.

    >>> _path(Path("store"), "folds/03/linguistic", "queued").name
    'folds~03~linguistic.queued'
    """
    name = key.replace("/", "~")
    if len(name) > _NAME_CHARS:
        name = f"{name[:_NAME_CHARS]}-{digest(key)[:12]}"
    return root / FOLDER / f"{name}.{kind}"
