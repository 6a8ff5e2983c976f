"""Advisory locks that end with their holder: the kernel drops them, even at SIGKILL."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def try_lock(path: Path, *, create: bool = False) -> int | None:
    """Take the lock that ``path`` stands for, without waiting.

    Args:
        path: the lock file.
        create: make it where it is missing.

    Returns:
        An open descriptor that holds the lock until closed, or None where another process has it
        (or has removed the file while we opened it).

    Raises:
        FileNotFoundError: ``path`` or its folder is not there.
    """
    handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_ino == path.stat().st_ino:
            return handle
    except BlockingIOError:
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None
