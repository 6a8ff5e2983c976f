"""distill/runs/attendance.py: a run is seen waiting, at work and failed, by whoever looks."""

import json
import os
import socket
from pathlib import Path

import pytest

from distill.experiments.launch import Order, launch
from distill.experiments.resources import Resources
from distill.runs.attendance import waiting
from distill.training.loop import run_fold
from featstore.core.schema import Corrupt, TaskFailed, UserError
from featstore.jobs.task import FOLDER, queue, standings
from tests.distill.small_runs import flip_byte, folder_of, request, train


def key_of(order):
    return folder_of(order).task(order.runs)


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


def test_runs_wait_and_are_waited_for_no_more(small_store, tmp_path):
    orders = [request(small_store, tmp_path, fold=fold, title=f"f{fold}") for fold in (1, 2, 3)]
    queue(tmp_path, key_of(orders[1]), {"job": "7_1"})
    with waiting(orders) as ended:  # fold 3 has no teacher, and thus no key
        noted = {one.key: one.facts for one in standings(tmp_path)}
        assert noted[key_of(orders[0])]["pid"] == os.getpid()
        assert noted[key_of(orders[1])]["job"] == "7_1"
        ended(orders[0], RuntimeError("killed"))
        ended(orders[2], UserError("no teacher"))
    states = {one.key: one.state for one in standings(tmp_path)}
    assert states == {key_of(orders[0]): "failed", key_of(orders[1]): "queued"}


def test_a_command_that_fails_leaves_its_reason_at_what_it_was_at(small_store, tmp_path):
    orders = [request(small_store, tmp_path, fold=fold, title=f"f{fold}") for fold in (1, 2)]
    record = {"key": key_of(orders[0]), "host": socket.gethostname()}

    def killed() -> None:
        with waiting(orders):
            name = record["key"].replace("/", "~")
            (tmp_path / FOLDER / f"{name}.running").write_text(json.dumps(record))
            raise TaskFailed("process 1 of 2 was killed")

    with pytest.raises(TaskFailed):
        killed()
    (failed,) = standings(tmp_path)
    assert (failed.key, failed.state) == (key_of(orders[0]), "failed")
    assert failed.facts["message"] == "process 1 of 2 was killed"


def test_a_run_that_is_refused_before_it_begins_is_told_of(store_copy, tmp_path):
    flip_byte(store_copy / "folds" / "01" / "prosodic" / "unit.json", 40)
    runs = tmp_path / "runs"
    order = Order(
        store_copy, "1", request(store_copy, runs).settings, runs, "test", "full",
        Resources("cpu", jobs=1, threads=1),
    )  # fmt: skip
    done = launch(order)
    assert isinstance(done.failed[0].error, Corrupt)
    assert not (runs / FOLDER).exists()  # nobody knows its key


def test_finished_runs_are_not_noted(finished, small_store):
    runs = Path(finished[1].folder).parents[2]
    with waiting([request(small_store, runs)]):
        assert standings(runs) == []
