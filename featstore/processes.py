"""Worker processes that die with their parent and use one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def default_jobs() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_setup() -> None:
    """Called first in every worker.

    A worker leaves Ctrl-C to its parent, and ends when the parent is gone, even by SIGKILL: an
    orphan would go on burning a shared machine's CPU and hold the locks of its staging folder.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def leave() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=leave, daemon=True).start()
