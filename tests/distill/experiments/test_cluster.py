"""distill/experiments/launch.py: runs as tasks; tests/slurm hands them to a real cluster."""

from pathlib import Path

import pytest

from distill.experiments.launch import device_of, launch, task_of
from distill.runs.folder import Outcome
from featstore.core.schema import Corrupt, TaskFailed, UserError
from featstore.jobs import LOCAL, executor_settings
from featstore.jobs.task import standings
from tests.distill.small_runs import copied, flip_byte, folder_of, request, results

SLURM = executor_settings("slurm", array_limit=3)


def on_cluster(*requests):
    """What came of them, by label."""
    done = launch(requests, "test", executor=SLURM)
    return done.outcomes | {label: error for label, (_, error) in done.failed.items()}


def test_a_job_leaves_what_the_run_leaves_here(here, finished, small_store, tmp_path):
    order = request(small_store, tmp_path)
    outcome = on_cluster(order)["fold 1"]
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.wa, outcome.ua) == ("done", finished[1].wa, finished[1].ua)
    assert outcome.seconds > 0
    assert results(outcome.folder) == results(finished[1].folder)
    assert [task.key for task in here] == [folder_of(order).task]
    assert here[0].n_steps == order.settings.optim.epochs
    assert standings(tmp_path) == []
    again = on_cluster(order)["fold 1"]
    assert (again.status, again.why) == ("skipped", "finished before")
    assert len(here) == 1


def test_what_cannot_begin_is_never_queued(here, finished, small_store, tmp_path):
    runs = copied(finished[1].folder.parents[2], tmp_path / "runs")
    hurt = request(small_store, runs)
    flip_byte(folder_of(hurt).path / "predictions.parquet")
    missing, fine = (request(small_store, runs, fold=fold) for fold in (3, 2))
    results_by_fold = on_cluster(hurt, missing, fine)
    assert isinstance(results_by_fold["fold 1"], Corrupt)
    assert "no teacher" in results_by_fold["fold 3"].message
    assert results_by_fold["fold 2"].status == "skipped"
    assert here == []


def test_a_failed_job_stops_no_other(here, small_store, tmp_path):
    bad = request(small_store, tmp_path, "optim.lr=1e30", title="bad")
    good = request(small_store, tmp_path, title="good")
    ended = on_cluster(bad, good)
    assert isinstance(ended["bad"], TaskFailed)
    assert ended["good"].status == "done"
    assert [one.state for one in standings(tmp_path)] == ["failed"]


def test_equal_runs_are_one_job(here, small_store, tmp_path):
    orders = [request(small_store, tmp_path, title=title) for title in ("a", "b")]
    assert list(on_cluster(*orders)) == ["a", "b"]
    assert len(here) == 1


def test_a_job_is_told_whole_paths(here, small_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    on_cluster(request(small_store, Path("runs")))
    asked = here[0].work.args[0]
    assert (asked.runs, asked.store.is_absolute()) == (tmp_path / "runs", True)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"max_steps": 3}, "--max-steps is for a trial on this machine"),
        ({"device": "cuda:1"}, "--device cuda:1: a job has GPUs of its own"),
    ],
)
def test_what_no_job_can_follow(here, small_store, tmp_path, over, message):
    with pytest.raises(UserError, match=message):
        on_cluster(request(small_store, tmp_path, **over))


def test_what_a_run_demands_of_a_machine(small_store, tmp_path):
    def demand(executor, *sets, processes=1, nodes=1, **over):
        one = request(small_store, tmp_path, *sets, **over)
        return task_of(one, folder_of(one), executor, processes, nodes).demand

    tiny = demand(SLURM, device="cuda", threads=None, processes=4, nodes=2)
    assert (tiny.gpus, tiny.cpus, tiny.memory_gb) == (1, 4, 4.0)
    assert (tiny.processes, tiny.nodes) == (4, 2)
    assert (demand(SLURM).gpus, demand(SLURM).cpus) == (0, 1)
    eight = executor_settings("slurm", cpus=8)
    large = demand(eight, "student.backbone=hubert-large", threads=None)
    assert (large.memory_gb, large.cpus) == (16.0, 8)
    assert [device_of("auto", where) for where in (SLURM, LOCAL)] == ["cuda", "auto"]
