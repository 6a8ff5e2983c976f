"""featstore/inspection/status.py: units, teachers by fold, tasks that SLURM may have lost."""

import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from featstore.core.schema import UserError
from featstore.inspection import render
from featstore.inspection.status import store_status
from featstore.jobs.status import exit_code
from featstore.jobs.task import attended, queue


def shown(facts) -> str:
    console = Console(width=160, color_system=None)
    with console.capture() as capture:
        for part in render.status(facts):
            console.print(part, highlight=False)
    return capture.get()


def scheduler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A ``squeue`` that says what it is told to."""
    folder.mkdir(exist_ok=True)
    (folder / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_a_finished_store(small_store):
    facts = store_status(small_store)
    assert (facts["counts"]["done"], exit_code(facts), facts["tasks"]) == (8, 0, [])
    assert facts["teachers"]["prosodic"]["02"] == "done"
    assert facts["teachers"]["prosodic"]["03"] == ""
    assert {unit["unit"]: unit["bytes"] > 0 for unit in facts["units"]}["lld"]
    assert "8 done" in shown(facts)
    json.dumps(facts)


def test_what_is_not_done_yet(store_copy, tmp_path, monkeypatch):
    scheduler(tmp_path / "bin", monkeypatch, "echo 7_1; echo 8")
    queue(store_copy, "folds/01/prosodic", {"job": "6"})  # done, whatever its note says
    queue(store_copy, "folds/03/prosodic", {"job": "7_1"})
    queue(store_copy, "folds/04/prosodic", {"job": "7_2", "log": "logs/7_2.err"})
    with attended(store_copy, "folds/03/linguistic") as tell:
        tell(0, 4)
        tell(2, 4, "loss 1")
        facts = store_status(store_copy)
    assert {task["key"]: task["state"] for task in facts["tasks"]} == {
        "folds/03/linguistic": "running",
        "folds/03/prosodic": "queued",
        "folds/04/prosodic": "silent",
    }
    assert facts["teachers"]["prosodic"]["04"] == "silent"
    assert exit_code(facts) == 1
    told = shown(facts)
    assert "job 7_2 is no longer in the queue" in told
    assert "log: logs/7_2.err" in told
    assert "2/4" in told


@pytest.mark.parametrize("script", ["exit 1", "sleep 30"])
def test_a_scheduler_without_an_answer(store_copy, tmp_path, monkeypatch, script):
    monkeypatch.setattr("featstore.jobs.status.SQUEUE_S", 0.5)
    scheduler(tmp_path / "bin", monkeypatch, script)
    queue(store_copy, "folds/04/prosodic", {"job": "7_2"})
    (task,) = store_status(store_copy)["tasks"]
    assert task["state"] == "queued"


def test_a_damaged_unit_is_told_of(store_copy):
    (store_copy / "folds/02/prosodic/logits/c/0/0").write_bytes(b"")
    (store_copy / "audio" / "unit.json").unlink()
    facts = store_status(store_copy)
    assert (facts["counts"]["damaged"], facts["counts"]["done"], exit_code(facts)) == (2, 6, 1)
    assert "folds/02/prosodic/logits/c/0/0: 0 bytes" in shown(facts)


def test_a_store_that_is_only_asked_for(tmp_path):
    queue(tmp_path, "audio", {"job": "7"})
    facts = store_status(tmp_path)
    assert [task["key"] for task in facts["tasks"]] == ["audio"]
    with pytest.raises(UserError, match="no store there"):
        store_status(tmp_path / "nowhere")


def test_many_queued_tasks_are_counted(tmp_path):
    for fold in range(30):
        queue(tmp_path, f"folds/{fold:02d}/prosodic", {"job": "7"})
    told = shown(store_status(tmp_path) | {"teachers": {}})
    assert "and 20 more queued" in told
    assert "folds/09/prosodic" in told
    assert "folds/10/prosodic" not in told
