"""The ``distill`` command: results on stdout, words on stderr, exit codes as promised."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

import cli
from distill.runs.read import collect
from featstore.core.metrics import ua
from featstore.folds import TEST
from featstore.inspection.view.payloads import students
from featstore.store.store import Store
from tests import ROOT


def distill(*args):
    """The command in this process: (exit code, stdout, stderr)."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    out, err = io.StringIO(), io.StringIO()
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["distill", *map(str, args)])
            with pytest.raises(SystemExit) as left:
                cli.distill_main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return left.value.code or 0, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def damaged_store(small_store, tmp_path_factory):
    """The small store with one bit flipped in a teacher of fold 1."""
    store = Path(shutil.copytree(small_store, tmp_path_factory.mktemp("damaged") / "store"))
    chunk = store / "folds/01/prosodic/logits/c/0/0"
    content = bytearray(chunk.read_bytes())
    content[9] ^= 1
    chunk.write_bytes(content)
    return store


TINY = ("--student", "tiny", "--set", "optim.epochs=2", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def ran(damaged_store, tmp_path_factory):
    """``distill run`` of a damaged fold and then a sound one, by one worker."""
    runs = tmp_path_factory.mktemp("cli") / "runs"
    args = ("run", "--store", damaged_store, "--fold", "1..2", "--runs", runs, "--jobs", 1)
    return distill(*args, *TINY, "--json"), runs


def errors_of(stderr):
    return [line for line in stderr.splitlines() if line.startswith(("error:", "hint:"))]


def test_a_damaged_fold_stops_no_other(ran):
    (code, out, err), runs = ran
    assert code == 3, err
    document = json.loads(out)
    (fold,) = document["folds"]
    assert (fold["fold"], fold["status"]) == (2, "done")
    assert 0 <= fold["ua"] <= 1
    assert list(document["failed"]) == ["1"]
    error, hint = errors_of(err)
    assert error.startswith("error: fold 1: ")
    assert "folds/01/prosodic/logits" in error
    assert "featstore build" in hint
    assert "Traceback" not in err
    assert Path(fold["folder"], "DONE").exists()
    assert Path(fold["folder"]).is_relative_to(runs / "tiny-full")


def test_dry_run_says_what_there_is_to_do(ran, damaged_store):
    _, runs = ran
    args = ("run", "--store", damaged_store, "--runs", runs, "--fold", "1..3", *TINY, "--dry-run")
    code, out, err = distill(*args, "--json")
    assert (code, err) == (3, "")
    plan = json.loads(out)
    assert [row["status"] for row in plan["runs"]] == ["damaged", "done", "missing"]
    assert plan["settings"]["optim"]["epochs"] == 2
    code, out, _ = distill(*args)
    assert code == 3  # as the run itself would
    assert "done" in out
    assert "damaged" in out


def test_status_tells_of_done_and_failed_runs(ran):
    _, runs = ran
    code, out, err = distill("status", runs)
    assert (code, err) == (0, "")
    assert "1 done" in out
    code, out, _ = distill("status", runs, "--json")
    (row,) = json.loads(out)["experiments"][0]["rows"]
    assert (row["done"], row["planned"]) == (1, 1)
    code, out, err = distill("status", runs / "nowhere")
    assert (code, out) == (2, "")
    assert errors_of(err)[0].endswith("nowhere: no folder of runs")


def test_report_reads_the_run(ran, tmp_path):
    _, runs = ran
    code, out, err = distill("report", runs, "--json", "--out", tmp_path / "report")
    assert code == 0
    assert json.loads(out)
    assert "wrote" in err
    code, out, _ = distill("report", runs)
    assert code == 0
    assert "tiny" in out


def test_the_page_of_a_store_shows_the_run(ran, damaged_store):
    _, runs = ran
    store = Store.open(damaged_store)
    [student], left_out = students(collect([runs]), store)
    assert (student.facts["fold"], student.facts["backbone"]) == (2, "tiny")
    assert left_out == []  # the damaged fold never got a folder
    tested = store.roles[1] == TEST
    prediction = student.logits[tested].argmax(axis=1)
    scores = collect([runs]).runs[0].scores
    assert scores.ua == pytest.approx(ua(store.labels[tested], prediction, 4))


def test_predict_from_audio_alone(ran, small_corpus):
    _, runs = ran
    (student,) = runs.glob("*/*/fold02-seed42/student")
    files = sorted(small_corpus.rglob("*.wav"))[:2]
    code, out, err = distill("predict", student, *files, "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["file"] for row in rows] == [str(path) for path in files]
    for row in rows:
        shares = {name: row[name] for name in ("ang", "hap", "neu", "sad")}
        assert sum(shares.values()) == pytest.approx(1)
        assert row["label"] == max(shares, key=shares.get)
    code, out, _ = distill("predict", student, *files)
    assert code == 0
    assert "label" in out


@pytest.mark.parametrize(
    ("args", "code", "error", "hint"),
    [
        (["run", "--store", "{tmp}/none"], 2, "{tmp}/none: no store there", "featstore build"),
        (["run", "--store", "{store}", "--fold", "12"], 2, "--fold 12", "1..10"),
        (["run", "--store", "{store}", "--variant", "x"], 2, "--variant x", "ce-only"),
        (["run", "--store", "{store}", "--set", "optim.lrr=1"], 2, "1 setting(s)", "--set"),
        (["run", "--store", "{store}", "--device", "gpu9"], 2, "--device gpu9", "cpu"),
        (["run", "--store", "{store}", "--config", "{tmp}/x.toml"], 2, "x.toml", "--config"),
        (["report", "{tmp}"], 2, "no run folder", "distill run"),
        (["predict", "{tmp}", "{tmp}/a.wav"], 2, "student.json: not found", "distill run"),
        (["predict", "{student}", "{tmp}/a.wav"], 2, "{tmp}/a.wav: no such file", "check the path"),
        (["predict", "{torn}", "{tmp}/a.wav"], 3, "model.safetensors", "fetch"),
    ],
)
def test_a_mistake_gets_one_error_and_one_hint(ran, small_store, tmp_path, args, code, error, hint):
    (student,) = ran[1].glob("*/*/fold02-seed42/student")
    torn = Path(shutil.copytree(student, tmp_path / "torn"))
    with (torn / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    places = {"tmp": tmp_path, "store": small_store, "student": student, "torn": torn}
    found, out, err = distill(*(arg.format(**places) for arg in args))
    assert found == code
    assert out == ""
    told = errors_of(err)
    assert len(told) == 2
    assert told[0].startswith("error: ")
    assert error.format(**places) in told[0]
    assert hint in told[1]
    assert not (tmp_path / "runs").exists()


def test_wrong_use_is_the_parsers():
    code, _, err = distill("run")
    assert code == 2
    assert "--store" in err


IMPORTED = """
import sys
try:
    import cli
    cli.distill_main()
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""


def modules_of(*args):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *map(str, args)],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    return done.stdout, set(done.stderr.split())


def test_predict_loads_no_teacher_text_or_lld_code(ran, small_corpus):
    (student,) = ran[1].glob("*/*/fold02-seed42/student")
    out, modules = modules_of("predict", student, next(small_corpus.rglob("*.wav")), "--json")
    assert len(json.loads(out)) == 1
    forbidden = ("featstore.teachers", "featstore.features.lld", "featstore.corpora",
                 "featstore.build.run", "opensmile",
                 "distill.training.loop")  # fmt: skip
    assert not [name for name in modules if name.startswith(forbidden)]
    assert "distill.model.predict" in modules


def test_an_experiment_from_plan_to_table(ran, damaged_store, tmp_path):
    _, runs = ran
    grid = tmp_path / "two.toml"
    grid.write_text('[[rows]]\nlabel = "both"\n\n[[rows]]\nlabel = "<b>"\nteacher = "prosodic"\n')
    args = ("experiment", grid, "--store", damaged_store, "--runs", runs, "--jobs", 1, *TINY)
    code, out, err = distill(*args, "--fold", "1..2", "--dry-run", "--json")
    assert code == 2, err
    planned = json.loads(out)
    # fold 2 was trained by `distill run`, and is the same run
    assert planned["rows"][0]["runs"] == {"damaged": 1, "done": 1}
    code, out, _ = distill(*args, "--fold", "1..2", "--dry-run")
    assert "2 run(s) in all" in out
    assert "prosodic" in planned["rows"][0]["why"]
    code, out, err = distill(*args, "--fold", "1..2")
    assert code == 3
    assert "both" in out
    assert "1 of 2" in out
    assert errors_of(err)[0].startswith("error: both, fold 1, seed 42: ")
    assert (runs / "experiments" / "tiny-two.json").is_file()
    code, out, _ = distill(*args, "--fold", "2", "--json")
    assert code == 0
    told = json.loads(out)
    assert [(row["row"], row["done"]) for row in told["rows"]] == [("both", 1)]
    code, _, err = distill("experiment", "table9", "--store", damaged_store)
    assert code == 2
    assert errors_of(err)[0] == "error: experiment table9: not known"
