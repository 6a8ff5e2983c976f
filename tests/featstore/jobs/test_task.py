"""Notes of tasks: who is at what, seen from another process and after a SIGKILL."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featstore.core.schema import TaskFailed
from featstore.jobs import task as tasks

AT_IT = """
import sys, time
from pathlib import Path
from featstore.jobs.task import attended
with attended(Path(sys.argv[1]), "folds/01/x") as tell:
    tell(2, 5, "epoch 2")
    print("there", flush=True)
    time.sleep(60)
"""


def _one(root: Path) -> tasks.Standing:
    (standing,) = tasks.standings(root)
    return standing


def _at_it(root: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", AT_IT, str(root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_task_that_is_done_leaves_nothing(tmp_path: Path) -> None:
    tasks.queue(tmp_path, "folds/01/x", {"job": "7_1"})
    assert (_one(tmp_path).state, _one(tmp_path).facts["job"]) == ("queued", "7_1")
    with tasks.attended(tmp_path, "folds/01/x") as tell:
        tell(1, 4, "fit")
        running = _one(tmp_path)
        assert (running.state, running.facts["done"], running.facts["job"]) == ("running", 1, "7_1")
    assert not (tmp_path / tasks.FOLDER).exists()


def test_a_failure_is_kept_with_its_reason_until_the_task_is_queued_again(tmp_path: Path) -> None:
    tasks.queue(tmp_path, "a", {"log": "logs/a.err"})
    with pytest.raises(TaskFailed), tasks.attended(tmp_path, "a"):
        raise TaskFailed("disk \x1b[31mfull", "free some")
    failed = _one(tmp_path)
    assert failed.state == "failed"
    assert failed.facts["message"] == "disk \\x1b[31mfull"
    assert (failed.facts["hint"], failed.facts["exit_code"]) == ("free some", 1)
    assert failed.facts["log"] == "logs/a.err"
    tasks.queue(tmp_path, "a", {})
    assert _one(tmp_path).state == "queued"


def test_an_error_of_any_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), tasks.attended(tmp_path, "a"):
        _ = 1 / 0
    assert _one(tmp_path).facts["message"] == "ZeroDivisionError: division by zero"


def test_an_interrupted_task_has_not_failed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), tasks.attended(tmp_path, "a"):
        raise KeyboardInterrupt
    assert tasks.standings(tmp_path) == []


def test_who_is_at_it_twice_tells_with_one_voice(tmp_path: Path) -> None:
    tasks.queue(tmp_path, "a", {"log": "a.log"})
    with tasks.attended(tmp_path, "a") as tell:
        with tasks.attended(tmp_path, "a") as again:
            again(1, 2, "inside")
            assert (_one(tmp_path).facts["done"], _one(tmp_path).facts["log"]) == (1, "a.log")
        assert _one(tmp_path).state == "running"
        tell(2, 2)
        assert _one(tmp_path).facts["done"] == 2
    assert tasks.standings(tmp_path) == []


def test_another_process_is_seen_at_work_and_gone(tmp_path: Path) -> None:
    process = _at_it(tmp_path)
    running = _one(tmp_path)
    assert (running.state, running.facts["note"]) == ("running", "epoch 2")
    with tasks.attended(tmp_path, "folds/01/x") as tell:  # a second one notes nothing
        tell(4, 5)
        assert _one(tmp_path).facts["done"] == 2
    assert _one(tmp_path).state == "running"
    _kill(process)
    assert _one(tmp_path).state == "silent"
    with tasks.attended(tmp_path, "folds/01/x"):
        assert _one(tmp_path).state == "running"
    assert tasks.standings(tmp_path) == []


def test_on_another_machine_only_silence_tells(tmp_path: Path) -> None:
    process = _at_it(tmp_path)
    _kill(process)
    (path,) = (tmp_path / tasks.FOLDER).glob("*.running")
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "elsewhere"}))
    assert _one(tmp_path).state == "running"
    long_ago = time.time() - 2 * tasks.STALE_S
    os.utime(path, (long_ago, long_ago))
    assert _one(tmp_path).state == "silent"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_who_may_only_read_goes_by_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(path: Path, **_: object) -> int:
        raise OSError(number, os.strerror(number), str(path))

    process = _at_it(tmp_path)
    monkeypatch.setattr(tasks, "try_lock", refused)
    assert _one(tmp_path).state == "running"
    _kill(process)
    (path,) = (tmp_path / tasks.FOLDER).glob("*.running")
    long_ago = time.time() - 2 * tasks.STALE_S
    os.utime(path, (long_ago, long_ago))
    assert _one(tmp_path).state == "silent"


def test_it_says_so_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "BEAT_S", 0.01)
    with tasks.attended(tmp_path, "a"):
        first = _one(tmp_path).facts["beat"]
        until = time.monotonic() + 20
        while _one(tmp_path).facts["beat"] == first:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_notes_of_others_hurt_nobody(tmp_path: Path) -> None:
    folder = tmp_path / tasks.FOLDER
    folder.mkdir()
    (folder / "a.queued").write_bytes(b"\x00" * 100)
    (folder / "b.failed").write_text("[1, 2]")
    os.mkfifo(folder / "c.running")
    (folder / "d.queued").symlink_to("/etc/passwd")
    assert tasks.standings(tmp_path) == []
    assert tasks.standings(tmp_path / "nowhere") == []


def test_long_keys_have_short_names(tmp_path: Path) -> None:
    keys = [f"{'x' * 128}/{'y' * 128}/fold{n:02d}" for n in (1, 2)]
    for key in keys:
        tasks.queue(tmp_path, key, {})
    assert [standing.key for standing in tasks.standings(tmp_path)] == keys


def test_a_folder_that_cannot_be_written_stops_no_work(tmp_path: Path) -> None:
    (tmp_path / tasks.FOLDER).write_text("a file")
    with tasks.attended(tmp_path, "a") as tell:
        tell(1, 1)


def test_what_killed_processes_left_is_tidied_away(tmp_path: Path) -> None:
    process = _at_it(tmp_path)
    tasks.tidy(tmp_path, {"folds/01/x"})
    assert _one(tmp_path).state == "running"
    _kill(process)
    tasks.queue(tmp_path, "lld/part-001-of-002", {"job": "7"})
    tasks.queue(tmp_path, "audio", {"job": "8"})
    (tmp_path / tasks.FOLDER / "b.running").touch()
    tasks.tidy(tmp_path, {"lld"})
    assert [standing.key for standing in tasks.standings(tmp_path)] == ["audio"]
    tasks.tidy(tmp_path, {"audio"})
    assert not list(tmp_path.iterdir())
