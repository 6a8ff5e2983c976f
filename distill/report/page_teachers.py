"""Sections of the page about the teachers, and about how sure everyone is."""

from __future__ import annotations

from distill.report import sections, wording
from distill.report.blocks import Block, Section, Table
from distill.report.data import Study
from distill.report.page_scores import MISSING, Figures, shown
from distill.report.wording import NONE, plus_minus


def teachers(study: Study) -> Section | None:
    """Teachers on what they saw and what they did not, and how far they agree."""
    if not study.teachers:
        return None
    rows = [
        (wording.named(t), plus_minus(t.train_ua), plus_minus(t.validation_ua),
         plus_minus(t.results.ua))
        for t in study.teachers
    ]  # fmt: skip
    header = ("", "training speakers", "validation speaker", "test speaker")
    blocks: list[Block] = [
        Table("UA of each teacher, percent, by what it saw", header, rows,
              note=wording.TEACHERS_FROM)
    ]  # fmt: skip
    for section in sections.agreements(study):
        blocks.append(as_table(section, ", percent; kappa as it is"))
    return Section("teachers", "Teachers", blocks)


def calibration(study: Study, figures: Figures) -> Section | None:
    """Whether stated confidence is borne out."""
    found = sections.calibration(study)
    if not found.rows:
        return None
    return Section(
        "calibration",
        "Calibration",
        [as_table(found, ", percent; NLL in nats"), *shown(figures, "reliability")],
    )


def as_table(section: sections.Section, units: str) -> Table:
    """A table that Markdown and terminal show, too."""
    return Table(
        f"{section.title}{units}",
        section.header,
        [[MISSING if cell == NONE else cell for cell in row] for row in section.rows],
        left=section.left,
        note=" ".join((*section.before, *section.after)),
    )
