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
_IN_THE_WAY = "move what stands in the way, or choose another place"
_PERMISSIONS = "mend its permissions, or choose another place"
_OTHER_DISK = "the file system cannot do this: choose a place on another one"
_NETWORK = f"check the address, the network and the service at its other end, {_RESUME}"
_ADDRESS = "choose another address or --port"

_REMEDIES = {
    errno.ENOSPC: f"free some space, {_RESUME}",
    errno.EDQUOT: f"free some of your quota, {_RESUME}",
    errno.EFBIG: f"the file system or a limit (ulimit -f) allows no file as large, {_RESUME}",
    errno.EMFILE: f"raise the limit of open files (ulimit -n) or lower --jobs, {_RESUME}",
    errno.ENFILE: f"close other programs, {_RESUME}",
    errno.ENOMEM: f"close other programs or lower --jobs, {_RESUME}",
    errno.EAGAIN: f"close other programs or lower --jobs, {_RESUME}",
    errno.EROFS: "choose a place that can be written, or mount it so that it can",
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EIO: f"the disk or the network file system failed: see the system's log, {_RESUME}",
    errno.ESTALE: f"the network file system lost the file, {_RESUME}",
    errno.ENOENT: "check that the path is spelled as it should be, is still there and is mounted",
    errno.EISDIR: "give a file, not a folder",
    errno.ENOTDIR: "a part of the path is a file: give a folder",
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTEMPTY: _IN_THE_WAY,
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "its links lead in a circle: mend them, or give the file itself",
    errno.EXDEV: "the two lie on different file systems: choose a place on the same one",
    errno.EBUSY: f"another program uses it: end that, {_RESUME}",
    errno.ETXTBSY: f"another program uses it: end that, {_RESUME}",
    errno.EINVAL: _OTHER_DISK,
    errno.ENOSYS: _OTHER_DISK,
    errno.ENOLCK: _OTHER_DISK,
    errno.EOPNOTSUPP: _OTHER_DISK,
    errno.EPIPE: "what read the output has ended: let it read to the end, or write to a file",
    errno.EADDRINUSE: _ADDRESS,
    errno.EADDRNOTAVAIL: _ADDRESS,
    errno.ECONNREFUSED: _NETWORK,
    errno.ECONNRESET: _NETWORK,
    errno.ECONNABORTED: _NETWORK,
    errno.ETIMEDOUT: _NETWORK,
    errno.EHOSTUNREACH: _NETWORK,
    errno.ENETUNREACH: _NETWORK,
    errno.ENETDOWN: _NETWORK,
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
    return _REMEDIES.get(error.errno, f"check the path and the device that it lies on, {_RESUME}")


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
