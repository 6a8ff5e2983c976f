"""Finding runs, and refusing those that do not hold together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from distill.report import collect, document, summarise
from distill.runs.folder import RunFolder
from featstore.core.schema import UserError
from tests.distill.report.fake_runs import facts, predictions, write_run, write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "runs")


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two runs of another key than the one that a test damages."""
    root = tmp_path / "runs"
    for fold in (1, 2):
        write_run(root, facts(fold, 42, variant="ce-only", key="0f9e8d7c6b5a"))
    return root


def test_runs_are_found_from_every_level(study: Path) -> None:
    key = study / "main" / "0f9e8d7c6b5a"
    assert len(collect([study]).runs) == 13
    assert len(collect([study / "main"]).runs) == 13
    assert len(collect([key]).runs) == 3
    (one,) = collect([key / "fold02-seed42"]).runs
    assert (one.facts.variant, one.facts.fold) == ("ce-only", 2)
    assert one.place == "main/0f9e8d7c6b5a/fold02-seed42"


def test_the_largest_seed_that_a_run_may_have_is_found(tmp_path: Path) -> None:
    write_run(tmp_path, facts(1, 2**63 - 1))
    (run,) = collect([tmp_path]).runs
    assert run.facts.seed == 2**63 - 1


def test_a_folder_that_vanishes_under_the_search_is_passed_over(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run's own folders for work in progress do."""
    scandir = os.scandir

    def vanishing(path: str) -> object:
        if Path(path).name == "gone":
            raise FileNotFoundError(2, "No such file or directory", path)
        return scandir(path)

    (pair / "gone").mkdir()
    monkeypatch.setattr(os, "scandir", vanishing)
    assert len(collect([pair]).runs) == 2


def test_overlapping_folders_are_read_once(study: Path) -> None:
    found = collect([study, study / "main", study / "main" / "0f9e8d7c6b5a"])
    assert len(found.runs) == 13
    assert found.left_out == ()


def test_runs_behind_a_link_are_found_and_a_loop_ends(study: Path, tmp_path: Path) -> None:
    here = tmp_path / "links"
    here.mkdir()
    (here / "elsewhere").symlink_to(study, target_is_directory=True)
    (study / "main" / "loop").symlink_to(study, target_is_directory=True)
    assert len(collect([here]).runs) == 13


def test_a_missing_folder_and_a_folder_without_runs_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        collect([tmp_path / "absent"])
    with pytest.raises(UserError, match="no run folder found") as caught:
        collect([tmp_path])
    assert "distill run" in caught.value.hint
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        collect([tmp_path / "file"])


def test_an_unfinished_run_is_listed_with_how_far_it_got(pair: Path) -> None:
    record = facts(4, 42, variant="ce-only", key="0f9e8d7c6b5a")
    folder = write_run(pair, record, done=False, epochs=3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "valid')  # what a kill leaves
    (left,) = collect([pair]).left_out
    assert (left.place, left.state) == ("main/0f9e8d7c6b5a/fold04-seed42", "unfinished")
    assert left.reason == "no DONE file; 3 epoch(s) logged"


def test_a_run_that_barely_began_is_listed_too(pair: Path) -> None:
    (pair / "main" / "0f9e8d7c6b5a" / "fold04-seed42").mkdir()
    (left,) = collect([pair]).left_out
    assert left.reason == "no DONE file; 0 epoch(s) logged"


def test_a_copy_of_a_run_does_not_count_twice(pair: Path) -> None:
    write_run(pair / "copy", facts(2, 42, variant="ce-only", key="0f9e8d7c6b5a"), hit=0.1)
    found = collect([pair])
    (left,) = found.left_out
    assert left.state == "duplicate"
    assert len(found.runs) == 2


Edit = Callable[[pd.DataFrame], pd.DataFrame]
FRAMES: dict[str, tuple[Edit, str]] = {
    "column": (lambda f: f.drop(columns="logit_hap"), "lacks the column"),
    "empty cell": (lambda f: f.assign(truth=[None, *f["truth"][1:]]), "a cell is empty"),
    "fold": (lambda f: f.assign(fold=9), "rows of other folds than 4"),
    "role": (lambda f: f.assign(role="train"), "a role is none of test, validation"),
    "twice": (lambda f: pd.concat([f, f.tail(1)]), "stands in it twice"),
    "class": (lambda f: f.assign(truth="fear"), "'fear' is none of the classes"),
    "speaker": (lambda f: f.assign(speaker="Ses09F"), "it tests"),
    "no test": (lambda f: f[f["role"] == "validation"], "it tests"),
    "nan": (lambda f: f.assign(logit_ang=float("nan")), "a logit is not finite"),
    "text": (lambda f: f.assign(logit_ang="1"), "not floating point"),
    "argmax": (lambda f: f.assign(logit_ang=99.0, prediction="sad"), "not the largest logit"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_predictions_that_do_not_fit_are_named_and_not_averaged(pair: Path, name: str) -> None:
    edit, said = FRAMES[name]
    before = document(summarise(collect([pair])))["studies"]
    record = facts(4, 42, variant="ce-only", key="0f9e8d7c6b5a", teachers={})
    write_run(pair, record, frame=edit(predictions(record, 0.5)))
    found = collect([pair])
    (left,) = found.left_out
    assert (left.place, left.state) == ("main/0f9e8d7c6b5a/fold04-seed42", "damaged")
    assert said in left.reason
    assert document(summarise(found))["studies"] == before


FACTS: dict[str, tuple[dict[str, object], str]] = {
    "schema": ({"schema": 2}, "schema"),
    "classes": ({"classes": ["ang"]}, "classes"),
    "fold": ({"n_folds": 3}, "fold 4 of 3"),
    "percent": ({"teachers": {"prosodic": {"test": {"wa": 57.0, "ua": 56.0}}}}, "less than"),
    "confusion": (
        {"teachers": {"t": {"test": {"wa": 0.5, "ua": 0.5, "confusion": [[9, 0], [0, 9]]}}}},
        "shape",
    ),
    "scores": (
        {
            "classes": ["ang", "sad"],
            "teachers": {"t": {"test": {"wa": 0.5, "ua": 0.5, "confusion": [[9, 0], [0, 9]]}}},
        },
        "not those of its confusion",
    ),
    "leak": (
        {"split": {"test": ["Ses02M"], "validation": [], "train": ["Ses01F", "Ses02M"]}},
        "test speaker Ses02M was also trained",
    ),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_that_do_not_fit_are_named(pair: Path, name: str) -> None:
    over, said = FACTS[name]
    folder = write_run(pair, facts(4, 42, key="other"))
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | over))
    RunFolder(folder).finish()
    (left,) = collect([pair]).left_out
    assert left.state == "damaged"
    assert left.reason.startswith("run.json")
    assert said in left.reason


def break_nothing_but(folder: Path, what: str) -> None:
    """One way in which a finished run's folder stops being what was finished."""
    if what == "changed":
        with (folder / "predictions.parquet").open("r+b") as file:
            file.seek(200)
            byte = file.read(1)[0]
            file.seek(200)
            file.write(bytes([byte ^ 1]))
    elif what == "gone":
        (folder / "config.toml").unlink()
    elif what == "no file":
        (folder / "predictions.parquet").unlink()
        os.mkfifo(folder / "predictions.parquet")
    elif what == "mark":
        (folder / "DONE").write_text("")
    elif what == "moved":
        folder.rename(folder.with_name("fold05-seed42"))
    elif what == "parquet":
        (folder / "predictions.parquet").write_bytes(b"PAR1 and no more")
        RunFolder(folder).finish()
    elif what == "toml":
        (folder / "config.toml").write_text("seed = ")
        RunFolder(folder).finish()
    elif what in ("log", "other log"):
        (folder / "metrics.jsonl").write_text('{"epoch": 1}\nnoise\n{"epoch": 3}\n')
        if what == "log":
            RunFolder(folder).finish()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("changed", "predictions.parquet is not the one that the run finished with"),
        ("gone", "config.toml is missing"),
        ("no file", "predictions.parquet is not a regular file"),
        ("mark", "DONE"),
        ("moved", "run.json is of fold 4, seed 42"),
        ("parquet", "not a readable Parquet file"),
        ("toml", "config.toml is not readable TOML"),
        ("log", "metrics.jsonl:2"),
        ("other log", "metrics.jsonl is not the one that the run finished with"),
    ],
)
def test_a_damaged_folder_is_named(pair: Path, what: str, said: str) -> None:
    folder = write_run(pair, facts(4, 42, key="other"))
    assert len(collect([pair]).runs) == 3
    break_nothing_but(folder, what)
    found = collect([pair])
    assert len(found.runs) == 2
    (left,) = found.left_out
    assert left.state == "damaged"
    assert said in left.reason
