"""A whole report as a page, as Markdown and for a terminal: the same sections in each.

The page opens from disk, asks no network for anything and runs no script; the policy in its head
forbids both. All text is escaped by the template, and shown through
:func:`featstore.core.schema.printable`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding

from distill.report import sections as parts
from distill.report import words
from distill.report.data import Report
from distill.report.figures import Drawing
from distill.report.tables import escape, line, to_markdown, to_terminal
from featstore.core.schema import printable

WIDTH = 100
NOTHING = "No run is finished, so there is nothing to average."
Drawings = Mapping[str, Drawing]
"""The figures of a study by name."""


def html(report: Report, drawings: Sequence[Drawings]) -> str:
    """The whole page; the same report and figures give the same text."""

    def inline(drawing: Drawing) -> str:
        return f"data:image/svg+xml;base64,{base64.b64encode(drawing.svg).decode()}"

    style = _resource("page.css")
    more = {"inline": inline, "style": Markup(style), "style_hash": style_hash(style)}
    stems = [""] * len(report.studies)
    return _rendered("page.html.jinja", printable, report, drawings, stems, **more)


def markdown(report: Report, drawings: Sequence[Drawings], stems: Sequence[str]) -> str:
    """The whole report.

    Args:
        report: what to say.
        drawings: the figures of each study.
        stems: what the names of each study's files begin with.
    """

    def shown(text: str) -> Markup:
        return Markup(escape(text))

    text = _rendered("report.md.jinja", shown, report, drawings, stems, table=to_markdown)
    return f"{text.strip()}\n"


def _rendered(
    template: str,
    shown: Callable[[str], str],
    report: Report,
    drawings: Sequence[Drawings],
    stems: Sequence[str],
    **more: object,
) -> str:
    """A template filled in; all text of ours and of others passes through ``shown``."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda x: shown(x) if isinstance(x, str) and not isinstance(x, Markup) else x,
        trim_blocks=True,
    )
    one = len(report.studies) == 1
    studies = zip(report.studies, drawings, stems, strict=True)
    return environment.from_string(_resource(template)).render(
        title=f"EmoDistill on {words.title(report.studies[0])}" if one else "EmoDistill report",
        nothing=NOTHING,
        first_lines=words.first_lines(report),
        chapters=[
            {
                "prefix": "" if one else f"s{number}-",
                "stem": stem,
                "title": words.title(study),
                "lead": words.lead(study),
                "findings": words.findings(study),
                "notes": (*study.notes, words.paper_line(study)),
                "sections": parts.sections(study),
                "drawings": drawn,
            }
            for number, (study, drawn, stem) in enumerate(studies, start=1)
        ],
        left_out=[parts.left_out(report)] if report.left_out else [],
        **more,
    )


def style_hash(style: str) -> str:
    """What a content security policy calls a style sheet.

    >>> style_hash("p{}")
    'sha256-gG2yISYereRMiG2lMXrbiUgi0Ubw9p7QCeWcroOvy9Y='
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}"


def _resource(name: str) -> str:
    return resources.files("distill.report").joinpath(name).read_text(encoding="utf-8")


def terminal(report: Report) -> list[RenderableType]:
    """What to print one after another; no line is longer than 100 columns."""
    out: list[RenderableType] = [line(text, "bold reverse") for text in words.first_lines(report)]
    out += [] if report.studies else [line(NOTHING)]
    for study in report.studies:
        notes = [f"note: {text}" for text in (*study.notes, words.paper_line(study))]
        texts = [words.lead(study), *words.findings(study), *notes]
        out.append(Group(line(words.title(study), "bold"), *map(line, texts)))
        out += [_shown(section) for section in parts.sections(study) if section.terminal]
        out.append(line("More of all this, and how to read it: --out FOLDER"))
    out += [_shown(parts.left_out(report))] if report.left_out else []
    return [Padding(Constrain(item, WIDTH), (0, 0, 1, 0), expand=False) for item in out]


def _shown(section: parts.Section) -> Group:
    tables = [
        Padding(to_terminal(table, section.title), (0, 0, 1, 0), expand=False)
        for table in section.tables
        if table.rows
    ]
    return Group(line(section.title, "bold"), *map(line, section.lines), *tables)
