"""A task's job: done once, by one process, and not before what it needs."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import pytest

from featstore.core.schema import TaskFailed
from featstore.jobs import slurm
from featstore.jobs import task as tasks
from featstore.jobs.slurm import Body, alone
from tests.featstore.jobs.chores import chore, is_there, ran


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "LOOK_S", 0.02)
    monkeypatch.setattr(slurm, "PATIENCE_S", 0.2)


def needs(folder: Path, *names: str) -> slurm.Needs:
    return tuple((name, partial(is_there, folder, name)) for name in names)


def test_done_or_needing_what_is_not_it_begins_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Body(tmp_path, chore(tmp_path, "a", "b"), needs(tmp_path, "b"))()
    assert "a: needs b: not done; nothing begun" in capsys.readouterr().err
    (tmp_path / "b").touch()
    one = Body(tmp_path, chore(tmp_path, "a", "b"), needs(tmp_path, "b"))
    one()
    one()
    assert ran(tmp_path) == ["a"]


def test_what_is_not_seen_yet_is_waited_for_but_not_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PATIENCE_S", 60.0)
    late = threading.Timer(0.2, (tmp_path / "b").touch)
    late.start()
    Body(tmp_path, chore(tmp_path, "a"), needs(tmp_path, "b"))()
    assert ran(tmp_path) == ["a"]
    tasks.fail(tmp_path, "c", TaskFailed("no"), {})
    began = time.monotonic()
    assert slurm.unmet(tmp_path, needs(tmp_path, "c")) == ["c"]
    assert time.monotonic() - began < 30


def test_another_process_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of them at once: the work is done by one, and both end when it is done."""
    tasks_of_two = [threading.Thread(target=alone, args=(tmp_path, chore(tmp_path, "a")))]
    with tasks.attended(tmp_path, "a"):
        facts = tasks.attendant(tmp_path, "a")
        assert facts is not None
        other = {**facts, "pid": 1, "host": "elsewhere"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tasks, "attendant", lambda root, key: other)
            tasks_of_two[0].start()
            time.sleep(0.3)
            assert not (tmp_path / "ran.log").exists()
            (tmp_path / "a").touch()
            tasks_of_two[0].join(20)
    assert not tasks_of_two[0].is_alive()
    assert not (tmp_path / "ran.log").exists()
    assert "process 1 on elsewhere is at it; waiting" in capsys.readouterr().err


def test_where_no_note_can_be_kept_the_work_is_done_all_the_same(tmp_path: Path) -> None:
    (tmp_path / tasks.FOLDER).write_text("a file")
    alone(tmp_path, chore(tmp_path, "a"))
    assert ran(tmp_path) == ["a"]


def test_the_same_job_on_another_machine_goes_on_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was requeued, and its last sign there is fresh."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert tasks.job_id() == "7_3"
    said = iter([{"job": "7_3", "host": "elsewhere", "pid": 1}])
    real = tasks.attendant
    monkeypatch.setattr(tasks, "attendant", lambda root, key: next(said, None) or real(root, key))
    alone(tmp_path, chore(tmp_path, "a"))
    assert ran(tmp_path) == ["a"]


def test_only_the_first_process_of_a_team_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(TaskFailed):
        Body(tmp_path, chore(tmp_path, "a", fails=True))()
    assert tasks.standings(tmp_path) == []
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(TaskFailed):
        Body(tmp_path, chore(tmp_path, "a", fails=True))()
    assert [s.state for s in tasks.standings(tmp_path)] == ["failed"]


def test_it_is_its_own_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    one = Body(tmp_path, chore(tmp_path, "a"))
    assert one.checkpoint().function == one
