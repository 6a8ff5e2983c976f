"""What SLURM's own commands answer, by stand-ins for them; tests/slurm asks the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from featstore.core.schema import UserError
from featstore.jobs import carry_out, executor_settings
from featstore.jobs.slurm import living
from tests.featstore.jobs.chores import chore

SLURM = executor_settings("slurm", partition="nowhere")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH but for the shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def stand_in(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 7_1; echo 7_2; echo 9", {"7_1", "9"}),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", set()),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", None),
    ],
)
def test_who_lives(commands: Path, script: str, found: set[str] | None) -> None:
    stand_in(commands, "squeue", script)
    assert living(["7_1", "8", "9"]) == found
    assert living([]) == set()


def test_no_squeue_no_answer(commands: Path) -> None:
    assert living(["7"]) is None


def test_no_cluster_is_told(commands: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sbatch: no such command here"):
        list(carry_out(tmp_path, [chore(tmp_path, "a")], SLURM))


def test_no_submitit_is_told(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "squeue", "srun"):
        stand_in(commands, name, "exit 1")
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    with pytest.raises(UserError, match="submitit is not installed") as caught:
        list(carry_out(tmp_path, [chore(tmp_path, "a")], SLURM))
    assert caught.value.hint == "pip install 'emodistill[slurm]'"


def test_a_refusal_is_told_in_its_own_words(
    commands: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    stand_in(commands, "squeue", "exit 0")
    stand_in(commands, "srun", "exit 0")
    stand_in(commands, "sbatch", "echo 'sbatch: error: invalid partition: nowhere' >&2; exit 1")
    with pytest.raises(UserError, match="sbatch refuses the jobs: invalid partition: nowhere"):
        list(carry_out(tmp_path, [chore(tmp_path, "a")], SLURM))
    assert capsys.readouterr().err == ""
