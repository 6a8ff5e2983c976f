"""Sections of the page that set students against each other, and experiments."""

from __future__ import annotations

import re
from collections.abc import Sequence

from distill.report import wording
from distill.report.blocks import Block, Cell, Finding, Items, Section, Table, Words
from distill.report.data import Study
from distill.report.experiment_data import Experiment, ExperimentRow
from distill.report.page_scores import MISSING, Figures, shown
from distill.report.panels_comparisons import ordered
from distill.report.results import Comparison
from distill.report.verdicts import missing_lines, outcome, ranges, runs_of, significance
from distill.report.wording import bracketed, p_value, plus_minus
from distill.statistics import SignTest

Row = list[str | Cell]


def comparisons(study: Study, figures: Figures) -> Section | None:
    """Each student minus its reference, a table for each reference."""
    blocks = [
        block for rows in by_reference(study.comparisons) for block in difference_tables(rows)
    ]
    if not blocks:
        return None
    return Section("comparisons", "Students compared", [*blocks, *shown(figures, "differences")])


def difference_tables(rows: Sequence[Comparison]) -> list[Block]:
    """Differences of rows that share a reference, with intervals and tests; UA, then WA."""
    header = ("", "folds", "mean ± std", "95 % interval", "p", "p (Holm)", "significant")
    return [
        Table(
            f"{metric.upper()}: difference from {rows[0].reference}, percentage points",
            header,
            [[c.label, str(len(c.folds)), *_tested(c, metric)] for c in rows],
            note=wording.COMPARED if metric == "wa" else "",
        )
        for metric in ("ua", "wa")
    ]


def _tested(found: Comparison, metric: str) -> Row:
    test: SignTest = getattr(found, f"{metric}_test")
    said = {True: "yes", False: "no", None: "not tested"}[test.significant]
    mean = plus_minus(getattr(found, f"{metric}_spread"), signed=True)
    return [
        Cell(mean, "strong") if test.significant else mean,
        bracketed(getattr(found, f"{metric}_interval"), signed=True),
        p_value(test.p),
        p_value(test.p_holm),
        Cell(said, "strong" if test.significant else "quiet"),
    ]


def experiments(study: Study, figures: Figures) -> list[Section]:
    """A section for each experiment that was asked for."""
    out = []
    for number, experiment in enumerate(ordered(study), start=1):
        plain = re.sub(r"[^A-Za-z0-9]+", "-", experiment.stem).strip("-")
        title = f"{experiment.title} ({experiment.student})"
        blocks = _blocks(experiment, study, shown(figures, f"sweep-{number}"))
        out.append(Section(f"experiment-{number}-{plain}"[:60], title, blocks))
    return out


def _blocks(experiment: Experiment, study: Study, sweeps: Sequence[Block]) -> list[Block]:
    blocks: list[Block] = [Words(f"Note: {text}.", "warning") for text in experiment.warnings]
    blocks.append(_table(experiment, study))
    lacking = missing_lines(experiment)
    if lacking:
        blocks += [Words("Missing, and why:"), Items(lacking)]
    blocks += sweeps
    blocks += [Words(text) for text in _best(experiment)]
    if experiment.comparisons:
        blocks += difference_tables(experiment.comparisons)
    return blocks


def _table(experiment: Experiment, study: Study) -> Table:
    """Measured scores, the paper's beside them where they may be compared, and the difference."""
    compared = any(row.published for row in experiment.rows)
    common = any(row.common_wa for row in experiment.rows)
    each = ["measured"] + ["paper", "difference"] * compared + ["common"] * common
    rows: list[Row] = []
    for row in experiment.rows:
        cells: Row = [row.label, runs_of(row) if row.results else Cell(outcome(row), "missing")]
        for metric in ("wa", "ua"):
            cells += _scores(row, metric, compared, common)
        rows.append(cells)
    notes = ["Mean ± sample standard deviation over folds, percent."]
    if compared:
        notes.append("Paper: as printed; difference: measured mean minus paper, points.")
    elif study.incomparable:
        notes.append(f"The paper's figures are not shown: {study.incomparable}.")
    if common:
        folds = sorted({fold for fold, _ in experiment.common})
        notes.append(
            f"Common: over the {len(experiment.common)} runs (folds {ranges(folds)}) that all "
            "measured rows have; only these columns compare like with like."
        )
    return Table(
        experiment.title,
        ["", "folds x seeds", *(each + each if len(each) > 1 else ("WA", "UA"))],
        rows,
        spans=(("", 2), ("WA", len(each)), ("UA", len(each))) if len(each) > 1 else (),
        note=" ".join(notes),
    )


def _scores(row: ExperimentRow, metric: str, compared: bool, common: bool) -> Row:
    printed = getattr(row.published, metric, None)
    difference = getattr(row, f"{metric}_difference")
    cells: Row = [plus_minus(getattr(row.results, metric)) if row.results else MISSING]
    if compared:
        cells.append(f"{printed:.2f}" if printed is not None else MISSING)
        cells.append(f"{100 * difference:+.2f}" if difference is not None else MISSING)
    if common:
        spread = getattr(row, f"common_{metric}")
        cells.append(plus_minus(spread) if spread else MISSING)
    return cells


def _best(experiment: Experiment) -> list[str]:
    """The best point of each curve, and the paper's."""
    out = []
    for curve in experiment.curves:
        measured = [
            f"{metric.upper()} {value:g}"
            for metric, value in (("ua", curve.best_ua), ("wa", curve.best_wa))
            if value is not None
        ]
        said = (
            f"highest mean at {', '.join(measured)}"
            if measured
            else "no best value is named, since its points differ in folds or seeds or are too few"
        )
        if curve.best_published is not None:
            said += f"; the paper's best: {curve.best_published:g}"
        out.append(f"{curve.axis} ({curve.name}): {said}.")
    return out


def conclusions(study: Study) -> list[Finding]:
    """Which differences are significant and which are not: by experiment, else over all."""
    asked = [
        Finding(
            f"{experiment.title} ({experiment.student}), against {experiment.reference}",
            significance(experiment.comparisons),
        )
        for experiment in ordered(study)
        if experiment.comparisons
    ]
    return asked or [
        Finding(f"Students against {rows[0].reference}", significance(rows))
        for rows in by_reference(study.comparisons)
    ]


def by_reference(rows: Sequence[Comparison]) -> list[list[Comparison]]:
    """Rows that share a reference together."""
    references = dict.fromkeys(row.reference for row in rows)
    return [[row for row in rows if row.reference == reference] for reference in references]
