"""``distill report RUNS``: what was measured, from the runs' predictions alone.

:func:`collect` reads the runs, :func:`summarise` computes, :func:`write` and :func:`to_tables`
show.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from distill.report import figures, markdown, page, tabular
from distill.report.data import Report, Study
from distill.report.panels import Plot
from distill.report.summary import summarise
from distill.report.tables import to_tables
from distill.runs.read import collect
from featstore.core.files import write_file
from featstore.core.os_errors import remedy
from featstore.core.schema import UserError

_OURS = re.compile(
    r"(\d+-\w{0,40}-)?(confusion|curves|differences|gradients|recall|reliability|scores|sweep)"
    r"(-\d+)*\.(png|svg)|(comparisons|experiments|scores)\.csv",
    re.ASCII,
)
"""What an older report may have left that a newer one does not write."""

__all__ = ["Report", "collect", "summarise", "to_tables", "write"]


def write(report: Report, out: Path) -> list[Path]:
    """Write ``report.html``, ``.md`` and ``.json``, CSVs, and the figures as PNG and SVG.

    An older report is replaced; those of its figures and tables that this one has not are removed.
    The page holds its figures; the files are for the Markdown and for papers. Those of a single
    study are ``scores``, ``confusion``, ``curves`` and so on; those of several bear the study's
    corpus and number as well.

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
        older = _left(out) - set(contents)
        for name, content in contents.items():
            write_file(out / name, content)
        for name in older:
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{out}: the report cannot be written ({reason})", f"{remedy(error)} (--out)"
        ) from error
    return [out / name for name in reversed(contents)]


def _left(out: Path) -> set[str]:
    """What an older report left in its folder; nothing where none was written there."""
    if not (out / "report.json").is_file():
        return set()
    return {path.name for path in out.iterdir() if _OURS.fullmatch(path.name) and path.is_file()}


def _stem(study: Study, number: int) -> str:
    plain = "".join(char if char.isascii() and char.isalnum() else "_" for char in study.dataset)
    return f"{number}-{plain[:40]}-"
