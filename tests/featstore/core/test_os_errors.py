"""What a user is told to do about an error of the system fits its cause."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from featstore.core.os_errors import io_failure, remedy

SPACE = ("space", "quota")


def number(code: int) -> OSError:
    return OSError(code, os.strerror(code), "file")


def raised(act: Callable[[], object]) -> OSError:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - any of them
        act()
    return caught.value


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (number(errno.ENOSPC), "free some space"),
        (number(errno.EDQUOT), "free some of your quota"),
        (number(errno.EROFS), "choose a place that can be written"),
        (number(errno.EACCES), "mend its permissions"),
        (number(errno.EIO), "system's log"),
        (number(errno.EMFILE), "ulimit -n"),
        (number(errno.ENOMEM), "lower --jobs"),
        (number(errno.EEXIST), "stands in the way"),
        (number(errno.EBUSY), "another program uses it"),
        (number(errno.ENOLCK), "place on another one"),
        (number(errno.EPIPE), "what read the output has ended"),
        (number(errno.ECONNREFUSED), "check the address, the network"),
        (number(errno.EADDRINUSE), "--port"),
        (number(errno.ENOTTY), "check the path and the device"),
        (socket.gaierror(-2, "Name or service not known"), "check the address, the network"),
        (ConnectionError("gone"), "check the address, the network"),
        (TimeoutError("late"), "check the address, the network"),
        (OSError("Could not load this library: libtorchaudio.so"), "reinstall"),
        (OSError("libcudart.so.13: cannot open shared object file"), "reinstall"),
        (OSError("a library's own words"), "-v shows whose"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value),
)
def test_each_cause_has_its_remedy(error: OSError, hint: str) -> None:
    told = remedy(error)
    assert hint in told
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        assert not any(word in told for word in SPACE)


def test_errors_that_the_system_raises_itself(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    acts: dict[str, Callable[[], object]] = {
        "is still there": (tmp_path / "missing").read_bytes,
        "give a file, not a folder": tmp_path.read_bytes,
        "a part of the path is a file": (tmp_path / "file" / "x").read_bytes,
        "shorter path": (tmp_path / ("x" * 300)).touch,
        "in a circle": (tmp_path / "loop").read_bytes,
        "stands in the way": tmp_path.mkdir,
        "reinstall": lambda: ctypes.CDLL("libnothing.so.1"),
    }
    for hint, act in acts.items():
        assert hint in remedy(raised(act))


def test_a_library_is_not_looked_for_where_work_was_done() -> None:
    told = io_failure(OSError("Could not load this library: lib.so"), Path("/some/store"))
    assert told.message == "Could not load this library: lib.so"
    assert io_failure(OSError("odd"), Path("/some/store")).message == "/some/store: odd"
    assert io_failure(BrokenPipeError(32, "Broken pipe"), Path()).message == "broken pipe"
