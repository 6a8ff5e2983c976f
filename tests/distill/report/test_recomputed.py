"""Every number of ``report.json`` a second time, see :mod:`recompute`; none is left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distill.report import collect, summarise, write
from tests.distill.report.fake_runs import facts, predictions, taught, write_record, write_run
from tests.distill.report.recompute import (
    Group,
    agreement,
    comparisons,
    numbers,
    spread,
    student,
    teacher,
)

STUDENTS = {"full": 0.72, "no-logits": 0.66, "ce-only": 0.6, "no-linguistic": 0.55}
FOLDS, SEEDS = range(1, 8), (1, 2)
POINTS = {"t1": 0.5, "t2": 0.62}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven folds of ten, one without a class, two seeds; a student of two folds; a sweep."""
    root = tmp_path_factory.mktemp("study") / "runs"
    for variant, hit in STUDENTS.items():
        for fold in FOLDS if variant != "no-linguistic" else (1, 2):
            for seed in SEEDS:
                add(root, variant, variant, fold, seed, hit)
    for key, hit in POINTS.items():
        for fold in FOLDS:
            add(root, "no-prosodic", key, fold, 1, hit)
    rows = [
        {"label": "Ours", "experiment": "main", "key": "full", "variant": "full"},
        {"label": "no teacher", "experiment": "main", "key": "ce-only", "variant": "ce-only"},
        {"label": "few", "experiment": "main", "key": "no-linguistic", "variant": "no-linguistic"},
        {"label": "never", "experiment": "main", "key": "never", "variant": "no-embeddings"},
        {"label": "alone", "teacher": "prosodic"},
    ]
    write_record(root, "table2", rows)
    swept = [
        {"label": key, "experiment": "main", "key": key, "variant": "no-prosodic",
         "point": {"axis": "tau", "curve": "no-prosodic", "value": value}}
        for key, value in (("t1", 2.0), ("t2", 4.0), ("t3", 10.0))
    ]  # fmt: skip
    write_record(root, "figure2", swept)
    return root


def add(root: Path, variant: str, key: str, fold: int, seed: int, hit: float) -> None:
    over = {"variant": variant, "key": key, "temperatures": {"prosodic": 0.5 + fold}}
    record = facts(fold, seed, seconds=10.5 * fold + seed, **over)
    frame = predictions(record, hit)
    if fold == 3:  # whose speaker is never angry, though taken for it at times
        frame = frame[frame["truth"] != "ang"]
    record, teachers = taught(record, frame)
    record |= {"text_overlap": {"n_test": len(frame), "n_shared": fold}}
    settings = f"[losses]\nalpha = {hit}\n"
    write_run(root, record, frame=frame, teachers=teachers, settings=settings)


@pytest.fixture(scope="module")
def out(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write(summarise(collect([root])), folder)
    return folder


@pytest.fixture(scope="module")
def study(out: Path) -> Mapping[str, Any]:
    document = json.loads((out / "report.json").read_text())
    assert document["schema"] == 2
    assert document["left_out"] == []
    (one,) = document["studies"]
    return dict(one)


@pytest.fixture(scope="module")
def groups(root: Path) -> Mapping[str, Group]:
    return {key: Group(root / "main" / key) for key in (*STUDENTS, *POINTS)}


def same(found: Any, expected: Any) -> int:
    """How many numbers agree; none may be in one document alone."""
    given, wanted = dict(numbers(found)), dict(numbers(expected))
    assert given.keys() == wanted.keys()
    for place, value in wanted.items():
        assert given[place] == (value if value is None else pytest.approx(value, abs=1e-9)), place
    return len(wanted)


def test_students(study: Mapping[str, Any], groups: Mapping[str, Group]) -> None:
    found = {row["key"]: row for row in study["students"]}
    agreed = sum(same(found[key], student(group)) for key, group in groups.items())
    assert set(found) == set(groups)
    assert found["full"]["results"]["pooled"]["confusion"][0] != [0, 0, 0, 0]
    assert agreed > 1500


def test_teachers(study: Mapping[str, Any], groups: Mapping[str, Group]) -> None:
    rows = study["teachers"]
    assert [row["name"] for row in rows] == ["linguistic", "prosodic"]
    assert all(same(row, teacher(row["name"], groups["full"])) > 250 for row in rows)
    assert {row["no_calibration"] for row in rows} == {""}


def test_comparisons(study: Mapping[str, Any], groups: Mapping[str, Group]) -> None:
    keys = {row["label"]: row["key"] for row in study["students"]}
    others = [groups[keys[row["label"]]] for row in study["comparisons"]]
    assert len(others) == 5
    assert same(study["comparisons"], comparisons(groups["full"], others)) > 200


def test_agreements(study: Mapping[str, Any], groups: Mapping[str, Group]) -> None:
    keys = {row["label"]: row["key"] for row in study["students"]}
    tests = {
        name: {
            fold: table[(table["teacher"] == name) & (table["role"] == "test")]
            for fold, table in groups["full"].teachers().items()
        }
        for name in ("linguistic", "prosodic")
    }
    expected = []
    for row in study["agreements"]:
        first = tests[row["first"].removesuffix(" teacher")]
        if row["second"] in keys:
            group = groups[keys[row["second"]]]
            pairs = [(first[fold], frame) for (fold, _), frame in group.tests.items()]
        else:
            second = tests[row["second"].removesuffix(" teacher")]
            pairs = [(first[fold], second[fold]) for fold in FOLDS]
        expected.append(agreement(pairs))
    assert len(expected) == 1 + 2 * 6
    assert same(study["agreements"], expected) == 13 * 6 + 1


def test_experiments(study: Mapping[str, Any], groups: Mapping[str, Group]) -> None:
    table, figure = study["experiments"]
    assert (figure["name"], table["name"]) == ("figure2", "table2")
    common = [[fold, seed] for fold in (1, 2) for seed in SEEDS]
    measured = [groups["full"], groups["ce-only"], groups["no-linguistic"]]
    rows = [row_of(group, FOLDS, SEEDS, common) for group in measured]
    never = {
        "row": None,
        "results": None,
        "seeds": [],
        "n_runs": 0,
        "missing": lacking({}, FOLDS, SEEDS),
    }
    alone = teacher("prosodic", groups["full"])["results"]
    folds = {f["fold"]: (f["wa"], f["ua"]) for f in alone["folds"]}
    by_fold = [[folds[fold][place] for fold in (1, 2)] for place in (0, 1)]
    rows += [
        never | blank(None, None),
        {"results": alone, "seeds": [], "n_runs": 0,
         "missing": [{"fold": fold, "seed": None} for fold in (8, 9, 10)]}
        | blank(*map(spread, by_fold)),
    ]  # fmt: skip
    assert same(
        table,
        {"rows": rows, "comparisons": comparisons(measured[0], measured[1:]), "curves": [],
         "common": common},
    ) > 400  # fmt: skip


def test_curves(study: Mapping[str, Any], groups: Mapping[str, Group]) -> None:
    figure = study["experiments"][1]
    rows = [row_of(groups[key], FOLDS, (1,), None) for key in POINTS]
    never = {
        "row": None,
        "results": None,
        "seeds": [],
        "n_runs": 0,
        "missing": lacking({}, FOLDS, (1,)),
    }
    rows.append(never | blank(None, None))
    for row, value in zip(rows, (2.0, 4.0, 10.0), strict=True):
        row["point"] = {"value": value}
    means = [
        {metric: row["results"][metric]["mean"] for metric in ("wa", "ua")} for row in rows[:2]
    ]
    best = {f"best_{m}": 2.0 if means[0][m] >= means[1][m] else 4.0 for m in ("wa", "ua")}
    points = [{"value": 2.0}, {"value": 4.0}, {"value": 10.0}]
    curve = best | {"points": points, "best_published": None}
    common = [[fold, 1] for fold in FOLDS]
    expected = {"rows": rows, "comparisons": [], "curves": [curve], "common": common,
                "reference": None}  # fmt: skip
    assert same(figure, expected) > 150


def row_of(group: Group, folds: Any, seeds: Any, common: Any) -> dict[str, Any]:
    whole = student(group)
    scores = group.scores()
    spreads: list[Any] = [None, None]
    if common is not None:
        by_fold: dict[int, list[tuple[float, float]]] = {}
        for fold, seed in common:
            by_fold.setdefault(fold, []).append(scores[fold, seed])
        means = [[sum(p[i] for p in ps) / len(ps) for ps in by_fold.values()] for i in (0, 1)]
        spreads = [spread(values) for values in means]
    return {
        "results": whole["results"], "seeds": whole["seeds"], "n_runs": len(scores),
        "missing": lacking(scores, folds, seeds), **blank(*spreads),
    }  # fmt: skip


def lacking(scores: Any, folds: Any, seeds: Any) -> list[dict[str, int]]:
    return [
        {"fold": fold, "seed": seed}
        for fold in range(1, 11)
        for seed in seeds
        if (fold, seed) not in scores
    ]


def blank(wa: Any, ua: Any) -> dict[str, Any]:
    return {"published": None, "wa_difference": None, "ua_difference": None, "common_wa": wa,
            "common_ua": ua, "point": None}  # fmt: skip


def test_the_rest_of_a_study(study: Mapping[str, Any], groups: Mapping[str, Group]) -> None:
    """Nothing but these and what the tests above have gone through holds a number."""
    seen = {"teachers", "students", "comparisons", "agreements", "experiments"}
    rest = {key: value for key, value in study.items() if key not in seen}
    sizes = {
        fold: frame["role"].value_counts() for (fold, _), frame in groups["full"].tables.items()
    }
    split = {fold: facts(fold, 1)["split"] for fold in FOLDS}
    expected = {
        "full_release": False, "n_folds": 10, "protocol": {"script_disjoint": False},
        "label_map": None,
        "folds": [
            {"fold": fold, **split[fold], "n_test": sizes[fold]["test"],
             "n_validation": sizes[fold]["validation"], "n_shared_texts": fold}
            for fold in FOLDS
        ],
    }  # fmt: skip
    assert same(rest, expected) > 30
    assert len(study["notes"]) == 2 + 6  # each row lacks folds


def test_csv_files_hold_the_same_numbers(study: Mapping[str, Any], out: Path) -> None:
    one = study
    scores = pd.read_csv(out / "scores.csv")
    runs = [(s["label"], r) for s in one["students"] for r in s["runs"]]
    own = scores[scores["kind"] == "student"]
    assert own[["row", "fold", "seed", "wa", "ua", "n", "seconds"]].to_numpy().tolist() == [
        [label, *(run[k] for k in ("fold", "seed", "wa", "ua", "n", "seconds"))]
        for label, run in runs
    ]
    taught_by = scores[scores["kind"] == "teacher"]
    assert taught_by["ua"].tolist() == [
        fold["ua"] for t in one["teachers"] for fold in t["results"]["folds"]
    ]
    assert taught_by["seed"].isna().all()
    compared = pd.read_csv(out / "comparisons.csv")
    rows = [*one["comparisons"], *(c for e in one["experiments"] for c in e["comparisons"])]
    assert len(compared) == 2 * len(rows)
    for metric in ("wa", "ua"):
        part = compared[compared["metric"] == metric]
        assert part["mean"].tolist() == [row[f"{metric}_spread"]["mean"] for row in rows]
        assert part["p_holm"].tolist() == [row[f"{metric}_test"]["p_holm"] for row in rows]
        ends = [row[f"{metric}_interval"] or {"low": None} for row in rows]
        assert part["low"].astype(object).where(part["low"].notna(), None).tolist() == [
            end["low"] for end in ends
        ]
    asked = pd.read_csv(out / "experiments.csv")
    shown = [row for e in one["experiments"] for row in e["rows"]]
    assert asked["label"].tolist() == [row["label"] for row in shown]
    assert asked["ua_mean"].fillna(-1).tolist() == [
        row["results"]["ua"]["mean"] if row["results"] else -1 for row in shown
    ]
    assert asked["value"].tolist()[-3:] == [2.0, 4.0, 10.0]
    assert not [name for name in asked.columns if "published" in name]
