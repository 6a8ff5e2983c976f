"""distill/experiments/rows.py: equal rows are one run, and no failure stops another."""

import json
from collections import Counter
from dataclasses import replace
from statistics import fmean

import pandas as pd
import pytest

from distill.config import VARIANTS
from distill.experiments import terminal as render
from distill.experiments.grid import Grid, load_grid
from distill.experiments.launch import launch
from distill.experiments.rows import (
    Experiment,
    plan,
    plan_exit_code,
    rows_of,
    runs_of,
    summary,
    write_rows,
)
from distill.runs.folder import FAILED, Keys, RunFolder, RunRequest
from distill.runs.records import read_records
from featstore.core.schema import UserError
from featstore.core.settings import flat
from featstore.store.store import Store
from tests.distill.small_runs import results, settings_of, train


def order(store, runs, grid, device="cpu", weights=None, max_steps=None, **over):
    grid = load_grid(grid) if isinstance(grid, str) else Grid.model_validate(grid)
    request = RunRequest(
        store, runs=runs, device=device, threads=1, weights=weights, max_steps=max_steps
    )
    fields = {"folds": "1", "students": ("tiny",), "sets": ("optim.epochs=2",)}
    return Experiment(grid, request, **fields | over)


def run_experiment(order):
    rows = rows_of(order)
    write_rows(order, rows)
    return launch(runs_of(rows), "test", jobs=1), rows


def planned(order):
    return plan(order, rows_of(order))


def grid_of(*rows, **over):
    return {"name": "mine", "students": ["tiny"], "rows": list(rows), **over}


# Which runs


def test_every_row_fold_and_seed_once(small_store, tmp_path):
    asked = order(small_store, tmp_path, "table2", folds="1..2", n_seeds=3, seed=7)
    rows = rows_of(asked)
    assert [line.label for line in rows if line.cell.teacher] == [
        "w/o student and linguistic teacher", "w/o student and prosodic teacher",
    ]  # fmt: skip
    runs = runs_of(rows)
    assert len(runs) == 6 * 2 * 3
    assert [run.settings.seed for run in runs] == sorted(run.settings.seed for run in runs)
    for seed in (7, 8, 9):
        part = [run for run in runs if run.settings.seed == seed]
        assert [run.fold for run in part] == [1] * 6 + [2] * 6  # whole folds first
        assert {run.variant for run in part} == set(VARIANTS)
    assert len({run.label for run in runs}) == len(runs)


def test_equal_settings_are_one_run_within_and_across_experiments(small_store, tmp_path):
    both = grid_of(
        {"label": "a"}, {"label": "b", "set": {"losses": {"alpha": 1.0}}},
        {"label": "c", "set": {"losses": {"alpha": 0.5}}},
    )  # fmt: skip
    rows = rows_of(order(small_store, tmp_path, both))
    assert len(runs_of(rows)) == 2
    keys = Keys(Store.open(small_store))
    figure, table = (
        {keys.folder(run).path: run for run in runs_of(rows_of(order(small_store, tmp_path, name)))}
        for name in ("figure2", "table2")
    )
    (shared,) = set(figure) & set(table)  # tau 0.5 without the linguistic teacher
    assert table[shared].variant == "no-linguistic"


def test_a_row_is_where_distill_run_leaves_it(here, small_store, tmp_path):
    by_hand = train(small_store, tmp_path, experiment="tiny-full")
    done, rows = run_experiment(order(small_store, tmp_path, grid_of({"label": "a"})))
    [outcome] = done.outcomes.values()
    assert (outcome.status, outcome.folder) == ("skipped", by_hand.folder)
    assert rows[0].requests[0].settings == settings_of()


@pytest.mark.parametrize(
    ("grid", "flag"),
    [
        ("figure2", "losses.teachers.prosodic.tau=3"),
        ("figure2", "losses.teachers.prosodic={tau = 3}"),
        ("figure2", "losses.teachers=3"),
        ("table2", "losses.alpha=3"),
        ("controls", "targets.shuffle=any"),
    ],
)
def test_what_the_rows_answer_is_not_for_a_flag(grid, flag, small_store, tmp_path):
    with pytest.raises(UserError, match="varies these itself") as caught:
        rows_of(order(small_store, tmp_path, grid, sets=(flag,)))
    assert flag.split("=")[0] in caught.value.message
    rows_of(order(small_store, tmp_path, grid, sets=("losses.gamma=3",)))


def test_several_students_share_the_teachers_rows(small_store, tmp_path):
    asked = order(small_store, tmp_path, "table2", students=("tiny", "random:hubert-base"))
    labels = [line.label for line in rows_of(asked)]
    assert len(labels) == len(set(labels)) == 2 * 6 + 2
    assert labels[0] == "Ours · tiny"
    assert labels[-2:] == [
        "w/o student and linguistic teacher", "w/o student and prosodic teacher",
    ]  # fmt: skip


def test_one_file_of_weights_is_for_one_backbone(small_store, tmp_path):
    asked = order(small_store, tmp_path, "table1", students=(), weights=tmp_path / "hubert.pth")
    with pytest.raises(UserError, match="here are 2: hubert-base, hubert-large"):
        rows_of(asked)
    both = rows_of(order(small_store, tmp_path, "table1", students=()))
    assert [line.label for line in both] == [
        "EmoDistill · hubert-base", "EmoDistill · hubert-large",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"students": ("tiny", "tinny")}, "tinny: no such backbone; did you mean tiny"),
        ({"students": ("tiny", "tiny")}, "student tiny: given twice"),
        ({"sets": ("student.backbone=hubert-base",)}, "backbone=hubert-base: the experiment has"),
    ],
)
def test_students_that_no_row_could_have(small_store, tmp_path, over, told):
    with pytest.raises(UserError, match=told):
        run_experiment(order(small_store, tmp_path, "table2", **over))
    assert not list(tmp_path.iterdir())


# What becomes of them


def test_a_failed_run_is_told_and_stops_none(here, small_store, tmp_path, capsys):
    hot = {"label": "hot", "set": {"optim": {"lr": 1e30}, "precision": "fp32"}}
    asked = order(small_store, tmp_path, grid_of(hot, {"label": "cool"}), n_seeds=2)
    done, rows = run_experiment(asked)
    assert done.exit_code == 1
    told = summary(done, rows)
    assert [(row["row"], row["done"], row["runs"]) for row in told["rows"]] == [
        ("hot", 0, 2), ("cool", 2, 2),
    ]  # fmt: skip
    assert told["rows"][0]["ua"] is None
    assert [one["run"] for one in told["failed"]] == [
        "hot, fold 1, seed 42",
        "hot, fold 1, seed 43",
    ]
    assert len(list(tmp_path.rglob(FAILED))) == 2
    json.dumps(told, allow_nan=False)
    facts = planned(asked)
    assert [row["runs"] for row in facts["rows"]] == [{"again": 2}, {"done": 2}]
    assert "it failed: " in facts["rows"][0]["why"]
    assert plan_exit_code(facts) == 0  # they would be tried again


def test_its_summary_is_that_of_the_predictions(here, small_store, tmp_path):
    asked = order(small_store, tmp_path, grid_of({"label": "a"}), folds="1..2", n_seeds=2)
    done, rows = run_experiment(asked)
    [row] = summary(done, rows)["rows"]
    by_fold = {1: [], 2: []}
    for run in (task.work.args[0] for task in here):
        folder = RunFolder.of(tmp_path, run.experiment, read_key(tmp_path), run.fold,
                              run.settings.seed)  # fmt: skip
        table = pd.read_parquet(folder.path / "predictions.parquet")
        tests = table[table["role"] == "test"]
        by_fold[run.fold].append((tests["truth"] == tests["prediction"]).mean())
    means = pd.Series([fmean(values) for values in by_fold.values()])
    assert row["wa"]["mean"] == pytest.approx(means.mean())
    assert row["wa"]["std"] == pytest.approx(means.std(ddof=1))
    assert (row["runs"], row["done"]) == (4, 4)


def read_key(runs):
    [record] = read_records(runs)[0].values()
    return record.rows[0].key


def test_the_record_names_where_the_rows_runs_lie(here, small_store, tmp_path):
    asked = order(small_store, tmp_path, "figure2", max_steps=1)
    run_experiment(asked)
    [(stem, record)] = read_records(tmp_path)[0].items()
    assert (stem, record.student) == ("tiny-figure2", "tiny")
    assert record.store == Store.open(small_store).fingerprint()
    assert len(record.rows) == 8
    for row in record.rows:
        assert (tmp_path / row.experiment / row.key / "fold01-seed42").is_dir()
    assert Counter(row.point.curve for row in record.rows) == {
        "no-linguistic": 4, "no-prosodic": 4,
    }  # fmt: skip
    first = (tmp_path / "experiments" / f"{stem}.json").read_bytes()
    run_experiment(replace(asked, folds="2"))  # as another job of an array would
    assert (tmp_path / "experiments" / f"{stem}.json").read_bytes() == first
    (tmp_path / "experiments" / "a-torn.json").write_bytes(first[:100])
    (tmp_path / "experiments" / "b-link.json").symlink_to("/dev/zero")
    found, damaged = read_records(tmp_path)
    assert (list(found), list(damaged)) == ([stem], ["a-torn", "b-link"])
    assert "not the record of an experiment (Invalid JSON" in damaged["a-torn"]
    assert "experiments/b-link.json: not a regular file" in damaged["b-link"]


def test_resumed_it_is_what_it_would_have_been(here, small_store, tmp_path):
    whole = order(small_store, tmp_path / "whole", grid_of({"label": "a"}, {"label": "b", "set": {
        "losses": {"alpha": 0.0}}}))  # fmt: skip
    run_experiment(whole)
    cut = replace(whole, request=replace(whole.request, runs=tmp_path / "cut"))
    done, rows = run_experiment(replace(cut, request=replace(cut.request, max_steps=3)))
    facts = summary(done, rows)
    assert [(row["done"], row["stopped"]) for row in facts["rows"]] == [(0, 1), (0, 1)]
    assert "stopped by --max-steps, in 2 run(s)" in list(render.experiment(facts))[-1]
    assert [row["runs"] for row in planned(cut)["rows"]] == [{"resume": 1}] * 2
    run_experiment(cut)
    folders = [sorted(run.request.runs.rglob("fold01-seed42")) for run in (whole, cut)]
    assert [results(folder) for folder in folders[0]] == [results(folder) for folder in folders[1]]
    again, _ = run_experiment(cut)
    assert {outcome.status for outcome in again.outcomes.values()} == {"skipped"}


# The plan


def test_the_plan_touches_nothing_and_says_what_is_left(here, small_store, tmp_path):
    asked = order(small_store, tmp_path / "runs", "table2", folds="1..2")
    facts = planned(asked)
    assert facts["runs"] == {"run": 12}
    assert facts["rows"][0]["runs"] == {"run": 2}
    assert facts["rows"][-1]["runs"] == {"done": 2}  # a teacher, read from the store
    assert facts["left"] == 12
    assert not (tmp_path / "runs").exists()
    run_experiment(replace(asked, folds="1"))
    facts = planned(asked)
    assert facts["runs"] == {"done": 6, "run": 6}
    assert "12 run(s) in all (rows share equal ones), 6 left to train" in list(
        render.experiment_plan(facts)
    )
    assert plan_exit_code(facts) == 0


def test_a_plan_that_cannot_begin_everywhere(small_store, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    facts = planned(order(small_store, tmp_path, "table2", folds="1..3"))
    assert facts["rows"][0]["runs"] == {"run": 2, "missing": 1}
    assert facts["rows"][-1]["why"] == "not in the store for fold(s) 3"
    assert plan_exit_code(facts) == 2
    facts = planned(order(small_store, tmp_path, "table1", students=()))
    assert [one["student"] for one in facts["weights"]] == ["hubert-base", "hubert-large"]
    for one in facts["weights"]:
        assert one["missing"]
        assert one["hint"]
    assert plan_exit_code(facts) == 2


def test_a_row_s_settings_are_all_that_tells_it_from_another(small_store, tmp_path):
    for name in ("table2", "figure2", "controls", "options"):
        runs = runs_of(rows_of(order(small_store, tmp_path, name)))
        for run in runs:
            told = flat(run.settings.model_dump(mode="json"))
            differing = {k for k, v in flat(settings_of().model_dump(mode="json")).items()
                         if told.get(k) != v}  # fmt: skip
            assert all(key.split(".")[0] in ("losses", "targets", "optim") for key in differing)
