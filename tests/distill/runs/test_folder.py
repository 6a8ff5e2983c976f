"""distill/runs/folder.py: where a run lives, whose it is, and when it is finished."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from distill.runs.folder import RunFolder, predictions_table
from featstore.core import files
from featstore.core.schema import Corrupt, UserError
from featstore.core.settings import digest
from tests import ROOT
from tests.distill.small_runs import copied

HOLD = """
import sys, time
from pathlib import Path
from featstore.core.files import try_lock
assert try_lock(Path(sys.argv[1]), create=True) is not None
print("held", flush=True)
time.sleep(60)
"""


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.fixture
def run(finished, tmp_path):
    return RunFolder(copied(finished[1].folder, tmp_path / "fold01-seed42"))


def test_its_place(tmp_path):
    run = RunFolder.of(tmp_path, "study", "0a1b2c3d4e5f", 3, 42)
    assert run.path == tmp_path / "study" / "0a1b2c3d4e5f" / "fold03-seed42"


def test_unfinished_until_it_says_so(run, finished):
    (run.path / "DONE").unlink()
    assert run.finished() is None
    run.finish()
    assert run.finished().scores.wa == finished[1].wa
    assert RunFolder(run.path / "nowhere").finished() is None


def test_every_flipped_bit_of_the_mark_is_noticed(run):
    content = (run.path / "DONE").read_bytes()
    for at in range(8 * len(content)):
        (run.path / "DONE").write_bytes(flipped(content, at))
        with pytest.raises(Corrupt, match="DONE"):
            run.finished()
    (run.path / "DONE").write_bytes(content)
    assert run.finished()


def test_its_folders_survive_a_power_cut(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "fsync_folder", synced.append)
    with RunFolder(tmp_path / "a" / "b" / "c").held():
        assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_a_mark_cannot_point_elsewhere(run):
    mark = json.loads((run.path / "DONE").read_text())
    mark["../secret"] = mark.pop("run.json")
    mark.pop("sha256")
    mark["sha256"] = digest(mark)
    (run.path / "DONE").write_text(json.dumps(mark))
    with pytest.raises(Corrupt, match="DONE"):
        run.finished()


def test_only_one_process_at_a_time_and_none_after_sigkill(run):
    command = [sys.executable, "-c", HOLD, str(run.path / ".lock")]
    root = str(ROOT)
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


def test_what_a_killed_process_began_is_removed(run):
    (run.path / ".run.json.0a1b2c3d").write_text("{")
    (run.path / ".nfs0001").write_text("the file system's")
    with run.held():
        left = sorted(path.name for path in run.path.iterdir() if path.name.startswith("."))
        assert left == [".lock", ".nfs0001"]


def test_what_is_left_of_a_finished_run_is_removed(run):
    """Its process was killed after DONE: gigabytes of checkpoints would stay for ever."""
    (run.path / "checkpoint" / "00000001").mkdir(parents=True)
    (run.path / ".lock").touch()
    with run.held():
        run.tidy()
        assert (run.path / "checkpoint").exists()
    (run.path / ".lock").touch()
    run.tidy()
    assert not (run.path / "checkpoint").exists()
    assert not (run.path / ".lock").exists()
    assert run.finished()


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
