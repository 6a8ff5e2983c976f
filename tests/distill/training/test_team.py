"""distill/training/team.py within one process: how work is split; alone nothing happens."""

import os
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distill.data import plan_steps, training_steps
from distill.training.team import ALONE, Team, TeamLost, join, launched
from featstore.core.schema import UserError

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=40).map(np.array)
SET = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    slurm = [name for name in os.environ if name.startswith("SLURM")]
    for name in [*SET, *slurm]:
        monkeypatch.delenv(name, raising=False)


@given(LENGTHS, st.integers(1, 5))
def test_shares_are_all_rows_once_and_nearly_equal(lengths, size):
    rows = np.arange(len(lengths))[::-1]
    shares = [Team(rank, size).share(rows, lengths) for rank in range(size)]
    assert sorted(np.concatenate(shares)) == sorted(rows)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    if size > 1:  # nobody gets all the long ones
        heard = [int(lengths[share].sum()) for share in shares]
        assert max(heard) - min(heard) <= lengths.max()


@given(LENGTHS, st.integers(1, 9), st.integers(1, 2000), st.integers(2, 4))
def test_every_process_has_a_part_in_every_step(lengths, batch, budget, size):
    steps = training_steps(np.arange(len(lengths)), lengths, batch, 1, 0, 1)
    found: list[list[int]] = [[] for _ in steps]
    for rank in range(size):
        own = [Team(rank, size).share(step, lengths) for step in steps]
        plans = plan_steps(steps, lengths, budget, own)
        assert sum(plan.ends_step for plan in plans) == len(steps)
        step = 0
        for plan in plans:
            counts = plan.share > 0  # a process without rows takes part with one for nothing
            assert plan.share == (len(plan.rows) / len(steps[step]) if counts else 0)
            found[step] += plan.rows.tolist() if counts else []
            step += plan.ends_step
    assert [sorted(rows) for rows in found] == [sorted(step.tolist()) for step in steps]


def test_alone_nothing_is_sent():
    rows, layer = np.array([3, 1, 2]), nn.Linear(2, 1)
    team = join("auto")
    assert team is ALONE
    assert team.leads
    assert not torch.distributed.is_initialized()
    with team.together(), team.hushed(), team.exchanging(layer, ends_step=True):
        assert team.share(rows, np.array([1, 2, 3, 4])) is rows
        assert (team.any(True), team.any(False)) == (True, False)
        assert team.gather(rows)[0] is rows
        assert team.wrap(layer) is layer
        assert team.seed(7) == 7
        team.leave()


def test_alone_an_error_is_itself():
    error = RuntimeError("as it was")
    with pytest.raises(RuntimeError) as caught, ALONE.together():
        raise error
    assert caught.value is error


def test_one_process_of_a_launcher_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join("cuda:7") is ALONE


@pytest.mark.parametrize(
    ("told", "device", "message"),
    [
        ({"WORLD_SIZE": "two"}, "cpu", "WORLD_SIZE = 'two': no number of processes"),
        ({"WORLD_SIZE": "0"}, "cpu", "WORLD_SIZE = '0'"),
        ({"WORLD_SIZE": "2"}, "cuda:1", "--device cuda:1: 2 processes cannot share it"),
        (
            {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost"},
            "cpu",
            "WORLD_SIZE = 2, but LOCAL_RANK and MASTER_PORT not set",
        ),
    ],
)
def test_what_a_launcher_must_tell(monkeypatch, told, device, message):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as caught:
        join(device)
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_an_error_crosses_over_as_something_that_can():
    known = UserError("this", "do that")
    team = Team(1, 2)
    assert team.portable(known) is known
    strange = team.portable(KeyError("x"))
    assert (strange.exit_code, strange.message) == (1, "process 1: KeyError: 'x'")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("Connection closed by peer"), "another process of this run has ended"),
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA out of memory"),
    ],
)
def test_a_process_that_is_gone_is_told_in_words(error, message):
    with pytest.raises(TeamLost, match=message) as caught, Team(1, 2).exchanging(None, True):
        raise error
    assert caught.value.exit_code == 1


STEP = {
    "SLURM_JOB_ID": "1234", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8", "SLURM_JOB_NUM_NODES": "4", "SLURM_NODEID": "2",
    "SLURM_JOB_NODELIST": "n[0-4]", "SLURM_STEP_NODELIST": "n[1-4]",
}  # fmt: skip
SCONTROL = """#!/bin/sh
[ "$4" = n1 ] && echo "NodeName=n1 Arch=x86_64 NodeAddr=10.0.0.7 OS=Linux"
"""


class TestSlurm:
    @pytest.fixture
    def step(self, tmp_path, monkeypatch):
        """A step of srun, and a stand-in for scontrol; tests/slurm asks the real ones."""
        (tmp_path / "scontrol").write_text(SCONTROL)
        (tmp_path / "scontrol").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        for name, value in STEP.items():
            monkeypatch.setenv(name, value)

    @pytest.mark.usefixtures("step")
    def test_a_process_of_a_step_learns_its_place(self, monkeypatch):
        place = {}
        monkeypatch.setattr(
            torch.distributed, "init_process_group",
            lambda backend: place.update({name: os.environ[name] for name in SET}),
        )  # fmt: skip
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: int(os.environ["RANK"]))
        assert launched() == 8
        team = join("cpu")
        assert (team.rank, team.size, team.local_size, str(team.device)) == (5, 8, 2, "cpu")
        assert 20_000 <= int(place.pop("MASTER_PORT")) <= 60_000
        assert place == {
            "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "10.0.0.7",
        }  # fmt: skip

    @pytest.mark.usefixtures("step")
    def test_a_step_of_one_process_is_alone(self, monkeypatch):
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
        assert launched() == 1


def test_only_the_first_process_talks(capsys):
    for rank in (0, 1):
        with Team(rank, 2).hushed():
            print(f"process {rank}", file=sys.stderr)
    assert capsys.readouterr().err == "process 0\n"
