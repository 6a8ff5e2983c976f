"""The report for a terminal: rich tables of at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from distill.report import wording
from distill.report.data import Report, Student, Study, Teacher
from distill.report.wording import NONE, percent, plus_minus, published_pair
from featstore.schema import printable

WIDTH = 100
LABEL_WIDTH = 30
FOLDS_ABREAST = 10


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
    out += _per_fold(study)
    if study.teachers:
        out.append(_teachers(study.teachers))
    out += _comparisons(study)
    out += [_recall(study), _confusions(study.rows)]
    return out


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


def _comparisons(study: Study) -> list[RenderableType]:
    """A table for each student that others are set against."""
    out: list[RenderableType] = []
    for reference in dict.fromkeys(c.reference for c in study.comparisons):
        rows = [
            (
                c.label,
                str(len(c.folds)),
                plus_minus(c.wa_spread, signed=True),
                plus_minus(c.ua_spread, signed=True),
            )
            for c in study.comparisons
            if c.reference == reference
        ]
        caption = "percentage points on common folds and seeds; significance is not tested here"
        header = ("", "folds", "WA", "UA")
        out.append(_table(f"Difference from {reference}", header, rows, caption=caption))
    return out


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
        title=_line(title, "bold"),
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
