"""distill/experiments/launch.py: many folds at once are the folds one by one."""

from pathlib import Path

import pytest

from distill.config import RunSettings
from distill.experiments.launch import (
    Order,
    experiment_name,
    launch,
    plan,
    run_settings,
)
from distill.experiments.resources import Resources
from featstore.core.schema import UserError
from tests.distill.small_runs import copied, flip_byte, folder_of, results, settings_of, train


def order(store, runs, **over):
    fields = {"folds": "1..2", "settings": settings_of(), "experiment": "test"}
    resources = Resources(device="cpu", jobs=over.pop("jobs", None), threads=1)
    fields |= {"variant": "full", "resources": resources}
    return Order(store=store, runs=runs, **fields | over)


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
        rows = plan(order(small_store, runs, **over))["runs"]
        return {row["fold"]: row["status"] for row in rows}

    assert statuses(folds="1..3") == {1: "done", 2: "done", 3: "missing"}
    assert statuses(experiment="half") == {1: "resume", 2: "run"}
    assert statuses(settings=settings_of("seed=7")) == {1: "run", 2: "run"}
    flip_byte(finished_copy(runs, 2) / "predictions.parquet")
    assert statuses() == {1: "done", 2: "damaged"}

    rows = plan(order(small_store, runs, folds="2..3"))["runs"]
    assert "predictions.parquet is not the one" in rows[0]["why"]
    assert "fold 3: no teacher" in rows[1]["why"]
    (row,) = plan(order(small_store, runs, folds="1", experiment="half"))["runs"]
    assert row["folder"] == str(half.folder)
    assert not (runs / "test" / half.folder.parent.name / "fold03-seed42").exists()


def finished_copy(runs: Path, fold: int) -> Path:
    (folder,) = runs.glob(f"test/*/fold{fold:02d}-seed42")
    return folder


def test_folds_that_the_store_does_not_have(small_store, tmp_path):
    for folds in ("0", "9..11", "two"):
        with pytest.raises(UserError, match=f"--fold {folds}"):
            plan(order(small_store, tmp_path, folds=folds))
    with pytest.raises(UserError, match="no store there"):
        launch(order(tmp_path / "nothing", tmp_path))


# Folds over processes


def test_two_processes_leave_what_one_left_after_the_other(finished, small_store, tmp_path, capsys):
    done = launch(order(small_store, tmp_path, jobs=2))
    assert done.failed == []
    assert done.exit_code == 0
    by_fold = {outcome.fold: outcome for outcome in done.outcomes}
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


def test_a_request_is_the_order_for_one_fold(small_store, tmp_path):
    asked = order(small_store, tmp_path, max_steps=3, root=tmp_path, tensorboard=True)
    request = asked.request(2)
    assert request.fold == 2
    for name in ("store", "settings", "runs", "experiment", "variant", "root", "weights",
                 "max_steps", "tensorboard"):  # fmt: skip
        assert getattr(request, name) == getattr(asked, name)
    assert (request.device, request.threads) == ("cpu", 1)
    assert folder_of(request).path.name == "fold02-seed42"
