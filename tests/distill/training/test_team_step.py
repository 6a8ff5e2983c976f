"""distill/training/team_step.py: what SLURM tells of a step, in the words of torchrun."""

import os
from pathlib import Path

import pytest

from distill.training.team_step import step_environment, tell_step
from featstore.core.schema import UserError

TOLD = {
    "SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "1", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "localhost,n[1-3]",
}  # fmt: skip
SCONTROL = """\
#!/bin/sh
case "$2" in
  hostnames) echo "$3" | cut -d, -f1;;
  node) echo "NodeName=$4 Arch=x86_64 NodeAddr=10.0.0.7 OS=Linux";;
esac
"""


@pytest.fixture(autouse=True)
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in; tests/slurm asks the real one."""
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path / "scontrol"


def test_a_process_learns_its_place():
    assert step_environment(TOLD, 2) == {
        "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost", "MASTER_PORT": "29873",
    }  # fmt: skip


def test_a_name_that_does_not_resolve_has_an_address():
    told = TOLD | {"SLURM_STEP_NODELIST": "no-such-node.invalid,n1"}
    assert step_environment(told, 2)["MASTER_ADDR"] == "10.0.0.7"


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho\n"])
def test_a_scheduler_without_an_answer(scontrol, script):
    scontrol.write_text(script)
    with pytest.raises(UserError, match=r"`scontrol show hostnames localhost,n\[1-3\]`"):
        step_environment(TOLD, 2)


def test_only_a_step_of_several_is_told(monkeypatch):
    assert not tell_step(4, 1)
    for name, value in (TOLD | {"SLURM_STEP_NUM_TASKS": "1"}).items():
        monkeypatch.setenv(name, value)
    assert not tell_step(4, 1)  # srun --ntasks 1: it starts the four itself
    assert "WORLD_SIZE" not in os.environ


@pytest.mark.parametrize(
    ("told", "asked", "message"),
    [
        ({}, (1, 2), "--processes 1 --nodes 2, but there is no SLURM step"),
        (TOLD, (2, 1), r"--processes 2 --nodes 1, but SLURM has started 8 process\(es\)"),
        (TOLD | {"SLURM_STEP_NUM_TASKS": "1"}, (4, 2), r"SLURM has started 1 process\(es\)"),
    ],
)
def test_another_number_than_was_asked_for(monkeypatch, told, asked, message):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as caught:
        tell_step(*asked)
    assert f"srun --nodes {asked[1]} --ntasks-per-node {asked[0]}" in caught.value.hint
