"""What a full, read-only or failing disk means to a user: where, how much, and what to do."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featstore.core.os_errors import is_library_failure, remedy
from featstore.core.schema import TaskFailed, printable

_RESUME = "then run the same command again; what is done is kept"
_FULL = (errno.ENOSPC, errno.EDQUOT)


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
