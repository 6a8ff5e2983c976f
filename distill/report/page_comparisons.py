"""Sections of the page that set students against each other, and experiments."""

from __future__ import annotations

import re
from collections.abc import Sequence

from distill.report import page_words as words
from distill.report.blocks import Block, Cell, Items, Section, Table, Words
from distill.report.data import Study
from distill.report.experiment_data import Experiment, ExperimentRow
from distill.report.page_scores import MISSING, Figures, shown
from distill.report.results import Comparison
from distill.report.summary import ranges
from distill.report.wording import plus_minus
from distill.statistics import SignTest

Row = list[str | Cell]


def comparisons(study: Study, figures: Figures) -> Section | None:
    """Each student minus its reference, a table for each reference."""
    references = dict.fromkeys(c.reference for c in study.comparisons)
    blocks: list[Block] = [
        difference_table(reference, [c for c in study.comparisons if c.reference == reference])
        for reference in references
    ]
    if not blocks:
        return None
    return Section("comparisons", "Students compared", [*blocks, *shown(figures, "differences")])


def difference_table(reference: str, rows: Sequence[Comparison]) -> Table:
    """Differences with their intervals and tests."""
    metrics = ("difference", "95 % interval", "p", "Holm", "significant")
    return Table(
        f"Differences from {reference}, percentage points",
        ("", "folds", *metrics, *metrics),
        [
            [c.label, str(len(c.folds)), *_tested(c, "wa"), *_tested(c, "ua")]
            for c in rows
        ],
        spans=(("", 2), ("WA", 5), ("UA", 5)),
        note=words.TESTED,
    )  # fmt: skip


def _tested(found: Comparison, metric: str) -> Row:
    test: SignTest = getattr(found, f"{metric}_test")
    return [
        Cell(
            plus_minus(getattr(found, f"{metric}_spread"), signed=True),
            "strong" if test.significant else "",
        ),
        words.interval(getattr(found, f"{metric}_interval"), signed=True),
        words.p_value(test.p),
        words.p_value(test.p_holm),
        Cell(words.verdict(test), "strong" if test.significant else "quiet"),
    ]


def experiments(study: Study, figures: Figures) -> list[Section]:
    """A section for each experiment that was asked for."""
    out = []
    for number, experiment in enumerate(study.experiments, start=1):
        plain = re.sub(r"[^A-Za-z0-9]+", "-", experiment.stem).strip("-")
        title = f"{experiment.title} ({experiment.student})"
        blocks = _blocks(experiment, study, shown(figures, f"sweep-{number}"))
        out.append(Section(f"experiment-{number}-{plain}"[:60], title, blocks))
    return out


def _blocks(experiment: Experiment, study: Study, sweeps: Sequence[Block]) -> list[Block]:
    blocks: list[Block] = [Words(f"Note: {text}.", "warning") for text in experiment.warnings]
    blocks.append(_table(experiment, study))
    lacking = [
        f"{row.label}: {words.absent(row.missing)}" for row in experiment.rows if row.missing
    ]
    if lacking:
        blocks += [Words("Missing, and why:"), Items(lacking)]
    blocks += sweeps
    blocks += [Words(text) for text in _best(experiment)]
    if experiment.comparisons and experiment.reference is not None:
        blocks.append(difference_table(experiment.reference, experiment.comparisons))
    return blocks


def _table(experiment: Experiment, study: Study) -> Table:
    """Measured scores, the paper's beside them where they may be compared, and the difference."""
    compared = any(row.published for row in experiment.rows)
    common = any(row.common_wa for row in experiment.rows)
    each = [
        "measured",
        *(["paper", "difference"] if compared else []),
        *(["common"] if common else []),
    ]
    rows: list[Row] = []
    for row in experiment.rows:
        cells: Row = [row.label, _folds(row)]
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
        ["", "folds", *each, *each],
        rows,
        spans=(("", 2), ("WA", len(each)), ("UA", len(each))),
        note=" ".join(notes),
    )


def _folds(row: ExperimentRow) -> str | Cell:
    if row.results is None:
        return Cell("not measured", "missing")
    done = str(len(row.results.folds))
    done = f"{done} of {row.results.n_folds}" if row.results.missing else done
    return f"{done}, {len(row.seeds)} seeds each" if len(row.seeds) > 1 else done


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
        paper = (
            "" if curve.best_published is None else f"; the paper's best: {curve.best_published:g}"
        )
        out.append(f"{curve.axis} ({curve.name}): {said}{paper}.")
    return out


def conclusions(study: Study) -> list[str]:
    """Which differences are significant and which are not: by experiment, else over all."""
    out: list[str] = []
    for experiment in study.experiments:
        if experiment.comparisons:
            title = f"{experiment.title} ({experiment.student}), against {experiment.reference}"
            out += words.findings(title, experiment.comparisons)
    if not out:
        for reference in dict.fromkeys(c.reference for c in study.comparisons):
            rows = [c for c in study.comparisons if c.reference == reference]
            out += words.findings(f"Against {reference}", rows)
    return out
