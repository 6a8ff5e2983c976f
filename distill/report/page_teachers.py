"""Sections of the page about the teachers."""

from __future__ import annotations

from distill.report import wording
from distill.report.blocks import Section, Table
from distill.report.data import Study
from distill.report.wording import plus_minus


def quality(study: Study) -> Section | None:
    """Teachers on what they saw and what they did not."""
    if not study.teachers:
        return None
    rows = [
        (wording.named(t), plus_minus(t.train_ua), plus_minus(t.validation_ua),
         plus_minus(t.results.ua))
        for t in study.teachers
    ]  # fmt: skip
    header = ("", "training speakers", "validation speaker", "test speaker")
    table = Table("UA of each teacher, percent, by what it saw", header, rows,
                  note=wording.TEACHERS_FROM)  # fmt: skip
    return Section("teachers", "Teachers", [table])
