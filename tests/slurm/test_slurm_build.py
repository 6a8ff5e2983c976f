"""A build as jobs of two nodes: the bytes of the local one, whatever happens to the jobs."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from featstore.build.run import build
from featstore.jobs.task import FOLDER, Standing, standings
from featstore.store.store import Store
from featstore.store.verify import verify
from tests.slurm.cluster import jobs, until
from tests.slurm.conftest import Lab, environment

EPOCHS = 80
"""Of the teachers whose jobs are hurt."""

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


def content(store: Path) -> str:
    return Store.open(store).content_hash()


def only(store: Path, reference: Path, *folds: int) -> str:
    """Content hash of the reference with the other folds taken out."""
    copy = Path(shutil.copytree(reference, store.parent / "wanted"))
    for place in (copy / "folds").glob("[0-9]*"):
        if int(place.name) not in folds:
            shutil.rmtree(place)
    return content(copy)


def _fill(found: list[str], look: Callable[[], list[str]]) -> bool:
    found += look()
    return bool(found)


def at_work(store: Path) -> list[Standing]:
    return [found for found in standings(store) if found.state == "running"]


def test_ten_folds_on_both_nodes_are_the_local_build(
    lab: Lab, local_store: Path, tmp_path: Path
) -> None:
    """The LLDs in two parts, too; audio and splits are made before anything is queued."""
    store = tmp_path / "store"
    done = lab.build(store, "--shards", "2", "--array-limit", "10")
    assert done.returncode == 0, done.stderr
    assert "built 14 unit(s)" in done.stdout.replace("\n", " "), done.stdout
    assert content(store) == content(local_store)
    assert verify(Store.open(store)).exit_code == 0
    assert len(lab.started()) == 3 + 10
    assert {line.split()[0] for line in lab.started()} == {"n1", "n2"}
    assert sorted(path.name for path in store.iterdir()) == sorted(
        path.name for path in local_store.iterdir()
    )


def test_killed_and_requeued_jobs_change_nothing(
    lab: Lab, request_of: Callable[..., Any], without_teachers: Path, tmp_path: Path
) -> None:
    """Fits of some seconds, so that each is hurt in the midst of it."""
    store = without_teachers
    request = request_of(Path(shutil.copytree(store, tmp_path / "local")), "1..4")
    prosodic = request.settings.teachers["prosodic"]
    longer = prosodic.model_copy(
        update={"optim": prosodic.optim.model_copy(update={"epochs": EPOCHS})}
    )
    settings = request.settings.model_copy(update={"teachers": {"prosodic": longer}})
    build(replace(request, settings=settings))
    hurt: list[str] = []

    def unhurt() -> list[str]:
        return [job for one in at_work(store) if (job := str(one.facts["job"])) not in hurt]

    def hurt_them() -> None:
        """Two killed and one requeued, each while it is at work."""
        for command in (
            ["scancel", "--signal=KILL"], ["scontrol", "requeue"], ["scancel", "--signal=KILL"],
        ):  # fmt: skip
            found: list[str] = []
            until(partial(_fill, found, unhurt), "a task runs", 120)
            hurt.append(found[0])
            subprocess.run([*command, found[0]], check=True)

    helper = threading.Thread(target=hurt_them)
    helper.start()
    done = lab.build(store, "--fold", "1..4", "--set", f"teachers.prosodic.optim.epochs={EPOCHS}")
    helper.join()
    assert done.returncode == 0, done.stderr
    assert len(set(hurt)) == 3
    assert done.stderr.count("is gone and it is not done; once more") == 2
    assert len(lab.started()) == 4 + 3
    assert content(store) == content(tmp_path / "local")


def test_the_command_may_die_and_come_again(
    lab: Lab, local_store: Path, without_teachers: Path
) -> None:
    store = without_teachers
    command = lab.command(store, "--fold", "1..4")
    first = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    until(lambda: (store / "folds/01/prosodic").exists() or at_work(store) != [], "one runs", 120)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert jobs() != []
    again = lab.build(store, "--fold", "1..4", "--attach")
    assert again.returncode == 0, again.stderr
    assert "0 queued now" in again.stderr
    assert len(lab.started()) == len(set(lab.started())) == 4
    assert content(store) == only(store, local_store, 1, 2, 3, 4)
    assert not (store / FOLDER).exists()


def test_one_that_always_fails_is_told_with_its_log(lab: Lab, without_teachers: Path) -> None:
    """And the command that queued it did not stay to see it."""
    poison = ("--fold", "1", "--set", "teachers.bad.kind=prosodic",
              "--set", "teachers.bad.optim.lr=1e30", "--set", "teachers.bad.optim.epochs=2",
              "--set", "teachers.bad.channels=[4,4,8,8]")  # fmt: skip
    store = without_teachers
    left = lab.build(store, *poison, "--no-wait")
    assert left.returncode == 0, left.stderr
    assert "queued 2 task(s)" in left.stdout
    assert "`scancel " in left.stderr
    done = lab.build(store, *poison, "--attach")
    assert done.returncode == 1, done.stderr
    assert "1 teacher(s) failed, 1 unit(s) were committed" in done.stderr
    assert "loss is not finite" in done.stderr
    (failed,) = standings(store)
    assert (failed.key, failed.state) == ("folds/01/bad", "failed")
    log = Path(failed.facts["log"])
    assert str(log) in done.stderr.replace("\n", "")
    assert "loss is not finite" in log.read_text()
    assert "folds/01/prosodic" in Store.open(store).units()
    assert len(lab.started()) == 2


def test_no_such_partition_is_told_in_the_words_of_sbatch(lab: Lab, without_teachers: Path) -> None:
    done = lab.build(without_teachers, "--fold", "1", "--partition", "nowhere")
    assert done.returncode == 2
    assert "sbatch refuses the jobs: " in done.stderr
    assert "invalid partition specified: nowhere" in done.stderr
    assert "--partition" in done.stderr
    assert jobs() == []


@pytest.fixture(autouse=True)
def _nothing_left(two_nodes: None) -> Any:
    """Each test begins with an empty queue."""
    yield
    subprocess.run(["scancel", "--me"], check=True)
    empty: Callable[[], bool] = lambda: jobs() == []  # noqa: E731
    until(empty, "the queue is empty", 60)
