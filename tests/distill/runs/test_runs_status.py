"""distill/runs/status.py: runs done, waiting, at work, dead, failed; and a stranger's folder."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from rich.console import Console

from distill.experiments import terminal as render
from distill.runs.folder import RunFolder
from distill.runs.read import SUMMED
from distill.runs.status import runs_status
from featstore.core.schema import UserError
from featstore.jobs.status import exit_code
from featstore.jobs.task import attended, queue
from tests.distill.small_runs import copied, flip_byte


@pytest.fixture
def runs(finished, tmp_path):
    return copied(finished[1].folder.parents[2], tmp_path / "runs")


def name_of(runs: Path, fold: int) -> str:
    (folder,) = runs.glob(f"test/*/fold{fold:02d}-seed42")
    return folder.relative_to(runs).as_posix()


def shown(facts) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        for part in render.status(facts):
            console.print(part, highlight=False)
    return capture.get()


def test_finished_runs_and_their_scores(runs, finished):
    facts = runs_status(runs)
    assert facts["counts"]["done"] == 2
    ((row,),) = [part["rows"] for part in facts["experiments"]]
    assert (row["done"], row["planned"]) == (2, 2)
    assert row["wa"]["mean"] == pytest.approx((finished[1].wa + finished[2].wa) / 2)
    assert exit_code(facts) == 0
    assert "2 of 2" in shown(facts)
    json.dumps(facts, allow_nan=False)


def test_what_is_not_done_yet(runs):
    again = name_of(runs, 1)
    shutil.rmtree(runs / again)
    place = again.rpartition("/")[0]
    queue(runs, f"{place}/fold03-seed42", {"host": os.uname().nodename, "pid": os.getpid()})
    queue(runs, f"{place}/fold04-seed42", {"host": os.uname().nodename, "pid": 2**22 + 1})
    with attended(runs, again) as tell:
        tell(0, 4)
        tell(1, 4, "loss 1.5")
        facts = runs_status(runs)
    states = {task["key"][-13:]: task["state"] for task in facts["tasks"]}
    assert states == {
        "fold01-seed42": "running", "fold03-seed42": "queued", "fold04-seed42": "silent"
    }  # fmt: skip
    assert exit_code(facts) == 1
    ((row,),) = [part["rows"] for part in facts["experiments"]]
    assert (row["done"], row["running"], row["queued"], row["planned"]) == (1, 1, 1, 4)
    told = shown(facts)
    assert "1/4" in told
    assert "the command that was to begin it has ended" in told


def test_a_failure_is_told_with_its_reason(runs):
    failed = runs / name_of(runs, 1)
    (failed / "DONE").unlink()
    (failed / "FAILED").write_text("disk \x1b[31mfull")
    facts = runs_status(runs)
    (task,) = facts["tasks"]
    assert (task["state"], exit_code(facts)) == ("failed", 1)
    assert "disk \\x1b[31mfull" in shown(facts)
    (failed / "FAILED").unlink()
    facts = runs_status(runs)
    assert (facts["tasks"][0]["state"], exit_code(facts)) == ("stopped", 0)


def test_a_changed_run_is_damaged_and_gives_no_score(runs):
    flip_byte(runs / name_of(runs, 2) / "predictions.parquet")
    facts = runs_status(runs)
    assert (facts["counts"]["done"], facts["counts"]["damaged"], exit_code(facts)) == (1, 1, 1)
    assert "predictions.parquet is not the one" in shown(facts)


def test_rows_of_an_experiment_that_have_no_run_yet(runs):
    place = name_of(runs, 1).rpartition("/")[0]
    rows = [
        {"label": "all of it", "experiment": "test", "key": place.partition("/")[2]},
        {"label": "none yet", "experiment": "test", "key": "0a1b2c3d4e5f"},
        {"label": "teacher", "teacher": "prosodic"},
    ]
    record = {"schema": 1, "name": "x", "title": "[red]T", "student": "tiny", "store": "s"}
    (runs / "experiments").mkdir()
    (runs / "experiments" / "x-tiny.json").write_text(json.dumps(record | {"rows": rows}))
    facts = runs_status(runs)
    (part,) = facts["experiments"]
    assert [(row["row"], row["done"], row["planned"]) for row in part["rows"]] == [
        ("all of it", 2, 2), ("none yet", 0, 0)
    ]  # fmt: skip
    assert "[red]T" in shown(facts)
    (runs / "experiments" / "y.json").write_text("[]")
    assert exit_code(runs_status(runs)) == 1


def test_notes_and_folders_of_others(tmp_path):
    queue(tmp_path, "a/b/fold01-seed1", {"job": ["x"], "pid": -5, "host": 3, "log": {}})
    queue(tmp_path, "\x1b]0;title\x07[bold]", {"since": "never"})
    odd = tmp_path / "e" / "k" / "fold02-seed1"
    odd.mkdir(parents=True)
    os.mkfifo(odd / "DONE")
    (tmp_path / "e" / "k" / "fold03-seed1").write_text("a file")
    facts = runs_status(tmp_path)
    assert facts["counts"]["damaged"] == 1
    told = shown(facts)
    assert "\x1b" not in told
    assert "\\x1b]0;title\\x07[bold]" in told
    json.dumps(facts, allow_nan=False)
    with pytest.raises(UserError, match="no folder of runs"):
        runs_status(tmp_path / "nowhere")


def test_hundreds_of_runs_take_no_minute(runs):
    one = runs / name_of(runs, 1)
    facts = json.loads((one / "run.json").read_text())
    for seed in range(100, 300):
        folder = one.with_name(f"fold01-seed{seed}")
        (folder / "student").mkdir(parents=True)
        for name in {*SUMMED, "student/model.safetensors"} - {"run.json"}:
            os.link(one / name, folder / name)
        (folder / "run.json").write_text(json.dumps(facts | {"seed": seed}))
        RunFolder(folder).finish()
    began = time.monotonic()
    facts = runs_status(runs)
    assert facts["counts"]["done"] == 202
    assert time.monotonic() - began < 20
