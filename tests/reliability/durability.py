"""A disk that forgets what was not fsynced: a trace of system calls, replayed.

What a power cut spares is what was fsynced: a file's content by a fsync of the file after its last
write, its name by a fsync of the folder after the name was made there. POSIX promises no more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

WRITES = ("write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate", "sendfile")
CALLS = (
    *("openat", "fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat"),
    *("mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", *WRITES),
)
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*?)(?:\) += (.*)| <unfinished \.\.\.>)\Z")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*?)\) += (.*)\Z")
_PART = re.compile(r'"((?:[^"\\]|\\.)*)"(?:\.\.\.)?|<([^>]*)>')


@dataclass
class Call:
    """A system call that succeeded, and the lines of the trace at which it began and ended."""

    name: str
    arguments: str
    result: str
    begun: int
    ended: int


@dataclass
class Node:
    """A file or folder: when its content, or its name in the folder above, was last changed."""

    written: int
    named: int
    synced: int = -2  # when the last fsync that covers it began
    placed: bool = False  # whether it has been in its place


@dataclass
class Disk:
    """What a trace did below a folder.

    Attributes:
        root: nothing above it is looked at.
        commits: renames that put something into its place, in order.
        faults: what a power cut could have taken although something said that it is there.
    """

    root: str
    commits: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)

    def below(self, path: str) -> list[str]:
        """A path and everything below it."""
        return [one for one in self.nodes if one == path or one.startswith(path + "/")]

    def lost(self, paths: list[str], *, name_too: bool = True) -> list[str]:
        """What of some paths a power cut would take now, relative to the root."""
        lost = []
        for path in paths:
            node, above = self.nodes[path], self.nodes.get(path.rpartition("/")[0])
            unnamed = name_too and (above is None or above.synced <= node.named)
            if node.synced <= node.written:
                lost.append(
                    f"{os.path.relpath(path, self.root)}: not fsynced after its last change"
                )
            elif unnamed:
                lost.append(
                    f"{os.path.relpath(path, self.root)}: its folder is not fsynced after it"
                )
        return lost

    def apply(self, call: Call) -> None:
        """Replay a call."""
        if call.name == "openat":
            self._opened(call)
            return
        paths = [path for path in self._paths(call) if path.startswith(self.root)]
        if not paths:
            return
        if call.name in ("fsync", "fdatasync"):
            self._node(paths[0], -1).synced = call.begun
        elif call.name in WRITES:
            self._node(paths[0], call.ended).written = call.ended
        elif call.name.startswith("mkdir"):
            self._named(paths[0], Node(-1, call.ended), call.ended)
        elif call.name.startswith("link"):
            self._named(paths[-1], self.nodes[paths[0]], call.ended)
        elif call.name.startswith("rename"):
            self._renamed(*paths, call)
        else:
            self._removed(paths[0])

    def _removed(self, path: str) -> None:
        """What was in its place goes only when all that may have replaced it is safe."""
        gone = [self.nodes.pop(one) for one in self.below(path)]
        if any(node.placed for node in gone):
            placed = [f"{self.root}/{name}" for name in self.commits]
            lost = self.lost([one for one in placed if one in self.nodes])
            name = os.path.relpath(path, self.root)
            self.faults += [f"{name} removed too early: {one}" for one in lost]

    def _opened(self, call: Call) -> None:
        path = call.result.partition("<")[2].rstrip(">")
        if not path.startswith(self.root):
            return
        if "O_CREAT" in call.arguments and path not in self.nodes:
            self._named(path, Node(call.ended, call.ended), call.ended)
        elif "O_TRUNC" in call.arguments:
            self._node(path, call.ended).written = call.ended

    def _renamed(self, old: str, new: str, call: Call) -> None:
        if _hidden(old, self.root) and not _hidden(new, self.root):
            self.commits.append(os.path.relpath(new, self.root))
            inside = [path for path in self.below(old) if path != old]
            lost = self.lost(inside) + self.lost([old], name_too=False)
            self.faults += [f"renamed to {self.commits[-1]}: {one}" for one in lost]
            for path in self.below(old):
                self.nodes[path].placed = True
        there = {path.removeprefix(old): self.nodes.pop(path) for path in self.below(old)}
        gone = {path.removeprefix(new): self.nodes.pop(path) for path in self.below(new)}
        for end, node in there.items():
            self.nodes[new + end] = node
        self._named(new, self.nodes[new], call.ended)
        if "RENAME_EXCHANGE" in call.arguments:
            for end, node in gone.items():
                self.nodes[old + end] = node

    def _named(self, path: str, node: Node, at: int) -> None:
        node.named = at
        self.nodes[path] = node

    def _node(self, path: str, at: int) -> Node:
        return self.nodes.setdefault(path, Node(at, -1))

    def _paths(self, call: Call) -> Iterator[str]:
        """The paths of a call's arguments; strace names the folder before a relative one."""
        folder = ""
        for match in _PART.finditer(call.arguments):
            if match[2] is not None:
                folder = match[2]
                if call.name in (*WRITES, "fsync", "fdatasync"):
                    yield folder
            elif call.name not in WRITES:
                yield match[1] if match[1].startswith("/") else f"{folder}/{match[1]}"


def _hidden(path: str, root: str) -> bool:
    """Whether it is a draft: below, or itself, something whose name begins with a dot."""
    return any(part.startswith(".") for part in os.path.relpath(path, root).split("/"))


def calls_of(trace: Path) -> list[Call]:
    """The successful calls of a ``strace -f -y``, in the order in which they ended."""
    begun: dict[str, tuple[str, str, int]] = {}
    calls = []
    for at, line in enumerate(trace.read_text(errors="replace").splitlines()):
        if match := _BEGUN.match(line):
            thread, name, arguments, result = match.groups()
            start = at
            if result is None:
                begun[thread] = (name, arguments, at)
                continue
        elif match := _RESUMED.match(line):
            thread, name, rest, result = match.groups()
            _, arguments, start = begun.pop(thread)
            arguments += rest
        else:
            continue
        if not result.startswith(("-", "?")):
            calls.append(Call(name, arguments, result, start, at))
    return calls


def replay(
    trace: Path,
    root: Path,
    at_commit: Callable[[Disk, str], None] | None = None,
    there: Iterable[Path] = (),
) -> Disk:
    """The disk after a trace; its faults also tell what would be lost at the very end.

    Args:
        trace: a ``strace -f -y`` of :data:`CALLS`.
        root: the folder that is looked at.
        at_commit: called after each call that put something into place, to look closer.
        there: what was there before, all of it safe.
    """
    disk = Disk(str(root))
    disk.nodes = {str(path): Node(-1, -1, 0, placed=True) for path in there}
    for call in calls_of(trace):
        before = len(disk.commits)
        disk.apply(call)
        if at_commit is not None and len(disk.commits) > before:
            at_commit(disk, disk.commits[-1])
    kept = [path for path in disk.nodes if path != disk.root and not _hidden(path, disk.root)]
    disk.faults += [f"at the end: {one}" for one in disk.lost(kept)]
    return disk


def without_fsync(pattern: str) -> None:
    """In a command's process: fsync nothing whose path matches. What a test must notice."""
    fsync, skipped = os.fsync, re.compile(pattern)

    def forgetful(handle: int) -> None:
        if not skipped.search(str(Path(f"/proc/self/fd/{handle}").readlink())):
            fsync(handle)

    os.fsync = forgetful  # type: ignore[assignment]
