"""A run that is killed anywhere, or loses a checkpoint, leaves the bytes of one that was not."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.model.student import Student
from distill.report import collect
from featstore.core.files import sha256_of
from tests.reliability import harness
from tests.reliability.harness import run_arguments
from tests.reliability.killing import at_random, killed_at, swept
from tests.reliability.warm import Running, call, start

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

RESULTS = ("predictions.parquet", "student/model.safetensors", "student/student.json")
STOP_AT = ("--max-steps", "5")
"""In the third epoch of two steps each: checkpoints 4 and 5 are there."""


def run_here(store: Path, runs: Path, *more: str) -> list[str]:
    return run_arguments(store, runs, "--set", "optim.epochs=3", *more)


def folder_of(runs: Path) -> Path:
    """The one run below ``runs``."""
    (folder,) = runs.glob("*/*/fold01-seed42")
    return folder


def results(folder: Path) -> dict[str, object]:
    """What a run is judged by: SHA-256 of its files, and its epochs without their clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    epochs = [{**json.loads(line), "seconds": 0} for line in lines]
    return {name: sha256_of(folder / name) for name in RESULTS} | {"epochs": epochs}


@pytest.fixture(scope="module")
def calm(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The results of a run that nothing disturbs, by the command as it is installed."""
    runs = tmp_path_factory.mktemp("calm") / "runs"
    done = harness.call("distill", *run_here(undisturbed, runs))
    assert done.returncode == 0, done.stderr
    return results(folder_of(runs))


def nothing_half_done(runs: Path) -> None:
    """Whoever looks at a killed run finds it unfinished or whole, and its student whole or none."""
    if not runs.exists() or not list(runs.glob("*/*/fold01-seed42")):
        return
    found = collect([runs])
    assert [one.state for one in found.left_out] == ["unfinished"] * (1 - len(found.runs))
    if (folder_of(runs) / "student").exists():
        Student.from_pretrained(folder_of(runs) / "student")


def ends_as(calm: dict[str, object], store: Path, runs: Path, folder: Path) -> str:
    """Ask for the run again: it ends as the undisturbed one did; what it said meanwhile."""
    resumed = call("distill", run_here(store, runs), folder)
    assert resumed.returncode == 0, resumed.stderr
    assert results(folder_of(runs)) == calm
    assert not list(folder_of(runs).rglob(".*"))
    assert not (folder_of(runs) / "checkpoint").exists()
    return resumed.stderr


def test_killed_at_every_rename(undisturbed: Path, calm: dict[str, object], tmp_path: Path) -> None:
    """Each process dies at its n-th rename, be it of a checkpoint, the student or ``DONE``."""
    began = time.monotonic()

    def kill(n: int) -> bool:
        runs, folder = tmp_path / f"runs{n}", tmp_path / f"{n}"
        _, killed = killed_at(n, "rename", "distill", run_here(undisturbed, runs), folder)
        nothing_half_done(runs)
        ends_as(calm, undisturbed, runs, folder)
        return killed

    kills = swept(kill)
    assert kills >= 15
    print(f"\nrun killed at every rename: {kills} kills, lost 0, {time.monotonic() - began:.0f} s")


def test_killed_at_random_times(undisturbed: Path, calm: dict[str, object], tmp_path: Path) -> None:
    """Command and worker at once; some again while they resume."""
    began = time.monotonic()

    def begin(runs: Path, out: Path) -> Running:
        return start("distill", run_here(undisturbed, runs), out)

    def end(runs: Path, out: Path) -> None:
        ends_as(calm, undisturbed, runs, out)

    kills = at_random(begin, nothing_half_done, end, tmp_path, kills=12, again=4, seed=12)
    print(f"\nrun killed at random: {kills} kills, lost 0, {time.monotonic() - began:.0f} s")


def flip(name: str) -> Callable[[Path], None]:
    """One bit in the middle of a file."""

    def damage(place: Path) -> None:
        content = bytearray((place / name).read_bytes())
        content[len(content) // 2] ^= 4
        (place / name).write_bytes(content)

    return damage


DAMAGE: dict[str, Callable[[Path], None]] = {
    "bit flipped in the tensors": flip("tensors.safetensors"),
    "bit flipped in the state": flip("state.json"),
    "tensors cut": lambda place: cut(place / "tensors.safetensors"),
    "tensors emptied": lambda place: (place / "tensors.safetensors").write_bytes(b""),
    "tensors gone": lambda place: (place / "tensors.safetensors").unlink(),
    "state gone": lambda place: (place / "state.json").unlink(),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_damaged_checkpoints(undisturbed: Path, calm: dict[str, object], tmp_path: Path) -> None:
    """The newest sound one is taken, or none, and that is said; the bytes are the same."""
    began = time.monotonic()
    stopped = tmp_path / "stopped"
    assert call("distill", run_here(undisturbed, stopped, *STOP_AT), tmp_path / "o").returncode == 0
    names = sorted(place.name for place in (folder_of(stopped) / "checkpoint").iterdir())
    assert names == ["00000004", "00000005"]
    told = ends_as(calm, undisturbed, copy(stopped, tmp_path / "sound"), tmp_path / "o")
    assert "resumed at epoch 3, step 1" in told
    assert "damaged" not in told
    for what, damage in DAMAGE.items():
        for everywhere in (False, True):
            runs = copy(stopped, tmp_path / f"{what} {everywhere}")
            for name in names if everywhere else names[-1:]:
                damage(folder_of(runs) / "checkpoint" / name)
            told = ends_as(calm, undisturbed, runs, tmp_path / "o")
            assert f"damaged checkpoint passed over, taking {names[0]}: " in told
            assert ("none is left, so it starts anew" in told) == everywhere
            assert ("resumed at epoch 3, step 0" in told) != everywhere
    tries = 2 * len(DAMAGE)
    print(f"\ndamaged checkpoints: {tries} tries, {tries} detected, lost 0, false alarms 0, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip


def copy(runs: Path, to: Path) -> Path:
    return Path(shutil.copytree(runs, to))


@pytest.mark.parametrize("name", [*RESULTS, "run.json", "config.toml", "metrics.jsonl", "DONE"])
def test_a_finished_run_that_was_changed(
    name: str, undisturbed: Path, tmp_path: Path, finished: Path
) -> None:
    """It is neither taken for done nor trained over; weights are summed by who loads them."""
    runs = copy(finished, tmp_path / "runs")
    flip(name)(folder_of(runs))
    if name.endswith(".safetensors"):
        done = call("distill", ["predict", str(folder_of(runs) / "student"), "x.wav"], tmp_path)
    else:
        done = call("distill", run_here(undisturbed, runs), tmp_path / "o")
    assert done.returncode == 3, done.stderr
    assert str(folder_of(runs) / name) in done.stderr


def test_what_a_kill_after_the_end_leaves_is_removed(
    undisturbed: Path, tmp_path: Path, finished: Path
) -> None:
    """Killed while it removed its checkpoints: they would stay for ever."""
    runs = copy(finished, tmp_path / "runs")
    (folder_of(runs) / "checkpoint" / "00000006").mkdir(parents=True)
    (folder_of(runs) / ".lock").touch()
    done = call("distill", run_here(undisturbed, runs), tmp_path / "o")
    assert (done.returncode, "skipped" in done.stdout) == (0, True)
    assert not (folder_of(runs) / "checkpoint").exists()
    assert not list(folder_of(runs).rglob(".*"))


@pytest.fixture(scope="module")
def finished(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, skipped when it is asked for again; never written into."""
    folder = tmp_path_factory.mktemp("finished")
    for _ in range(2):
        done = call("distill", run_here(undisturbed, folder / "runs"), folder)
        assert done.returncode == 0, done.stderr
    assert "skipped" in done.stdout
    return folder / "runs"
