"""Experiments in a report: rows, what is missing of them and why, the paper's figures, curves."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.cells import cell_len

from distill.report import collect, document, summarise, write
from distill.report.words import missing_lines
from tests.distill.report.experiment_runs import IEMOCAP, at, only, printed, row, run, study_of
from tests.distill.report.fake_runs import write_record


def test_what_became_of_each_missing_run_is_told(tmp_path: Path) -> None:
    for fold, seed in itertools.product((1, 2), (1, 2)):
        run(tmp_path, "a", fold, seed)
    run(tmp_path, "b", 1, 1)
    failed = run(tmp_path, "b", 2, 1, done=False)
    (failed / "FAILED").write_text("loss not finite (ce)\nlower optim.lr\n")
    (run(tmp_path, "b", 1, 2) / "run.json").unlink()
    run(tmp_path, "b", 2, 2, done=False)
    found = only(tmp_path, row("a"), row("b", "ce-only"), row("c", "no-logits"))
    assert [r.n_runs for r in found.rows] == [4, 1, 0]
    assert [(m.fold, m.seed, m.state, m.reason) for m in found.rows[1].missing] == [
        (1, 2, "damaged", "run.json is missing"),
        (2, 1, "failed", "loss not finite (ce)"),
        (2, 2, "unfinished", "no DONE file; 10 epoch(s) logged"),
        (3, 1, "not run", ""),
        (3, 2, "not run", ""),
    ]
    assert found.rows[2].results is None
    assert found.rows[2].row is None
    assert missing_lines(found) == [
        "a, b: fold 3, seed 1..2: not run",
        "b: fold 1, seed 2: damaged (run.json is missing)",
        "b: fold 2, seed 1: failed (loss not finite (ce))",
        "b: fold 2, seed 2: unfinished (no DONE file; 10 epoch(s) logged)",
        "c: fold 1..3, seed 1..2: not run",
    ]
    states = {item.state for item in collect([tmp_path]).left_out}
    assert states == {"failed", "damaged", "unfinished"}


def test_a_finished_run_that_failed_before_is_finished(tmp_path: Path) -> None:
    (run(tmp_path, "a") / "FAILED").write_text("no memory")
    found = collect([tmp_path])
    assert (len(found.runs), found.left_out) == (1, ())


def test_rows_keep_their_order_and_their_names(tmp_path: Path) -> None:
    run(tmp_path, "z", variant="ce-only")
    run(tmp_path, "a")
    labels = ["nothing but labels", "both teachers"]
    found = only(tmp_path, row("z", "ce-only", labels[0]), row("a", "full", labels[1]))
    assert [r.label for r in found.rows] == labels
    assert [r.row for r in found.rows] == ["ce-only · tiny", "full · tiny"]
    assert found.reference == labels[1]
    (compared,) = found.comparisons
    assert (compared.label, compared.reference) == (labels[0], labels[1])


def test_rows_of_other_folds_or_seeds_are_told_and_compared_on_common_ones(tmp_path: Path) -> None:
    for fold, seed in ((1, 1), (1, 2), (2, 1), (3, 1)):
        run(tmp_path, "a", fold, seed)
    for fold in (1, 2):
        run(tmp_path, "b", fold, 1, variant="ce-only", hit=0.6)
    found = only(tmp_path, row("a"), row("b", "ce-only"), {"label": "t", "teacher": "prosodic"})
    assert found.common == ((1, 1), (2, 1))
    assert found.warnings[0].startswith(
        "rows differ in folds or seeds: compare them over the 2 run"
    )
    a, b, teacher = found.rows
    runs = {(r.fold, r.seed): r for r in study_of(tmp_path).students[0].runs}
    assert a.common_wa.mean == pytest.approx((runs[1, 1].wa + runs[2, 1].wa) / 2)
    assert a.common_wa.mean != pytest.approx(a.results.wa.mean)
    assert b.common_wa == b.results.wa
    assert teacher.common_ua.n == 2
    (compared,) = found.comparisons
    assert (compared.folds, compared.n_pairs) == ((1, 2), 2)


def test_rows_of_the_same_folds_and_seeds_need_no_warning(tmp_path: Path) -> None:
    for key, variant in (("a", "full"), ("b", "ce-only")):
        for fold in (1, 2, 3):
            run(tmp_path, key, fold, variant=variant)
    found = only(tmp_path, row("a"), row("b", "ce-only"), {"label": "t", "teacher": "linguistic"})
    assert found.warnings == ()
    assert [(r.common_wa, r.common_ua, r.missing) for r in found.rows] == [(None, None, [])] * 3


def test_rows_without_a_common_run_are_not_compared(tmp_path: Path) -> None:
    run(tmp_path, "a", 1)
    run(tmp_path, "b", 2, variant="ce-only")
    found = only(tmp_path, row("a"), row("b", "ce-only"))
    assert (found.common, found.comparisons) == ((), [])
    assert found.warnings == (
        "rows differ in folds or seeds and have none in common: do not compare them",
    )


def test_a_teacher_is_that_of_the_records_store(tmp_path: Path) -> None:
    run(tmp_path, "a", 1)
    other = {"fingerprint": "77" * 32}
    run(tmp_path, "b", 1, store=other, teachers={"prosodic": (0.9, 0.9, 0.9)})
    others = [t for t in study_of(tmp_path).teachers if t.name == "prosodic"]
    assert [t.store[:2] for t in others] == ["5f", "77"]
    alone = only(tmp_path, row("a"), {"label": "alone", "teacher": "prosodic"}).rows[1]
    assert alone.results.ua.mean < 0.7 < others[1].results.ua.mean
    assert (alone.teacher, alone.n_runs, len(alone.missing)) == ("prosodic", 0, 2)
    absent = only(tmp_path, row("a"), {"label": "none", "teacher": "visual"}).rows[1]
    assert absent.results is None
    assert {m.reason for m in absent.missing} == {"no finished run has its answers"}


def test_the_paper_stands_beside_its_own_rows_and_nothing_else(tmp_path: Path) -> None:
    own = {**IEMOCAP, "n_folds": 10}
    run(tmp_path, "a", **own)
    run(tmp_path, "s", settings='[targets]\nshuffle = "any"\n', **own)
    run(tmp_path, "p", variant="no-linguistic", **own)
    rows = [
        row("a", label="Ours"),
        row("s", label="shuffled"),
        row("p", "no-linguistic", "w/o linguistic teacher"),
        {"label": "w/o student and linguistic teacher", "teacher": "prosodic"},
    ]
    write_record(tmp_path, "table2", rows, student="hubert-base")
    study = study_of(tmp_path)
    ours, control, ablation, teacher = study.experiments[0].rows
    assert (ours.published.wa, ours.published.ua) == (75.16, 76.12)
    assert ours.ua_difference == pytest.approx(ours.results.ua.mean - 0.7612)
    assert ours.wa_difference == pytest.approx(ours.results.wa.mean - 0.7516)
    assert ablation.published.wa == 66.01
    assert teacher.ua_difference == pytest.approx(teacher.results.ua.mean - 0.5008)
    assert (control.published, control.wa_difference, control.ua_difference) == (None, None, None)
    by_key = {s.key: s.published for s in study.students}
    assert by_key["a"] is not None
    assert by_key["s"] is None
    report = summarise(collect([tmp_path]))
    text = printed(report)
    for difference in (ours.wa_difference, ours.ua_difference):
        assert f"{100 * (difference or 0):+.2f}" in text
    assert max(map(cell_len, text.splitlines())) <= 100
    (tmp_path / "out").mkdir()
    write(report, tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| 75.16 | 76.12 |" in page
    table = pd.read_csv(tmp_path / "out" / "experiment-1.csv", index_col="row")
    assert table["paper UA"].to_dict()["Ours"] == 76.12
    assert table["UA minus paper"].to_dict()["Ours"] == ours.ua_difference
    assert table["paper UA"].isna().to_dict()["shuffled"]


@pytest.mark.parametrize("over", [{"full_release": False}, {"dataset": "synthetic"}])
def test_elsewhere_there_is_no_published_column(tmp_path: Path, over: dict[str, Any]) -> None:
    run(tmp_path / "runs", "a", **{**IEMOCAP, "n_folds": 10} | over)
    points = row("a", **at("tau", "no-linguistic", 0.5))
    write_record(tmp_path / "runs", "table2", [row("a", label="Ours"), points | {"label": "x"}])
    report = summarise(collect([tmp_path / "runs"]))
    experiment = report.studies[0].experiments[0]
    assert {(r.published, r.wa_difference) for r in experiment.rows} == {(None, None)}
    assert experiment.curves[0].best_published is None
    write(report, tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    table = (tmp_path / "out" / "experiment-1.csv").read_text()
    for text in (page, table, printed(report)):
        assert "minus" not in text.replace("student minus reference", "")
        assert "paper WA" not in text
        assert "75.16" not in text


def test_curves_have_their_points_in_order_and_the_best_of_them(tmp_path: Path) -> None:
    hits = {"t4": 0.5, "t05": 0.9, "t2": 0.7}
    values = {"t4": 4.0, "t05": 0.5, "t2": 2.0}
    for key, hit in hits.items():
        for fold in (1, 2):
            over = {**IEMOCAP, "n_folds": 10, "variant": "no-linguistic", "hit": hit}
            tau = f"[losses.teachers.prosodic]\ntau = {values[key]}\nweight = 1.0\n"
            run(tmp_path, key, fold, settings=tau, **over)
    axis = "tau of the prosodic teacher"
    rows = [row(key, "no-linguistic", **at(axis, "no-linguistic", values[key])) for key in hits]
    rows.append(row("never", "no-linguistic", **at(axis, "no-linguistic", 0.1)))
    write_record(tmp_path, "figure2", rows)
    study = study_of(tmp_path)
    (experiment,) = study.experiments
    (curve,) = experiment.curves
    assert [(p.value, p.label) for p in curve.points] == [
        (0.1, "never"), (0.5, "t05"), (2.0, "t2"), (4.0, "t4"),
    ]  # fmt: skip
    assert (curve.best_wa, curve.best_ua, curve.best_published) == (0.5, 0.5, 0.5)
    assert (experiment.comparisons, experiment.reference) == ([], None)
    assert {r.published for r in experiment.rows} == {None}  # the paper draws them only
    shown = {s.key: s.published and s.published.ua for s in study.students}
    assert shown == {"t05": 67.27, "t2": None, "t4": None}
    assert {s.label for s in study.students} == {
        f"no-linguistic · hubert-base ({key})" for key in hits
    }
    text = " ".join(printed(summarise(collect([tmp_path]))).split())
    assert "highest UA, highest WA, paper's best" in text.replace(
        "paper's 0.5 best", "paper's best"
    )


@pytest.mark.parametrize("fold", [1, 2])
def test_points_of_equal_scores_or_different_folds_have_no_best(tmp_path: Path, fold: int) -> None:
    run(tmp_path, "a", 1)
    run(tmp_path, "b", fold)
    rows = (row("a", **at("tau", "full", 1.0)), row("b", **at("tau", "full", 2.0)))
    (curve,) = only(tmp_path, *rows).curves
    assert (curve.best_wa, curve.best_ua) == (None, None)


def test_each_of_several_students_has_a_reference_of_its_own(tmp_path: Path) -> None:
    rows = []
    for backbone in ("base", "large"):
        for variant in ("full", "ce-only"):
            key = f"{backbone}-{variant}"
            for fold in (1, 2):
                run(tmp_path, key, fold, variant=variant, student={"backbone": backbone})
            rows.append(row(key, variant))
    compared = [(c.label, c.reference) for c in only(tmp_path, *rows).comparisons]
    assert compared == [("base-ce-only", "base-full"), ("large-ce-only", "large-full")]
    (one,) = only(tmp_path, row("base-full"), row("large-full")).comparisons
    assert (one.label, one.reference) == ("large-full", "base-full")


def test_rows_of_one_label_are_compared_each(tmp_path: Path) -> None:
    for key in ("a", "b", "c"):
        for fold in (1, 2):
            run(tmp_path, key, fold, variant="full" if key == "a" else "ce-only")
    rows = [row("a"), row("b", "ce-only", "x"), row("c", "ce-only", "x")]
    assert [one.label for one in only(tmp_path, *rows).comparisons] == ["x", "x"]


def test_runs_that_experiments_share_stand_in_both(tmp_path: Path) -> None:
    run(tmp_path, "a")
    write_record(tmp_path, "one", [row("a", label="first")])
    write_record(tmp_path, "two", [row("a", label="second")])
    one, two = study_of(tmp_path).experiments
    assert (one.rows[0].row, two.rows[0].row) == ("full · tiny", "full · tiny")
    assert [s.label for s in study_of(tmp_path).students] == ["full · tiny"]


def test_a_record_without_any_run_is_said(tmp_path: Path) -> None:
    run(tmp_path, "a")
    write_record(tmp_path, "mine", [row("never")])
    report = summarise(collect([tmp_path]))
    assert report.studies[0].experiments == []
    (left,) = report.left_out
    assert (left.place, left.state) == ("experiments/mine-tiny.json", "unfinished")


def test_a_damaged_record_is_listed_and_the_runs_are_reported(tmp_path: Path) -> None:
    run(tmp_path, "a")
    write_record(tmp_path, "mine", [row("a")]).write_text("{")
    write_record(tmp_path, "other", [row("a")])
    (tmp_path / "experiments" / "huge.json").symlink_to("/dev/zero")
    report = summarise(collect([tmp_path]))
    assert len(report.studies[0].students) == 1
    assert [one.stem for one in report.studies[0].experiments] == ["other-tiny"]
    assert [(left.place, left.state) for left in report.left_out] == [
        ("experiments/huge.json", "damaged"),
        ("experiments/mine-tiny.json", "damaged"),
    ]
    assert str(tmp_path) not in json.dumps(document(report))


def test_records_are_those_of_folders_searched_whole(tmp_path: Path) -> None:
    run(tmp_path / "runs", "a")
    write_record(tmp_path / "runs", "mine", [row("a"), row("b", "ce-only")])
    assert list(collect([tmp_path / "runs"]).records) == ["mine-tiny"]
    assert list(collect([tmp_path]).records) == ["mine-tiny"]
    assert dict(collect([tmp_path / "runs" / "main"]).records) == {}  # else rows would be "missing"
    run(tmp_path / "more", "c")
    write_record(tmp_path / "more", "mine", [row("c")])
    stems = ["mine-tiny", "mine-tiny (2)"]
    assert list(collect([tmp_path]).records) == stems
    assert list(collect([tmp_path / "runs", tmp_path]).records) == stems  # each once
