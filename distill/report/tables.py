"""The report for a terminal: rich tables of at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from distill.report import sections, wording
from distill.report.data import Experiment, Report, Student, Study, Teacher
from distill.report.sections import Section
from distill.report.wording import NONE, percent, plus_minus, published_pair
from featstore.core.schema import printable

WIDTH = 100
LABEL_WIDTH = 30
FOLDS_ABREAST = 10
MANY = 8
"""Rows beyond which folds and confusions are left to the files that ``--out`` writes."""


def to_tables(report: Report) -> list[RenderableType]:
    """What to print one after another; no line is longer than 100 columns."""
    out: list[RenderableType] = [
        _line(line, "bold reverse") for line in wording.first_lines(report)
    ]
    if not report.studies:
        out.append(_line("No run is finished, so there is nothing to average."))
    for study in report.studies:
        out += _study(study)
    if report.left_out:
        rows = [(item.place, item.state, item.reason) for item in report.left_out]
        header = ("run", "state", "reason")
        title = "Runs left out of every number"
        out.append(_table(title, header, rows, left=3, label_width=46))
    return [Padding(Constrain(item, WIDTH), (0, 0, 1, 0), expand=False) for item in out]


def _study(study: Study) -> list[RenderableType]:
    lines = [
        _line(wording.title(study), "bold"),
        _line(wording.protocol(study)),
        _line(wording.paper_line(study)),
        *(_line(f"note: {note}") for note in study.notes),
    ]
    out: list[RenderableType] = [Group(*lines), _scores(study)]
    for experiment in study.experiments:
        out += _experiment(experiment, study)
    few = len(study.rows) <= MANY
    out += [*(_per_fold(study) if few else []), _section(sections.intervals(study))]
    if study.teachers:
        out.append(_teachers(study.teachers))
    if few or not study.experiments:
        out += map(_section, sections.compared(study.comparisons))
    if few:
        out += [_section(sections.calibration(study, ("test",))), _recall(study)]
        out.append(_confusions(study.rows))
    return [*out, _line("More of all this, and how to read it: --out FOLDER")]


def _section(section: Section) -> Group:
    """A section's table between its lines; how it is to be read is for the files to say."""
    before = [_line(line) for line in section.before]
    head = [_line(section.title, "bold"), *before] if before or not section.rows else []
    table: list[RenderableType] = []
    if section.rows:
        title = "" if head else section.title
        caption = section.caption or None
        table = [_table(title, section.header, section.rows, section.left, caption=caption)]
    after = [_line(line) for line in section.after if line not in wording.EXPLANATIONS]
    return Group(*head, *table, *after)


def _experiment(experiment: Experiment, study: Study) -> list[RenderableType]:
    """Its rows in as many columns as fit, unless curves show them; comparisons and curves."""
    rows, *others = sections.experiment_sections(experiment, study)
    kept = [] if all(row.point for row in experiment.rows) else _kept(rows.header)
    narrow = replace(
        rows,
        header=tuple(rows.header[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in rows.rows if kept),
    )
    return [_section(narrow), *map(_section, others)]


def _kept(header: Sequence[str]) -> list[int]:
    """The columns of an experiment's table that a terminal shows.

    >>> _kept(["", "folds x seeds", "WA", "UA", "WA pooled", "UA pooled", "paper WA / UA"])
    [0, 1, 2, 3, 6]
    """
    paper = any(name.startswith("paper") for name in header)
    dropped = {"WA pooled", "UA pooled"} if paper or "UA, common runs" in header else {"WA pooled"}
    if paper and "UA, common runs" in header:
        dropped |= {"paper WA / UA", "minus paper, WA / UA"}
    return [place for place, name in enumerate(header) if name not in dropped]


def _scores(study: Study) -> Table:
    header = ["", "folds", "seeds", "WA", "UA", "pooled WA / UA"]
    rows = []
    for row in study.rows:
        results = row.results
        pooled = results.pooled
        rows.append([
            row.label,
            f"{len(results.folds)}/{results.n_folds}",
            str(len(row.seeds)) if isinstance(row, Student) else NONE,
            plus_minus(results.wa),
            plus_minus(results.ua),
            f"{percent(pooled.wa)} / {percent(pooled.ua)}" if pooled else NONE,
            *([] if study.incomparable else [published_pair(row.published)]),
        ])  # fmt: skip
    header = header if study.incomparable else [*header, "paper WA / UA"]
    caption = "percent; mean ± sample std over folds; pooled over all test utterances"
    section = len(study.teachers)
    return _table("Scores on the test speakers", header, rows, caption=caption, section=section)


def _per_fold(study: Study) -> list[RenderableType]:
    done = sorted({fold.fold for row in study.rows for fold in row.results.folds})
    out: list[RenderableType] = []
    for start in range(0, len(done), FOLDS_ABREAST):
        folds = done[start : start + FOLDS_ABREAST]
        rows = []
        for row in study.rows:
            known = {fold.fold: fold for fold in row.results.folds}
            for metric in ("wa", "ua"):
                cells = [percent(getattr(known.get(fold), metric, None), 1) for fold in folds]
                label = row.label if metric == "wa" else ""
                rows.append([label, metric.upper(), *cells])
        section = 2 * len(study.teachers)
        header = ["fold", "", *map(str, folds)]
        out.append(_table("Each fold", header, rows, left=2, section=section))
    return out


def _teachers(teachers: Iterable[Teacher]) -> Table:
    header = ("UA", "training speakers", "validation speaker", "test speaker")
    rows = [
        (
            wording.named(t),
            plus_minus(t.train_ua),
            plus_minus(t.validation_ua),
            plus_minus(t.results.ua),
        )
        for t in teachers
    ]
    return _table("Teachers on what they saw and what they did not", header, rows)


def _recall(study: Study) -> Table:
    rows = [
        [wording.named(row), *(percent(pooled.recall[name], 1) for name in study.classes)]
        for row in study.rows
        if (pooled := row.results.pooled)
    ]
    section = sum(1 for teacher in study.teachers if teacher.results.pooled)
    return _table("Recall per class, pooled", ["", *study.classes], rows, section=section)


def _confusions(rows: Iterable[Teacher | Student]) -> Group:
    """One small table for each row that can be pooled, as many abreast as fit."""
    tables = []
    for row in rows:
        pooled = row.results.pooled
        if pooled:
            cells = [
                [name, *map(str, counts)]
                for name, counts in zip(pooled.classes, pooled.confusion, strict=True)
            ]
            small = _table(wording.named(row), ["truth \\ predicted", *pooled.classes], cells)
            tables.append(Padding(small, (0, 0, 1, 0), expand=False))
    return Group(_line("Confusion, pooled", "bold"), Columns(tables, padding=(0, 4)))


def _table(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: int = 1,
    *,
    caption: str | None = None,
    label_width: int = LABEL_WIDTH,
    section: int = 0,
) -> Table:
    """The first ``left`` columns to the left, numbers to the right, a rule after ``section`` rows.

    Nothing in it is read as markup.
    """
    table = Table(
        title=_line(title, "bold") if title else None,
        caption=_line(caption, "dim") if caption else None,
        box=box.SIMPLE,
        show_edge=False,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    for place, name in enumerate(header):
        table.add_column(
            _line(name),
            justify="left" if place < left else "right",
            no_wrap=place >= left,
            overflow="fold",
            max_width=label_width if place < left else None,
        )
    for number, cells in enumerate(rows, start=1):
        table.add_row(*map(_line, cells), end_section=number == section)
    return table


def _line(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style)
