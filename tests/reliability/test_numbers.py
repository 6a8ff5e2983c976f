"""A report's numbers, computed a second time in plain Python; and a fold that is missing is said.

The second computation reads ``predictions.parquet`` and the teachers' logits, and shares no line
with the first: no numpy, no pandas, nothing of ours but the run folders' names.
"""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import zarr
from pyarrow import parquet

from tests.reliability.at_once import FOLDS, build_now, request_of, run_now
from tests.reliability.harness import call

pytestmark = [pytest.mark.reliability]

CLASSES = ("high", "low")
RUNS = {
    "full": [(fold, seed) for fold in FOLDS for seed in (1, 2)][:-1],  # fold 4 has one seed only
    "ce-only": [(2, 1), (3, 1)],
}
"""Which folds and seeds of each variant are run."""
EPOCHS = {"full": 4, "ce-only": 20}
"""Few enough to err, and enough to be right about the speaker of fold 2, who lacks a class."""
MISSING = {"full": [], "ce-only": [1, 4]}
Confusion = list[list[int]]
Pairs = Mapping[tuple[int, int], list[tuple[str, str]]]
"""(fold, seed) -> (truth, prediction) of each utterance tested."""


@pytest.fixture(scope="module")
def runs(tone_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real runs on a corpus where one speaker lacks a class, good enough to err only at times."""
    base = tmp_path_factory.mktemp("numbers")
    corpus = Path(shutil.copytree(tone_corpus, base / "corpus"))
    with (corpus / "table.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    with (corpus / "table.csv").open("w", newline="") as file:
        kept = (row for row in rows if (row[2], row[3]) != ("bo", "low"))
        csv.writer(file).writerows([header, *kept])
    build_now(request_of(corpus, base / "store"))
    for variant, cells in RUNS.items():
        for fold, seed in cells:
            sets = (f"optim.epochs={EPOCHS[variant]}", f"seed={seed}")
            run_now(base / "store", base / "runs", *sets, fold=fold, variant=variant)
    return base / "runs"


@pytest.fixture(scope="module")
def reported(runs: Path) -> Mapping[str, Any]:
    """What ``distill report`` prints and writes."""
    out = runs.parent / "report"
    done = call("distill", "report", runs, "--out", out)
    assert done.returncode == 0, done.stderr
    document = json.loads((out / "report.json").read_text())
    return {"json": document, "markdown": (out / "report.md").read_text(), "terminal": done.stdout}


def counted(pairs: Iterable[tuple[str, str]]) -> Confusion:
    """Counts of (truth, prediction)."""
    table = [[0] * len(CLASSES) for _ in CLASSES]
    for truth, prediction in pairs:
        table[CLASSES.index(truth)][CLASSES.index(prediction)] += 1
    return table


def accuracy(table: Confusion) -> float:
    return sum(table[c][c] for c in range(len(CLASSES))) / sum(map(sum, table))


def recalls(table: Confusion) -> list[float | None]:
    return [row[c] / sum(row) if sum(row) else None for c, row in enumerate(table)]


def mean_recall(table: Confusion) -> float:
    known = [value for value in recalls(table) if value is not None]
    return sum(known) / len(known)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The sample's: divided by one less than there are values."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def outcomes(run: Path) -> list[tuple[str, str]]:
    """(truth, prediction) of a run's test rows; the prediction is that of the largest logit."""
    pairs = []
    for row in parquet.read_table(run / "predictions.parquet").to_pylist():
        if row["role"] == "test":
            best = max(CLASSES, key=lambda name, row=row: row[f"logit_{name}"])
            assert row["prediction"] == best
            pairs.append((row["truth"], best))
    return pairs


def check(
    results: Mapping[str, Any], pairs: Mapping[tuple[int, int], list[tuple[str, str]]]
) -> int:
    """Compare one row of the report with its (fold, seed) -> pairs; how many numbers agree."""
    agreed = 0

    def same(found: float | None, expected: float | None) -> None:
        nonlocal agreed
        agreed += 1
        assert (found is None) == (expected is None)
        assert found is None or abs(found - expected) < 1e-9

    folds = sorted({fold for fold, _ in pairs})
    assert [row["fold"] for row in results["folds"]] == folds
    for metric, of in (("wa", accuracy), ("ua", mean_recall)):
        by_fold = []
        for row, fold in zip(results["folds"], folds, strict=True):
            each = [of(counted(pairs[cell])) for cell in sorted(pairs) if cell[0] == fold]
            by_fold.append(sum(each) / len(each))
            same(row[metric], by_fold[-1])
        mean, deviation = mean_and_deviation(by_fold)
        same(results[metric]["mean"], mean)
        same(results[metric]["std"], deviation)
        assert results[metric]["n"] == len(folds)
    table = counted(pair for found in pairs.values() for pair in found)
    assert results["pooled"]["confusion"] == table
    same(results["pooled"]["wa"], accuracy(table))
    same(results["pooled"]["ua"], mean_recall(table))
    for name, value in zip(CLASSES, recalls(table), strict=True):
        same(results["pooled"]["recall"][name], value)
    return agreed + len(CLASSES) ** 2


def of_variant(runs: Path, variant: str) -> Iterator[tuple[tuple[int, int], Path]]:
    for folder in sorted((runs / f"tones-{variant}").glob("*/fold*")):
        fold, seed = map(int, re.findall(r"\d+", folder.name))
        yield (fold, seed), folder


def test_students_from_their_predictions_alone(runs: Path, reported: Mapping[str, Any]) -> None:
    began = time.monotonic()
    (study,) = reported["json"]["studies"]
    students = {row["variant"]: row for row in study["students"]}
    assert set(students) == set(RUNS)
    agreed, seen = 0, set()
    for variant, row in students.items():
        pairs = {cell: outcomes(folder) for cell, folder in of_variant(runs, variant)}
        assert sorted(pairs) == sorted(RUNS[variant])
        agreed += check(row["results"], pairs)
        seen |= {tuple(map(tuple, counted(found))) for found in pairs.values()}
    assert len(seen) >= 3, "runs that all say the same prove nothing"
    lacking = [table for table in seen if not all(map(sum, table))]
    assert any(map(accuracy, lacking)), "nor does an absent class, if all the rest is wrong"
    print(f"{agreed} numbers of {len(students)} students agree to 1e-9, "
          f"{time.monotonic() - began:.1f} s")  # fmt: skip


def test_teachers_from_their_logits_alone(runs: Path, reported: Mapping[str, Any]) -> None:
    """Read by zarr-python; a store's record of its teachers' scores is believed by the report."""
    (study,) = reported["json"]["studies"]
    store = runs.parent / "store"
    labels = zarr.open_array(store / "corpus" / "label", mode="r")[:].tolist()
    roles = zarr.open_array(store / "splits" / "role", mode="r")[:].tolist()
    agreed = 0
    for row in study["teachers"]:
        pairs = {}
        for fold in FOLDS:
            place = store / f"folds/{fold:02d}" / row["name"] / "logits"
            logits = zarr.open_array(place, mode="r")[:].tolist()
            pairs[fold, 0] = [
                (CLASSES[label], CLASSES[said.index(max(said))])
                for label, said, role in zip(labels, logits, roles[fold - 1], strict=True)
                if role == 3
            ]
        agreed += check(row["results"], pairs)
    assert len(study["teachers"]) == 2
    print(f"{agreed} numbers of 2 teachers agree to 1e-9")


def test_a_missing_fold_is_never_averaged_over_in_silence(reported: Mapping[str, Any]) -> None:
    (study,) = reported["json"]["studies"]
    for row in (*study["students"], *study["teachers"]):
        missing = MISSING.get(row.get("variant", "full"))
        assert row["results"]["missing"] == missing
        for metric in ("wa", "ua"):
            assert row["results"][metric]["n"] == len(FOLDS) - len(missing)
    note = "ce-only · tiny: 2 of 4 folds; missing 1,4"
    assert [said for said in study["notes"] if "folds; missing" in said] == [note]
    assert "full · tiny: not every seed was run on fold 4" in study["notes"]
    for text in (reported["markdown"], reported["terminal"]):
        flat = re.sub(r"\s+", " ", text)
        assert note in flat
        assert "not every seed was run on fold 4" in flat


def test_wherever_a_mean_stands_its_folds_stand_beside_it(reported: Mapping[str, Any]) -> None:
    """In each table of each rendering that shows a number over folds."""
    page, terminal = reported["markdown"], reported["terminal"]
    scores = page.split("### Scores", 1)[1].split("###")[0]
    assert "| ce-only · tiny | 2/4 |" in scores
    assert "| full · tiny | 4/4 |" in scores
    classes = page.split("### Classes", 1)[1].split("###")[0]
    recall, confusion = classes.split("**Confusion", 1)
    for part in (recall, confusion):
        assert "| ce-only · tiny, 2/4 folds |" in part
        assert "| full · tiny |" in part
    compared = page.split("### Students compared", 1)[1].split("###")[0]
    assert "| ce-only · tiny | UA | 2 |" in compared
    assert re.search(r"ce-only · tiny +2/4 ", terminal)
    assert re.search(r"full · tiny +4/4 ", terminal)
    # calibration, recall, confusion (a line a class); two speakers have no interval
    assert terminal.count("ce-only · tiny, 2/4 folds") == 2 + len(CLASSES)
    folds = page.split("### Each fold", 1)[1].split("###")[0]
    row = next(line for line in folds.splitlines() if line.startswith("| ce-only · tiny | WA |"))
    assert row.startswith("| ce-only · tiny | WA | - |")


def test_a_run_that_is_unfinished_or_changed_counts_as_missing(runs: Path, tmp_path: Path) -> None:
    """Whatever keeps a fold out of the mean: it is the fold that is missed, with the reason."""
    copy = Path(shutil.copytree(runs / "tones-ce-only", tmp_path / "runs"))
    two, three = sorted(copy.glob("*/fold*"))
    (three / "DONE").unlink()
    done = call("distill", "report", copy, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (row,) = document["studies"][0]["students"]
    assert row["results"]["missing"] == [1, 3, 4]
    assert row["results"]["wa"]["std"] is None
    assert [(item["state"], Path(item["place"]).name) for item in document["left_out"]] == [
        ("unfinished", three.name)
    ]
    table = two / "predictions.parquet"
    table.write_bytes(table.read_bytes() + b"\0")
    done = call("distill", "report", copy, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["studies"] == []
    assert {item["state"] for item in document["left_out"]} == {"unfinished", "damaged"}
