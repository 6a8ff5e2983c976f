"""distill/experiments/launch.py: many folds at once are the folds one by one."""

from dataclasses import replace
from pathlib import Path

import pytest

from distill.config import RunSettings
from distill.experiments.launch import Done, launch
from distill.experiments.plan import each_fold, experiment_name, plan, run_settings
from distill.runs.folder import Outcome
from featstore.core.schema import Corrupt, Refused, TaskFailed, UserError
from featstore.jobs.task import standings
from tests.distill.small_runs import copied, flip_byte, request, results, settings_of, train


def requests(store, runs, folds="1..2", **over):
    return each_fold(request(store, runs, **over), folds)


# Settings from flags


def test_later_layers_win(tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text("seed = 1\n[optim]\nlr = 0.5\nepochs = 7\n[losses]\nalpha = 3\nbeta = 3\n")
    sets = ["optim.epochs=9", "losses.teachers.prosodic.tau=4"]
    settings = run_settings("tiny", "no-logits", None, config, sets, None)
    assert settings.optim.batch_size == 16  # the tiny student's preset
    assert (settings.seed, settings.optim.lr) == (1, 0.5)  # the file
    assert (settings.losses.alpha, settings.losses.beta) == (0, 3)  # the variant over the file
    assert settings.optim.epochs == 9  # --set
    assert settings.losses.teachers["prosodic"].tau == 4
    last = run_settings("tiny", "no-logits", None, config, ["seed=2", "losses.alpha=5"], 3)
    assert (last.losses.alpha, last.seed) == (5, 3)  # --set over the variant, the flag over --set


def test_a_flag_that_was_not_given_leaves_the_file_its_student(tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text('[student]\nbackbone = "tiny"\n')
    settings = run_settings(None, "full", None, config, [], None)
    assert settings.student.backbone == "tiny"
    assert settings.optim.batch_size == 16  # whose preset goes with it
    assert run_settings("hubert-large", "full", None, config, [], None).optim.batch_size == 128
    assert run_settings(None, "full", None, None, [], None) == RunSettings()
    given = run_settings(None, "full", "safe", config, [], None)
    assert (given.optim.encoder_lr, given.optim.batch_size) == (1e-5, 128)


@pytest.mark.parametrize(
    ("variant", "preset", "sets", "message"),
    [
        ("fool", None, [], "--variant fool: not known"),
        ("full", "huge", [], "--preset huge: not known"),
        ("full", None, ["optim.lrr=1"], "optim.lrr: unknown key; did you mean lr?"),
        ("full", None, ["optim"], "--set optim: expected key=value"),
    ],
)
def test_flags_that_are_not_accepted(variant, preset, sets, message):
    with pytest.raises(UserError) as caught:
        run_settings("tiny", variant, preset, None, sets, None)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("student", "name"),
    [
        ("tiny", "tiny-full"),
        ("hf:facebook/hubert-base-ls960", "hf-hubert-base-ls960-full"),
        ("hf:/some/where/my model/", "hf-my-model-full"),
        ("random:hubert-base", "random-hubert-base-full"),
        ("random:hf:microsoft/wavlm-base", "random-wavlm-base-full"),
    ],
)
def test_a_folder_name_for_every_student(student, name):
    assert experiment_name(student, "full") == name


# The plan


def test_the_plan_knows_what_became_of_each_fold(finished, small_store, tmp_path):
    runs = copied(finished[1].folder.parents[2], tmp_path / "runs")
    half = train(small_store, tmp_path / "runs", fold=1, experiment="half", max_steps=1)

    def statuses(**over):
        rows = plan(requests(small_store, runs, **over))["runs"]
        return {row["fold"]: row["status"] for row in rows}

    assert statuses(folds="1..3") == {1: "done", 2: "done", 3: "missing"}
    assert statuses(experiment="half") == {1: "resume", 2: "run"}
    assert statuses(settings=settings_of("seed=7")) == {1: "run", 2: "run"}
    flip_byte(finished_copy(runs, 2) / "predictions.parquet")
    assert statuses() == {1: "done", 2: "damaged"}

    rows = plan(requests(small_store, runs, "2..3"))["runs"]
    assert "predictions.parquet is not the one" in rows[0]["why"]
    assert "fold 3: no teacher" in rows[1]["why"]
    (row,) = plan(requests(small_store, runs, "1", experiment="half"))["runs"]
    assert row["folder"] == str(half.folder)
    assert not (runs / "test" / half.folder.parent.name / "fold03-seed42").exists()


def finished_copy(runs: Path, fold: int) -> Path:
    (folder,) = runs.glob(f"test/*/fold{fold:02d}-seed42")
    return folder


def test_folds_that_the_store_does_not_have(small_store, tmp_path):
    for folds in ("0", "9..11", "two"):
        with pytest.raises(UserError, match=f"--fold {folds}"):
            requests(small_store, tmp_path, folds)
    with pytest.raises(UserError, match="no store there"):
        requests(tmp_path / "nothing", tmp_path)


# Folds over processes


def test_two_processes_leave_what_one_left_after_the_other(finished, small_store, tmp_path, capsys):
    done = launch(requests(small_store, tmp_path), "test", jobs=2)
    assert not done.failed
    assert done.exit_code == 0
    by_fold = {outcome.fold: outcome for outcome in done.outcomes.values()}
    assert sorted(by_fold) == [1, 2]
    for fold, outcome in by_fold.items():
        assert outcome.status == "done"
        assert results(outcome.folder) == results(finished[fold].folder)
        assert (outcome.wa, outcome.ua) == (finished[fold].wa, finished[fold].ua)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "test: 4/4 epochs" in captured.err
    table = done.to_dict()
    assert [row["fold"] for row in table["folds"]] == [1, 2]
    assert table["folds"][0]["folder"] == str(by_fold[1].folder)


def test_one_failure_stops_none_and_is_said_at_once(tmp_path, capsys):
    one, two, four = (request(tmp_path, tmp_path, fold=fold) for fold in (1, 2, 4))
    done = Done()
    done.add(one, Corrupt("folds/01/x: torn\x1b[31m\nsecond line", "build it again"))
    done.add(two, Outcome(2, "done", tmp_path, wa=0.5, ua=0.25))
    done.add(four, TaskFailed("RuntimeError: out of memory"))
    said = capsys.readouterr().err
    assert "error: fold 1: folds/01/x: torn\\x1b[31m\nsecond line\n" in said
    assert "hint: build it again\n" in said
    assert "error: fold 4: RuntimeError: out of memory\n" in said
    done.add(replace(four, fold=5), TaskFailed("RuntimeError: out of memory"))
    assert capsys.readouterr().err == ""  # the same mistake
    facts = done.to_dict()
    assert [row["fold"] for row in facts["folds"]] == [2]
    assert facts["failed"]["1"]["hint"] == "build it again"
    assert (list(facts["failed"]), done.exit_code) == (["1", "4", "5"], 3)


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([], 0),
        ([TaskFailed("")], 1),
        ([UserError(""), TaskFailed("")], 2),
        ([Corrupt(""), UserError("")], 3),
        ([TaskFailed(""), Refused(""), Corrupt("")], 4),
    ],
)
def test_the_exit_code_is_the_gravest(errors, code):
    done = Done()
    for fold, error in enumerate(errors):
        done.add(request(Path(), Path(), fold=fold), error)
    assert done.exit_code == code


def test_a_process_that_is_killed_fails_its_run_alone(small_store, tmp_path, monkeypatch):
    """Folds that fail before they begin are said with the others; a killed one is noted."""
    monkeypatch.setattr("distill.experiments.launch.carry_out", killing)
    done = launch(requests(small_store, tmp_path, "1..3"), "test", jobs=1)
    assert sorted(done.failed) == ["fold 1", "fold 2", "fold 3"]
    assert done.exit_code == 2  # fold 3 has no teacher
    assert [one.state for one in standings(tmp_path)] == ["failed", "failed"]


def killing(root, tasks, executor, **rest):
    for task in tasks:
        yield task, TaskFailed("its process was killed by the system, or crashed")


def test_processes_that_nobody_has_started(small_store, tmp_path):
    with pytest.raises(UserError, match="--processes 2 --nodes 1, but 1 process") as caught:
        launch(requests(small_store, tmp_path), "test", processes=2)
    assert "torchrun --nproc-per-node 2" in caught.value.hint
