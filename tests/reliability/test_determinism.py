"""Same seed, threads and versions, same bytes: whatever the machine looks like around them.

What test_build_proofs.py and test_resuming.py show of folders, threads
and interruptions is not repeated here.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from featstore.core.files import sha256_of
from featstore.store.store import Store
from tests.reliability.at_once import build_now, request_of, run_now, tree
from tests.reliability.harness import build_arguments, command, document, environment, run_arguments

pytestmark = [pytest.mark.reliability]

CIRCUMSTANCES: Mapping[str, Mapping[str, str]] = {
    "bare": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
             "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "1", "COLUMNS": "20"},
    "turkish": {"LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr", "TZ": "America/St_Johns",
                "PYTHONHASHSEED": "4294967295"},
}  # fmt: skip
"""Environments; where the machine lacks a locale, its C library falls back to the bare one."""
UMASKS = {"bare": 0o077, "turkish": 0o002}
JOBS = {"bare": 2, "turkish": 1}
RESULTS = ("predictions.parquet", "student/model.safetensors", "student/student.json")


def copied_backwards(corpus: Path, to: Path) -> Path:
    """The corpus with its files made in reverse order, its times set anew, and rows turned round.

    So folders list it differently, and the table begins with the last speaker.
    """
    for source in sorted(corpus.rglob("*"), reverse=True):
        place = to / source.relative_to(corpus)
        if source.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
            os.utime(place, (1, 1))
    with (corpus / "table.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    with (to / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows[::-1]])
    return to


def under(name: str, cwd: Path, app: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command under some circumstances, from another working directory."""
    done = subprocess.run(
        command(app, *arguments), env=environment(**CIRCUMSTANCES[name]), cwd=cwd,
        umask=UMASKS[name], capture_output=True, encoding="utf-8", timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def results(run: Path) -> dict[str, str]:
    return {name: sha256_of(run / name) for name in RESULTS}


@pytest.fixture(scope="module")
def trained(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of fold 1 when nothing is special."""
    return run_now(undisturbed, tmp_path_factory.mktemp("trained")).folder


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_the_machine_around_it_changes_no_byte(
    name: str, undisturbed: Path, trained: Path, tone_corpus: Path, tone_config: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    began = time.monotonic()
    corpus = copied_backwards(tone_corpus, tmp_path / "ünïcode corpus")
    away = tmp_path / "away"
    away.mkdir()
    arguments = build_arguments(
        corpus, tone_config, Path("store"), "--jobs", str(JOBS[name]), "--json"
    )
    told = document(under(name, away, "featstore", *arguments))
    assert told["content"] == Store.open(undisturbed).content_hash()
    # unit.json beside them may not differ either
    assert tree(away / "store") == tree(undisturbed)
    ran = under(name, away, "distill", *run_arguments(Path("store"), Path("runs"), "--json"))
    (fold,) = document(ran)["folds"]
    assert results(away / fold["folder"]) == results(trained)
    print(f"{name}: {len(tree(undisturbed))} files of a store and a run's {len(RESULTS)} results "
          f"byte-identical, {time.monotonic() - began:.1f} s")  # fmt: skip


def test_another_seed_is_another_result(
    undisturbed: Path, trained: Path, tone_corpus: Path, tmp_path: Path
) -> None:
    """The control, key by key: nothing is the same merely because the seed is never used."""
    plain = Store.open(undisturbed)
    for teacher in ("linguistic", "prosodic"):
        sets = f"teachers.{teacher}.seed=43"
        other = build_now(request_of(tone_corpus, tmp_path / teacher, sets, folds="1"))
        for name in plain.teacher_names(1):
            unit = f"folds/01/{name}"
            same = plain.unit(unit).files == other.unit(unit).files
            assert same == (name != teacher), (teacher, name)
    other = build_now(request_of(tone_corpus, tmp_path / "folds", "folds.seed=3", folds="1"))
    assert plain.unit("splits").files != other.unit("splits").files
    run = run_now(undisturbed, tmp_path / "runs", "seed=43").folder
    mine, theirs = results(run), results(trained)
    for name in RESULTS[:2]:
        assert mine[name] != theirs[name]
    again = run_now(undisturbed, tmp_path / "again", "seed=43").folder
    assert results(again) == mine
    print("another seed: 2 teachers, splits and student differ; the same seed again: equal")
