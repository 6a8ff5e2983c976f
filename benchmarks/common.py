"""What every benchmark shares: variants timed in turn, ratios with their spread, verdicts."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeVar

from featstore.core.schema import TaskFailed

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
"""Where commands are run, so that a child finds this package."""


@dataclass(frozen=True)
class Bench:
    """How a benchmark is to be run.

    Attributes:
        cache: a folder for corpora and stores, which are made where they are not there yet.
        quick: everything small, to see that it runs; its figures mean nothing.
    """

    cache: Path
    quick: bool = False

    def pick(self, full: T, quick: T) -> T:
        """The one for full size, or the small one."""
        return quick if self.quick else full

    def time(self, variants: Mapping[str, Callable[[], object]], rounds: int) -> Times:
        """:func:`interleaved`; to see that it runs, once each will do."""
        return interleaved(variants, *((1, 0) if self.quick else (rounds, 1)))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        against: what it is compared with; empty where it stands alone.
        figure: median, and in brackets the lowest and the highest.
        goal: what was hoped for; empty where there was none.
        met: whether the median reaches the goal; None without one.
        reason: why a missed goal was missed.
    """

    what: str
    against: str
    figure: str
    goal: str = ""
    met: bool | None = None
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """What a benchmark found.

    Attributes:
        rows: lines of the table.
        notes: the conditions, one sentence each.
        measured: every single measurement by name, with its unit in the name.
    """

    rows: Sequence[Row]
    notes: Sequence[str]
    measured: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Times:
    """Seconds of each variant in each round, by the clock and of this process' CPU time."""

    wall_s: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, over: str, under: str, *, cpu: bool = False) -> list[float]:
        """``over / under`` of each round: the two were measured one right after the other."""
        seconds = self.cpu_s if cpu else self.wall_s
        return [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]


def interleaved(
    variants: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> Times:
    """Time the variants in turn, A B A B, so that a machine's moods touch all of them alike.

    Args:
        variants: what to call, by name.
        rounds: how often each is timed.
        warm_up: rounds before, which are not counted: caches fill, libraries load.

    >>> times = interleaved({"a": lambda: sum(range(9)), "b": lambda: None}, rounds=3)
    >>> {name: len(seconds) for name, seconds in times.wall_s.items()}
    {'a': 3, 'b': 3}
    """
    times = Times({name: [] for name in variants}, {name: [] for name in variants})
    for number in range(warm_up + rounds):
        for name, call in variants.items():
            gc.collect()
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            call()
            cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
            if number >= warm_up:
                times.wall_s[name].append(wall_s)
                times.cpu_s[name].append(cpu_s)
    return times


def told(values: Sequence[float], unit: str = "") -> str:
    """Median, lowest and highest, to three digits or so.

    >>> told([1.0, 1.5, 1.25], "x")
    '1.250x (1.000 to 1.500)'
    >>> told([42.0])
    '42.0'
    """
    middle = f"{short(median(values))}{unit}"
    if len(values) == 1:
        return middle
    return f"{middle} ({short(min(values))} to {short(max(values))})"


def short(value: float) -> str:
    """A number as wide as it is worth.

    >>> short(1234.5), short(41.26), short(0.98765), short(0.0001234)
    ('1,234', '41.3', '0.988', '0.000123')
    """
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if size >= 0.01 or not size else f"{value:.3g}"


def judged(
    what: str,
    against: str,
    values: Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    unit: str = "",
    reason: str = "",
) -> Row:
    """A row whose median is held against its goal, if it has one.

    >>> judged("reader", "np.memmap", [0.8, 0.9, 0.7], at_least=0.9, reason="cold").reason
    'cold'
    """
    middle, goal, met = float(median(values)), "", None
    if at_least is not None:
        goal, met = f">= {at_least:g}{unit}", middle >= at_least
    elif at_most is not None:
        goal, met = f"<= {at_most:g}{unit}", middle <= at_most
    return Row(what, against, told(values, unit), goal, met, "" if met in (True, None) else reason)


def run(command: Sequence[str | Path], **environment: str) -> str:
    """Run a command as a user would and return its standard output.

    Raises:
        TaskFailed: it exits with anything but 0; with the end of what it said.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip()[-800:]
        raise TaskFailed(f"{Path(command[0]).name}: exit code {done.returncode}\n{said}")
    return done.stdout


def script(name: str) -> Path:
    """The command ``name`` of the environment that runs this.

    Raises:
        TaskFailed: the package is not installed here.
    """
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise TaskFailed(f"{path}: not there", "install the package: pip install -e '.[bench]'")
    return path
