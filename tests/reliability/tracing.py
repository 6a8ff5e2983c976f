"""What a command does to files and to the network, as the kernel was asked for it: strace, read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

CALLS = "%file,connect,bind,sendto"
"""Whatever names a path, and whatever reaches beyond the machine."""
WRITING = {
    "creat", "mkdir", "mkdirat", "mknod", "mknodat", "rename", "renameat", "renameat2", "link",
    "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "truncate", "chmod",
    "fchmodat", "fchmodat2", "chown", "lchown", "fchownat", "setxattr", "lsetxattr", "utime",
    "utimes", "utimensat", "futimesat", "mount", "umount2",
}  # fmt: skip
"""System calls that change a file system; beside them, ``open`` with certain flags."""
OPENING = {"open", "openat", "openat2"}
NETWORK = {"connect", "bind", "sendto"}
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?)(.*)", re.DOTALL)
_PATH = re.compile(r'(?:AT_FDCWD|\d+)?(?:<([^>]*)>)?(?:, )?"((?:[^"\\]|\\.)*)"')
_FLAGS = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_TMPFILE")


@dataclass(frozen=True)
class Call:
    """One system call that succeeded, or that tried to reach another machine.

    Attributes:
        name: e.g. ``openat``.
        paths: those that it names, absolute.
        text: the line, for messages.
        addressed: it names the address of a socket, be it of this machine or another.
    """

    name: str
    paths: tuple[str, ...]
    text: str
    addressed: bool

    @property
    def writes(self) -> bool:
        """Whether it may change a file system."""
        return self.name in WRITING or (
            self.name in OPENING and _FLAGS.search(self.text) is not None
        )


def strace(log: Path) -> Sequence[str]:
    """A prefix of a command that logs every process of it into files of its own.

    Skips the test where the machine has no strace, or does not permit it.
    """
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log.mkdir(parents=True)
    return ["strace", "-ff", "--seccomp-bpf", "-y", "-s", "4096", "-e", f"trace={CALLS}",
            "-e", "signal=none", "-o", str(log / "process")]  # fmt: skip


def calls(log: Path, cwd: Path) -> Iterator[Call]:
    """The calls of all processes that succeeded; relative paths begin at ``cwd``."""
    for file in sorted(log.iterdir()):
        for line in file.read_text(errors="surrogateescape").splitlines():
            found = _CALL.match(line)
            if found is None or (found[3].startswith("-") and found[1] not in NETWORK):
                continue
            name, arguments = found[1], found[2]
            addressed = name in NETWORK and "sa_family=" in arguments
            yield Call(name, tuple(_paths(name, arguments, cwd)), line[:300], addressed)


def _paths(name: str, arguments: str, cwd: Path) -> Iterator[str]:
    if name in NETWORK:
        return
    for base, path in _PATH.findall(arguments):
        decoded = path.encode("latin-1", "backslashreplace").decode("unicode_escape")
        yield str(Path(base or cwd, decoded.encode("latin-1").decode("utf-8", "surrogateescape")))
        if name in {"symlink", "symlinkat", "execve", "readlink", "readlinkat"}:
            return  # what follows is no path that is touched
