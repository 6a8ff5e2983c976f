"""distill/training/loop.py: a run that died, and went on, leaves the bytes of one that did not."""

import json
from contextlib import contextmanager

import pandas as pd
import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from distill.report import collect
from distill.runs import folder as runs
from distill.training import loop as trainer
from distill.training.loop import run_fold
from tests.distill.small_runs import (
    EPOCHS,
    STEPS,
    copied,
    folder_of,
    history,
    request,
    results,
    same,
    train,
    without_validation,
)


class Killed(BaseException):
    """What no code of ours catches."""


def dies(*_):
    raise Killed


@contextmanager
def killed_after(n_steps):
    """Die in the optimiser step after so many."""
    steps = iter(range(n_steps))

    def counted(*_):
        if next(steps, None) is None:
            raise Killed

    hook = register_optimizer_step_pre_hook(counted)
    try:
        with pytest.raises(Killed):
            yield
    finally:
        hook.remove()


def resumed(order, *deaths):
    """Kill the run after so many steps of each attempt, then let it finish."""
    for n_steps in deaths:
        with killed_after(n_steps):
            run_fold(order)
    return run_fold(order)


@pytest.fixture
def falling(monkeypatch):
    """Scores as if the first epoch were the best."""
    scores = trainer.scores

    def worse_each_time(learner, logits, role):
        return {**scores(learner, logits, role), "ua": 1 / learner.progress.epoch}

    monkeypatch.setattr(trainer, "scores", worse_each_time)


def test_killed_in_the_second_epoch(finished, small_store, tmp_path, capsys):
    outcome = resumed(request(small_store, tmp_path), STEPS + 2)
    same(outcome, finished[1])
    assert "fold 1: resumed at epoch 2, step 0" in capsys.readouterr().err
    assert not (outcome.folder / "checkpoint").exists()


def test_killed_within_both_epochs(finished, small_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY_S", 0)
    outcome = resumed(request(small_store, tmp_path), 2, STEPS - 1)
    same(outcome, finished[1])
    told = capsys.readouterr().err
    assert "resumed at epoch 1, step 2" in told
    assert "resumed at epoch 2, step 1" in told


@pytest.mark.usefixtures("falling")
def test_killed_within_an_epoch_that_is_worse_than_the_best(small_store, tmp_path, monkeypatch):
    """The best weights are older than the checkpoint's, and must come back as they were."""
    whole = train(small_store, tmp_path / "whole")
    facts = json.loads((whole.folder / "run.json").read_text())
    assert facts["best_epoch"] == 1
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY_S", 0)
    same(resumed(request(small_store, tmp_path / "cut"), STEPS + 2), whole)


@pytest.mark.usefixtures("falling")
def test_killed_after_the_last_epoch(small_store, tmp_path, monkeypatch):
    whole = train(small_store, tmp_path / "whole")
    order = request(small_store, tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(runs.RunFolder, "write_table", dies)
        with pytest.raises(Killed):
            run_fold(order)
    assert folder_of(order).finished() is None
    same(run_fold(order), whole)


def test_with_its_newest_checkpoint_damaged(finished, small_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY_S", 0)
    order = request(small_store, tmp_path)
    with killed_after(STEPS + 2):
        run_fold(order)
    newest = sorted((folder_of(order).path / "checkpoint").iterdir())[-1]
    (newest / "tensors.safetensors").write_bytes(b"")
    same(run_fold(order), finished[1])
    told = capsys.readouterr().err
    assert f"damaged checkpoint passed over, taking {STEPS + 1:08d}: " in told
    assert f"{STEPS + 2:08d}/tensors.safetensors" in told


def test_stopped_on_purpose(finished, small_store, tmp_path):
    for _ in range(2):  # the same command again asks for nothing more
        outcome = train(small_store, tmp_path, max_steps=3)
        assert outcome.status == "stopped"
        assert "3 optimiser step(s)" in outcome.why
        assert not (outcome.folder / "DONE").exists()
    assert train(small_store, tmp_path, max_steps=2).status == "stopped"
    assert train(small_store, tmp_path, max_steps=STEPS).status == "stopped"
    same(train(small_store, tmp_path), finished[1])


def test_as_many_steps_as_a_run_has_are_the_whole_run(finished, small_store, tmp_path):
    same(train(small_store, tmp_path / "all", max_steps=EPOCHS * STEPS), finished[1])
    assert train(small_store, tmp_path / "cut", max_steps=EPOCHS * STEPS - 1).status == "stopped"
    same(train(small_store, tmp_path / "cut", max_steps=EPOCHS * STEPS), finished[1])


def test_another_cut_into_micro_batches_goes_on_with_the_same_run(small_store, tmp_path):
    stopped = train(small_store, tmp_path, max_steps=3)
    done = train(small_store, tmp_path, "stream.max_batch_s=6")
    assert (done.status, done.folder) == ("done", stopped.folder)


@pytest.mark.usefixtures("falling")
def test_the_last_epoch_where_that_is_asked_for(small_store, tmp_path):
    last = train(small_store, tmp_path / "whole", "optim.selection=last")
    assert json.loads((last.folder / "run.json").read_text())["best_epoch"] == EPOCHS
    best = train(small_store, tmp_path / "whole")
    assert results(last.folder) != results(best.folder)
    order = request(small_store, tmp_path / "cut", "optim.selection=last")
    same(resumed(order, STEPS + 2), last)


def test_without_a_validation_speaker(small_store, tmp_path):
    store = copied(small_store, tmp_path / "store")
    without_validation(store)
    outcome = train(store, tmp_path / "whole")
    facts = json.loads((outcome.folder / "run.json").read_text())
    assert (facts["best_epoch"], facts["protocol"]["validation"]) == (EPOCHS, "none")
    assert len(facts["split"]["train"]) == 9
    entries = history(outcome.folder)
    assert len(entries) == EPOCHS
    assert not any("validation" in entry for entry in entries)
    table = pd.read_parquet(outcome.folder / "predictions.parquet")
    assert set(table["role"]) == {"test"}
    assert set(table["speaker"]) == {"Ses01F"}
    assert [run.facts.fold for run in collect([tmp_path / "whole"]).runs] == [1]
    same(resumed(request(store, tmp_path / "cut"), STEPS + 3), outcome)
