"""What the waiting command makes of notes and of what squeue says; the commands are stand-ins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featstore.core.schema import Corrupt, TaskFailed, UserError
from featstore.jobs import carry_out, executor_settings, slurm
from featstore.jobs import task as tasks
from tests.featstore.jobs.chores import chore

Commands = Callable[..., None]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """``commands(squeue="...")``: PATH holds these alone; sbatch counts its calls in ``sbatch.log``
    and gives out job numbers from 101 on.
    """
    pytest.importorskip("submitit")
    folder = tmp_path / "bin"
    folder.mkdir()
    counting = (
        f'echo "$(while read -r line; do echo "$line"; done < $1)" >> {tmp_path}/sbatch.log\n'
        f"echo x >> {tmp_path}/count; n=100; while read -r line; do n=$((n + 1)); done < "
        f"{tmp_path}/count; echo Submitted batch job $n"
    )
    monkeypatch.setenv("PATH", str(folder))

    def make(**scripts: str) -> None:
        for name, script in {"sbatch": counting, "srun": "exit 0", **scripts}.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    return make


def settings(**how: Any) -> Any:
    return executor_settings("slurm", poll_s=0.01, **how)


def outcomes(root: Path, jobs: Any, **how: Any) -> dict[str, Exception | None]:
    return {task.key: error for task, error in carry_out(root, jobs, settings(**how))}


def submitted(root: Path) -> int:
    count = root / "count"
    return len(count.read_text().splitlines()) if count.exists() else 0


def test_jobs_that_vanish_are_begun_again_and_then_reported(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands(squeue="exit 0")
    found = outcomes(tmp_path, [chore(tmp_path, "a"), chore(tmp_path, "b", "a")], retries=2)
    assert isinstance(found["a"], TaskFailed)
    assert "its job ended 3 times without a word" in found["a"].message
    assert "103_0_log.out" not in found["a"].message  # 101 a, 102 b, then a alone
    assert "/logs/104_0_log.out" in found["a"].message
    assert isinstance(found["b"], TaskFailed)
    assert found["b"].message == "needs a, which failed"
    assert submitted(tmp_path) == 2 + 2
    assert capsys.readouterr().err.count("a: job 10") == 2
    assert {s.key: s.state for s in tasks.standings(tmp_path)} == {"a": "failed", "b": "failed"}


def test_what_waits_is_told_to_sbatch(commands: Commands, tmp_path: Path) -> None:
    commands(squeue="echo 101_0; echo 101_1; echo 102_0; echo 102_1")
    two = [chore(tmp_path, "a"), chore(tmp_path, "b")]
    more = [chore(tmp_path, "c", "a", "b"), chore(tmp_path, "d", "b")]
    assert outcomes(tmp_path, [*two, *more], wait=False) == {}
    script = (tmp_path / "sbatch.log").read_text()
    assert "--array=0-1%2" in script
    assert "--dependency=afterany:101\n" in script
    jobs = {s.key: s.facts["job"] for s in tasks.standings(tmp_path)}
    assert jobs == {"a": "101_0", "b": "101_1", "c": "102_0", "d": "102_1"}
    assert outcomes(tmp_path, [*two, *more], wait=False) == {}  # all of them are found
    assert submitted(tmp_path) == 2


def test_what_others_need_is_an_array_of_its_own(commands: Commands, tmp_path: Path) -> None:
    commands(squeue="echo 101; echo 102; echo 103")
    chores = [chore(tmp_path, "a"), chore(tmp_path, "b"), chore(tmp_path, "c", "a")]
    assert outcomes(tmp_path, chores, wait=False) == {}
    jobs = {s.key: s.facts["job"] for s in tasks.standings(tmp_path)}
    assert jobs == {"a": "101", "b": "102", "c": "103"}
    assert "--dependency=afterany:101\n" in (tmp_path / "sbatch.log").read_text()


def test_a_failure_is_of_the_kind_that_was_noted(commands: Commands, tmp_path: Path) -> None:
    commands(squeue="echo 101")
    assert outcomes(tmp_path, [chore(tmp_path, "a")], wait=False) == {}
    with pytest.raises(Corrupt), tasks.attended(tmp_path, "a"):
        raise Corrupt("a shard is damaged", "mend it")
    found = outcomes(tmp_path, [chore(tmp_path, "a")], attach=True)
    assert isinstance(found["a"], Corrupt)
    assert found["a"].hint == "mend it"
    assert found["a"].message.startswith("a shard is damaged (log: ")
    assert submitted(tmp_path) == 1


def test_attach_queues_nothing_new(commands: Commands, tmp_path: Path) -> None:
    commands(squeue="exit 0")
    with pytest.raises(UserError, match="nothing was queued"):
        outcomes(tmp_path, [chore(tmp_path, "a")], attach=True)
    tasks.queue(tmp_path, "a", {"job": "7", "log": "x"})
    (tmp_path / "a").touch()  # done while nobody looked
    assert outcomes(tmp_path, [chore(tmp_path, "a"), chore(tmp_path, "b")], attach=True) == {
        "a": None
    }
    assert submitted(tmp_path) == 0
    assert not (tmp_path / tasks.FOLDER).exists()


def test_while_squeue_does_not_answer_nothing_is_believed_gone(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands(squeue="echo 101")
    assert outcomes(tmp_path, [chore(tmp_path, "a")], wait=False) == {}
    answers = iter([{"101"}, None, None, None])

    def living(jobs: Any) -> set[str] | None:
        list(jobs)
        answer = next(answers, set())
        if answer == set():
            (tmp_path / "a").touch()
        return answer

    monkeypatch.setattr(slurm, "living", living)
    assert outcomes(tmp_path, [chore(tmp_path, "a")]) == {"a": None}
    assert submitted(tmp_path) == 1


def test_squeue_that_never_answered_stops_it_before_anything_is_queued(
    commands: Commands, tmp_path: Path
) -> None:
    commands(squeue="exit 1")
    tasks.queue(tmp_path, "a", {"job": "7"})
    with pytest.raises(UserError, match="squeue does not answer"):
        outcomes(tmp_path, [chore(tmp_path, "a")])
    assert submitted(tmp_path) == 0


def test_interrupted_the_jobs_go_on_and_it_says_how(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands(squeue="echo 101_0; echo 101_1")
    going = carry_out(tmp_path, [chore(tmp_path, "a"), chore(tmp_path, "b")], settings())
    (tmp_path / "a").touch()
    tasks.queue(tmp_path, "a", {"job": "7", "log": ""})  # of another job, which is gone
    assert next(going)[0].key == "a"
    going.close()
    told = capsys.readouterr().err
    assert "1 task(s) go on as SLURM job(s) 101" in told
    assert "--attach" in told
    assert "`scancel 101`" in told


def test_a_process_that_is_at_it_without_a_job_is_waited_for(
    commands: Commands, tmp_path: Path
) -> None:
    commands(squeue="exit 0")
    release = threading.Event()

    def at_it() -> None:
        with tasks.attended(tmp_path, "a"):
            release.wait(60)
            (tmp_path / "a").touch()

    other = threading.Thread(target=at_it)
    other.start()
    while not tasks.standings(tmp_path):
        time.sleep(0.01)
    threading.Timer(0.3, release.set).start()
    assert outcomes(tmp_path, [chore(tmp_path, "a")]) == {"a": None}
    other.join()
    assert submitted(tmp_path) == 0


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 7_1; echo 7_2; echo 9", {"7_1", "9"}),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", set()),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", None),
    ],
)
def test_who_lives(commands: Commands, script: str, found: set[str] | None) -> None:
    commands(squeue=script)
    assert slurm.living(["7_1", "8", "9"]) == found
    assert slurm.living([]) == set()


def test_no_squeue_no_answer(commands: Commands) -> None:
    assert slurm.living(["7"]) is None


def test_no_cluster_is_told(commands: Commands, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sbatch: no such command here"):
        outcomes(tmp_path, [chore(tmp_path, "a")])


def test_no_submitit_is_told(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands(squeue="exit 1")
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    with pytest.raises(UserError, match="submitit is not installed") as caught:
        outcomes(tmp_path, [chore(tmp_path, "a")])
    assert caught.value.hint == "pip install 'emodistill[slurm]'"


def test_a_refusal_is_told_in_its_own_words(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = "echo 'sbatch: error: invalid partition: nowhere' >&2; exit 1"
    commands(squeue="exit 0", sbatch=refusal)
    with pytest.raises(UserError, match="sbatch refuses the jobs: invalid partition: nowhere"):
        outcomes(tmp_path, [chore(tmp_path, "a")])
    assert capsys.readouterr().err == ""
