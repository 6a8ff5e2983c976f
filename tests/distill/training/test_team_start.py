"""``--processes 2``: one process' result, and no end of one of them that is a riddle."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from distill.training.team_start import start
from featstore.core.schema import TaskFailed, UserError
from tests.distill.small_runs import train
from tests.reliability.harness import call, command, document, environment

STILL = ("student.head_dropout=0.0", "student.dropout.hidden=0.0", "optim.batch_size=21")
"""As in test_two_processes.py: no dropout, and steps of 21, 21, 21 and 1 utterances."""


def arguments(store: Path, runs: Path, *sets: str, fold: str = "1") -> list[str]:
    given = ["run", "--store", store, "--runs", runs, "--student", "tiny", "--experiment", "test"]
    given += ["--fold", fold, "--threads", 1, "--device", "cpu", "--processes", 2]
    return [*map(str, given), *(a for one in sets for a in ("--set", one))]


def place() -> tuple[str, ...]:
    return tuple(os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))


def dies() -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def exits() -> None:
    raise SystemExit(7)


@pytest.mark.slow
class TestStart:
    def test_each_knows_its_place_and_the_first_answers(self):
        assert start(place, 2) == ("0", "0", "2")

    def test_one_that_dies_ends_all(self, capfd):
        began = time.monotonic()
        with pytest.raises(TaskFailed, match="process 1 of 2 was killed by SIGKILL") as caught:
            start(dies, 2)
        assert "the same command resumes" in caught.value.hint
        assert time.monotonic() - began < 55
        assert capfd.readouterr().err == ""

    def test_an_exit_code_is_told(self):
        with pytest.raises(TaskFailed, match="ended with exit code 7"):
            start(exits, 2)


@pytest.mark.slow
class TestCommand:
    def test_two_processes_train_what_one_trains(self, small_store, tmp_path):
        sets = (*STILL, "optim.epochs=2")
        said = call("distill", *arguments(small_store, tmp_path / "two", *sets), "--json")
        assert said.returncode == 0, said.stderr
        assert said.stderr.count("test: 2/2 epochs") == 1
        (run,) = document(said)["folds"]
        ours, alone = Path(run["folder"]), train(small_store, tmp_path / "one", *STILL).folder
        assert ours.parent.name == alone.parent.name
        tables = [pd.read_parquet(path / "predictions.parquet") for path in (ours, alone)]
        logits = [name for name in tables[0] if name.startswith("logit_")]
        np.testing.assert_allclose(tables[0][logits], tables[1][logits], rtol=0, atol=1e-4)
        trained, reference = (
            load_file(path / "student/model.safetensors") for path in (ours, alone)
        )
        for name, weight in reference.items():
            if not name.endswith("k_proj.bias"):  # its gradient is rounding alone
                assert (trained[name] - weight).norm() / weight.norm() < 1e-5, name
        facts = [json.loads((path / "run.json").read_text()) for path in (ours, alone)]
        assert [one["processes"] for one in facts] == [2, 1]
        assert not (tmp_path / "two" / ".tasks").exists()

    def test_a_mistake_is_told_once_with_its_exit_code(self, small_store, tmp_path):
        said = call("distill", *arguments(small_store, tmp_path, fold="1..3"))
        assert said.returncode == 2  # fold 3 has no teacher; the others are done
        errors = [line for line in said.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, said.stderr
        assert len(list(tmp_path.glob("test/*/*/DONE"))) == 2
        said = call("distill", *arguments(tmp_path / "nowhere", tmp_path))
        assert (said.returncode, said.stdout) == (2, "")
        assert said.stderr.count("no store there") == 1

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_the_end_of_the_command_is_the_end_of_its_processes(
        self, small_store, tmp_path, number
    ):
        args = arguments(small_store, tmp_path, "optim.epochs=5000")
        with subprocess.Popen(
            command("distill", *args), env=environment(), stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        ) as process:  # fmt: skip
            until(lambda: list(tmp_path.glob("test/*/*/checkpoint/*")))
            if number == signal.SIGINT:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            _, said = process.communicate(timeout=60)
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        until(lambda: not living(process.pid))
        status = call("distill", "status", tmp_path, "--json")
        state = "stopped" if number == signal.SIGINT else "silent"
        assert [task["state"] for task in document(status)["tasks"]] == [state]
        assert status.returncode == (0 if number == signal.SIGINT else 1)
        assert "Traceback" not in said


def test_several_nodes_are_the_scheduler_s(small_store, tmp_path):
    from distill.experiments.resources import Resources
    from distill.experiments.running import run_all

    with pytest.raises(UserError, match="there is no SLURM step"):
        run_all(list, Resources("cpu", processes=1, nodes=2), "test")


def until(true, timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def living(session: int) -> list[str]:
    """Processes of a session that are no zombies."""
    found = subprocess.run(
        ["ps", "-s", str(session), "-o", "stat="], capture_output=True, text=True, check=False
    )
    return [stat for stat in found.stdout.split() if not stat.startswith("Z")]
