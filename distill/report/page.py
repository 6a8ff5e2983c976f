"""The report as one page that needs nothing else: HTML with its style sheet and figures in it.

It opens from disk, asks no network for anything and runs no script; the policy in its head forbids
both. All text is escaped by the template, and shown through
:func:`featstore.core.schema.printable`.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from distill.report import (
    page_comparisons,
    page_protocol,
    page_scores,
    page_teachers,
    page_training,
    wording,
)
from distill.report import page_words as words
from distill.report.blocks import Chapter, Figure, Section, Size, Table
from distill.report.data import Report, Study
from distill.report.figures import alone
from distill.report.panels import Plot
from featstore.core.schema import printable


def render(report: Report, plots: Sequence[Sequence[Plot]]) -> str:
    """The whole page; the same report gives the same text.

    Args:
        report: what to say.
        plots: the figures of each study.
    """
    from jinja2 import Environment, StrictUndefined

    style = _resource("page.css")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True
    )
    one = len(report.studies) == 1
    chapters = [
        chapter(study, drawn, "" if one else f"s{number}-")
        for number, (study, drawn) in enumerate(zip(report.studies, plots, strict=True), start=1)
    ]
    return environment.from_string(_resource("page.html.jinja")).render(
        title=_title(report),
        first_lines=wording.first_lines(report),
        chapters=chapters,
        appendix=_appendix(report),
        style=_markup(style),
        style_hash=style_hash(style),
    )


def _title(report: Report) -> str:
    """What the page is called: one study by its corpus, several or none by what it is."""
    if len(report.studies) != 1:
        return "EmoDistill report"
    (study,) = report.studies
    kind = "the synthetic corpus" if study.dataset == "synthetic" else study.dataset
    return f"EmoDistill on {wording.title(dataclasses.replace(study, dataset=kind))}"


def style_hash(style: str) -> str:
    """What a content security policy calls a style sheet.

    >>> style_hash("p{}")
    'sha256-gG2yISYereRMiG2lMXrbiUgi0Ubw9p7QCeWcroOvy9Y='
    """
    digest = hashlib.sha256(style.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def chapter(study: Study, plots: Sequence[Plot], prefix: str) -> Chapter:
    """All that the page says about a study.

    Args:
        study: its numbers.
        plots: its figures.
        prefix: before its ids, unique on the page.
    """
    figures = {plot.name: _figure(plot, f"{prefix}{plot.name}-") for plot in plots}
    sections = [
        *page_comparisons.experiments(study, figures),
        page_scores.scores(study, figures),
        page_scores.folds(study),
        page_comparisons.comparisons(study, figures),
        page_scores.classes(study, figures),
        page_teachers.calibration(study, figures),
        page_teachers.teachers(study),
        page_training.curves(study, figures),
        page_training.losses(study, figures),
        page_training.cost(study),
        page_training.settings(study),
        page_protocol.protocol(study),
        page_protocol.paper(study),
    ]
    return Chapter(
        anchor=f"{prefix}study",
        title=wording.title(study),
        lead=words.lead(study),
        findings=page_comparisons.conclusions(study),
        notes=study.notes,
        sections=[
            Section(f"{prefix}{s.anchor}", s.title, s.blocks) for s in sections if s is not None
        ],
    )


def _appendix(report: Report) -> list[Section]:
    if not report.left_out:
        return []
    rows = [(item.place, item.state, item.reason) for item in report.left_out]
    table = Table("No number above is taken from these", ("run", "state", "reason"), rows, left=3)
    return [Section("left-out", "Runs left out", (table,))]


def _figure(plot: Plot, prefix: str) -> Figure:
    width = plot.alone or plot.width
    size: Size = "large" if width > 5 else "medium" if width > 3 else "small"
    return Figure(plot.title, plot.key, [_markup(svg) for svg in alone(plot, prefix)], size)


def _markup(text: str) -> str:
    """Text of our own making, or escaped already, that the template shall not escape."""
    from markupsafe import Markup

    return Markup(text)


def _shown(value: Any) -> Any:
    from markupsafe import Markup

    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _resource(name: str) -> str:
    return resources.files("distill.report").joinpath(name).read_text(encoding="utf-8")
