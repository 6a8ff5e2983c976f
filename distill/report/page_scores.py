"""Sections of the page about test scores."""

from __future__ import annotations

from collections.abc import Mapping

from distill.report import wording
from distill.report.blocks import Block, Cell, Figure, Items, Section, Table
from distill.report.data import Student, Study
from distill.report.wording import NONE, percent, plus_minus, published_pair, with_interval

Figures = Mapping[str, Figure]
FOLDS_ABREAST = 10
MISSING = Cell(NONE, "missing")


def shown(figures: Figures, *names: str) -> list[Block]:
    """The figures of those names that there are."""
    return [figures[name] for name in names if name in figures]


def scores(study: Study, figures: Figures) -> Section:
    """Mean and pooled scores of every row."""
    header = ["", "folds", "seeds", "WA", "UA", "WA", "UA"]
    rows = []
    for row in study.rows:
        results = row.results
        pooled = results.pooled
        rows.append([
            row.label,
            wording.folds_done(len(results.folds), results.n_folds),
            str(len(row.seeds)) if isinstance(row, Student) else MISSING,
            plus_minus(results.wa),
            plus_minus(results.ua),
            with_interval(pooled.wa, results.wa_interval) if pooled else MISSING,
            with_interval(pooled.ua, results.ua_interval) if pooled else MISSING,
            *([] if study.incomparable else [published_pair(row.published)]),
        ])  # fmt: skip
    paper = [] if study.incomparable else [("paper", 1)]
    table = Table(
        "Scores on the test speakers, percent",
        header if study.incomparable else [*header, "WA / UA"],
        rows,
        spans=[("", 3), ("mean of folds", 2), ("pooled, 95 % interval", 2), *paper],
        rule=len(study.teachers),
        note=f"{wording.HOW_TO_READ} {wording.INTERVALS}",
    )
    why: dict[str, list[str]] = {}
    for row in study.rows:
        if row.results.no_interval:
            why.setdefault(row.results.no_interval, []).append(row.label)
    lacking = [f"No interval, {reason}: {', '.join(labels)}." for reason, labels in why.items()]
    lines = [Items(lacking)] if lacking else []
    return Section("scores", "Scores", [table, *lines, *shown(figures, "scores")])


def folds(study: Study) -> Section:
    """Each fold on its own, ten abreast."""
    done = sorted({fold.fold for row in study.rows for fold in row.results.folds})
    blocks = []
    for metric in ("wa", "ua"):
        for start in range(0, len(done), FOLDS_ABREAST):
            some = done[start : start + FOLDS_ABREAST]
            rows: list[list[str | Cell]] = []
            for row in study.rows:
                known = {fold.fold: fold for fold in row.results.folds}
                cells = [
                    percent(getattr(known[n], metric)) if n in known else MISSING for n in some
                ]
                rows.append([row.label, *cells])
            blocks.append(
                Table(
                    f"{metric.upper()} of each fold, percent; a fold's seeds are averaged",
                    ["fold", *map(str, some)],
                    rows,
                    rule=len(study.teachers),
                )
            )
    return Section("folds", "Each fold", blocks)


def classes(study: Study, figures: Figures) -> Section | None:
    """Recall of each class, and what is taken for what."""
    rows = [
        [wording.named(row), *(percent(pooled.recall[name]) for name in study.classes)]
        for row in study.rows
        if (pooled := row.results.pooled)
    ]
    if not rows:
        return None
    rule = sum(1 for teacher in study.teachers if teacher.results.pooled)
    table = Table(
        "Recall of each class, percent, all test utterances", ["", *study.classes], rows, rule=rule
    )
    return Section("classes", "Classes", [table, *shown(figures, "recall", "confusion")])
