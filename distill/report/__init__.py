"""``distill report RUNS``: what was measured, from the runs' answers alone.

:func:`collect` reads the runs, :func:`summarise` computes, :func:`write`, :func:`terminal` and
:func:`document` show.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from distill.metrics import LEVEL, RESAMPLES, SEED
from distill.report import figures, pages
from distill.report.data import Report, Study, plain
from distill.report.pages import terminal
from distill.report.sections import tables
from distill.report.summary import summarise
from distill.report.tables import to_csv, to_json
from distill.runs.read import collect
from featstore.core.files import write_file
from featstore.core.os_errors import remedy
from featstore.core.schema import UserError

SCHEMA = 3
"""Of ``report.json``: 3 since it holds the tables and names the sign-flip tests so."""
_OURS = re.compile(
    r"(\d+-\w{0,40}-)?((confusion|curves|differences|gradients|recall|reliability|scores|sweep)"
    r"(-\d+)*\.(png|svg)|[a-z]+(-\d+|-common|-curve|-differences)*\.csv)",
    re.ASCII,
)
"""What an older report may have left that a newer one does not write."""

__all__ = ["Report", "collect", "document", "summarise", "terminal", "write"]


def document(report: Report) -> dict[str, Any]:
    """``report.json``: every number of every study, then the same as tables.

    Every number is finite or null; scores are fractions. Only ``published`` figures are percent, as
    printed.
    """
    return {
        "schema": SCHEMA,
        "scores": "fractions",
        "published": "percent",
        "std": "sample standard deviation over folds (ddof 1)",
        "interval": f"{LEVEL:.0%} percentile bootstrap, {RESAMPLES} resamples, seed {SEED}",
        "p": "two-sided sign-flip permutation over folds; p_holm: Holm over a table's rows",
        "studies": [
            plain(study) | {"tables": [to_json(table) for table in tables(study)]}
            for study in report.studies
        ],
        "left_out": plain(report.left_out),
    }


def write(report: Report, out: Path) -> list[Path]:
    """Write ``report.html``, ``.md`` and ``.json``, tables as CSV, and figures as PNG and SVG.

    An older report is replaced; those of its figures and tables that this one has not are removed.
    Files of a single study are ``scores.csv``, ``confusion.png`` and so on; those of several bear
    the study's number and corpus as well.

    Returns:
        The files written, the page first.

    Raises:
        UserError: where ``out`` is no folder or cannot be written to.
    """
    one = len(report.studies) == 1
    stems = ["" if one else _stem(s, n) for n, s in enumerate(report.studies, start=1)]
    drawings = [figures.draw(study) for study in report.studies]
    contents: dict[str, bytes] = {}
    for study, drawn, stem in zip(report.studies, drawings, stems, strict=True):
        for name, drawing in drawn.items():
            contents |= {f"{stem}{name}.png": drawing.png, f"{stem}{name}.svg": drawing.svg}
        contents |= {f"{stem}{t.name}.csv": to_csv(t).encode() for t in tables(study)}
    text = json.dumps(document(report), indent=1, ensure_ascii=False, allow_nan=False)
    contents["report.json"] = f"{text}\n".encode()
    # last, so that a reader of the Markdown never misses a figure
    contents["report.md"] = pages.markdown(report, drawings, stems).encode()
    contents["report.html"] = pages.html(report, drawings).encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
        older = set()
        if (out / "report.json").is_file():  # else no report was written here
            files = {path.name for path in out.iterdir() if path.is_file()}
            older = {name for name in files if _OURS.fullmatch(name)} - set(contents)
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


def _stem(study: Study, number: int) -> str:
    plain = "".join(char if char.isascii() and char.isalnum() else "_" for char in study.dataset)
    return f"{number}-{plain[:40]}-"
