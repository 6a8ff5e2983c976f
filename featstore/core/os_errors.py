"""Errors of the operating system as one line and what mends it; and whether there is room."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featstore.core.schema import TaskFailed, printable

_RESUME = "then run the same command again; what is done is kept"
_NETWORK = f"check the address, the network and the service at its other end, {_RESUME}"

_REMEDIES = {
    "ENOSPC": f"free some space, {_RESUME}",
    "EDQUOT": f"free some of your quota, {_RESUME}",
    "EFBIG": f"the file system or a limit (ulimit -f) allows no file as large, {_RESUME}",
    "EMFILE": f"raise the limit of open files (ulimit -n) or lower --jobs, {_RESUME}",
    "ENFILE": f"close other programs, {_RESUME}",
    "ENOMEM EAGAIN": f"close other programs or lower --jobs, {_RESUME}",
    "EROFS": "choose a place that can be written, or mount it so that it can",
    "EACCES EPERM": "mend its permissions, or choose another place",
    "EIO": f"the disk or the network file system failed: see the system's log, {_RESUME}",
    "ESTALE": f"the network file system lost the file, {_RESUME}",
    "ENOENT": "check that the path is spelled as it should be, is still there and is mounted",
    "EISDIR": "give a file, not a folder",
    "ENOTDIR": "a part of the path is a file: give a folder",
    "EEXIST ENOTEMPTY": "move what stands in the way, or choose another place",
    "ENAMETOOLONG": "choose a shorter path",
    "ELOOP": "its links lead in a circle: mend them, or give the file itself",
    "EXDEV": "the two lie on different file systems: choose a place on the same one",
    "EBUSY ETXTBSY": f"another program uses it: end that, {_RESUME}",
    "EINVAL ENOSYS ENOLCK EOPNOTSUPP": "the file system cannot do this: choose a place on another "
    "one",
    "EPIPE": "what read the output has ended: let it read to the end, or write to a file",
    "EADDRINUSE EADDRNOTAVAIL": "choose another address or --port",
    "ECONNREFUSED ECONNRESET ECONNABORTED ETIMEDOUT": _NETWORK,
    "EHOSTUNREACH ENETUNREACH ENETDOWN": _NETWORK,
}
"""Names of errors -> what mends them."""
_BY_NUMBER = {
    getattr(errno, name): text for names, text in _REMEDIES.items() for name in names.split()
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LIBRARY = re.compile(
    r"\.so\b|\.dylib\b|shared object|shared library|undefined symbol|load this library|dlopen"
)


def is_library_failure(error: BaseException) -> bool:
    """Whether a compiled library could not be loaded: the linker gives no error number.

    >>> is_library_failure(OSError("libcudart.so.13: cannot open shared object file"))
    True
    """
    return (
        isinstance(error, OSError)
        and error.errno is None
        and _LIBRARY.search(str(error)) is not None
    )


def remedy(error: OSError) -> str:
    """What a user can do about an error.

    >>> remedy(IsADirectoryError(21, "Is a directory", "a"))
    'give a file, not a folder'
    """
    if is_library_failure(error):
        return (
            "an installed package does not fit this machine or its other packages: reinstall the "
            "one that the library belongs to (python -m pip install --force-reinstall NAME); -v "
            "shows who wanted it"
        )
    if isinstance(error, socket.gaierror | socket.herror):  # numbers of their own
        return _NETWORK
    if error.errno is None:
        network = isinstance(error, ConnectionError | TimeoutError)
        return _NETWORK if network else "the message is all that a library tells; -v shows whose"
    return _BY_NUMBER.get(error.errno, f"check the path and the device that it lies on, {_RESUME}")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an I/O error of the body its path: ``write`` and ``fsync`` fail without one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


def free_bytes(place: Path) -> int:
    """Free space where ``place`` is or would be, in bytes; -1 where nobody can tell."""
    for folder in (place, *place.absolute().parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return -1


def io_failure(error: OSError, place: Path, needed: int | None = None) -> TaskFailed:
    """An I/O error as one line and a remedy.

    Args:
        error: as the system raised it.
        place: where we were at work, ``Path()`` where nobody can tell; the error's own file is
            named where it has one.
        needed: about how many bytes were to be written, where that is known.
    """
    path = Path(os.fsdecode(error.filename)) if error.filename else place
    if error.strerror:
        message = f"{error.strerror[:1].lower()}{error.strerror[1:]}"
    else:
        message = printable(next(iter(str(error).splitlines()), type(error).__name__))
    if path != Path() and not is_library_failure(error):
        message = f"{printable(str(path))}: {message}"
    if error.errno in _FULL:
        about = f"about {needed:,} bytes needed, " if needed else ""
        message += f" ({about}{free_bytes(path):,} bytes free)"
    return TaskFailed(message, remedy(error))


def require_space(place: Path, needed: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        TaskFailed: where less than ``needed`` bytes are free.
    """
    free = free_bytes(place)
    if 0 <= free < needed:
        raise TaskFailed(
            f"{place}: about {needed:,} bytes needed, {free:,} bytes free",
            f"free some space or choose another place, {_RESUME}",
        )
