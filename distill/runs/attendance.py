"""Notes of how each run stands: which wait, which are trained and how far, which have failed.

They lie in ``RUNS/.tasks`` (see :mod:`featstore.jobs.task`), a run's under its folder's path.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distill.runs.folder import RunFolder
from distill.runs.read import DONE
from distill.runs.request import Keys, Outcome, RunRequest
from featstore.core.schema import UserError
from featstore.jobs.task import Tell, attended, queue, standings, withdraw
from featstore.store import open_store

Ended = Callable[[RunRequest, Outcome | Exception], None]
"""``ended(request, result)``: what became of a run."""


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
    with attended(request.runs, run.task(request.runs)) as tell, run.telling():
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
def waiting(requests: Sequence[RunRequest]) -> Iterator[Ended]:
    """Note the runs that wait for this command to begin them.

    Yields what is to be called as each ends. When the command does, however it does, nobody waits
    for it any more; where it ends with an error, so have the runs whose process is gone.
    """
    names = _begun_here(requests)
    me = {"host": socket.gethostname(), "pid": os.getpid()}
    for runs, key in names.values():
        with suppress(OSError):  # a full disk, say: the run itself will tell
            queue(runs, key, me)

    def ended(request: RunRequest, result: Outcome | Exception) -> None:
        if name := names.get(request.label):
            if isinstance(result, Exception):
                _note_failure(*name, result)
            with suppress(OSError):
                withdraw(*name)

    try:
        yield ended
    except Exception as error:
        for runs in {runs for runs, _ in names.values()}:
            gone = {one.key for one in standings(runs) if one.state == "silent"}
            for name in names.values():
                if name[0] == runs and name[1] in gone:
                    _note_failure(*name, error)
        raise
    finally:
        for name in names.values():
            with suppress(OSError):
                withdraw(*name)


def _note_failure(runs: Path, key: str, error: Exception) -> None:
    """Where it could not do so itself: it had not begun yet, or its process was killed."""
    if all((one.key, one.state) != (key, "failed") for one in standings(runs)):
        with suppress(Exception), attended(runs, key):
            raise error


def _begun_here(requests: Sequence[RunRequest]) -> dict[str, tuple[Path, str]]:
    """By label, the tasks of the runs that are not done and that nobody else is to do."""
    found: dict[str, tuple[Path, str]] = {}
    keys: dict[Path | str, Keys] = {}
    taken = {
        (runs, one.key)
        for runs in {request.runs for request in requests}
        for one in standings(runs)
        if one.state == "running" or (one.state == "queued" and one.facts.get("job"))
    }
    for request in requests:
        with suppress(UserError, OSError):  # which its run will be refused for
            if request.store not in keys:
                keys[request.store] = Keys(open_store(request.store))
            run = keys[request.store].folder(request)
            name = request.runs, run.task(request.runs)
            if name not in taken and not (run.path / DONE).exists():
                found[request.label] = name
    return found
