"""What HDF5 writes into: a file whose failures HDF5 never sees."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class Sink:
    """A file for h5py to write into that never fails.

    HDF5 (2.0, as h5py brings it) crashes the process while it closes a file that it could not
    write: on a full disk, or where Ctrl-C comes in the middle of a write. So all that follows a
    failure succeeds and goes nowhere, and whoever writes asks :meth:`check` now and then.

    The failure is kept without its traceback. Its frames lead to h5py's own, whose property lists
    would outlive the interpreter, and HDF5 crashes the process when it then closes those.

    Args:
        file: opened to read and write, unbuffered.
    """

    read = None  # h5py takes nothing for a file that has none; it calls readinto

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._error: BaseException | None = None

    def check(self) -> None:
        """Raise the first failure."""
        if self._error is not None:
            raise self._error

    def write(self, content: memoryview) -> int:
        """Write all of it."""
        done = 0
        while self._error is None and done < len(content):
            done += self._attempt(0, self._file.write, content[done:])
        return len(content)

    def readinto(self, buffer: memoryview) -> int:
        """Read what was written; zeros beyond it."""
        n = self._attempt(0, self._file.readinto, buffer)
        buffer[n:] = bytes(len(buffer) - n)
        return len(buffer)

    def seek(self, place: int, whence: int = 0) -> int:
        """Move."""
        return self._attempt(place, self._file.seek, place, whence)

    def tell(self) -> int:
        """Where it stands."""
        return self._attempt(0, self._file.tell)

    def truncate(self, size: int) -> int:
        """Cut or grow the file."""
        return self._attempt(size, self._file.truncate, size)

    def flush(self) -> None:
        """Nothing is buffered here."""

    def _attempt(self, otherwise: int, do: Callable[..., int], *arguments: Any) -> int:
        try:
            return do(*arguments)
        except BaseException as error:  # an interrupt, too: it is raised by check()
            self._error = self._error or error.with_traceback(None)
            return otherwise
