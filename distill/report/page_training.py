"""Sections of the page about training, and where everything comes from."""

from __future__ import annotations

from collections.abc import Mapping

from distill.report import wording
from distill.report.blocks import Facts, Figure, Section, Table
from distill.report.data import Study
from distill.report.page_scores import shown
from distill.report.wording import NONE


def curves(study: Study, figures: Mapping[str, Figure]) -> Section | None:
    """Learning curves."""
    blocks = shown(figures, "curves")
    return Section("learning", "Learning curves", blocks) if blocks else None


def settings(study: Study) -> Section | None:
    """Settings that are not the same for all students."""
    rows = [[key, *values] for key, values in wording.differing(study.students).items()]
    if not rows:
        return None
    header = ["setting", *(student.label for student in study.students)]
    table = Table("Settings that are not the same for all students", header, rows)
    return Section("settings", "Settings that differ", [table])


def provenance(study: Study) -> Section:
    """Runs, stores and versions."""
    rows = [
        (s.label, f"{s.experiment}/{s.key}", s.store[:12], ", ".join(map(str, s.seeds)),
         NONE if s.parameters is None else f"{s.parameters:,}",
         NONE if s.seconds is None else f"{s.seconds / 60:.1f}")
        for s in study.students
    ]  # fmt: skip
    header = ("student", "runs", "store", "seeds", "parameters", "minutes, all runs")
    versions = [f"{name} {' and '.join(seen)}" for name, seen in study.versions.items()]
    stores = sorted({row.store for row in study.rows})
    facts = Facts([("stores", ", ".join(stores)), ("versions", ", ".join(versions) or NONE)])
    table = Table("Where each student's numbers come from", header, rows, left=4)
    return Section("provenance", "Where it comes from", [table, facts])
