"""Notes of how each run stands: which wait, which are trained and how far, which have failed.

They lie in ``RUNS/.tasks`` (see :mod:`featstore.jobs.task`), a run's under its folder's path.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distill.runs.folder import RunFolder
from distill.runs.request import RunRequest
from featstore.jobs.task import Tell, attended, queue, standings, withdraw


@contextmanager
def noted(request: RunRequest, run: RunFolder, *, leads: bool) -> Iterator[Tell]:
    """Be at a run, which is :meth:`distill.runs.folder.RunFolder.held`, for all to see.

    Args:
        request: of the run.
        run: where it lies.
        leads: whether this process speaks for its team; the others note nothing.
    """
    if not leads:
        yield lambda done, total, note="": None
        return
    with attended(request.runs, run.task) as tell, run.telling():
        yield tell


def epoch_note(entry: Mapping[str, Any]) -> str:
    """An epoch's line of ``metrics.jsonl`` in a few words.

    >>> epoch_note({"train": {"total": 1.5}, "validation": {"wa": 0.5, "ua": 0.25}})
    'loss 1.500 val WA 50.0 UA 25.0'
    """
    text = f"loss {entry['train']['total']:.3f}"
    if scores := entry.get("validation"):
        text += f" val WA {100 * scores['wa']:.1f} UA {100 * scores['ua']:.1f}"
    return text


@contextmanager
def queued(runs: Path, keys: Iterable[str]) -> Iterator[None]:
    """Show runs as waiting for this command, as long as it lasts.

    Args:
        runs: the folder of all runs.
        keys: their tasks. What another process or a job of a cluster does is left alone.
    """
    others = {
        one.key
        for one in standings(runs)
        if one.state == "running" or (one.state == "queued" and one.facts.get("job"))
    }
    mine = [key for key in keys if key not in others]
    command = {"host": socket.gethostname(), "pid": os.getpid()}
    try:
        for key in mine:
            with suppress(OSError):  # a full disk, say: the run itself will fail with it
                queue(runs, key, command)
        yield
    finally:
        for key in mine:
            with suppress(OSError):
                withdraw(runs, key)
