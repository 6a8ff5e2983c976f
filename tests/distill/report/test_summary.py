"""The numbers of a report, against values worked by hand and against a second computation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distill.report import collect, summarise
from distill.report.data import Report, Student, Study
from distill.runs.read import RunSet
from tests.distill.report.fake_runs import CLASSES, facts, predictions, write_run, write_study

IEMOCAP: dict[str, object] = {"dataset": "iemocap", "full_release": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "runs")


@pytest.fixture(scope="module")
def report(root: Path) -> Report:
    return summarise(collect([root]))


def only(root: Path) -> Study:
    (study,) = summarise(collect([root])).studies
    return study


def judged(record: dict[str, object], truth: list[str], said: list[str]) -> pd.DataFrame:
    """Predictions of one test speaker, as wanted."""
    frame = predictions(record, 1.0, truth)
    frame = frame[frame["role"] == "test"].reset_index(drop=True)
    for name in CLASSES:
        frame[f"logit_{name}"] = np.float32([answer == name for answer in said])
    return frame.assign(prediction=said)


def recomputed(files: list[Path]) -> tuple[float, float, dict[str, float], np.ndarray]:
    """WA, UA, recall and confusion of some runs' test rows, from the files alone."""
    rows = pd.concat([pd.read_parquet(file) for file in files])
    rows = rows[rows["role"] == "test"]
    matrix = np.array(
        [
            [((rows["truth"] == t) & (rows["prediction"] == p)).sum() for p in CLASSES]
            for t in CLASSES
        ]
    )
    recall = matrix.diagonal() / matrix.sum(axis=1)
    by_class = dict(zip(CLASSES, recall, strict=True))
    return matrix.trace() / matrix.sum(), recall.mean(), by_class, matrix


def test_every_number_of_a_student_is_that_of_its_predictions(root: Path, report: Report) -> None:
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    for student in document["studies"][0]["students"]:
        folder = root / student["experiment"] / student["key"]
        files = sorted(folder.glob("fold*/predictions.parquet"))
        wa, ua, recall, matrix = recomputed(files)
        pooled = student["results"]["pooled"]
        assert pooled["wa"] == pytest.approx(wa, abs=1e-9)
        assert pooled["ua"] == pytest.approx(ua, abs=1e-9)
        assert pooled["recall"] == pytest.approx(recall, abs=1e-9)
        assert pooled["confusion"] == matrix.tolist()
        each = [recomputed([file])[:2] for file in files]
        for fold, (wa, ua) in zip(student["results"]["folds"], each, strict=True):
            assert (fold["wa"], fold["ua"]) == pytest.approx((wa, ua), abs=1e-9)
        for place, metric in enumerate(("wa", "ua")):
            values = [pair[place] for pair in each]
            spread = student["results"][metric]
            assert spread["mean"] == pytest.approx(np.mean(values), abs=1e-9)
            assert spread["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-9)
            assert spread["n"] == len(files)


def test_the_report_does_not_depend_on_the_order_of_runs(root: Path, report: Report) -> None:
    found = collect([root])
    assert summarise(RunSet(found.runs[::-1])).to_dict() == report.to_dict()


def test_missing_folds_are_known_and_said(report: Report) -> None:
    (study,) = report.studies
    full, ce_only = study.students
    assert (full.results.missing, ce_only.results.missing) == ((), tuple(range(4, 11)))
    assert study.notes == ("ce-only · tiny: 3 of 10 folds; missing 4..10",)


def test_folds_that_every_row_lacks_are_said_once(tmp_path: Path) -> None:
    for fold in (2, 3):
        write_run(tmp_path, facts(fold, 42))
    assert only(tmp_path).notes == ("every row: 2 of 10 folds; missing 1,4..10",)


def test_those_of_a_teacher_are_said_too(tmp_path: Path) -> None:
    for fold in (2, 3):
        write_run(tmp_path, facts(fold, 42))
    write_run(tmp_path, facts(4, 42, teachers={}))
    lacking = "2 of 10 folds; missing 1,4..10"
    assert only(tmp_path).notes == (
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
    (student,) = only(tmp_path).students
    results = student.results
    assert [(f.fold, f.seeds, f.wa) for f in results.folds] == [(1, (1, 2), 0.75), (2, (1,), 0.25)]
    assert results.wa.mean == pytest.approx(0.5)
    assert results.wa.std == pytest.approx(np.sqrt(2 * 0.25**2))
    assert results.pooled is not None
    assert results.pooled.wa == pytest.approx(7 / 12)
    assert results.pooled.recall["hap"] != results.pooled.recall["hap"]
    assert only(tmp_path).notes == ("full · tiny: not every seed was run on fold 2",)
    assert summarise(collect([tmp_path])).to_dict()["studies"][0]["students"][0]["results"][
        "pooled"
    ]["recall"] == {"ang": 5 / 6, "hap": None, "neu": None, "sad": 2 / 6}


def test_students_are_compared_fold_by_fold_and_seed_by_seed(tmp_path: Path) -> None:
    truth = ["ang", "ang", "ang", "sad"]
    right, half = truth, ["ang", "ang", "sad", "ang"]  # WA 1 and 1/2, UA 1 and 1/3
    for variant, key, answers in [("full", "aa", (right, right)), ("ce-only", "bb", (half, right))]:
        for fold, said in enumerate(answers, start=1):
            record = facts(fold, 7, variant=variant, key=key)
            write_run(tmp_path, record, frame=judged(record, truth, said))
    alone = facts(3, 7, variant="ce-only", key="bb")
    write_run(tmp_path, alone)  # has no counterpart
    (found,) = only(tmp_path).comparisons
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
    assert only(tmp_path).comparisons == ()


def test_an_utterance_tested_in_two_folds_is_said(tmp_path: Path) -> None:
    for fold in (1, 2):
        record = facts(fold, 7, n_folds=2)
        frame = judged(record, ["ang", "sad"], ["ang", "sad"]).assign(
            utterance_id=["a", f"b{fold}"]
        )
        write_run(tmp_path, record, frame=frame)
    assert only(tmp_path).notes == ("full · tiny: 1 utterance(s) are tested in more than one fold",)


def test_teachers_are_those_that_the_runs_record(root: Path, report: Report) -> None:
    linguistic, prosodic = report.studies[0].teachers
    paths = sorted((root / "main" / "a1b2c3d4e5f6").glob("*/run.json"))
    expected = [json.loads(path.read_text())["teachers"]["prosodic"] for path in paths]
    values = [teacher["test"]["ua"] for teacher in expected]
    assert [fold.ua for fold in prosodic.results.folds] == pytest.approx(values)
    assert prosodic.results.ua.std == pytest.approx(np.std(values, ddof=1))
    assert prosodic.train_ua is not None
    assert prosodic.train_ua.mean == pytest.approx(np.mean([t["train"]["ua"] for t in expected]))
    matrix = np.sum([teacher["test"]["confusion"] for teacher in expected], axis=0)
    assert prosodic.results.pooled.confusion == tuple(map(tuple, matrix.tolist()))
    assert (linguistic.label, prosodic.label) == ("linguistic teacher", "prosodic teacher")


def test_runs_without_their_teachers_answers_have_none_and_it_is_said(tmp_path: Path) -> None:
    teachers = {"prosodic": {"test": {"wa": 0.5, "ua": 0.4}, "validation": None}}
    write_run(tmp_path, facts(1, 42, teachers=teachers))
    study = only(tmp_path)
    assert study.teachers == ()
    assert (
        study.notes[-1] == "1 run(s) do not hold the answers of their teachers (an older version)"
    )


def test_teachers_of_one_name_that_differ_are_two_rows(tmp_path: Path) -> None:
    for key, hit in (("aaaa", 0.4), ("bbbb", 0.6), ("cccc", 0.4)):
        write_run(tmp_path, facts(1, 42, key=key, teachers={"prosodic": (0.9, hit, hit)}))
    one, other = only(tmp_path).teachers
    assert (one.label, one.keys) == ("prosodic teacher (aaaa)", ("aaaa", "cccc"))
    assert (other.label, other.keys) == ("prosodic teacher (bbbb)", ("bbbb",))
    assert one.results.ua.mean < other.results.ua.mean


def test_cross_fitted_targets_are_a_row_of_their_own(tmp_path: Path) -> None:
    teachers = {"plain": (1.0, 0.6, 0.6), "crossed": (0.5, 0.6, 0.6)}
    for key, settings in (("plain", ""), ("crossed", "[targets]\ncross_fit = 4\n")):
        record = facts(1, 42, key=key, teachers={"prosodic": teachers[key]}, **IEMOCAP)
        write_run(tmp_path, record, settings=settings)
    plain, crossed_row = only(tmp_path).teachers
    assert (plain.label, plain.cross_fit) == ("prosodic teacher", 0)
    assert crossed_row.label == "prosodic teacher, cross-fitted by 4"
    assert plain.published is not None
    assert crossed_row.published is None
    assert plain.train_ua.mean > 0.9 > 0.8 > crossed_row.train_ua.mean


def test_runs_that_contradict_each_other_about_a_teacher_are_told(tmp_path: Path) -> None:
    for seed, hit in ((1, 0.4), (2, 0.9)):
        write_run(tmp_path, facts(1, seed, teachers={"prosodic": (0.9, hit, hit)}))
    study = only(tmp_path)
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
    study = only(tmp_path)
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
    assert [student.label for student in only(tmp_path).students] == [
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
