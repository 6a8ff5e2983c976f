"""Two processes that train one fold together are one process with the same effective batch."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from distill.runs.status import runs_status
from distill.training.loop import run_fold
from featstore.core.schema import UserError
from tests import ROOT
from tests.distill.small_runs import history, request, results, train

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
DISTILL = (sys.executable, "-c", "from cli import distill_main; distill_main()")
STILL = ("student.head_dropout=0.0", "student.dropout.hidden=0.0", "optim.batch_size=21")
"""No dropout, of which each process draws its own; and 64 utterances in steps of 21, 21, 21 and 1,
the last of which leaves one process without any."""


def environment(**more):
    """Ours, with the tests' modules in reach and no launcher's words."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def launch(*args):
    """``torchrun --nproc-per-node 2 --no-python distill run ...``."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    return [*launcher, "--nproc-per-node", "2", "--no-python", *DISTILL, "run", *map(str, args)]


def torchrun(*args):
    """It, to its end."""
    return subprocess.run(
        launch(*args), capture_output=True, text=True, env=environment(), timeout=240
    )


def flags(store, runs, *sets):
    sets = ("optim.epochs=2", *sets)
    given = ("--student", "tiny", "--experiment", "test", "--threads", 1, "--device", "cpu")
    return ("--store", store, "--runs", runs, *given, *(a for s in sets for a in ("--set", s)))


@pytest.fixture(scope="module")
def together(small_store, tmp_path_factory):
    """Both folds by two processes: what was said, and the run folders by fold."""
    runs = tmp_path_factory.mktemp("together")
    args = flags(small_store, runs, *STILL)
    said = torchrun(*args, "--fold", "1..2", "--json")
    assert said.returncode == 0, said.stderr
    return said, {int(path.name[4:6]): path for path in runs.glob("test/*/fold*")}


@pytest.mark.parametrize("fold", [1, 2])
def test_torchrun_trains_what_one_process_trains(together, small_store, tmp_path, fold):
    folder = together[1][fold]
    alone = train(small_store, tmp_path, *STILL, fold=fold).folder
    assert folder.parent.name == alone.parent.name  # the number of processes makes no other run
    ours, expected = (pd.read_parquet(path / "predictions.parquet") for path in (folder, alone))
    logits = [name for name in expected if name.startswith("logit_")]
    same = [name for name in expected if name not in logits]
    pd.testing.assert_frame_equal(ours[same], expected[same])
    np.testing.assert_allclose(ours[logits], expected[logits], rtol=0, atol=1e-4)

    trained, reference = (load_file(path / "student/model.safetensors") for path in (folder, alone))
    assert set(trained) == set(reference)
    for name, weight in reference.items():
        if name.endswith("k_proj.bias"):  # softmax cancels it: its gradient is rounding alone
            continue
        error = (trained[name] - weight).norm() / weight.norm()
        assert error < 1e-5, f"{name}: {error:.1e}"

    for entry, other in zip(history(folder), history(alone), strict=True):
        assert entry["train"] == pytest.approx(other["train"], rel=1e-4)
        assert entry["validation"] == pytest.approx(other["validation"], rel=1e-4)


def test_one_process_tells_for_both(together):
    said, folders = together
    told = json.loads(said.stdout)
    assert [row["fold"] for row in told["folds"]] == [1, 2]
    assert [row["status"] for row in told["folds"]] == ["done", "done"]
    assert said.stderr.count("test: 4/4 epochs") == 1
    for folder in folders.values():
        assert not list(folder.glob(".*"))
        assert not (folder / "checkpoint").exists()


def test_a_failure_is_told_once_and_ends_all(small_store, tmp_path):
    said = torchrun(*flags(small_store, tmp_path, "optim.lr=1e30"), "--fold", 1)
    assert said.returncode == 1
    told = [line for line in said.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, said.stderr
    assert told[0].startswith("error: fold 1:")
    assert "not finite" in told[0]


@pytest.fixture(scope="module")
def pair(small_store, tmp_path_factory):
    """What the two processes of in_pair.py left, and their words."""
    place = tmp_path_factory.mktemp("pair")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in ("0", "1"):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        env = environment(**ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        command = [sys.executable, "-W", "error", HERE / "in_pair.py", small_store, place]
        started.append(
            subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        )
    said = [process.communicate(timeout=240)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    words = [json.loads((place / f"words{rank}.json").read_text()) for rank in (0, 1)]
    return place, words


@pytest.mark.skipif(sys.platform != "linux", reason="threads' names are read from /proc")
def test_no_thread_of_the_group_outlives_it(pair):
    """One that did aborted the process, now and then, as the interpreter ended."""
    for words in pair[1]:
        assert [name for name in words["threads"] if "gloo" in name] == []
        assert words["threads"]


def test_collectives_by_hand(pair):
    """Another scale would hide behind clipping and AdamW, which do not mind it."""
    for words in pair[1]:
        assert words["collectives"] == {
            "means": [16.5],  # of 11 and 22
            "weights": [5.0],
            "gathered": ["process 0", "process 1"],
            "any": [True, True, False],
        }


def test_both_processes_know_what_came_of_it(pair):
    (first, second) = pair[1]
    assert first["device"] == "cpu"
    for name in ("whole", "resumed", "again"):
        assert first[name] == second[name]
    assert first["whole"][0] == first["resumed"][0] == "done"
    assert first["again"] == ["skipped", "stopped"]


def test_a_failure_of_one_process_is_the_others(pair):
    for words in pair[1]:
        message = "the second process has had enough"
        assert words["error"] == {"message": message, "hint": "give it a rest", "steps": 6}


def test_resumed_within_an_epoch_it_leaves_the_same_bytes(pair):
    whole, resumed = (Path(pair[1][0][name][1]) for name in ("whole", "resumed"))
    assert results(resumed) == results(whole)
    assert history(resumed) == history(whole)


def test_each_process_has_dropout_of_its_own(pair):
    """Else all would drop the same units of different utterances; the first draws as if alone."""
    (first, second) = (words["seeds"] for words in pair[1])
    assert first == [42]
    assert len(second) == 1
    assert second != first


def test_another_number_of_processes_does_not_go_on(pair, small_store):
    with pytest.raises(UserError, match=r"begun by 2 process\(es\), now there are 1") as caught:
        run_fold(request(small_store, pair[0] / "half"))
    assert "start it with 2" in caught.value.hint


class TestEnds:
    """However one process ends, the others do, too; what is done is kept."""

    @pytest.fixture
    def endless(self, small_store, tmp_path):
        """Two processes at a run that would take hours, in a session of their own."""
        args = flags(small_store, tmp_path, "optim.epochs=5000")
        kind = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        with subprocess.Popen(launch(*args, "--fold", 1), env=environment(), **kind) as process:
            until(lambda: list(tmp_path.glob("test/*/*/checkpoint/0*")))
            started = workers(process.pid)
            assert len(started) == 2
            yield process, started
            for pid in [process.pid, *started]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def test_one_that_is_killed_ends_all_and_the_same_command_resumes(
        self, endless, small_store, tmp_path
    ):
        process, started = endless
        os.kill(started[1], signal.SIGKILL)
        _, said = process.communicate(timeout=90)
        assert process.returncode == 1
        # torchrun ends the first process, perhaps before it can say that the second is gone
        assert f"Signal 9 (SIGKILL) received by PID {started[1]}" in said
        until(lambda: not alive(started))
        args = flags(small_store, tmp_path, "optim.epochs=5000")
        again = torchrun(*args, "--fold", 1, "--max-steps", 1)
        assert again.returncode == 0, again.stderr
        assert "fold 1: resumed at epoch" in again.stderr

    def test_ctrl_c_ends_all_at_once(self, endless, tmp_path):
        process, started = endless
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode != 0
        until(lambda: not alive(started))
        (task,) = runs_status(tmp_path)["tasks"]
        assert task["state"] == "stopped"


def until(true, timeout_s=120.0):
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def workers(launcher):
    """The processes that a launcher has started, by rank; each has a session of its own."""
    command = ["ps", "--ppid", str(launcher), "-o", "pid="]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    ranks = {
        rank: pid for pid in listed.split() for rank in "01" if f"RANK={rank}" in variables(pid)
    }
    return [int(ranks[rank]) for rank in sorted(ranks)]


def alive(pids):
    """Those that are no zombies."""
    command = ["ps", "-p", ",".join(map(str, pids)), "-o", "stat="]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [stat for stat in listed.split() if not stat.startswith("Z")]


def variables(pid):
    """The environment that a process was started with."""
    return Path(f"/proc/{pid}/environ").read_text().split("\0")
