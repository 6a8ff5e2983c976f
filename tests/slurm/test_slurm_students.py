"""Students on a real two-node SLURM: an experiment as an array, one student by two nodes."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.reliability.harness import Completed, call, command, document, environment

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

CLUSTER = "memory_gb = 1\npoll_s = 0.5\nretries = 0\n"
GRID = """\
title = "Two rows, and one that always fails"
students = ["tiny"]
[[rows]]
label = "both"
variant = "full"
[[rows]]
label = "labels alone"
variant = "ce-only"
[[rows]]
label = "diverges"
variant = "ce-only"
set.optim.lr = 1e30
"""
FLAGS = ("--set", "optim.epochs=2", "--threads", "1", "--device", "cpu")


@pytest.fixture
def slurm(two_nodes: None, tmp_path: Path) -> tuple[str, ...]:
    """The flags that have runs trained by it."""
    (tmp_path / "cluster.toml").write_text(CLUSTER)
    return "--executor", "slurm", "--slurm", str(tmp_path / "cluster.toml")


def predictions(runs: Path) -> dict[str, bytes]:
    """By run, below ``runs``."""
    found = sorted(runs.glob("*/*/fold*/predictions.parquet"))
    return {path.parent.relative_to(runs).as_posix(): path.read_bytes() for path in found}


def watched(arguments: tuple[object, ...], runs: Path) -> tuple[Completed, list[dict[str, Any]]]:
    """A command, and what ``distill status`` told from outside meanwhile."""
    seen: list[dict[str, Any]] = []
    with subprocess.Popen(
        command("distill", *arguments), env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        while process.poll() is None and not any(one["running"] for one in seen):
            time.sleep(0.5)
            if runs.is_dir():
                seen.append(document(call("distill", "status", runs, "--json"))["counts"])
        out, err = process.communicate(timeout=400)
    return Completed(process.args, process.returncode, out, err), seen


def test_an_experiment_as_an_array_is_the_same_experiment_here(
    slurm: tuple[str, ...], small_store: Path, tmp_path: Path
) -> None:
    grid = tmp_path / "three.toml"
    grid.write_text(GRID)
    shared = ("experiment", grid, "--store", small_store, "--fold", "1..2", *FLAGS, "--json")
    here = call("distill", *shared, "--runs", tmp_path / "here")
    arguments = (*shared, "--runs", tmp_path / "there", *slurm)
    there, seen = watched(arguments, tmp_path / "there")

    assert (here.returncode, there.returncode) == (1, 1), there.stderr
    assert len(predictions(tmp_path / "here")) == 4
    assert predictions(tmp_path / "there") == predictions(tmp_path / "here")
    assert document(there)["rows"] == document(here)["rows"]
    assert any(one["queued"] + one["running"] == 6 for one in seen)
    assert any(one["running"] for one in seen)

    failed = document(there)["failed"]
    assert [one["run"].rpartition(", seed")[0] for one in failed] == [
        "diverges, fold 1", "diverges, fold 2"
    ]  # fmt: skip
    log = Path(failed[0]["message"].rpartition("(log: ")[2].removesuffix(")"))
    assert "not finite" in log.read_text()

    status = call("distill", "status", tmp_path / "there", "--json")
    assert status.returncode == 1
    counts = document(status)["counts"]
    assert (counts["done"], counts["failed"], counts["running"]) == (4, 2, 0)


STILL = ("--set", "student.head_dropout=0", "--set", "student.dropout.hidden=0.0")
"""Without dropout, of which each process draws its own."""


@pytest.fixture(scope="module")
def alone(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fold 1 by one process: the folder of all runs."""
    runs = tmp_path_factory.mktemp("alone")
    assert call("distill", *of_fold_1(small_store, runs)).returncode == 0
    return runs


def of_fold_1(store: Path, runs: Path) -> tuple[object, ...]:
    shared = ("run", "--store", store, "--student", "tiny", "--fold", "1", *FLAGS, *STILL)
    return (*shared, "--runs", runs, "--json")


def same_student(runs: Path, alone: Path) -> None:
    """Within what rounding in another order comes to."""
    tables = [
        pd.read_parquet(next(folder.glob("*/*/*/predictions.parquet"))) for folder in (runs, alone)
    ]
    logits = [name for name in tables[0] if name.startswith("logit_")]
    np.testing.assert_allclose(tables[0][logits], tables[1][logits], rtol=0, atol=1e-4)
    facts = json.loads(next(runs.glob("*/*/*/run.json")).read_text())
    assert facts["processes"] == 2
    assert [path.name for path in runs.iterdir()] == ["tiny-full"]  # no note is left


def test_one_student_by_two_nodes_is_the_student_of_one_process(
    slurm: tuple[str, ...], small_store: Path, alone: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    done = call("distill", *of_fold_1(small_store, runs), *slurm, "--nodes", "2")
    assert done.returncode == 0, done.stderr
    assert document(done)["folds"][0]["status"] == "done"
    same_student(runs, alone)


def test_processes_that_srun_has_started_find_each_other(
    two_nodes: None, small_store: Path, alone: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    srun = ("srun", "--nodes", "2", "--ntasks-per-node", "1", "--time", "5", "--mem", "1000")
    done = call("distill", *of_fold_1(small_store, runs), "--nodes", "2", under=srun)
    assert done.returncode == 0, done.stderr
    assert document(done)["folds"][0]["status"] == "done"  # the first of them alone tells
    same_student(runs, alone)
