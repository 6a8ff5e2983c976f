"""distill/experiments/running.py: one failure stops none, and each is told of at once."""

import queue
from pathlib import Path

import pytest

from distill.experiments.running import Done, Failure, _collect, _Ticker
from distill.runs.request import Outcome
from featstore.core.schema import Corrupt, Refused, TaskFailed, UserError
from tests.distill.small_runs import request


def asked(place, fold):
    return request(place, place, "optim.epochs=3", fold=fold)


def test_one_failure_stops_none_and_is_told_at_once(tmp_path, capsys):
    results = {
        1: Corrupt("folds/01/x: torn\x1b[31m\nsecond line", "build it again"),
        2: Outcome(2, "done", tmp_path, wa=0.5, ua=0.25),
        4: RuntimeError("out of memory"),
    }
    runs = [(asked(tmp_path, fold), one) for fold, one in results.items()]
    steps, done = [], Done()
    news: queue.Queue[object] = queue.Queue()
    news.put(
        ("fold 2", 3, {"epoch": 2, "train": {"total": 1.5}, "validation": {"wa": 0.5, "ua": 0.25}})
    )
    news.put(("fold 2", 3, {"epoch": 1, "train": {"total": 2.5}}))  # overtaken
    _collect(runs, _Ticker(news, lambda n=1, note="": steps.append((n, note))), done)
    assert [outcome.fold for outcome in done.outcomes] == [2]
    assert [(f.request.fold, f.error.exit_code) for f in done.failed] == [(1, 3), (4, 1)]
    assert done.failed[1].error.message == "RuntimeError: out of memory"
    assert done.exit_code == 3
    assert steps == [
        (2, "fold 2 epoch 2/3 loss 1.500 val WA 50.0 UA 25.0"),
        (1, "fold 2 test WA 50.0 UA 25.0"),
    ]
    told = capsys.readouterr().err
    assert "error: fold 1: folds/01/x: torn\\x1b[31m\nsecond line\n" in told
    assert "hint: build it again\n" in told
    assert "error: fold 4: RuntimeError: out of memory\n" in told
    assert done.to_dict()["failed"]["1"]["hint"] == "build it again"


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([], 0),
        ([TaskFailed("")], 1),
        ([UserError(""), TaskFailed("")], 2),
        ([Corrupt(""), UserError("")], 3),
        ([TaskFailed(""), Refused(""), Corrupt("")], 4),
    ],
)
def test_the_exit_code_is_the_gravest(errors, code):
    failed = [Failure(asked(Path(), 1), error) for error in errors]
    assert Done(failed=failed).exit_code == code
