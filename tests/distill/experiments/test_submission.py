"""distill/experiments/cluster.py: runs as tasks; tests/slurm hands them to a real cluster."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from distill.experiments import cluster as submission
from distill.experiments.cluster import demand, on_cluster
from distill.experiments.resources import Resources, default_workers
from distill.runs.request import Outcome
from featstore.core.schema import Corrupt, TaskFailed, UserError
from featstore.jobs import executor_settings
from featstore.jobs.body import perform
from featstore.jobs.task import standings
from tests.distill.small_runs import copied, flip_byte, folder_of, request, results

SLURM = executor_settings("slurm", array_limit=3)
ONE = Resources("cpu", threads=1, executor=SLURM)


@pytest.fixture
def queued(monkeypatch):
    """The tasks that a cluster was given; it does them at once, as its jobs would."""
    given = []

    def carry_out(root, tasks, settings):
        assert settings is SLURM
        for task in pickle.loads(pickle.dumps(list(tasks))):
            given.append(task)
            error = None
            try:
                perform(root, task)
            except UserError as failure:
                error = failure
            yield task, error

    monkeypatch.setattr(submission, "carry_out", carry_out)
    return given


def test_a_job_leaves_what_the_run_leaves_here(queued, finished, small_store, tmp_path):
    order = request(small_store, tmp_path)
    ((asked, outcome),) = on_cluster([order], ONE)
    assert asked is order
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.wa, outcome.ua) == ("done", finished[1].wa, finished[1].ua)
    assert outcome.seconds > 0
    assert results(outcome.folder) == results(finished[1].folder)
    assert [task.key for task in queued] == [folder_of(order).task(tmp_path)]
    assert queued[0].n_steps == order.settings.optim.epochs
    assert standings(tmp_path) == []
    ((_, again),) = on_cluster([order], ONE)
    assert (again.status, again.why) == ("skipped", "finished before")
    assert len(queued) == 1


def test_what_cannot_begin_is_never_queued(queued, finished, small_store, tmp_path):
    runs = copied(finished[1].folder.parents[2], tmp_path / "runs")
    hurt = request(small_store, runs)
    flip_byte(folder_of(hurt).path / "predictions.parquet")
    missing, fine = (request(small_store, runs, fold=fold) for fold in (3, 2))
    found = {one.fold: result for one, result in on_cluster([hurt, missing, fine], ONE)}
    assert isinstance(found[1], Corrupt)
    assert "no teacher" in found[3].message
    assert found[2].status == "skipped"
    assert queued == []


def test_a_failed_job_stops_no_other(queued, small_store, tmp_path):
    bad = request(small_store, tmp_path, "optim.lr=1e30", title="bad")
    good = request(small_store, tmp_path, title="good")
    found = {one.label: result for one, result in on_cluster([bad, good], ONE)}
    assert isinstance(found["bad"], TaskFailed)
    assert found["good"].status == "done"
    assert [one.state for one in standings(tmp_path)] == ["failed"]


def test_equal_runs_are_one_job(queued, small_store, tmp_path):
    orders = [request(small_store, tmp_path, title=title) for title in ("a", "b")]
    assert [one.label for one, _ in on_cluster(orders, ONE)] == ["a", "b"]
    assert len(queued) == 1


def test_a_job_is_told_whole_paths(queued, small_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    list(on_cluster([request(small_store, Path("runs"))], ONE))
    asked = queued[0].work.request
    assert (asked.runs, asked.store.is_absolute()) == (tmp_path / "runs", True)


@pytest.mark.parametrize(
    ("over", "device", "message"),
    [
        ({"max_steps": 3}, "cpu", "--max-steps is for a trial on this machine"),
        ({}, "cuda:1", "--device cuda:1: a job has GPUs of its own"),
    ],
)
def test_what_no_job_can_follow(queued, small_store, tmp_path, over, device, message):
    order = request(small_store, tmp_path, **over)
    with pytest.raises(UserError, match=message):
        list(on_cluster([order], replace(ONE, device=device)))


def test_what_a_run_wants(small_store, tmp_path):
    tiny = request(small_store, tmp_path)
    wanted = demand(tiny, Resources("auto", processes=4, nodes=2, executor=SLURM))
    assert (wanted.gpus, wanted.cpus, wanted.memory_gb) == (1, 4, 4.0)
    assert (wanted.processes, wanted.nodes) == (4, 2)
    assert demand(tiny, ONE).gpus == 0
    assert demand(tiny, ONE).cpus == 1
    large = request(small_store, tmp_path, "student.backbone=hubert-large")
    cpus = executor_settings("slurm", cpus=8)
    assert demand(large, Resources(executor=cpus)).memory_gb == 16.0
    assert demand(large, Resources(executor=cpus)).cpus == 8


def test_as_many_at_a_time_as_the_array_allows():
    assert default_workers(ONE, 10) == 3
    assert default_workers(Resources("cpu", processes=2), 10) == 1
    assert default_workers(Resources("cpu", jobs=4), 2) == 2
