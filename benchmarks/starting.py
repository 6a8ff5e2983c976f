"""Does ``--help`` come as fast as its two libraries let it?"""

from __future__ import annotations

import sys

from benchmarks.common import Answer, Bench, judged, run, script


def measure(bench: Bench) -> Answer:
    """Both commands' help against importing Typer and Rich alone, each in a process of its own."""
    bare = [sys.executable, "-c", "import typer, rich"]
    commands = {name: [script(name), "--help"] for name in ("featstore", "distill")}
    times = bench.time(
        {name: lambda c=c: run(c) for name, c in {**commands, "bare": bare}.items()},  # type: ignore[misc]
        rounds=11,
    )
    reason = "what is beyond Typer is this package's own modules and writing the page"
    rows = [
        judged(f"{name} --help", 'python -c "import typer, rich"', times.ratio(name, "bare"),
               at_most=1.5, unit="x", reason=reason)
        for name in commands
    ]  # fmt: skip
    notes = ["Wall time from process start to exit, files in the page cache."]
    return Answer(rows, notes, {f"{name}, s": s for name, s in times.wall_s.items()})
