"""benchmarks/common.py and results.py: who is timed when, what a verdict says, what is written."""

import json
import sys

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import results
from benchmarks.common import Answer, Bench, Row, Times, interleaved, judged, run
from featstore.core.schema import TaskFailed


def test_variants_take_turns_and_the_warm_up_does_not_count():
    called: list[str] = []
    variants = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
    times = interleaved(variants, rounds=2, warm_up=1)
    assert "".join(called) == "ababab"
    assert [len(s) for s in (*times.wall_s.values(), *times.cpu_s.values())] == [2, 2, 2, 2]


def test_to_see_that_it_runs_each_is_called_once(tmp_path):
    called: list[str] = []
    Bench(tmp_path, quick=True).time({"a": lambda: called.append("a")}, rounds=9)
    assert called == ["a"]


def test_time_is_taken_by_the_clock_and_by_the_cpu():
    import time

    times = interleaved({"asleep": lambda: time.sleep(0.05)}, rounds=1, warm_up=0)
    assert times.wall_s["asleep"][0] >= 0.05 > times.cpu_s["asleep"][0]


def test_a_ratio_pairs_neighbours():
    times = Times({"slow": [2.0, 30.0], "fast": [1.0, 10.0]}, {"slow": [1.0, 1.0], "fast": [2, 4]})
    assert times.ratio("slow", "fast") == [2.0, 3.0]
    assert times.ratio("slow", "fast", cpu=True) == [0.5, 0.25]


@pytest.mark.parametrize(
    ("goal", "met"),
    [({"at_least": 2.0}, True), ({"at_least": 2.1}, False),
     ({"at_most": 2.0}, True), ({"at_most": 1.9}, False), ({}, None)],
)  # fmt: skip
def test_the_median_is_held_against_the_goal(goal, met):
    row = judged("what", "limit", [1.0, 2.0, 9.0], reason="because", **goal)
    assert row.met is met
    assert row.figure == "2.000 (1.000 to 9.000)"
    assert row.reason == ("because" if met is False else "")


def test_a_command_that_fails_says_why():
    assert run([sys.executable, "-c", "print(7)"]) == "7\n"
    with pytest.raises(TaskFailed, match="exit code 3\nsaid so"):
        run([sys.executable, "-c", "import sys; sys.stderr.write('said so'); sys.exit(3)"])


def test_figures_from_numpy_are_written_like_any_other(tmp_path):
    row = judged("what", "limit", list(np.array([1.0, 3.0])), at_least=2.0)
    found = Answer([row], [], {"s": np.array([1.0, 3.0])})
    results.write(tmp_path, {"one": results.entry("one", "Why?", found, 1.0, 0.5)}, ("one",))
    assert json.loads((tmp_path / "results.json").read_text())["one"]["rows"][0]["met"] is True


def answer(figure: str) -> Answer:
    return Answer([Row("a|b", "limit", figure, "<= 2x", False, "cold")], ["A note."], {"s": [1]})


def test_one_benchmark_run_again_keeps_the_others(tmp_path):
    order = ("first", "second")
    for name, figure in (("second", "2.0x"), ("first", "3.0x"), ("second", "4.0x")):
        entry = results.entry(name, "Why?", answer(figure), 1.0, 0.5)
        results.write(tmp_path, {name: entry}, order)
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found) == ["first", "second"]
    assert found["second"]["measured"] == {"s": [1.0]}
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.index("3.0x") < text.index("4.0x")
    assert "2.0x" not in text
    assert "| a/b | limit | <= 2x | 3.0x | missed: cold |" in text
    assert "`python -m benchmarks second`" in text
    assert "- A note." in text


def test_the_machine_is_told_without_names_of_its_own():
    about = results.machine()
    assert "cores" in about["processor"]
    assert "numpy 2" in about["versions"]


def test_every_name_is_a_file_that_measures():
    import importlib

    for name in command.NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        assert callable(module.measure)
        assert (module.__doc__ or "").split("\n")[0].endswith("?"), name
