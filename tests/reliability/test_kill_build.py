"""A build that is killed anywhere, and asked for again, is the build that nothing disturbed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from featstore.core.schema import SAMPLING_RATE
from featstore.features.lld import extract
from tests.reliability.harness import build_arguments, command, environment
from tests.reliability.killing import at_random, killed_at, swept
from tests.reliability.reading import Seen, as_if_nothing_had_been, everything, look
from tests.reliability.warm import Running, call, of_session, start, until

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

OTHER = ("--set", "teachers.prosodic.seed=7", "--rebuild")
"""The prosodic teachers replaced by others, the linguistic ones kept."""

Arguments = Callable[..., list[str]]


@pytest.fixture
def arguments(tone_corpus: Path, tone_config: Path) -> Arguments:
    """``arguments(store, *more)`` of the build."""
    return lambda store, *more: build_arguments(tone_corpus, tone_config, store, *more)


@pytest.fixture(scope="module")
def whole(undisturbed: Path) -> dict[str, Any]:
    """What a reader gets of the undisturbed store."""
    return everything(undisturbed)


def test_killed_at_every_rename(
    arguments: Arguments, undisturbed: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    """From nothing: the command's own renames come first, then those of its worker."""
    began = time.monotonic()
    seen: list[Seen] = []

    def kill(n: int) -> bool:
        store, folder = tmp_path / f"store{n}", tmp_path / f"{n}"
        _, killed = killed_at(n, "rename", "featstore", arguments(store), folder)
        seen.append(look(store, whole))
        assert call("featstore", arguments(store), folder).returncode == 0
        as_if_nothing_had_been(store, undisturbed)
        return killed

    kills = swept(kill)
    assert kills > 10
    report("build killed at every rename", kills, seen, began)


def test_killed_at_every_rename_of_a_worker(
    arguments: Arguments, undisturbed: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    """With the shared units there, only workers rename anything."""
    began = time.monotonic()
    seen: list[Seen] = []

    def kill(n: int) -> bool:
        store, folder = tmp_path / f"store{n}", tmp_path / f"{n}"
        shutil.copytree(undisturbed, store)
        shutil.rmtree(store / "folds")
        done, killed = killed_at(n, "rename", "featstore", arguments(store), folder)
        assert done.returncode >= 0
        seen.append(look(store, whole))
        assert call("featstore", arguments(store), folder).returncode == 0
        as_if_nothing_had_been(store, undisturbed)
        return killed

    kills = swept(kill)
    assert kills > 10
    report("worker killed at every rename", kills, seen, began)


def test_killed_at_every_rename_of_a_rebuild(
    arguments: Arguments, undisturbed: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    """A unit that is being replaced is the old one or the new one at any time."""
    began = time.monotonic()
    seen: list[Seen] = []
    rebuilt = Path(shutil.copytree(undisturbed, tmp_path / "rebuilt"))
    assert call("featstore", arguments(rebuilt, *OTHER), tmp_path / "out").returncode == 0
    other = everything(rebuilt)
    assert other["folds/01/prosodic"] != whole["folds/01/prosodic"]

    def kill(n: int, calls: str = "rename") -> bool:
        store, folder = tmp_path / f"{calls}-store{n}", tmp_path / f"{calls}{n}"
        shutil.copytree(undisturbed, store)
        _, killed = killed_at(n, calls, "featstore", arguments(store, *OTHER), folder)
        seen.append(look(store, whole, other))
        assert call("featstore", arguments(store, *OTHER), folder).returncode == 0
        as_if_nothing_had_been(store, rebuilt)
        return killed

    kills = swept(kill)
    assert kills >= 6  # three renames a unit, and two units
    exchanges = swept(partial(kill, calls="renameat2"))
    assert exchanges == 2  # one a unit
    assert kill(1, "unlinkat")  # exchanged, and the old one still there
    assert all(one.told == 0 for one in seen)
    kills += exchanges + 1
    report("rebuild killed at every rename", kills, seen, began)


def test_killed_at_random_times(
    arguments: Arguments, undisturbed: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    """Command and workers at once, spread over the build; some again while they resume."""
    began = time.monotonic()
    seen: list[Seen] = []

    def begin(store: Path, out: Path) -> Running:
        return start("featstore", arguments(store), out)

    def end(store: Path, out: Path) -> None:
        assert call("featstore", arguments(store), out).returncode == 0
        as_if_nothing_had_been(store, undisturbed)

    def after(store: Path) -> None:
        seen.append(look(store, whole))

    kills = at_random(begin, after, end, tmp_path, kills=20, again=6, seed=20)
    report("build killed at random", kills, seen, began)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_installed_command(
    number: signal.Signals, arguments: Arguments, undisturbed: Path, whole: dict[str, Any],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Its workers end with it, although the signal is not sent to them."""
    began = time.monotonic()
    store = tmp_path / "store"
    build = subprocess.Popen(
        command("featstore", *arguments(store)), env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: any(store.glob("folds/01/.staging-*")), 120)
    assert len(of_session(build.pid)) > 1
    build.send_signal(number)
    told = build.communicate(timeout=60)[1]
    until(lambda: not of_session(build.pid), 10)
    if number == signal.SIGTERM:
        assert (build.returncode, "resumes" in told) == (130, True)
        assert not [str(path) for path in store.rglob(".*")]
    seen = look(store, whole)
    assert call("featstore", arguments(store), tmp_path / "out").returncode == 0
    as_if_nothing_had_been(store, undisturbed)
    report(f"{number.name} to the installed command", 1, [seen], began)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "begun", [".parts/lld-*/.staging-*/unit/values/zarr.json", "folds/01/.staging-*"]
)
def test_stopped_by_signal(
    number: signal.Signals, begun: str, arguments: Arguments, undisturbed: Path,
    whole: dict[str, Any], tmp_path: Path,
) -> None:  # fmt: skip
    """It says that it resumes and leaves neither a process nor a half unit."""
    began = time.monotonic()
    store = tmp_path / "store"
    build = start("featstore", arguments(store), tmp_path / "out")
    until(lambda: any(store.glob(begun)), 60)
    time.sleep(0.02)
    build.kill(number, alone=number == signal.SIGTERM)  # Ctrl-C reaches the workers too
    stopped = build.wait()
    assert stopped.returncode == 130, stopped.stderr
    assert "resumes" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not [path for path in store.rglob(".*") if path.name != ".parts"]  # whole parts stay
    assert not (store / "folds/02/prosodic").exists()
    seen = look(store, whole)
    assert call("featstore", arguments(store), tmp_path / "out").returncode == 0
    as_if_nothing_had_been(store, undisturbed)
    report(f"{number.name} at {begun}", 1, [seen], began)


def test_an_interrupt_while_a_frame_is_handed_over() -> None:
    """openSMILE calls back through C, where an exception ends: it must not end there."""

    class Stop(BaseException):
        pass

    def interrupt(number: int, frame: FrameType | None) -> None:
        if frame is not None and "callback" in frame.f_code.co_name:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Stop

    def often() -> None:
        for _ in range(20):
            extract(noise)

    noise = np.random.default_rng(0).integers(-9000, 9000, 10 * SAMPLING_RATE).astype(np.int16)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with pytest.raises(Stop):
            often()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def report(what: str, kills: int, seen: list[Seen], began: float) -> None:
    """The test's line of figures."""
    whole, told = sum(one.whole for one in seen), sum(one.told for one in seen)
    print(
        f"\n{what}: {kills} kills, {whole} reads whole, {told} told to build, lost 0, "
        f"false alarms 0, {time.monotonic() - began:.0f} s"
    )
