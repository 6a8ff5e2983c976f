"""A disk that is full, read-only or failing: one clear line, nothing lost, and it goes on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from featstore.store.store import Store
from featstore.store.verify import verify
from tests.reliability.harness import Completed, build_arguments, call, run_arguments

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(600)]

STRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null")


def one_line(done: Completed, *words: str, code: int = 1) -> str:
    """The ``error:`` line of a command that failed as it should."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert any(line.startswith("hint: ") for line in lines), done.stderr
    told = done.stderr[done.stderr.index("error: ") :]
    for word in words:
        assert re.search(word, told), (word, told)
    return errors[0]


def earlier_units_are_sound(store: Path) -> None:
    """Whatever is there can be relied on, and nothing else is left."""
    assert not list(store.rglob(".staging-*"))
    if (store / "zarr.json").exists() and Store.open(store).units():
        assert not verify(Store.open(store)).faults


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs whose size a test sets by remounting it."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", place]).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def test_full_disk_at_eight_sizes(
    tone_corpus: Path, tone_config: Path, undisturbed: Path, small_disk: Path
) -> None:
    """Every step from the first folder to the last teacher meets the end of the disk."""
    began = time.monotonic()
    store = small_disk / "store"
    arguments = build_arguments(tone_corpus, tone_config, store)
    reached, needed = [], []
    sizes = [path.stat().st_size for path in undisturbed.rglob("*") if path.is_file()]
    whole = sum(-(-size // 4096) * 4096 for size in sizes)  # a tmpfs gives pages, folders are free
    for share in (0.01, 0.05, 0.3, 0.5, 0.8, 0.9, 0.95, 0.985):
        resize(small_disk, f"{round(share * whole / 1024)}k")
        done = call("featstore", *arguments)
        one_line(done, str(small_disk), r"[\d,]+ bytes free")
        needed.append("bytes needed" in done.stderr)
        earlier_units_are_sound(store)
        reached.append(len(Store(store).units()))
    resize(small_disk, "64m")
    done = call("featstore", *arguments)
    assert done.returncode == 0, done.stderr
    assert Store.open(store).content_hash() == Store.open(undisturbed).content_hash()
    assert reached[0] == 0
    assert reached[-1] > 2  # else the larger sizes tried nothing new
    assert sum(needed) >= 7  # all but the one that has no room for the store's first file
    print(f"full disk: 8 sizes, units there after each {reached}, lost 0, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip


def test_full_disk_while_training(undisturbed: Path, small_disk: Path, tmp_path: Path) -> None:
    arguments = run_arguments(undisturbed, small_disk / "runs")
    for size in ("16k", "900k"):
        resize(small_disk, size)
        one_line(call("distill", *arguments), r"[\d,]+ bytes free")
    resize(small_disk, "64m")
    assert call("distill", *arguments).returncode == 0
    assert call("distill", *run_arguments(undisturbed, tmp_path / "runs")).returncode == 0
    results = [sorted(place.rglob("predictions.parquet")) for place in (small_disk, tmp_path)]
    assert len(results[0]) == 1
    assert results[0][0].read_bytes() == results[1][0].read_bytes()


@pytest.mark.parametrize(
    ("injection", "words"),
    [
        ("fsync:error=EIO:when=1", "input/output error"),
        ("rename:error=EIO:when=2", "input/output error"),
        ("mkdir:error=EROFS:when=2", "read-only file system"),
        ("rename:error=EROFS:when=1", "read-only file system"),
    ],
)  # fmt: skip
def test_failing_disk(
    injection: str, words: str, tone_corpus: Path, tone_config: Path, undisturbed: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    store = tmp_path / "store"
    arguments = build_arguments(tone_corpus, tone_config, store)
    calls = injection.split(":")[0]
    under = (*STRACE, "-e", f"trace={calls}", "-e", f"inject={injection}")
    done = call("featstore", *arguments, under=under)
    one_line(done, f"{tmp_path}", words)  # the store or, before it is made, the folder it goes into
    earlier_units_are_sound(store)
    assert call("featstore", *arguments).returncode == 0
    assert Store.open(store).content_hash() == Store.open(undisturbed).content_hash()


def few_files(limit: int) -> Sequence[str]:
    return ("prlimit", f"--nofile={limit}:{limit}")


def test_too_few_open_files(
    tone_corpus: Path, tone_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """A true limit, lowered until nothing works: success, or one line that names it."""
    store = tmp_path / "store"
    arguments = build_arguments(tone_corpus, tone_config, store)
    codes = []
    for limit in (8, 11, 14, 18):
        done = call("featstore", *arguments, under=few_files(limit))
        codes.append(done.returncode)
        if done.returncode:
            one_line(done, "too many open files|ulimit|OpenSmile")
    assert 1 in codes
    assert call("featstore", *arguments).returncode == 0
    earlier_units_are_sound(store)  # a process that can open nothing can't clean up: the next does
    assert Store.open(store).content_hash() == Store.open(undisturbed).content_hash()
    print(f"open files 8, 11, 14, 18: exit codes {codes}")


def test_unwritable_place_names_it(tone_corpus: Path, tone_config: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        place = Path("/proc/store")  # nobody can write there, root neither
    else:
        tmp_path.chmod(0o500)
        place = tmp_path / "store"
    one_line(call("featstore", *build_arguments(tone_corpus, tone_config, place)), str(place))
