"""Notes of how each run stands: which wait, which are trained and how far, which have failed.

They lie in ``RUNS/.tasks`` (see :mod:`featstore.jobs.task`), a run's under its folder's path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distill.runs.folder import RunFolder
from distill.runs.request import RunRequest
from featstore.jobs.task import Tell, attended, unheard


@contextmanager
def noted(request: RunRequest, run: RunFolder, *, leads: bool) -> Iterator[Tell]:
    """Be at a run, which is :meth:`distill.runs.folder.RunFolder.held`, for all to see.

    Args:
        request: of the run.
        run: where it lies.
        leads: whether this process speaks for its team; the others note nothing.
    """
    if not leads:
        yield unheard
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
