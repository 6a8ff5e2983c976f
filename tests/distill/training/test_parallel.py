"""distill/training/parallel.py within one process: how work is split; alone nothing happens."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distill.data.stream import plan_steps, training_steps
from distill.training import parallel
from distill.training.parallel import ALONE, Team, TeamLost, join
from featstore.core.schema import UserError

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=40).map(np.array)
TOLD = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in TOLD:
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
        plans = plan_steps(steps, lengths, budget, Team(rank, size))
        assert sum(plan.ends_step for plan in plans) == len(steps)
        step = 0
        for plan in plans:
            assert plan.step_rows == len(steps[step])
            found[step] += plan.rows.tolist()
            step += plan.ends_step
    assert [sorted(rows) for rows in found] == [sorted(step.tolist()) for step in steps]


def test_alone_nothing_is_sent_and_accelerate_is_not_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)  # an import would fail
    rows, layer = np.array([3, 1, 2]), nn.Linear(2, 1)
    team = join("auto")
    assert team is ALONE
    assert team.leads
    with team.together(), team.hushed():
        assert team.share(rows, np.array([1, 2, 3, 4])) is rows
        assert (team.any(True), team.any(False)) == (True, False)
        assert team.gather(rows)[0] is rows
        team.align(layer)
        team.add_up(layer.parameters())
        team.leave()
    assert layer.weight.grad is None


def test_alone_an_error_is_itself():
    error = RuntimeError("as it was")
    with pytest.raises(RuntimeError) as caught, ALONE.together():
        raise error
    assert caught.value is error


def test_one_process_of_a_launcher_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setitem(sys.modules, "accelerate", None)
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


def parameters(*gradients):
    """Parameters of two values each, with these gradients."""
    made = [nn.Parameter(torch.zeros(2)) for _ in gradients]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = None if gradient is None else torch.tensor(gradient)
    return made


def test_gradients_are_added_and_those_that_are_nowhere_stay_away():
    ours = parameters([1.0, 2.0], [3.0, 4.0], None, None)
    theirs = parameters([10.0, 20.0], None, [30.0, 40.0], None)
    total = parallel._flattened(ours) + parallel._flattened(theirs)
    for bucket in (ours, theirs):
        parallel._spread(total, bucket)
        got = [None if p.grad is None else p.grad.tolist() for p in bucket]
        assert got == [[11.0, 22.0], [3.0, 4.0], [30.0, 40.0], None]


def test_buckets_hold_no_more_than_they_may():
    made = [nn.Parameter(torch.zeros(n)) for n in (3, 3, 9, 1, 1, 1)]
    sizes = [[p.numel() for p in bucket] for bucket in parallel._buckets(made, 6)]
    assert sizes == [[3, 3], [9], [1, 1, 1]]
    assert list(parallel._buckets([], 6)) == []


def test_an_error_crosses_over_as_something_that_can():
    known = UserError("this", "do that")
    team = Team(1, 2)
    assert team._portable(known) is known
    strange = team._portable(KeyError("x"))
    assert (strange.exit_code, strange.message) == (1, "process 1: KeyError: 'x'")


def test_a_process_that_is_gone_is_told_in_words():
    gone = pytest.raises(TeamLost, match="another process of this run has ended")
    with gone as caught, parallel._reaching():
        raise RuntimeError("Connection closed by peer")
    assert caught.value.exit_code == 1


def test_only_the_first_process_talks(capsys):
    for rank in (0, 1):
        with Team(rank, 2).hushed():
            print(f"process {rank}", file=sys.stderr)
    assert capsys.readouterr().err == "process 0\n"
