"""Progress on stderr: a live bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from featstore.core.schema import printable

LINE_EVERY_S = 30.0

Advance = Callable[..., None]
"""``advance(n=1, note="")``: n steps are done."""


@contextmanager
def progress(what: str, total: int, *, unit: str = "") -> Iterator[Advance]:
    """Show how far a task is; yields the function that the task calls after each step.

    Args:
        what: the task, e.g. ``LLDs``.
        total: number of steps.
        unit: what a step is, for the line without a terminal.
    """
    what = printable(what)
    if sys.stderr.isatty():
        yield from _bar(what, total)
    else:
        yield from _lines(what, total, unit)


def say(message: str) -> None:
    """A line for the person at the terminal; results go to stdout instead."""
    print(message, file=sys.stderr, flush=True)


class _State:
    verbose = False


def set_verbose(verbose: bool) -> None:
    """Whether :func:`trace` tells anything, as ``-v`` asks for."""
    _State.verbose = verbose


def trace(error: BaseException) -> None:
    """The traceback of an error, a worker's included, where one is wanted."""
    if _State.verbose:
        say(printable_lines("".join(traceback.format_exception(error))))


def printable_lines(text: str) -> str:
    """Text of several lines made safe for a terminal."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _bar(what: str, total: int) -> Iterator[Advance]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("left"),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}", markup=False),
    )
    with rich.Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total, note="")

        def advance(n: int = 1, note: str = "") -> None:
            bars.advance(task, n)
            if note:
                bars.update(task, note=note)

        yield advance


def _lines(what: str, total: int, unit: str) -> Iterator[Advance]:
    began = last = time.monotonic()
    done = 0

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= LINE_EVERY_S and done < total:
            last = now
            left = (now - began) / max(done, 1) * (total - done)
            say(f"{what}: {done}/{total} {unit}, about {left:.0f} s left  {note}".rstrip())

    yield advance
    say(f"{what}: {done}/{total} {unit} in {time.monotonic() - began:.1f} s")
