"""One damaged run folder has one verdict: of ``distill run``, ``distill status`` and the report."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.runs.read import SUMMED
from featstore.core.settings import digest
from tests.distill.small_runs import copied, flip_byte
from tests.test_cli_distill import distill

Damage = Callable[[Path], object]


def without_entry(name: str, *, sealed: bool) -> Damage:
    """``DONE`` no longer lists a file; ``sealed``: its own digest fits again."""

    def drop(folder: Path) -> None:
        mark = json.loads((folder / "DONE").read_text())
        del mark[name]
        if sealed:
            del mark["sha256"]
            mark["sha256"] = digest(mark)
        (folder / "DONE").write_text(json.dumps(mark))

    return drop


DAMAGE: dict[str, tuple[Damage, str]] = {
    **{
        f"{name} changed": (
            lambda folder, name=name: flip_byte(folder / name, -9),
            f"{name} is not the one that the run finished with",
        )
        for name in SUMMED
    },
    **{
        f"{name} removed": (
            lambda folder, name=name: (folder / name).unlink(),
            f"{name} is missing",
        )
        for name in SUMMED
    },
    "student/ removed": (
        lambda folder: shutil.rmtree(folder / "student"),
        "student/student.json is missing",
    ),
    "weights removed": (
        lambda folder: (folder / "student/model.safetensors").unlink(),
        "student/model.safetensors is not the",
    ),
    "weights cut": (
        lambda folder: (folder / "student/model.safetensors").write_bytes(b"{}"),
        "student/model.safetensors is not the",
    ),
    "entry dropped from DONE": (
        without_entry("metrics.jsonl", sealed=False),
        "DONE is not what a finished run writes",
    ),
    "entry dropped from DONE, its digest mended": (
        without_entry("config.toml", sealed=True),
        "DONE is not what a finished run writes",
    ),
    "DONE edited": (
        lambda folder: flip_byte(folder / "DONE", 40),
        "DONE is not what a finished run writes",
    ),
    "DONE empty": (lambda folder: (folder / "DONE").write_text(""), "DONE: not valid JSON"),
}


@pytest.mark.parametrize("kind", [None, *DAMAGE])
def test_three_commands_one_verdict(kind, finished, small_store, tmp_path):
    runs = copied(finished[1].folder.parents[2], tmp_path / "runs")
    (folder,) = runs.glob("*/*/fold01-*")
    damage, why = DAMAGE[kind] if kind else (lambda folder: None, "")
    damage(folder)
    place = folder.relative_to(runs).as_posix()

    flags = ("--fold", "1..2", "--runs", runs, "--experiment", "test", "--student", "tiny")
    flags += ("--set", "optim.epochs=2", "--device", "cpu", "--dry-run", "--json")
    code, out, _ = distill("run", "--store", small_store, *flags)
    rows = json.loads(out)["runs"]
    assert [row["status"] for row in rows] == ["damaged" if kind else "done", "done"]
    assert code == (3 if kind else 0)
    assert why in rows[0]["why"]

    code, out, _ = distill("status", runs, "--json")
    facts = json.loads(out)
    assert facts["counts"]["damaged"] == (1 if kind else 0)
    assert [run["run"] for run in facts["finished"]].count(place) == (0 if kind else 1)
    assert why in "".join(facts["damaged"])
    assert code == (1 if kind else 0)

    code, out, _ = distill("report", runs, "--json")
    left_out = {run["place"]: run for run in json.loads(out)["left_out"]}
    assert code == 0
    assert [*left_out] == ([place] if kind else [])
    if kind:
        assert left_out[place]["state"] == "damaged"
        assert why in left_out[place]["reason"]
