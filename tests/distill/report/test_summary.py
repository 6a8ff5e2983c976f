"""The numbers of a report against values worked by hand; all of them again: test_recomputed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distill.report import collect, document, summarise
from distill.report.data import Student
from distill.runs.folder import RunFolder
from distill.runs.read import RunSet
from tests.distill.report.experiment_runs import row, run, study_of
from tests.distill.report.fake_runs import (
    CLASSES,
    facts,
    predictions,
    write_record,
    write_run,
    write_study,
)

IEMOCAP: dict[str, object] = {"dataset": "iemocap", "full_release": True}


def judged(record: dict[str, object], truth: list[str], said: list[str]) -> pd.DataFrame:
    """Predictions of one test speaker, as wanted."""
    frame = predictions(record, 1.0, truth)
    frame = frame[frame["role"] == "test"].reset_index(drop=True)
    for name in CLASSES:
        frame[f"logit_{name}"] = np.float32([answer == name for answer in said])
    return frame.assign(prediction=said)


def test_missing_folds_are_known_and_said(tmp_path: Path) -> None:
    study = study_of(write_study(tmp_path))
    full, ce_only = study.students
    assert (full.results.missing, ce_only.results.missing) == ((), tuple(range(4, 11)))
    assert study.notes == ("ce-only · tiny: 3 of 10 folds; missing 4..10",)


def test_folds_that_every_row_lacks_are_said_once(tmp_path: Path) -> None:
    for fold in (2, 3):
        write_run(tmp_path, facts(fold, 42))
    assert study_of(tmp_path).notes == ("every row: 2 of 10 folds; missing 1,4..10",)


def test_those_of_a_teacher_are_said_too(tmp_path: Path) -> None:
    for fold in (2, 3):
        write_run(tmp_path, facts(fold, 42))
    write_run(tmp_path, facts(4, 42, teachers={}))
    lacking = "2 of 10 folds; missing 1,4..10"
    assert study_of(tmp_path).notes == (
        f"linguistic teacher: {lacking}",
        f"prosodic teacher: {lacking}",
        "full · tiny: 3 of 10 folds; missing 1,5..10",
    )


def test_seeds_of_a_fold_are_averaged_before_folds_are(tmp_path: Path) -> None:
    truth = ["ang", "ang", "sad", "sad"]
    said = {
        (1, 1): ["ang", "ang", "sad", "sad"],  # 1
        (1, 2): ["ang", "ang", "ang", "ang"],  # 1/2
        (2, 1): ["sad", "ang", "ang", "ang"],  # 1/4
    }
    for (fold, seed), answers in said.items():
        record = facts(fold, seed, n_folds=2)
        write_run(tmp_path, record, frame=judged(record, truth, answers))
    (student,) = study_of(tmp_path).students
    results = student.results
    assert [(f.fold, f.seeds, f.wa) for f in results.folds] == [(1, (1, 2), 0.75), (2, (1,), 0.25)]
    assert results.wa.mean == pytest.approx(0.5)
    assert results.wa.std == pytest.approx(np.sqrt(2 * 0.25**2))
    assert results.pooled.wa == pytest.approx(7 / 12)
    assert results.pooled.recall["hap"] != results.pooled.recall["hap"]
    assert study_of(tmp_path).notes == ("full · tiny: not every seed was run on fold 2",)
    written = document(summarise(collect([tmp_path])))["studies"][0]["students"][0]
    recall = {"ang": 5 / 6, "hap": None, "neu": None, "sad": 2 / 6}
    assert written["results"]["pooled"]["recall"] == recall


def test_students_are_compared_fold_by_fold_and_seed_by_seed(tmp_path: Path) -> None:
    truth = ["ang", "ang", "ang", "sad"]
    right, half = truth, ["ang", "ang", "sad", "ang"]  # WA 1 and 1/2, UA 1 and 1/3
    for variant, key, answers in [("full", "aa", (right, right)), ("ce-only", "bb", (half, right))]:
        for fold, said in enumerate(answers, start=1):
            record = facts(fold, 7, variant=variant, key=key)
            write_run(tmp_path, record, frame=judged(record, truth, said))
    alone = facts(3, 7, variant="ce-only", key="bb")
    write_run(tmp_path, alone)  # has no counterpart
    (found,) = study_of(tmp_path).comparisons
    assert (found.label, found.reference) == ("ce-only · tiny", "full · tiny")
    assert found.folds == (1, 2)
    assert found.wa == pytest.approx((-1 / 2, 0))
    assert found.ua == pytest.approx((1 / 3 - 1, 0))
    assert found.ua_spread.mean == pytest.approx(-1 / 3)
    assert found.ua_spread.std == pytest.approx(np.sqrt(2) / 3)


def test_runs_on_other_utterances_are_not_compared(tmp_path: Path) -> None:
    truth = ["ang", "sad"]
    for variant, ids in (("full", ["a", "b"]), ("ce-only", ["a", "c"])):
        record = facts(1, 7, variant=variant, key=variant)
        frame = judged(record, truth, truth).assign(utterance_id=ids)
        write_run(tmp_path, record, frame=frame)
    assert study_of(tmp_path).comparisons == []


def test_an_utterance_tested_in_two_folds_is_said(tmp_path: Path) -> None:
    for fold in (1, 2):
        record = facts(fold, 7, n_folds=2)
        frame = judged(record, ["ang", "sad"], ["ang", "sad"]).assign(
            utterance_id=["a", f"b{fold}"]
        )
        write_run(tmp_path, record, frame=frame)
    assert study_of(tmp_path).notes == (
        "full · tiny: 1 utterance(s) are tested in more than one fold",
    )


def test_runs_without_their_teachers_answers_have_none_and_it_is_said(tmp_path: Path) -> None:
    teachers = {"prosodic": {"test": {"wa": 0.5, "ua": 0.4}, "validation": None}}
    write_run(tmp_path, facts(1, 42, teachers=teachers))
    study = study_of(tmp_path)
    assert study.teachers == ()
    assert (
        study.notes[-1] == "1 run(s) do not hold the answers of their teachers (an older version)"
    )


def test_teachers_of_one_name_that_differ_are_two_rows(tmp_path: Path) -> None:
    for key, hit in (("aaaa", 0.4), ("bbbb", 0.6), ("cccc", 0.4)):
        write_run(tmp_path, facts(1, 42, key=key, teachers={"prosodic": (0.9, hit, hit)}))
    one, other = study_of(tmp_path).teachers
    assert (one.label, one["keys"]) == ("prosodic teacher (aaaa)", ("aaaa", "cccc"))
    assert (other.label, other["keys"]) == ("prosodic teacher (bbbb)", ("bbbb",))
    assert one.results.ua.mean < other.results.ua.mean


def test_cross_fitted_targets_are_a_row_of_their_own(tmp_path: Path) -> None:
    teachers = {"plain": (1.0, 0.6, 0.6), "crossed": (0.5, 0.6, 0.6)}
    for key, settings in (("plain", ""), ("crossed", "[targets]\ncross_fit = 4\n")):
        record = facts(1, 42, key=key, teachers={"prosodic": teachers[key]}, **IEMOCAP)
        write_run(tmp_path, record, settings=settings)
    plain, crossed_row = study_of(tmp_path).teachers
    assert (plain.label, plain.cross_fit) == ("prosodic teacher", 0)
    assert crossed_row.label == "prosodic teacher, cross-fitted by 4"
    assert crossed_row.published is None
    assert plain.train_ua.mean > 0.9 > 0.8 > crossed_row.train_ua.mean


def test_runs_that_contradict_each_other_about_a_teacher_are_told(tmp_path: Path) -> None:
    for seed, hit in ((1, 0.4), (2, 0.9)):
        write_run(tmp_path, facts(1, seed, teachers={"prosodic": (0.9, hit, hit)}))
    study = study_of(tmp_path)
    (teacher,) = study.teachers
    assert teacher.results.ua.mean < 0.7
    assert any("fold01-seed2 holds other answers" in note for note in study.notes)


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({}, ""),
        ({"classes": ["sad", "neu", "hap", "ang"]}, ""),
        ({"full_release": False}, "not the full IEMOCAP release"),
        ({"dataset": "iemocap2", "full_release": True}, "this corpus is iemocap2"),
        ({"classes": ["ang", "hap", "neu", "sad", "exc"]}, "about the classes ang, hap, neu, sad"),
        ({"protocol": {"scheme": "session"}, "n_folds": 5}, "one speaker left out"),
        ({"protocol": {"scheme": "speaker", "kind": "improvised"}}, "together"),
        ({"protocol": {"scheme": "speaker", "script_disjoint": True}}, "together"),
    ],
)
def test_the_paper_is_compared_on_its_own_ground_only(
    tmp_path: Path, over: dict[str, object], reason: str
) -> None:
    teachers = {"linguistic": (0.9, 0.5, 0.4)}
    student = {"backbone": "hubert-base"}
    write_run(
        tmp_path, facts(1, 42, **{**IEMOCAP, "teachers": teachers, "student": student} | over)
    )
    study = study_of(tmp_path)
    assert reason in study.incomparable
    assert bool(study.incomparable) == bool(reason)
    shown = [row.published and (row.published.wa, row.published.ua) for row in study.rows]
    assert shown == ([None, None] if reason else [(71.09, 71.83), (75.16, 76.12)])


def test_students_stand_in_the_order_of_table_2_under_names_of_their_own(tmp_path: Path) -> None:
    runs = [
        ("shuffled", "k1", "main", "tiny"), ("ce-only", "k2", "main", "tiny"),
        ("full", "k3", "main", "tiny"), ("full", "k4", "main", "tiny"),
        ("full", "k5", "other", "tiny"), ("no-logits", "k6", "main", "hf:org/base"),
    ]  # fmt: skip
    for variant, key, experiment, backbone in runs:
        student = {"backbone": backbone}
        record = facts(1, 42, variant=variant, key=key, experiment=experiment, student=student)
        write_run(tmp_path, record)
    assert [student.label for student in study_of(tmp_path).students] == [
        "no-logits · base",
        "full · tiny (main) (k3)",
        "full · tiny (main) (k4)",
        "full · tiny (other)",
        "ce-only · tiny",
        "shuffled · tiny",
    ]


def test_corpora_and_protocols_are_never_mixed(tmp_path: Path) -> None:
    write_run(tmp_path, facts(1, 42))
    write_run(tmp_path, facts(2, 42, key="b", dataset="iemocap"))
    write_run(tmp_path, facts(3, 42, key="c", protocol={"scheme": "session"}))
    studies = summarise(collect([tmp_path])).studies
    assert len(studies) == 3
    assert all(isinstance(row, Student) for study in studies for row in study.students)
    assert {(s.dataset, s.protocol.scheme) for s in studies} == {
        ("synthetic", "speaker"), ("synthetic", "session"), ("iemocap", "speaker"),
    }  # fmt: skip


def test_nothing_depends_on_the_order_of_runs(tmp_path: Path) -> None:
    for key, variant in (("a", "full"), ("b", "ce-only")):
        for fold in (1, 2, 3):
            run(tmp_path, key, fold, variant=variant)
    write_record(tmp_path, "mine", [row("a"), row("b", "ce-only")])
    found = collect([tmp_path])
    turned = RunSet(found.runs[::-1], found.left_out, found.records)
    assert document(summarise(turned)) == document(summarise(found))


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
