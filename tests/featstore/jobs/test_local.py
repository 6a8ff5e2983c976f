"""Tasks on this machine, in processes of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from featstore.core.schema import TaskFailed
from featstore.jobs import carry_out, local
from featstore.jobs.task import standings
from tests.featstore.jobs.chores import chore, ran, who


def outcomes(root: Path, tasks: Any, **how: Any) -> dict[str, str]:
    """Key -> why it failed, '' where it did not."""
    return {
        task.key: "" if error is None else str(getattr(error, "message", error))
        for task, error in carry_out(root, tasks, device="cpu", **how)
    }


def test_needs_come_first_and_one_failure_stops_only_what_needs_it(tmp_path: Path) -> None:
    tasks = [
        chore(tmp_path, "last", "bad", "good"),
        chore(tmp_path, "next", "good"),
        chore(tmp_path, "far", "last"),
        chore(tmp_path, "good"),
        chore(tmp_path, "bad", fails=True),
        chore(tmp_path, "needs-what-is-done", "made-long-ago"),
    ]
    found = outcomes(tmp_path, tasks, jobs=2)
    assert found == {
        "good": "", "next": "", "needs-what-is-done": "", "bad": "bad is poisoned",
        "last": "needs bad, which failed", "far": "needs last, which failed",
    }  # fmt: skip
    order = ran(tmp_path)
    assert sorted(order) == ["bad", "good", "needs-what-is-done", "next"]
    assert order.index("good") < order.index("next")
    assert {s.key: s.state for s in standings(tmp_path)} == {"bad": "failed"}
    assert str(os.getpid()) not in {pid for _, pid, *_ in who(tmp_path)}


def test_what_spreads_by_itself_runs_here_and_alone(tmp_path: Path) -> None:
    tasks = [chore(tmp_path, "b", "a", here=True), chore(tmp_path, "a", here=True)]
    assert outcomes(tmp_path, tasks) == {"a": "", "b": ""}
    assert who(tmp_path) == [["a", str(os.getpid())], ["b", str(os.getpid())]]
    bad = chore(tmp_path, "c", here=True, fails=True)
    assert outcomes(tmp_path, [bad]) == {"c": "c is poisoned"}


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert outcomes(tmp_path, [chore(tmp_path, "a", here=True)]) == {"a": ""}
    assert not (tmp_path / "ran.log").exists()


def test_tasks_that_wait_for_each_other_are_a_mistake_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wait for each other: a, b"):
        outcomes(tmp_path, [chore(tmp_path, "a", "b"), chore(tmp_path, "b", "a")])


def test_one_worker_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featstore.core.training.pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    count, setup, arguments = local.workers(None, "auto")
    assert (count, setup, arguments[0]) == (2, local.on_one_gpu, ("0", "1"))
    assert local.workers(5, "auto")[0] == 5
    tasks = [chore(tmp_path, name, sleep_s=1.0) for name in "ab"]
    assert all(error is None for _, error in carry_out(tmp_path, tasks))
    assert {gpu for _, _, gpu in who(tmp_path)} == {"0", "1"}


@pytest.mark.parametrize(
    ("device", "visible", "gpus", "workers"),
    [("cuda", "", 1, 1), ("cuda:1", "", 4, 1), ("cuda", "2", 4, 1), ("cuda", "2,5", 4, 2)],
)
def test_one_gpu_has_one_worker_however_many_there_are_beside_it(
    device: str, visible: str, gpus: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featstore.core.training.pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    count, _, arguments = local.workers(None, device)
    assert count == workers
    assert arguments[:1] == ((("2", "5"),) if workers == 2 else ())


def test_an_odd_error_is_an_outcome_too(tmp_path: Path) -> None:
    (tmp_path / "ran.log").mkdir()
    ((_, error),) = carry_out(tmp_path, [chore(tmp_path, "a", here=True)])
    assert isinstance(error, IsADirectoryError)
    assert not isinstance(error, TaskFailed)
