"""Teachers in a report: their answers by speaker, and those that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from distill.report import collect, summarise
from distill.runs.folder import RunFolder
from distill.runs.read import RunSet
from tests.distill.report.experiment_runs import row, run, study_of
from tests.distill.report.fake_runs import facts, predictions, write_record, write_run


def test_nothing_depends_on_the_order_of_runs(tmp_path: Path) -> None:
    for key, variant in (("a", "full"), ("b", "ce-only")):
        for fold in (1, 2, 3):
            run(tmp_path, key, fold, variant=variant)
    write_record(tmp_path, "mine", [row("a"), row("b", "ce-only")])
    found = collect([tmp_path])
    turned = RunSet(found.runs[::-1], found.left_out, found.records)
    assert summarise(turned).to_dict() == summarise(found).to_dict()


def test_folds_of_two_speakers_are_resampled_by_speaker(tmp_path: Path) -> None:
    pairs = {1: ("a", "b"), 2: ("c", "d")}
    for fold, (one, other) in pairs.items():
        split = {"test": [one, other], "validation": [], "train": ["e"]}
        record = facts(fold, 1, key="x", n_folds=2, split=split)
        frame = predictions(record, 0.7)
        frame["speaker"] = [one, other] * (len(frame) // 2)
        write_run(tmp_path, record, frame=frame)
    study = study_of(tmp_path)
    for one in study.rows:
        interval = one.results.ua_interval
        assert interval is not None
        assert (interval.unit, interval.n_units) == ("speaker", 4)


def test_teachers_answers_that_do_not_fit_are_damage(tmp_path: Path) -> None:
    for number, (change, said) in enumerate(
        [
            (lambda f: f.assign(speaker="Ses01F"), "test speaker Ses01F is in role validation"),
            (lambda f: f.assign(role="dev"), "a role is none of test, validation, train"),
            (lambda f: f.drop(columns="teacher"), "lacks the column(s) teacher"),
            (lambda f: f.assign(logit_ang=float("inf")), "a logit is not finite"),
            (lambda f: f.assign(fold=2), "rows of other folds than 1"),
        ]
    ):
        root = tmp_path / str(number)
        folder = run(root, "a")
        change(pd.read_parquet(folder / "teachers.parquet")).to_parquet(folder / "teachers.parquet")
        RunFolder(folder).finish()
        (left,) = collect([root]).left_out
        assert left.state == "damaged"
        assert said in left.reason


def test_logits_that_contradict_the_store_are_told(tmp_path: Path) -> None:
    folder = run(tmp_path, "a")
    record = json.loads((folder / "run.json").read_text())
    record["teachers"]["linguistic"] = {"test": {"wa": 0.5, "ua": 0.5}}
    (folder / "run.json").write_text(json.dumps(record))
    RunFolder(folder).finish()
    notes = study_of(tmp_path).notes
    assert "linguistic teacher: in fold 1 its logits give other scores than were recorded" in notes
