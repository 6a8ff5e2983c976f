"""Notes of runs: one is seen waiting, at work and failed, by whoever looks."""

import os

import pytest

from distill.experiments.launch import launch
from distill.training.loop import run_fold
from featstore.core.schema import Corrupt, TaskFailed
from featstore.jobs.task import FOLDER, queue, queued, standings
from tests.distill.small_runs import flip_byte, folder_of, request, train


def key_of(order):
    return folder_of(order).task


def test_a_run_tells_how_far_it_is(small_store, tmp_path):
    order = request(small_store, tmp_path)
    seen = []
    run_fold(order, lambda *_: seen.extend(standings(tmp_path)))
    assert [(one.key, one.state) for one in seen] == [(key_of(order), "running")] * 2
    assert [(one.facts["done"], one.facts["total"]) for one in seen] == [(1, 2), (2, 2)]
    assert seen[0].facts["note"].startswith("loss ")
    assert seen[1].left_s == 0
    assert not (tmp_path / FOLDER).exists()


def test_a_resumed_run_is_as_far_as_it_was(small_store, tmp_path):
    train(small_store, tmp_path, max_steps=5)
    seen = []
    run_fold(request(small_store, tmp_path), lambda *_: seen.extend(standings(tmp_path)))
    assert (seen[-1].facts["before"], seen[-1].facts["done"]) == (1, 2)


def test_its_failure_is_kept_until_it_is_begun_again(small_store, tmp_path):
    with pytest.raises(TaskFailed):
        train(small_store, tmp_path, "optim.lr=1e30")
    (failed,) = standings(tmp_path)
    assert failed.state == "failed"
    assert "not finite" in failed.facts["message"]


def test_runs_wait_for_this_command_as_long_as_it_lasts(tmp_path):
    queue(tmp_path, "e/k/fold02-seed1", {"job": "7_1"})
    with queued(tmp_path, ["e/k/fold01-seed1", "e/k/fold02-seed1"]):
        noted = {one.key: one.facts for one in standings(tmp_path)}
        assert noted["e/k/fold01-seed1"]["pid"] == os.getpid()
        assert noted["e/k/fold02-seed1"]["job"] == "7_1"
    assert [one.key for one in standings(tmp_path)] == ["e/k/fold02-seed1"]


def test_a_run_that_is_refused_before_it_begins_leaves_no_note(store_copy, tmp_path):
    flip_byte(store_copy / "folds" / "01" / "prosodic" / "unit.json", 40)
    runs = tmp_path / "runs"
    done = launch([request(store_copy, runs)], "test", jobs=1)
    assert isinstance(done.failed["fold 1"][1], Corrupt)
    assert not (runs / FOLDER).exists()  # nobody knows its key
