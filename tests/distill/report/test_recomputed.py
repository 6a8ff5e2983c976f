"""Every number of ``report.json`` a second time, see :mod:`recompute`; none is left out."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from distill.report import collect, summarise, write
from distill.report.data import Record
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
    assert document["schema"] == 3
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
    rows = [row_of(group, SEEDS, common) for group in measured]
    alone = teacher("prosodic", groups["full"])["results"]
    folds = {f["fold"]: (f["wa"], f["ua"]) for f in alone["folds"]}
    by_fold = [[folds[fold][place] for fold in (1, 2)] for place in (0, 1)]
    rows += [
        unmeasured(SEEDS),
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
    rows = [row_of(groups[key], (1,), None) for key in POINTS]
    rows.append(unmeasured((1,)))
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


def row_of(group: Group, seeds: Any, common: Any) -> dict[str, Any]:
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
        "missing": lacking(scores, seeds), **blank(*spreads),
    }  # fmt: skip


def unmeasured(seeds: Any) -> dict[str, Any]:
    none = {"row": None, "results": None, "seeds": [], "n_runs": 0}
    return none | {"missing": lacking({}, seeds)} | blank(None, None)


def lacking(scores: Any, seeds: Any) -> list[dict[str, int]]:
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
    seen = {"teachers", "students", "comparisons", "agreements", "experiments", "tables"}
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


def test_every_part_has_the_keys_that_its_class_describes(root: Path) -> None:
    def parts(value: Any) -> Iterator[Record]:
        if isinstance(value, Record):
            yield value
        if isinstance(value, Mapping | list | tuple):
            for item in value.values() if isinstance(value, Mapping) else value:
                yield from parts(item)

    kinds = set()
    for part in parts(summarise(collect([root])).studies):
        described = re.findall(r"^        (\w+): ", str(type(part).__doc__), flags=re.MULTILINE)
        assert sorted(part) == sorted(described), type(part)
        kinds.add(type(part))
    assert kinds == set(Record.__subclasses__())


def rows_of(study: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A table of ``report.json``, its rows by column."""
    (table,) = [table for table in study["tables"] if table["name"] == name]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def label_of(row: Mapping[str, Any]) -> str:
    return str(row["row"]).split(",")[0]


@pytest.fixture(scope="module")
def again(study: Mapping[str, Any], groups: Mapping[str, Group]) -> dict[str, Any]:
    """Label -> what :mod:`recompute` makes of a student or teacher."""
    of = {row["label"]: student(groups[row["key"]]) for row in study["students"]}
    return of | {t["label"]: teacher(t["name"], groups["full"]) for t in study["teachers"]}


def test_tables_of_scores(study: Mapping[str, Any], again: Mapping[str, Any]) -> None:
    for row in rows_of(study, "scores"):
        own = again[row["row"]]["results"]
        pooled = own["pooled"]
        assert row["folds"] == f"{len(own['folds'])}/10"
        given = {key: row[key] for key in ("WA", "UA", "WA pooled", "UA pooled")}
        assert same(given, {"WA": own["wa"], "UA": own["ua"], "WA pooled": pooled["wa"],
                            "UA pooled": pooled["ua"]}) == 8  # fmt: skip
        assert row["seeds"] == (len(again[row["row"]]["seeds"]) if "seeds" in again[row["row"]]
                                else None)  # fmt: skip
    few = [label for label, own in again.items() if own["results"]["wa_interval"] is None]
    assert few == ["no-linguistic · tiny"]
    rows = rows_of(study, "intervals")
    assert len(rows) == len(again) - 1
    for row in rows:
        own = again[label_of(row)]["results"]
        pair = {key: row[f"{key} interval"] for key in ("WA", "UA")}
        assert same(pair, {"WA": own["wa_interval"], "UA": own["ua_interval"]}) == 10
        assert row["speakers"] == len(own["folds"])
    rows = rows_of(study, "folds")
    assert len(rows) == 2 * len(again)
    for row in rows:
        each = {f["fold"]: f[row["fold"].lower()] for f in again[row["row"]]["results"]["folds"]}
        same({n: row[str(n)] for n in FOLDS}, {n: each.get(n) for n in FOLDS})


def test_tables_of_classes(study: Mapping[str, Any], again: Mapping[str, Any]) -> None:
    classes = study["classes"]
    recall, confusion = rows_of(study, "recall"), rows_of(study, "confusion")
    assert (len(recall), len(confusion)) == (len(again), len(again) * len(classes))
    for row in recall:
        own = again[label_of(row)]["results"]["pooled"]
        same({name: row[name] for name in classes}, own["recall"])
    for row in confusion:
        own = again[label_of(row)]["results"]["pooled"]
        counts = own["confusion"][classes.index(row["truth"])]
        assert [row[name] for name in classes] == counts


def test_tables_of_calibration_and_teachers(
    study: Mapping[str, Any], again: Mapping[str, Any]
) -> None:
    roles = ["train", "validation", "test"]
    for row in rows_of(study, "calibration"):
        own = again[label_of(row)]["calibration"]
        one = own[roles.index(row["utterances of"])] if len(own) > 1 else own[0]
        names = {"n": "n", "accuracy": "accuracy", "confidence": "confidence", "ECE": "ece",
                 "NLL": "nll"}  # fmt: skip
        assert same({k: row[k] for k in names}, {k: one[v] for k, v in names.items()}) == 5
    for row in rows_of(study, "teachers"):
        own = again[label_of(row)]
        given = [row["training speakers"], row["validation speaker"], row["test speaker"]]
        assert same(given, [own["train_ua"], own["validation_ua"], own["results"]["ua"]]) == 10
    named = ("n", "same", "kappa", "both right", "first only", "second only")
    keys = ("n", "share", "kappa", "both_right", "first_right", "second_right")
    rows = rows_of(study, "agreement")  # the numbers themselves: see test_agreements
    assert [[row[k] for k in ("first", "second", *named)] for row in rows] == [
        [one[k] for k in ("first", "second", *keys)] for one in study["agreements"]
    ]


def test_tables_of_differences(study: Mapping[str, Any], groups: Mapping[str, Group]) -> None:
    keys = {row["label"]: row["key"] for row in study["students"]}
    rows = rows_of(study, "differences")
    labels = list(dict.fromkeys(row["row"] for row in rows))
    expected = comparisons(groups["full"], [groups[keys[label]] for label in labels])
    assert len(rows) == 2 * len(expected) == 10
    names = {"difference": "spread", "interval": "interval"}
    for row in rows:
        own, metric = expected[labels.index(row["row"])], row["score"].lower()
        test = own[f"{metric}_sign_flip"]
        given = [row[k] for k in ("folds", *names, "p", "p (Holm)", "significant")]
        wanted = [len(own["folds"]), *(own[f"{metric}_{v}"] for v in names.values()),
                  test["p"], test["p_holm"], test["significant"]]  # fmt: skip
        assert same(given, wanted) >= 9


def test_tables_of_training(study: Mapping[str, Any], again: Mapping[str, Any]) -> None:
    names = {"last epoch": "last", "all epochs": "mean", "gradient, last": "gradient_last",
             "gradient, all": "gradient_mean", "share, last": "share_last",
             "share, all": "share_mean"}  # fmt: skip
    rows = rows_of(study, "losses")
    for label, own in again.items():
        mine = [{k: row[k] for k in names} for row in rows if row["row"] == label]
        terms = [{k: term[v] for k, v in names.items()} for term in own.get("terms", [])]
        same(mine, terms)
    for row in rows_of(study, "cost"):
        own = again[row["row"]]
        assert (row["parameters"], row["runs"]) == (own["parameters"], len(own["runs"]))
        assert row["minutes, all runs"] == pytest.approx(own["seconds"] / 60)
        same(row["seconds a run"], own["seconds_per_run"])
    runs = rows_of(study, "runs")
    assert sum(row["kind"] == "student" for row in runs) == sum(
        len(own.get("runs", ())) for own in again.values()
    )
    for label, own in again.items():
        mine = [
            {k: row[k] for k in ("fold", "WA", "UA", "n")} for row in runs if row["row"] == label
        ]
        wanted = own.get("runs") or own["results"]["folds"]
        same(mine, [{"fold": r["fold"], "WA": r["wa"], "UA": r["ua"], "n": r["n"]} for r in wanted])


def test_tables_of_experiments(study: Mapping[str, Any]) -> None:
    """Their rows hold what :func:`test_experiments` and :func:`test_curves` have recomputed."""
    for number, experiment in enumerate(study["experiments"], start=1):
        rows = rows_of(study, f"experiment-{number}")
        assert [(row["row"], row["WA"], row["UA"]) for row in rows] == [
            (row["label"], *((r["wa"], r["ua"]) if (r := row["results"]) else (None, None)))
            for row in experiment["rows"]
        ]
        assert not [name for name in rows[0] if "paper" in name]
        for place, curve in enumerate(experiment["curves"], start=1):
            points = rows_of(study, f"experiment-{number}-curve-{place}")
            assert [point["tau"] for point in points] == [p["value"] for p in curve["points"]]
            of = {row["label"]: row["results"] for row in experiment["rows"]}
            assert [point["UA"] for point in points] == [
                of[p["label"]] and of[p["label"]]["ua"] for p in curve["points"]
            ]
    common = [row for row in study["experiments"][0]["rows"] if row["common_wa"]]
    assert [(r["row"], r["WA"], r["UA"]) for r in rows_of(study, "experiment-1-common")] == [
        (row["label"], row["common_wa"], row["common_ua"]) for row in common
    ]


def test_csv_files_hold_the_same_numbers(study: Mapping[str, Any], out: Path) -> None:
    assert {f"{table['name']}.csv" for table in study["tables"]} == {
        path.name for path in out.glob("*.csv")
    }
    for table in study["tables"]:
        with (out / f"{table['name']}.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        assert len(lines) == len(table["rows"])
        for found, row in zip(lines, table["rows"], strict=True):
            for name, value in zip(table["columns"], row, strict=True):
                held = {key: found[f"{name} {key}"] for key in ("mean", "std", "low", "high")
                        if f"{name} {key}" in found}  # fmt: skip
                wanted = {key: (value or {}).get(key) for key in held}
                if name in found:
                    held, wanted = {"": found[name]}, {"": value}
                assert held == {k: "" if v is None else str(v) for k, v in wanted.items()}
