"""Tasks on this machine, in processes of their own."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
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


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert outcomes(tmp_path, [chore(tmp_path, "a")]) == {"a": ""}
    assert not (tmp_path / "ran.log").exists()


def test_tasks_that_wait_for_each_other_are_a_mistake_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wait for each other: a, b"):
        outcomes(tmp_path, [chore(tmp_path, "a", "b"), chore(tmp_path, "b", "a")])


def test_one_worker_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featstore.core.training.pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert local.workers(None, "cuda") == [local.Worker(True, "0"), local.Worker(True, "1")]
    assert [one.device for one in local.workers(5, "cuda")] == ["0", "1", "0", "1", "0"]
    tasks = [chore(tmp_path, name, sleep_s=1.0, gpus=1) for name in "ab"]
    tasks.append(chore(tmp_path, "c", sleep_s=1.0))  # beside them, on a CPU
    assert all(error is None for _, error in carry_out(tmp_path, tasks, device="cuda"))
    assert {name: gpu for name, _, *gpu in who(tmp_path)} == {"a": ["0"], "b": ["1"], "c": []}


def test_what_another_has_committed_meanwhile_is_no_failure(tmp_path: Path) -> None:
    late = replace(chore(tmp_path, "a", fails=True), is_done=partial(beaten, tmp_path))
    assert outcomes(tmp_path, [late], jobs=1) == {"a": ""}
    assert ran(tmp_path) == ["a"]


def beaten(folder: Path) -> bool:
    """Not done at first, done once it has begun."""
    return (folder / "ran.log").exists()


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
    team = local.workers(None, device)
    assert [one.device for one in team] == (["2", "5"] if workers == 2 else [""])
    assert all(one.gpu for one in team)


def test_an_odd_error_is_an_outcome_too(tmp_path: Path) -> None:
    (tmp_path / "ran.log").mkdir()
    ((_, error),) = carry_out(tmp_path, [chore(tmp_path, "a")], device="cpu")
    assert isinstance(error, IsADirectoryError)
    assert not isinstance(error, TaskFailed)
