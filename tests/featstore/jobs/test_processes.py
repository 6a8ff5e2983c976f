from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from featstore.core.schema import TaskFailed
from featstore.jobs.local import carry_out, default_jobs
from featstore.jobs.task import Task
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


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def meets(number: int, folder: Path) -> None:
    """Done only while another one is at work, too."""
    (folder / f"{number}").touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)


def tasks(*works: Callable[[], None]) -> list[Task]:
    return [Task(f"task-{at}", work, partial(bool, 0)) for at, work in enumerate(works)]


def errors(root: Path, jobs: int, *works: Callable[[], None]) -> dict[str, Exception | None]:
    return {task.key: error for task, error in carry_out(root, tasks(*works), jobs, "cpu")}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_task_that_kills_its_process_fails_alone(tmp_path: Path, jobs: int) -> None:
    failed = errors(tmp_path, jobs, os.getpid, killed, partial(int, "three"), os.getpid)
    assert isinstance(failed["task-1"], TaskFailed)
    assert "killed" in failed["task-1"].message
    assert isinstance(failed["task-2"], ValueError)
    assert (failed["task-0"], failed["task-3"]) == (None, None)


def test_after_a_killed_worker_the_others_go_on_side_by_side(tmp_path: Path) -> None:
    (place := tmp_path / "met").mkdir()
    failed = errors(tmp_path, 2, killed, partial(meets, 1, place), partial(meets, 2, place))
    assert isinstance(failed["task-0"], TaskFailed)
    assert (failed["task-1"], failed["task-2"]) == (None, None)


def test_closing_it_ends_the_workers(tmp_path: Path) -> None:
    works = partial(time.sleep, 0.0), partial(time.sleep, 60.0)
    outcomes = carry_out(tmp_path, tasks(*works), 2, "cpu")
    task, error = next(outcomes)
    assert (task.key, error) == ("task-0", None)
    began = time.monotonic()
    outcomes.close()
    assert time.monotonic() - began < 30
