"""Ways to kill a command: at each of its system calls, or whenever."""

from __future__ import annotations

import itertools
import random
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.reliability.harness import Completed
from tests.reliability.warm import Running, call


def killed_at(
    n: int, calls: str, app: str, arguments: Sequence[str], folder: Path
) -> tuple[Completed, bool]:
    """Run a command of which every process dies in the n-th of some calls of one thread.

    Args:
        n: which call, from 1.
        calls: their names, as strace has them.
        app: ``featstore`` or ``distill``.
        arguments: of the command.
        folder: for what it prints.

    Returns:
        How it ended, and whether any process of it was killed.
    """
    folder.mkdir()
    trace, inject = folder / "trace", f"inject={calls}:signal=KILL:when={n}"
    options = ["-o", str(trace), "-e", f"trace={calls}", "-e", inject]
    done = call(app, arguments, folder, strace=options)
    killed = "killed by SIGKILL" in trace.read_text()
    # A worker that dies takes its task with it, or the task was tried again with success.
    assert done.returncode in ((-9, 0, 1) if killed else (0,)), done.stderr
    assert done.returncode != 1 or "killed by the system" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done, killed


def swept(kill: Callable[[int], bool]) -> int:
    """Kill at the first, second, ... call, two commands at a time, until one is past the last.

    Args:
        kill: does so at one call and checks what is left; False where nothing was killed.

    Returns:
        At how many calls something was killed.
    """
    kills = 0
    with ThreadPoolExecutor(2) as pool:
        for first in itertools.count(1, 2):
            killed = list(pool.map(kill, (first, first + 1)))
            kills += sum(killed)
            if not all(killed):
                break
    return kills


def at_random(
    begin: Callable[[Path, Path], Running],
    look: Callable[[Path], None],
    end: Callable[[Path, Path], object],
    folder: Path,
    *,
    kills: int,
    again: int,
    seed: int,
) -> int:
    """Kill a command and its workers at times spread over all that it takes, two at a time.

    Args:
        begin: ``begin(place, out)`` starts it on a place of its own.
        look: checks a place after a kill.
        end: ``end(place, out)`` runs it to its end and checks the result.
        folder: for the places.
        kills: how many commands are killed.
        again: how many of them a second time, while they resume, unless that was too late.
        seed: decides when.

    Returns:
        How many kills there were.
    """
    rng = random.Random(seed)
    shares = [(n + rng.random()) / kills for n in range(kills)]
    rng.shuffle(shares)

    def calm(n: int) -> float:
        running = begin(folder / f"calm{n}", folder / f"calm-out{n}")
        began = time.monotonic()
        assert running.wait().returncode == 0
        return time.monotonic() - began

    def one(n: int) -> int:
        place, out = folder / f"place{n}", folder / f"out{n}"
        delay_s = shares[n] * took_s
        while not _killed_after(begin(place, out), delay_s):
            shutil.rmtree(place, ignore_errors=True)  # it was quicker
            delay_s *= 0.7
        look(place)
        twice = n < again and _killed_after(begin(place, out), shares[-1 - n] * took_s)
        look(place)
        end(place, out)
        return 1 + twice

    with ThreadPoolExecutor(2) as pool:
        took_s = max(pool.map(calm, range(2)))
        return sum(pool.map(one, range(kills)))


def _killed_after(running: Running, delay_s: float) -> bool:
    time.sleep(delay_s)
    running.kill()
    return running.wait().returncode == -9
