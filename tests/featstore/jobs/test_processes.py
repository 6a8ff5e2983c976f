from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featstore.core.schema import TaskFailed
from featstore.jobs.local import Worker, default_jobs, each
from tests import ROOT

PARENT = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from featstore.jobs.local import worker_setup

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=worker_setup)
    print(pool.submit(os.getpid).result(), flush=True)
    job = pool.submit(time.sleep, 1.0)
    print("broken" if job.exception() else "slept", flush=True)
    pool.submit(time.sleep, 60)
    time.sleep(60)
"""


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # dead, and only not yet collected


def gone(pid: int, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while running(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not running(pid)


def test_worker_ignores_ctrl_c_and_ends_with_its_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    root = str(ROOT)
    environment = os.environ | {"PYTHONPATH": root}
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        try:
            time.sleep(0.3)  # until the job has begun
            os.kill(worker, signal.SIGINT)
            assert parent.stdout.readline() == "slept\n"
            parent.kill()
            parent.wait(10)
            assert gone(worker, within_s=10)
        finally:
            parent.kill()
            if running(worker):
                os.kill(worker, signal.SIGKILL)


def test_default_jobs_are_the_cpus_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    assert default_jobs() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert default_jobs() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def double(item: int) -> int:
    """What a worker does here: 2 kills its own process, 3 fails."""
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 3:
        raise ValueError("three")
    return 2 * item


@pytest.mark.parametrize("workers", [1, 2])
def test_an_item_that_kills_its_process_fails_alone(workers: int) -> None:
    found = dict(each(double, [1, 2, 3, 4], [Worker()] * workers))
    assert found[1] == 2
    assert isinstance(found[2], TaskFailed)
    assert "killed" in found[2].message
    assert str(found[3]) == "three"
    assert found[4] == 8


def meets_another(item: tuple[int, Path]) -> bool:
    """Item 0 kills its process; two others are done only while both are at work."""
    number, folder = item
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"{number}").touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    return len(list(folder.iterdir())) == 2


def test_after_a_killed_worker_the_others_go_on_side_by_side(tmp_path: Path) -> None:
    items = [(number, tmp_path) for number in range(3)]
    found = dict(each(meets_another, items, [Worker()] * 2))
    assert isinstance(found[items[0]], TaskFailed)
    assert (found[items[1]], found[items[2]]) == (True, True)


def test_closing_it_ends_the_workers() -> None:
    ticks: list[int] = []
    results = each(time.sleep, [0.0, 60.0], [Worker()] * 2, idle=lambda: ticks.append(1))
    assert next(results) == (0.0, None)
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 30
    assert ticks
