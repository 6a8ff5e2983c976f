"""Tasks: the independent pieces of a build or a study, and how each stands.

A task ends in something committed (a unit, a run's ``DONE``), so anybody may begin it again at any
time. How it stands until then is told by small files in ``ROOT/.tasks``, on the file system that
all nodes share, and never by a scheduler's accounts. They vanish with the work that they tell of.
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
        why: the reason that it is to be done.
        needs: keys of the tasks that come first.
        demand: what it wants of a machine.
        n_steps: as many steps its progress counts.
    """

    key: str
    work: Callable[[], Any]
    is_done: Callable[[], bool]
    why: str = ""
    needs: tuple[str, ...] = ()
    demand: Demand = field(default_factory=Demand)
    n_steps: int = 1


Outcome = tuple[Task, Exception | None]


def failed_needs(tasks: Iterable[Task], failed: Collection[str]) -> list[Outcome]:
    """The tasks that need one that has failed, each with the error that says so."""
    hint = "mend its cause and run the same command again"
    return [
        (task, TaskFailed(f"needs {', '.join(lost)}, which failed", hint))
        for task in tasks
        if (lost := sorted(set(task.needs) & set(failed)))
    ]


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
    make_folders(_folder(root))
    _path(root, key, "failed").unlink(missing_ok=True)
    write_file(_path(root, key, "queued"), json.dumps(record, sort_keys=True).encode())


def forget(root: Path, key: str) -> None:
    """Remove every note of a task, and the folder with the last of them."""
    for kind in ("queued", "running", "failed"):
        _path(root, key, kind).unlink(missing_ok=True)
    with suppress(OSError):
        _folder(root).rmdir()


def withdraw(root: Path, key: str) -> None:
    """Its command ends: nobody waits for the task any more. What it failed with stays."""
    _path(root, key, "queued").unlink(missing_ok=True)
    running = _path(root, key, "running")
    with suppress(FileNotFoundError, UserError):
        here = strict_json(read_small(running), str(running)).get("host") == socket.gethostname()
        lock = try_lock(running) if here else None
        if lock is not None:  # its process was killed, by this one or by the system
            running.unlink()
            os.close(lock)
    with suppress(OSError):
        _folder(root).rmdir()


def tidy(root: Path, done: Collection[str]) -> None:
    """Remove notes that tell of nothing any more: of what is done, and what killed processes left.

    Args:
        root: the store, or the folder of runs.
        done: keys of what is committed; their parts are done, too.
    """
    folder = _folder(root)
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
            handle = try_lock(path) if path.stat().st_size == 0 else None  # killed before a word
            if handle is not None:
                path.unlink()
                os.close(handle)
    with suppress(OSError):
        folder.rmdir()


def fail(root: Path, key: str, error: Exception, facts: dict[str, Any]) -> None:
    """Note of a task that nobody is at any more that it came to nothing."""
    make_folders(_folder(root))
    _note_failure(root, key, error, {"key": key, **facts})


@contextmanager
def attended(root: Path, key: str, *, log: str = "") -> Iterator[Tell]:
    """Be at a task: whoever looks sees that it runs, how far it is, and why it failed.

    Where another process is at the same task, nothing is noted; what comes of that is for the
    commit to settle. Where this one is already, it tells with the same voice. A failure is noted
    and goes on; an interrupted task leaves no note of it.

    Args:
        root: the store, or the folder of runs.
        key: the task's.
        log: where its output goes, for those who look for the cause.
    """
    path = _path(root, key, "running").absolute()
    if path in _HERE:
        yield _HERE[path].tell
        return
    handle = _attend(path)
    if handle is None:
        yield lambda done, total, note="": None
        return
    beating = _Beating(handle, {"key": key, "log": log or _noted_log(root, key)})
    _path(root, key, "failed").unlink(missing_ok=True)
    try:
        _HERE[path] = beating
        with beating:
            yield beating.tell
    except Exception as error:
        with suppress(OSError):  # a full disk, say: the error itself is told anyway
            _note_failure(root, key, error, beating.facts)
        raise
    else:
        forget(root, key)
    finally:
        _HERE.pop(path, None)
        path.unlink(missing_ok=True)
        os.close(handle)


def attendant(root: Path, key: str) -> dict[str, Any] | None:
    """What the process that is at a task has noted of itself; None where nobody is at it."""
    path = _path(root, key, "running")
    with suppress(OSError, UserError):  # gone meanwhile, or not one of ours
        standing = _standing(path, "running")
        return standing.facts if standing.state == "running" else None
    return None


def job_id() -> str:
    """The SLURM job that this process is part of, as squeue and scancel call it; else empty."""
    array, index = (os.environ.get(f"SLURM_ARRAY_{part}_ID", "") for part in ("JOB", "TASK"))
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID", "")


def standings(root: Path) -> list[Standing]:
    """How each task below ``root`` stands that is not done, by key."""
    found: dict[str, Standing] = {}
    for kind in ("queued", "failed", "running"):  # the later one is the later news
        for path in sorted(_folder(root).glob(f"*.{kind}")):
            with suppress(OSError, UserError):  # gone meanwhile, or not one of ours
                standing = _standing(path, kind)
                queued = found.get(standing.key)
                facts = {**queued.facts, **standing.facts} if queued else standing.facts
                found[standing.key] = Standing(standing.key, standing.state, facts, standing.age_s)
    return [found[key] for key in sorted(found)]


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


class _Beating:
    """Writes a record every now and then from a thread, always as many bytes: none is torn."""

    def __init__(self, handle: int, facts: dict[str, Any]) -> None:
        self._handle = handle
        self.facts = {
            **facts, "host": socket.gethostname(), "pid": os.getpid(), "began": time.time(),
        }  # fmt: skip
        if job := job_id():
            self.facts["job"] = job
        self._guard, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        self._write()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def tell(self, done: int, total: int, note: str = "") -> None:
        self.facts.setdefault("before", done)
        self.facts.update(done=done, total=total, note=printable(note)[:400])
        self._write()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            self._write()

    def _write(self) -> None:
        record = json.dumps({**self.facts, "beat": time.time()}, sort_keys=True).encode()
        with self._guard, suppress(OSError):  # work does not end because nobody can be told of it
            os.pwrite(self._handle, record.ljust(_RECORD_BYTES), 0)


_HERE: dict[Path, _Beating] = {}
"""What this process is at, by the path of its record."""


def _attend(path: Path) -> int | None:
    """The locked record of a task; None where another process is at it, or none can be kept."""
    for _ in range(5):
        with suppress(FileNotFoundError):  # its last holder took it, or the folder, away
            with suppress(OSError):
                make_folders(path.parent)
            try:
                handle = try_lock(path, create=True)
            except FileNotFoundError:
                raise
            except OSError:
                return None
            if handle is not None:
                return handle
        time.sleep(0.02)  # somebody may just be looking whether it is held
    return None


def _note_failure(root: Path, key: str, error: Exception, facts: dict[str, Any]) -> None:
    if not isinstance(error, UserError):
        error = TaskFailed(f"{type(error).__name__}: {error}")
    record = {
        **facts,
        "message": printable(error.message)[:4000],
        "hint": printable(error.hint)[:1000],
        "exit_code": error.exit_code,
        "at": time.time(),
    }
    write_file(_path(root, key, "failed"), json.dumps(record, sort_keys=True).encode())


def _noted_log(root: Path, key: str) -> str:
    with suppress(OSError, UserError):
        path = _path(root, key, "queued")
        return str(strict_json(read_small(path), str(path)).get("log", ""))
    return ""


def _folder(root: Path) -> Path:
    return root / FOLDER


def _path(root: Path, key: str, kind: str) -> Path:
    """Where a note of a task lies.

    >>> _path(Path("store"), "folds/03/linguistic", "queued").name
    'folds~03~linguistic.queued'
    """
    name = key.replace("/", "~")
    if len(name) > _NAME_CHARS:
        name = f"{name[:_NAME_CHARS]}-{digest(key)[:12]}"
    return _folder(root) / f"{name}.{kind}"
