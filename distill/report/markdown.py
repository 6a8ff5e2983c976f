"""The report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from distill.report import published, sections, wording
from distill.report.data import Report, Student, Study, Teacher
from distill.report.sections import Section
from distill.report.wording import NONE, percent, plus_minus, published_pair
from featstore.core.schema import printable

Figures = Mapping[str, str]
"""What a figure shows -> its file, relative to the Markdown."""


def render(report: Report, figures: Sequence[Figures]) -> str:
    """The whole page.

    Args:
        report: what to say.
        figures: for each study, its figures by name: ``scores``, ``curves``, ``confusion`` (and
            ``confusion-2`` ...); a figure that is not there is not shown.
    """
    parts = [f"> **{escape(line)}**" for line in wording.first_lines(report)]
    parts.append("# EmoDistill report")
    if not report.studies:
        parts.append("No run is finished, so there is nothing to average.")
    for study, files in zip(report.studies, figures, strict=True):
        parts += _study(study, files)
    if report.left_out:
        rows = [(r.place, r.state, r.reason) for r in report.left_out]
        parts += [
            "## Runs left out of every number",
            table(("run", "state", "reason"), rows, left=3),
        ]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    r"""Text of a corpus or a user, so that Markdown shows it and nothing else.

    >>> escape("a|b <img> *c* http://d")
    'a\\|b &lt;img&gt; \\*c\\* http&#58;//d'
    """
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", text)
    return text.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table: the first ``left`` columns are set to the left, the others to the right.

    >>> print(table(("", "WA"), [("a", "75.16")]))
    |  | WA |
    | --- | ---: |
    | a | 75.16 |
    """
    align = ["---"] * left + ["---:"] * (len(header) - left)
    lines = [list(map(escape, header)), align, *(list(map(escape, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _study(study: Study, figures: Figures) -> list[str]:
    parts = [
        f"## {escape(wording.title(study))}",
        escape(wording.protocol(study)),
        escape(wording.paper_line(study)),
    ]
    if study.notes:
        parts.append("\n".join(f"- {escape(note)}" for note in study.notes))
    parts += _section(sections.scores(study))
    parts += _figure(figures, "scores", "WA and UA of each teacher and student, with every fold")
    for experiment in study.experiments:
        parts += _block(sections.experiment_sections(experiment, study))
    parts += _section(sections.intervals(study))
    parts += ["### Per fold, WA / UA", _per_fold(study)]
    parts += _teachers(study)
    parts += _comparisons(study)
    parts += _section(sections.calibration(study))
    parts += [part for section in sections.agreements(study) for part in _section(section)]
    parts += ["### Recall per class, pooled", _recall(study)]
    parts += _figure(figures, "confusion", "confusion matrices, counts and shares of each row")
    parts += [part for row in study.rows for part in _confusion(row)]
    parts += _figure(figures, "curves", "UA on the validation speaker after each epoch")
    parts += [part for section in sections.loss_terms(study) for part in _section(section)]
    parts += _differing(study)
    if not study.incomparable:
        parts += _paper()
    return [*parts, *_section(sections.folds(study)), *_section(sections.cost(study))]


def _section(section: Section, level: int = 3) -> list[str]:
    """Heading, lines, table, lines; no table where it has no row."""
    lines = [*map(escape, section.before)]
    lines += [table(section.header, section.rows, section.left)] if section.rows else []
    return [f"{'#' * level} {escape(section.title)}", *lines, *map(escape, section.after)]


def _block(parts: Sequence[Section]) -> list[str]:
    """Sections that belong to the first."""
    first, *others = parts
    return [*_section(first), *(part for other in others for part in _section(other, 4))]


def _per_fold(study: Study) -> str:
    header = ["fold", *(row.label for row in study.rows)]
    known = [{fold.fold: fold for fold in row.results.folds} for row in study.rows]
    rows = []
    for fold in range(1, study.n_folds + 1):
        cells = [found.get(fold) for found in known]
        if any(cells):
            shown = [f"{percent(c.wa)} / {percent(c.ua)}" if c else NONE for c in cells]
            rows.append([str(fold), *shown])
    return table(header, rows)


def _teachers(study: Study) -> list[str]:
    if not study.teachers:
        return []
    rows = [
        (
            wording.named(t),
            plus_minus(t.train_ua),
            plus_minus(t.validation_ua),
            plus_minus(t.results.ua),
        )
        for t in study.teachers
    ]
    header = ("UA", "training speakers", "validation speaker", "test speaker")
    return ["### Teachers on what they saw and what they did not", table(header, rows),
            escape(wording.TEACHERS_FROM)]  # fmt: skip


def _comparisons(study: Study) -> list[str]:
    """A line per student with its folds, then for each reference the tests and the verdict."""
    if not study.comparisons:
        return []
    rows = [
        (c.label, c.reference, str(len(c.folds)), plus_minus(c.wa_spread, signed=True),
         plus_minus(c.ua_spread, signed=True),
         ", ".join(f"{100 * x:+z.1f}" for x in c.ua))
        for c in study.comparisons
    ]  # fmt: skip
    header = ("student", "reference", "folds", "WA", "UA", "UA of each fold")
    parts = ["### Students compared", table(header, rows, left=2), escape(wording.COMPARED)]
    found = sections.compared(study.comparisons)
    return [*parts, *(part for section in found for part in _section(section, 4))]


def _recall(study: Study) -> str:
    rows = [
        [wording.named(row), *(percent(pooled.recall[name]) for name in study.classes)]
        for row in study.rows
        if (pooled := row.results.pooled)
    ]
    return table(["", *study.classes], rows)


def _confusion(row: Teacher | Student) -> list[str]:
    pooled = row.results.pooled
    if pooled is None:
        return []
    rows = [
        [name, *map(str, counts), percent(pooled.recall[name])]
        for name, counts in zip(pooled.classes, pooled.confusion, strict=True)
    ]
    header = ["truth \\ prediction", *pooled.classes, "recall"]
    return [f"#### Confusion of {escape(wording.named(row))}, pooled", table(header, rows)]


def _differing(study: Study) -> list[str]:
    rows = [[key, *values] for key, values in wording.differing(study.students).items()]
    if not rows:
        return []
    header = ["setting", *(student.label for student in study.students)]
    return ["### Settings that differ", table(header, rows)]


def _paper() -> list[str]:
    printed = published.load()
    one = [
        (m.method + (f" [{m.reference}]" if m.reference else ""), m.backbone, m.modality,
         *published_pair(m).split(" / "))
        for m in printed.table1
    ]  # fmt: skip
    two = [(row.printed, *published_pair(row).split(" / ")) for row in printed.table2]
    return [
        "### What the paper printed",
        table(("Table 1", "backbone", "modality", "WA", "UA"), one, left=3),
        table(("Table 2, HuBERT-base", "WA", "UA"), two),
        escape(" ".join(printed.source.note.split())),
    ]


def _figure(figures: Figures, name: str, alt: str) -> list[str]:
    pages = [file for key, file in figures.items() if key == name or key.startswith(f"{name}-")]
    return [f"![{alt}]({file})" for file in pages]
