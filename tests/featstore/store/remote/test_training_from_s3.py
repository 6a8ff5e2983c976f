"""A student trained from a URL: the same numbers, and nothing fetched that it does not need."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from distill.config import PRESETS, RunSettings
from distill.runs.folder import Outcome, RunRequest
from distill.training.loop import run_fold
from featstore.core.settings import overrides, resolve
from featstore.store.remote import mirror_folder
from tests.featstore.store.kept_store import KEPT


def trained(store: Path | str, runs: Path) -> Outcome:
    """The tiny student on fold 1 for two epochs."""
    sets = overrides(["student.backbone=tiny", "optim.epochs=2", "optim.batch_size=4"])
    settings = resolve(RunSettings, PRESETS["tiny"], sets)
    return run_fold(
        RunRequest(
            store=store, fold=1, settings=settings, runs=runs, experiment="test",
            variant="full", device="cpu", threads=1,
        )
    )  # fmt: skip


def test_the_same_predictions_as_from_a_folder(published: Any, tmp_path: Path) -> None:
    here, there = trained(KEPT, tmp_path / "here"), trained(published.url, tmp_path / "there")
    assert here.status == there.status == "done"
    for name in ("predictions.parquet", "student/model.safetensors"):
        assert (here.folder / name).read_bytes() == (there.folder / name).read_bytes()
    assert here.folder.name == there.folder.name
    assert here.folder.parent.name == there.folder.parent.name  # the run's key
    mirror = mirror_folder(published.url)
    units = {path.parent.relative_to(mirror).as_posix() for path in mirror.rglob("unit.json")}
    assert units == {"corpus", "splits", "audio", "folds/01/linguistic", "folds/01/prosodic"}
    told = json.loads((there.folder / "run.json").read_text())["store"]
    assert told["url"] == published.url
    for path in there.folder.rglob("*"):
        if path.is_file():
            assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in path.read_bytes()
            assert os.environ["AWS_ACCESS_KEY_ID"].encode() not in path.read_bytes()


@pytest.mark.slow
def test_worker_processes_share_a_mirror(published: Any, command: Any, tmp_path: Path) -> None:
    done = command(
        "distill", "run", "--store", published.url, "--fold", "1..2", "--student", "tiny",
        "--set", "optim.epochs=1", "--set", "optim.batch_size=4", "--jobs", "2",
        "--runs", tmp_path / "runs", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [fold["status"] for fold in json.loads(done.out)["folds"]] == ["done", "done"]
    assert not (mirror_folder(published.url) / "lld").exists()


def test_an_experiment_is_planned_from_a_url(published: Any, command: Any, tmp_path: Path) -> None:
    done = command(
        "distill", "experiment", "table2", "--store", published.url, "--fold", "1",
        "--student", "tiny", "--runs", tmp_path / "runs", "--dry-run", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert not (mirror_folder(published.url) / "audio").exists()
