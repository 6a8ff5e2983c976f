"""Many at once on one store or one run: as if there were one, and nobody waits for the dead."""

from __future__ import annotations

import shutil
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from featstore.core.files import sha256_of
from tests.reliability.harness import build_arguments, run_arguments
from tests.reliability.reading import Seen, as_if_nothing_had_been, everything, look
from tests.reliability.warm import call, server, start, until

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(600)]

Arguments = Callable[..., list[str]]


@pytest.fixture
def arguments(tone_corpus: Path, tone_config: Path) -> Arguments:
    """``arguments(store, *more)`` of the build."""
    return lambda store, *more: build_arguments(tone_corpus, tone_config, store, *more)


@pytest.mark.parametrize("n", [2, 8])
def test_builds_at_once(n: int, arguments: Arguments, undisturbed: Path, tmp_path: Path) -> None:
    """Each ends well, whoever was first; the store is that of one."""
    began = time.monotonic()
    store = tmp_path / "store"
    builds = [start("featstore", arguments(store), tmp_path / f"{k}") for k in range(n)]
    for build in builds:
        done = build.wait()
        assert done.returncode == 0, done.stderr
    as_if_nothing_had_been(store, undisturbed)
    print(f"\n{n} builds at once: equal to one, {time.monotonic() - began:.0f} s")


@pytest.mark.parametrize("begun", [".parts/lld-*/.staging-*/lock", "folds/01/.staging-*/lock"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lock_holder_that_is_gone_or_sleeps_blocks_nobody(
    number: signal.Signals, begun: str, arguments: Arguments, undisturbed: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    store = tmp_path / "store"
    first = start("featstore", arguments(store), tmp_path / "first")
    until(lambda: any(store.glob(begun)), 60)
    first.kill(number)
    try:
        second = call("featstore", arguments(store), tmp_path / "second")
    finally:
        first.kill(signal.SIGCONT)
    assert second.returncode == 0, second.stderr
    assert first.wait().returncode == (-9 if number == signal.SIGKILL else 0)
    as_if_nothing_had_been(store, undisturbed)
    print(f"\n{number.name} at {begun}: not blocked, {time.monotonic() - began:.0f} s")


def _read_on(store: Path, wholes: list[Mapping[str, Any]], stop: Event, answer: Connection) -> None:
    """Read everything again and again; how often, or the traceback of what went wrong."""
    rounds, seen = 0, Seen()
    try:
        while not stop.is_set():
            one = look(store, *wholes)
            rounds, seen.whole, seen.told = rounds + 1, seen.whole + one.whole, seen.told + one.told
    except BaseException:
        answer.send(traceback.format_exc())
    else:
        answer.send((rounds, seen))


def test_readers_during_rebuilds(arguments: Arguments, undisturbed: Path, tmp_path: Path) -> None:
    """Four of them, all parts, while the prosodic teachers are replaced to and fro."""
    began = time.monotonic()
    other = ("--set", "teachers.prosodic.seed=7", "--rebuild")
    store = Path(shutil.copytree(undisturbed, tmp_path / "store"))
    rebuilt = Path(shutil.copytree(undisturbed, tmp_path / "rebuilt"))
    assert call("featstore", arguments(rebuilt, *other), tmp_path / "out").returncode == 0
    wholes = [everything(undisturbed), everything(rebuilt)]
    context = server()
    stop, answers = context.Event(), []
    for _ in range(4):
        ours, theirs = context.Pipe()
        answers.append(ours)
        context.Process(target=_read_on, args=(store, wholes, stop, theirs)).start()
    rebuilds = 0
    try:
        for more in (other, ("--rebuild",)) * 3:
            done = call("featstore", arguments(store, *more), tmp_path / "out")
            assert done.returncode == 0, done.stderr
            rebuilds += 1
    finally:
        stop.set()
    found = [answer.recv() for answer in answers]
    assert not [one for one in found if isinstance(one, str)], found
    as_if_nothing_had_been(store, undisturbed)
    rounds = sum(rounds for rounds, _ in found)
    whole, told = sum(seen.whole for _, seen in found), sum(seen.told for _, seen in found)
    assert rounds > 40
    print(f"\nreaders during {rebuilds} rebuilds: {rounds} rounds, {whole} reads whole, "
          f"{told} told to build, mixed 0, false alarms 0, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip


def test_two_runs_of_a_fold_at_once(undisturbed: Path, tmp_path: Path) -> None:
    """One trains, the other says so; what comes of it is what comes of one alone."""
    began = time.monotonic()
    more = ("--set", "optim.epochs=6")
    alone = run_arguments(undisturbed, tmp_path / "alone", *more)
    assert call("distill", alone, tmp_path / "out").returncode == 0
    order = run_arguments(undisturbed, tmp_path / "runs", *more)
    first = start("distill", order, tmp_path / "first")
    until(lambda: any((tmp_path / "runs").glob("*/*/*/checkpoint/0*")), 60)
    second = call("distill", order, tmp_path / "second")
    assert second.returncode == 2, second.stderr
    assert "another process is training this run" in second.stderr
    assert first.wait().returncode == 0
    results = []
    for name in ("predictions.parquet", "student/model.safetensors", "student/student.json"):
        (one,), (two,) = ((tmp_path / top).glob(f"*/*/*/{name}") for top in ("alone", "runs"))
        results.append(sha256_of(one) == sha256_of(two))
    assert all(results)
    third = call("distill", order, tmp_path / "third")
    assert (third.returncode, "skipped" in third.stdout) == (0, True)
    print(f"\n2 runs of a fold at once: one trained, one told so, {time.monotonic() - began:.0f} s")
