"""Sections of the page that set students against each other, and experiments."""

from __future__ import annotations

import re
from collections.abc import Sequence

from distill.metrics import SignFlip
from distill.report import wording
from distill.report.blocks import Block, Cell, Finding, Items, Section, Table, Words
from distill.report.data import Study
from distill.report.experiment_data import Experiment, ExperimentRow
from distill.report.page_scores import MISSING, Figures, shown
from distill.report.panels_comparisons import ordered
from distill.report.results import Comparison
from distill.report.verdicts import missing_lines, outcome, ranges, runs_of, significance
from distill.report.wording import bracketed, p_value, plus_minus

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
    test: SignFlip = getattr(found, f"{metric}_test")
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
    if any(row.common_wa for row in experiment.rows):
        blocks.append(_common(experiment))
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
    notes = ["Mean ± sample standard deviation over folds, percent."]
    if compared:
        notes.append("Paper: as printed; difference: measured mean minus paper, points.")
    elif study.incomparable:
        notes.append(f"The paper's figures are not shown: {study.incomparable}.")
    rows: list[Row] = []
    for row in experiment.rows:
        done = runs_of(row) if row.results else Cell(outcome(row), "missing")
        pairs = [_scores(row, metric, compared) for metric in ("wa", "ua")]
        rows.append([row.label, done, *(cell for pair in pairs for cell in pair)])
    each = ["measured", "paper", "difference"]
    return Table(
        experiment.title,
        ["", "folds x seeds", *(each + each if compared else ("WA", "UA"))],
        rows,
        spans=(("", 2), ("WA", 3), ("UA", 3)) if compared else (),
        note=" ".join(notes),
    )


def _scores(row: ExperimentRow, metric: str, compared: bool) -> Row:
    measured = plus_minus(getattr(row.results, metric)) if row.results else MISSING
    if not compared:
        return [measured]
    printed = getattr(row.published, metric, None)
    difference = getattr(row, f"{metric}_difference")
    return [
        measured,
        MISSING if printed is None else f"{printed:.2f}",
        MISSING if difference is None else f"{100 * difference:+z.2f}",
    ]


def _common(experiment: Experiment) -> Table:
    """Scores over the runs that all measured rows have."""
    folds = sorted({fold for fold, _ in experiment.common})
    return Table(
        f"{experiment.title}: the {len(experiment.common)} runs (folds {ranges(folds)}) that all "
        "measured rows have; only these compare like with like",
        ("", "WA", "UA"),
        [
            [row.label, plus_minus(row.common_wa), plus_minus(row.common_ua)]
            for row in experiment.rows
            if row.common_wa
        ],
    )


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
    if not study.comparisons:
        alone = "No two students have a fold and a seed in common, so no difference is tested."
        return [Finding("Differences between students", [alone])]
    return asked or [
        Finding(f"Students against {rows[0].reference}", significance(rows))
        for rows in by_reference(study.comparisons)
    ]


def by_reference(rows: Sequence[Comparison]) -> list[list[Comparison]]:
    """Rows that share a reference together."""
    references = dict.fromkeys(row.reference for row in rows)
    return [[row for row in rows if row.reference == reference] for reference in references]
