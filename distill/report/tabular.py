"""The report as CSV: scores of each run, comparisons, rows of experiments.

Scores are fractions with all their digits, an unknown value is an empty cell; what the paper
printed is percent. A cell of text never begins as a spreadsheet's formula does.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from distill.metrics import Interval, Spread
from distill.report.data import Report, Student, Study
from distill.report.experiment_data import Experiment, ExperimentRow
from distill.report.results import Comparison
from distill.report.verdicts import missing_of
from featstore.core.schema import printable

Row = dict[str, Any]


def files(report: Report) -> dict[str, bytes]:
    """Name -> content, each with a header; one that would have no row is left out."""
    found = {
        "scores.csv": _scores(report),
        "comparisons.csv": _comparisons(report),
        "experiments.csv": _experiments(report),
    }
    tables = {name: list(rows) for name, rows in found.items()}
    return {name: _csv(rows) for name, rows in tables.items() if rows}


def _csv(rows: list[Row]) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    target = io.StringIO()
    writer = csv.DictWriter(target, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return target.getvalue().encode()


def _cell(value: object) -> object:
    """Numbers as they are, text that neither a terminal nor a spreadsheet obeys.

    >>> _cell("=1+1"), _cell(-0.5), _cell(None), _cell(True)
    ("'=1+1", -0.5, '', 'true')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _of(study: Study, number: int) -> Row:
    return {"study": number, "corpus": study.dataset}


def _studies(report: Report) -> Iterator[tuple[Study, Row]]:
    for number, study in enumerate(report.studies, start=1):
        yield study, _of(study, number)


def _scores(report: Report) -> Iterator[Row]:
    """A line per run of a student and per fold of a teacher."""
    for study, head in _studies(report):
        for row in study.rows:
            if isinstance(row, Student):
                what = {"row": row.label, "kind": "student", "variant": row.variant,
                        "experiment": row.experiment, "key": row.key}  # fmt: skip
                cells: list[tuple[object, ...]] = [
                    (run.fold, run.seed, run.wa, run.ua, run.n, run.seconds) for run in row.runs
                ]
            else:
                what = {"row": row.label, "kind": "teacher", "variant": "", "experiment": "",
                        "key": ""}  # fmt: skip
                folds = row.results.folds
                cells = [(fold.fold, None, fold.wa, fold.ua, fold.n, None) for fold in folds]
            names = ("fold", "seed", "wa", "ua", "n", "seconds")
            for values in cells:
                yield head | what | dict(zip(names, values, strict=True))


def _comparisons(report: Report) -> Iterator[Row]:
    """A line per comparison and metric, of the study and of each experiment."""
    for study, head in _studies(report):
        tables = [("", study.comparisons), *((e.stem, e.comparisons) for e in study.experiments)]
        for experiment, rows in tables:
            for row in rows:
                for metric in ("wa", "ua"):
                    yield head | {"experiment": experiment} | _compared(row, metric)


def _compared(row: Comparison, metric: str) -> Row:
    test = getattr(row, f"{metric}_test")
    return {
        "row": row.label,
        "reference": row.reference,
        "metric": metric,
        "folds": len(row.folds),
        "pairs": row.n_pairs,
        **_spread("", getattr(row, f"{metric}_spread")),
        **_interval("", getattr(row, f"{metric}_interval")),
        "p": test.p,
        "p_smallest": test.smallest_p,
        "exact": test.exact,
        "p_holm": test.p_holm,
        "family": test.family,
        "significant": test.significant,
    }


def _experiments(report: Report) -> Iterator[Row]:
    """A line per row of an experiment; the paper's columns where any study has them."""
    for study, head in _studies(report):
        for experiment in study.experiments:
            for place, row in enumerate(experiment.rows, start=1):
                yield head | _asked(experiment, place, row) | _measured(row, study)


def _asked(experiment: Experiment, place: int, row: ExperimentRow) -> Row:
    point = row.point
    return {
        "experiment": experiment.stem,
        "place": place,
        "label": row.label,
        "row": row.row,
        "kind": "teacher" if row.teacher else "student",
        "axis": point.axis if point else None,
        "curve": point.curve if point else None,
        "value": point.value if point else None,
    }


def _measured(row: ExperimentRow, study: Study) -> Row:
    results = row.results
    out: Row = {
        "folds": len(results.folds) if results else 0,
        "seeds": len(row.seeds),
        "runs": row.n_runs,
        "missing": "; ".join(missing_of(row.missing)),
    }
    for metric in ("wa", "ua"):
        pooled = results.pooled if results else None
        out |= _spread(f"{metric}_", getattr(results, metric, None))
        out[f"{metric}_pooled"] = getattr(pooled, metric, None)
        out |= _interval(f"{metric}_", getattr(results, f"{metric}_interval", None))
        out |= _spread(f"{metric}_common_", getattr(row, f"common_{metric}"))
        if not study.incomparable:
            out[f"{metric}_published"] = getattr(row.published, metric, None)
            out[f"{metric}_minus_published"] = getattr(row, f"{metric}_difference")
    return out


def _spread(prefix: str, spread: Spread | None) -> Row:
    values: Mapping[str, float | None] = {
        "mean": spread.mean if spread else None,
        "std": spread.std if spread else None,
    }
    return _prefixed(prefix, values.items())


def _interval(prefix: str, interval: Interval | None) -> Row:
    values: Mapping[str, float | None] = {
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
    }
    return _prefixed(prefix, values.items())


def _prefixed(prefix: str, values: Iterable[tuple[str, object]]) -> Row:
    return {f"{prefix}{name}": value for name, value in values}
