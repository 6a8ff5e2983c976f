"""distill/runs.py: where a run lives, whose it is, and when it is finished."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distill.runs import SUMMED, RunFolder, predictions_table
from featstore.schema import Corrupt, UserError

HOLD = """
import sys, time
from pathlib import Path
from featstore.locks import try_lock
assert try_lock(Path(sys.argv[1]), create=True) is not None
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def run(tmp_path):
    made = RunFolder.of(tmp_path, "study", "0a1b2c3d4e5f", 3, 42)
    made.path.mkdir(parents=True)
    for name in SUMMED:
        (made.path / name).write_text(name)
    return made


def test_its_place(run, tmp_path):
    assert run.path == tmp_path / "study" / "0a1b2c3d4e5f" / "fold03-seed42"


def test_unfinished_until_it_says_so(run):
    assert not run.done
    run.finish()
    assert run.done
    assert not RunFolder(run.path / "nowhere").done


@pytest.mark.parametrize("name", SUMMED)
def test_a_finished_run_that_was_changed(run, name):
    run.finish()
    (run.path / name).write_text("better numbers")
    with pytest.raises(Corrupt, match=f"{name}: changed since the run finished") as caught:
        _ = run.done
    assert caught.value.exit_code == 3
    (run.path / name).unlink()
    with pytest.raises(Corrupt, match=f"{name}: missing"):
        _ = run.done


@pytest.mark.parametrize("content", ["{}", '{"run.json": "00"}', "", "[]"])
def test_a_mark_that_vouches_for_nothing(run, content):
    (run.path / "DONE").write_text(content)
    with pytest.raises(Corrupt, match="DONE"):
        _ = run.done


def test_a_mark_cannot_point_elsewhere(run, tmp_path):
    run.finish()
    mark = json.loads((run.path / "DONE").read_text())
    mark["../secret"] = mark.pop("run.json")
    (run.path / "DONE").write_text(json.dumps(mark))
    with pytest.raises(Corrupt, match="DONE"):
        _ = run.done


def test_only_one_process_at_a_time_and_none_after_sigkill(run):
    command = [sys.executable, "-c", HOLD, str(run.path / ".lock")]
    root = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(UserError, match="another process is training this run"), run.held():
                pass
        finally:
            other.send_signal(signal.SIGKILL)
    with run.held():
        with pytest.raises(UserError, match="another process"), run.held():
            pass
        assert (run.path / ".lock").exists()
    assert not (run.path / ".lock").exists()


def test_metrics_are_one_line_an_epoch(run):
    run.write_metrics([{"epoch": 1, "train": {"ce": 0.5}}])
    run.write_metrics([{"epoch": 1}, {"epoch": 2}])
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"epoch": 1}, {"epoch": 2}]
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]


def test_predictions_by_hand():
    utterances = pd.DataFrame({"utterance_id": ["a", "b", "c", "d"], "speaker": list("xyxy")})
    table = predictions_table(
        utterances,
        rows={"test": np.array([1, 3]), "validation": np.array([0])},
        logits={
            "test": np.array([[0.5, 2.0], [1.0, -1.0]], dtype=np.float32),
            "validation": np.array([[-3.0, -2.0]], dtype=np.float32),
        },
        labels=np.array([0, 1, 0, 1]),
        classes=("sad", "hap"),
        fold=7,
    )
    assert table.to_dict("list") == {
        "utterance_id": ["b", "d", "a"],
        "speaker": ["y", "y", "x"],
        "fold": [7, 7, 7],
        "role": ["test", "test", "validation"],
        "truth": ["hap", "hap", "sad"],
        "prediction": ["hap", "sad", "hap"],
        "logit_sad": [0.5, 1.0, -3.0],
        "logit_hap": [2.0, -1.0, -2.0],
    }
    assert table["logit_sad"].dtype == np.float32
