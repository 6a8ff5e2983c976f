"""``python -m benchmarks [names]``: run benchmarks one after another and write the table."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import results
from benchmarks.common import Answer, Bench
from featstore.core.console import say
from featstore.core.schema import UserError

NAMES = ("reading", "targets", "padding", "cached", "loop", "stall", "extraction", "nothing",
         "memory", "starting", "study", "predicting", "growth", "jobs")  # fmt: skip
"""One file each, in the order of the table."""


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(NAMES)}.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Everything small, to see that it runs; writes nothing.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Keeps corpora and stores, about 6 GB; else they go.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where RESULTS.md and results.json go.")] = Path(
        __file__
    ).parent,
) -> None:
    """Measure side by side; all benchmarks, or the named ones."""
    unknown = sorted(set(names or ()) - set(NAMES))
    if unknown:
        raise UserError(f"no benchmark {', '.join(unknown)}", f"there are {', '.join(NAMES)}")
    with ExitStack() as stack:
        folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder.absolute(), quick)
        for name in [name for name in NAMES if not names or name in names]:
            found = _measure(name, bench)
            if not quick:
                results.write(out, {name: found}, NAMES)


def _measure(name: str, bench: Bench) -> dict[str, Any]:
    """Run one, and print its rows."""
    module = importlib.import_module(f"benchmarks.{name}")
    question = (module.__doc__ or "").strip()
    say(f"{name}: {question.splitlines()[0]}")
    load, began = os.getloadavg()[0], time.perf_counter()
    answer: Answer = module.measure(bench)
    seconds = time.perf_counter() - began
    for row in answer.rows:
        verdict = {True: "met", False: "missed", None: ""}[None if bench.quick else row.met]
        print(f"  {row.what} | {row.against} | {row.goal} | {row.figure} | {verdict}", flush=True)
    say(f"{name}: {seconds:.1f} s")
    return results.entry(name, question, answer, seconds, load)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except UserError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
