"""``distill report RUNS``: what was measured, from the runs' predictions alone.

:func:`collect` reads the runs, :func:`summarise` computes, :func:`write` and :func:`to_tables`
show.
"""

from __future__ import annotations

import json
from pathlib import Path

from distill.report import figures, markdown, page, tabular
from distill.report.data import Report, Study
from distill.report.panels import Plot
from distill.report.runs import collect
from distill.report.summary import summarise
from distill.report.tables import to_tables
from featstore.files import write_file
from featstore.schema import UserError

__all__ = ["Report", "collect", "summarise", "to_tables", "write"]


def write(report: Report, out: Path) -> list[Path]:
    """Write ``report.html``, ``.md`` and ``.json``, CSVs, and the figures as PNG and SVG.

    An older report is replaced. The page holds its figures; the files are for the Markdown and for
    papers. Those of a single study are ``scores``, ``confusion``, ``curves`` and so on; those of
    several bear the study's corpus and number as well.

    Returns:
        The files written, the page first.

    Raises:
        UserError: where ``out`` is no folder or cannot be written to.
    """
    names: list[dict[str, str]] = []
    plots: list[list[Plot]] = []
    contents: dict[str, bytes] = {}
    for number, study in enumerate(report.studies, start=1):
        stem = _stem(study, number) if len(report.studies) > 1 else ""
        plots.append(figures.plots(study))
        drawn = figures.draw(study, plots[-1])
        names.append({key: f"{stem}{key}.png" for key in drawn})
        for key, files in drawn.items():
            contents |= {f"{stem}{key}.{suffix}": content for suffix, content in files.items()}
    document = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    contents |= tabular.files(report)
    contents["report.json"] = f"{document}\n".encode()
    # last, so that a reader of the Markdown never misses a figure
    contents["report.md"] = markdown.render(report, names).encode()
    contents["report.html"] = page.render(report, plots).encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_file(out / name, content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{out}: the report cannot be written ({reason})", "give --out a folder "
                        "that you may write to") from error  # fmt: skip
    return [out / name for name in reversed(contents)]


def _stem(study: Study, number: int) -> str:
    plain = "".join(char if char.isascii() and char.isalnum() else "_" for char in study.dataset)
    return f"{number}-{plain[:40]}-"
