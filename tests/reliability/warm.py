"""The two commands from a process that has all imports behind it, so that a run takes a second.

A server imports everything once and does nothing else; each command is a fork of it, in a session
of its own, and forks its workers. Only the start differs from the installed command's: a kill at a
random time meets the work instead of the imports, and hundreds of kills are affordable.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.reliability.harness import ROOT, Completed

_IMPORTS = (
    "cli", "distill.experiments.launch", "distill.experiments.terminal", "featstore.build.run",
    "featstore.inspection.overview", "featstore.inspection.render",
    "featstore.teachers.finetune", "featstore.store.verify", "opensmile",
    "safetensors.torch", "soundfile", "torch._dynamo", "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert", "zarr.storage", "tests.reliability.warm",
)  # fmt: skip
_PR_SET_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)


@dataclass
class Running:
    """A command at work."""

    process: BaseProcess
    folder: Path
    tracer: int

    @property
    def pid(self) -> int:
        """Its process, which leads its process group and session."""
        assert self.process.pid is not None
        return self.process.pid

    def kill(self, number: signal.Signals = signal.SIGKILL, *, alone: bool = False) -> None:
        """Send a signal to it and, unless ``alone``, its workers; to nobody where it has ended."""
        if self.process.is_alive():
            with suppress(ProcessLookupError):
                (os.kill if alone else os.killpg)(self.pid, number)

    def wait(self, timeout_s: float = 120) -> Completed:
        """Its end: exit code (minus the signal that ended it), stdout and stderr."""
        self.process.join(timeout_s)
        code = self.process.exitcode
        if code is None:
            self.kill()
        assert code is not None, f"still running after {timeout_s} s: {self._text('err')}"
        until(lambda: not of_session(self.pid), 10, lambda: f"left: {of_session(self.pid)}")
        if self.tracer:
            until(lambda: not Path(f"/proc/{self.tracer}").exists(), 10)
        return subprocess.CompletedProcess([], code, self._text("out"), self._text("err"))

    def _text(self, name: str) -> str:
        return (self.folder / name).read_text(errors="replace")


def of_session(leader: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(session) == leader and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


def until(
    holds: Callable[[], bool], timeout_s: float, why: Callable[[], str] = lambda: "in vain"
) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, why()
        time.sleep(0.005)


@cache
def server() -> ForkServerContext:
    """The server that has imported everything; it is started once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTS])
    path, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH"), str(ROOT)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH") if path is None else os.environ.update(PYTHONPATH=path)
    return context


def start(
    app: str,
    arguments: Sequence[str],
    folder: Path,
    *,
    strace: Sequence[str] = (),
    before: Callable[[], None] | None = None,
) -> Running:
    """Start ``featstore`` or ``distill``; returns once it is about to begin.

    Args:
        app: which of them.
        arguments: of the command.
        folder: for what it prints; made here.
        strace: options of a strace that follows it and its workers.
        before: called in the command's process first, to break what a test relies on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = server()
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_command, args=(app, [*arguments], folder, [*strace], before, theirs)
    )
    process.start()
    theirs.close()
    assert ours.poll(120), "the command did not start"
    tracer = ours.recv()
    ours.close()
    return Running(process, folder, tracer)


def call(app: str, arguments: Sequence[str], folder: Path, **how: Any) -> Completed:
    """Run a command to its end; see :func:`start`."""
    return start(app, arguments, folder, **how).wait()


def _command(
    app: str,
    arguments: list[str],
    folder: Path,
    strace: list[str],
    before: Callable[[], None] | None,
    ready: Connection,
) -> None:
    os.setsid()
    for name, number in (("out", 1), ("err", 2)):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
    # What a killed command leaves behind is its own tracker's to clean away, not pytest's.
    tracker: Any = resource_tracker._resource_tracker  # type: ignore[attr-defined]
    tracker._fd = tracker._pid = None
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda *_: fork  # type: ignore[assignment]
    os.register_at_fork(after_in_child=_as_spawned)
    if before is not None:
        before()
    ready.send(_followed(strace) if strace else 0)
    ready.close()
    import cli

    sys.argv = [app, *arguments]
    code = 1
    try:
        getattr(cli, f"{app}_main")()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _as_spawned() -> None:
    """A worker that was spawned would not have its parent's handlers."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _followed(options: list[str]) -> int:
    """Have this process followed by a strace; the tracer's process id."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", *options, "-p", str(os.getpid())], start_new_session=True
    )
    me = Path("/proc/self/status")
    until(lambda: "TracerPid:\t0\n" not in me.read_text() or tracer.poll() is not None, 10)
    assert tracer.poll() is None, "strace does not start"
    return tracer.pid
