"""Every way to fail, what it exits with, and that it says what is wrong and what to do."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import cli
from featstore.store.arrays import group_json
from tests.reliability.forgery import reseal
from tests.reliability.harness import build_arguments, run_arguments, tones

pytestmark = [pytest.mark.reliability]


class World(NamedTuple):
    """What a case may use, and damage."""

    here: Path
    corpus: Path
    config: Path
    store: Path


class Told(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def world(tmp_path: Path, tone_config: Path, tone_store: Path) -> World:
    return World(tmp_path, tones(tmp_path / "corpus"), tone_config, tone_store)


@pytest.fixture
def type_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Told]]:
    """A command in this process."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]

    def run(app: str, *arguments: Any) -> Told:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [app, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            {"featstore": cli.featstore_main, "distill": cli.distill_main}[app]()
        return Told(int(ended.value.code or 0), *capsys.readouterr())

    yield run
    for number, handler in handlers:
        signal.signal(number, handler)


def cells(world: World, change: Callable[[list[list[str]]], None]) -> None:
    """Edit the corpus' table."""
    path = world.corpus / "table.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


def leak(world: World) -> None:
    """A teacher of fold 1 that says itself that it has seen fold 1's test speaker."""

    def confess(raw: dict[str, Any]) -> None:
        raw["facts"]["fitted_on"] = sorted({*raw["facts"]["fitted_on"], "ada"})

    reseal(world.store / "folds/01/prosodic", confess)


def newer(world: World) -> None:
    root = json.loads(group_json({"format": "emodistill-store", "schema": 99}))
    (world.store / "zarr.json").write_text(json.dumps(root))


def other_label(rows: list[list[str]]) -> None:
    rows.append([rows[1][0], *rows[1][1:3], "low" if rows[1][3] == "high" else "high", rows[1][4]])


def build(*more: str) -> Callable[[World], list[Any]]:
    return lambda w: ["featstore", *build_arguments(w.corpus, w.config, w.store, *more)]


def check(*more: str) -> Callable[[World], list[Any]]:
    return lambda w: ["featstore", "check", "--dataset", "table", "--root", w.corpus, *more]


def run(*more: str) -> Callable[[World], list[Any]]:
    return lambda w: ["distill", *run_arguments(w.store, w.here / "runs", *more), "--dry-run"]


def featstore(*arguments: str) -> Callable[[World], list[Any]]:
    return lambda w: ["featstore", *(w.store if part == "STORE" else part for part in arguments)]


class Case(NamedTuple):
    """Harm done, a command, its exit code, and what its two lines must say."""

    name: str
    harm: Callable[[World], Any]
    command: Callable[[World], list[Any]]
    code: int
    error: str
    hint: str


def nothing(world: World) -> None:
    pass


CASES = [
    Case("no corpus", lambda w: shutil.rmtree(w.corpus), check(), 2, "corpus",
         "table.csv"),
    Case("no audio at all", lambda w: shutil.rmtree(w.corpus / "audio"), check(), 2,
         "no usable table utterance", "--root"),
    Case("a table of other columns", lambda w: (w.corpus / "table.csv").write_text("a,b\n1,2\n"),
         check(), 2, "column", "."),
    Case("conflicting labels", lambda w: cells(w, other_label), build(), 2,
         r"1 fault\(s\) stop the build", "featstore check"),
    Case("a bad file, strict", lambda w: (w.corpus / "audio/ada0.wav").write_bytes(b""),
         build("--strict"), 2, r"ada0\.wav\): zero bytes", "featstore check"),
    Case("a speaker lost", lambda w: [(w.corpus / f"audio/ada{n}.wav").unlink() for n in range(6)],
         build(), 2, "ada", "featstore check"),
    Case("unknown setting", nothing, build("--set", "teachers.prosodic.optim.lrr=1"), 2,
         "did you mean lr", "--set"),
    Case("unknown preset", nothing, build("--preset", "papper"), 2, "--preset papper", "paper"),
    Case("unknown dataset", nothing, featstore("check", "--dataset", "iemocapp"), 2,
         "iemocapp", "iemocap"),
    Case("no such settings file", nothing, build("--config", "missing.toml"), 2,
         "missing.toml: no such", "data/configs"),
    Case("fold 9 of 4", nothing, build("--fold", "9"), 2, "9", "."),
    Case("other settings than the store's", nothing,
         build("--set", "teachers.prosodic.seed=7"), 2, "made from something else", "--rebuild"),
    Case("a store that is a file", lambda w: (shutil.rmtree(w.store), w.store.write_text("")),
         build(), 2, "not a folder", "--store"),
    Case("a store in a full folder",
         lambda w: (shutil.rmtree(w.store), w.store.mkdir(), (w.store / "thesis.tex").touch()),
         build(), 2, "not empty", "--store"),
    Case("bert is not here", nothing,
         build("--rebuild", "--set", "teachers.linguistic.model=no-such-bert"), 2,
         "no-such-bert", "."),
    Case("damage, building", lambda w: (w.store / "lld/unit.json").unlink(), build(), 3,
         "unit.json is missing", "--repair"),
    Case("a newer store, building", newer, build(), 4, "schema 99", "version that wrote it"),
    Case("no store", nothing, featstore("inspect", "nowhere"), 2, "nowhere: no store",
         "featstore build"),
    Case("a newer store", newer, featstore("inspect", "STORE"), 4, "schema 99",
         "version that wrote it"),
    Case("damage, inspecting", lambda w: flip(w.store / "splits/unit.json"),
         featstore("inspect", "STORE"), 3, "unit.json", "--repair"),
    Case("no such utterance", nothing, featstore("inspect", "STORE", "--utterance", "ada00"), 2,
         "ada00", "ada0"),
    Case("tau of zero", nothing,
         featstore("inspect", "STORE", "--utterance", "ada0", "--tau", "0"), 2, "tau", "."),
    Case("unknown student", nothing, run("--student", "hubert-bas"), 2, "hubert-bas",
         "hubert-base"),
    Case("unknown variant", nothing, run("--variant", "half"), 2, "--variant half", "ce-only"),
    Case("a temperature below zero", nothing, run("--set", "losses.teachers.linguistic.tau=-1"),
         2, "tau", "--set"),
    Case("an experiment that is a path", nothing, run("--experiment", "../../etc"), 2,
         "--experiment", "letters"),
    Case("bad audio", lambda w: (w.here / "x.wav").write_bytes(b"RIFF"),
         lambda w: ["distill", "predict", w.here, w.here / "x.wav"], 2, "student", "distill run"),
    Case("no runs", nothing, lambda w: ["distill", "report", w.here / "none"], 2, "none", "."),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_failure(case: Case, world: World, type_in: Callable[..., Told]) -> None:
    case.harm(world)
    told = type_in(*case.command(world))
    assert told.code == case.code, told
    assert "Traceback" not in told.err
    lines = told.err.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1, told
    assert lines[-1].startswith("hint: "), told
    error = told.err[told.err.index("error: ") : told.err.rindex("hint: ")]
    assert re.search(case.error, error), error
    assert re.search(case.hint, lines[-1]), lines[-1]


def test_refused_runs_are_rows_of_the_plan_and_its_exit_code(
    world: World, type_in: Callable[..., Told]
) -> None:
    flip(world.store / "folds/01/prosodic/unit.json")
    told = type_in(*run("--json")(world))
    assert told.code == 3
    assert json.loads(told.out)["runs"][0]["status"] == "damaged"


def test_leak_is_4_at_training(world: World, type_in: Callable[..., Told]) -> None:
    leak(world)
    told = type_in("distill", *run_arguments(world.store, world.here / "runs"))
    assert told.code == 4
    assert "has seen ada, whom fold 1 tests" in told.err
    assert "featstore build --fold 1 --rebuild" in told.err


def test_damage_is_3_and_a_check_with_faults_1(world: World, type_in: Callable[..., Told]) -> None:
    flip(world.store / "audio/values/c/0")
    told = type_in("featstore", "verify", world.store)
    assert told.code == 3
    assert "audio/values/c/0: content differs" in told.out
    assert "--repair" in told.out
    (world.corpus / "audio/ada0.wav").write_bytes(b"")
    assert type_in(*check()(world)).code == 0
    assert type_in(*check("--strict")(world)).code == 1


HOSTILE = "\x1b[31mred\u202etxt <script>alert(1)</script> | `x` =1+1 [bold]b[/bold]"


def test_text_of_a_corpus_is_inert_on_a_terminal(
    world: World, type_in: Callable[..., Told]
) -> None:
    """In transcripts, speakers and labels; markup of the terminal library stays text, too."""

    def vandalise(rows: list[list[str]]) -> None:
        rows[1][4] = HOSTILE
        rows[2][2] = "ada\x1b]0;title\x07"
        rows[3][3] = "[link=file:///etc/passwd]high[/link]"
        rows[4][1] = "audio/\x1b[2Jnone.wav"

    cells(world, vandalise)
    for command in (check(), check("--json"), build("--set", "corpus.classes=['high', 'low']")):
        told = type_in(*command(world))
        both = told.out + told.err
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", both), both
        assert "Traceback" not in both
