"""The one table of a report, and its five renderings: HTML, Markdown, terminal, CSV and JSON.

A table keeps raw values and a format for each column. HTML, Markdown and terminal show
:attr:`Table.cells`, CSV and JSON hold the values themselves, so that no rendering can show another
number than the others.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from distill.metrics import BINS, LEVEL, RESAMPLES, Spread
from distill.report.data import plain
from featstore.core.schema import printable

NONE = "-"
"""Stands where there is no value."""


@dataclass(frozen=True)
class Format:
    """How a column's values are shown.

    Attributes:
        show: value -> text; None and NaN are shown as ``NONE`` without it.
        number: set to the right.
        parts: attributes of the value that are columns of their own in a CSV file.
        width: columns of a terminal that it takes at most; a number is never broken.
    """

    show: Callable[[Any], str]
    number: bool = True
    parts: tuple[str, ...] = ()
    width: int | None = None

    def text(self, value: Any) -> str:
        """A value as people read it, safe for a terminal.

        >>> shown = FORMATS["percent"].text
        >>> shown(0.75164), shown(None), FORMATS["points"].text(Spread(-0.01, None, 1))
        ('75.16', '-', '-1.00')
        """
        return NONE if value is None or value != value else printable(self.show(value))


def _spread(value: Spread, sign: str = "", scale: float = 100, digits: int = 2) -> str:
    mean = f"{scale * value.mean:{sign}.{digits}f}"
    return mean if value.std is None else f"{mean} ± {scale * value.std:.{digits}f}"


ENDS = ("low", "high")
FORMATS = {
    "text": Format(str, number=False, width=30),
    "place": Format(str, number=False, width=46),
    "count": Format(lambda n: f"{n:,}"),
    "percent": Format(lambda x: f"{100 * x:.2f}"),
    "percent1": Format(lambda x: f"{100 * x:.1f}"),
    "printed": Format(lambda x: f"{x:.2f}"),  # percent already, as the paper prints it
    "point": Format(lambda x: f"{100 * x:+z.2f}"),  # a difference in percentage points
    "decimal": Format(lambda x: f"{x:.3f}"),
    "decimal1": Format(lambda x: f"{x:,.1f}"),
    "short": Format(lambda x: f"{x:.4g}"),
    "p": Format(lambda p: f"{p:.4f}" if p >= 5e-5 else f"{p:.1e}"),  # never rounded to 0
    "verdict": Format(lambda yes: "yes" if yes else "no"),
    "spread": Format(_spread, parts=("mean", "std")),
    "points": Format(lambda x: _spread(x, "+z"), parts=("mean", "std")),
    "seconds": Format(lambda x: _spread(x, ",", 1, 1), parts=("mean", "std")),
    "interval": Format(lambda i: f"[{100 * i.low:.2f}, {100 * i.high:.2f}]", parts=ENDS),
    "points_interval": Format(lambda i: f"[{100 * i.low:+.2f}, {100 * i.high:+.2f}]", parts=ENDS),
}
"""A spread is mean ± standard deviation, the mean alone where there is but one fold."""
Columns = Sequence[tuple[str, Format]]


def head(spec: str) -> list[tuple[str, Format]]:
    """Columns by name and format.

    >>> [(name, form.number) for name, form in head("row text | WA pooled percent")]
    [('row', False), ('WA pooled', True)]
    """
    pairs = (column.strip().rsplit(" ", 1) for column in spec.split("|"))
    return [(name, FORMATS[form]) for name, form in pairs]


def table(
    kind: str,
    rows: Sequence[Sequence[Any]],
    name: str = "",
    more: Iterable[tuple[str, str]] = (),
    ruled: int = 0,
    **facts: object,
) -> Table:
    """A table of ``tables.toml``.

    Args:
        kind: its name there, and where no other is given the table's own.
        rows: as in :class:`Table`.
        name: the table's, where there are several of a kind.
        more: columns that depend on the study, name and format of each.
        ruled: as in :class:`Table`.
        facts: what the braces in its title, columns and note stand for.
    """
    head_of = _heads()[kind]
    facts |= {"level": LEVEL, "resamples": RESAMPLES, "bins": BINS}
    columns = [(text.format(**facts), form) for text, form in head(head_of["columns"])]
    columns += [(text, FORMATS[form]) for text, form in more]
    title, note = (head_of.get(part, "").format(**facts) for part in ("title", "note"))
    return Table(name or kind, title, columns, rows, note, ruled)


@cache
def _heads() -> dict[str, dict[str, str]]:
    text = resources.files("distill.report").joinpath("tables.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@dataclass(frozen=True)
class Table:
    """Rows of values, whoever shows them.

    Attributes:
        name: of its CSV file, and in ``report.json``.
        title: what its numbers are.
        columns: names and formats; the first column names the row.
        rows: raw values, in the order of the columns: fractions, counts, text, None, or
            :class:`~distill.metrics.Spread` and :class:`~distill.metrics.Interval`.
        note: what a reader must know beside the title.
        ruled: a line is drawn after so many rows.

    >>> columns, rows = head("row text | UA spread"), [("full", Spread(0.5, 0.1, 2))]
    >>> table = Table("scores", "Scores", columns, rows)
    >>> table.cells
    [['full', '50.00 ± 10.00']]
    >>> print(to_csv(table), end="")
    row,UA mean,UA std
    full,0.5,0.1
    """

    name: str
    title: str
    columns: Columns
    rows: Sequence[Sequence[Any]]
    note: str = ""
    ruled: int = 0

    @property
    def cells(self) -> list[list[str]]:
        """The rows as people read them."""
        return [
            [form.text(value) for (_, form), value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]


def to_json(table: Table) -> dict[str, Any]:
    """A table as plain values, none of them rounded."""
    return {
        "name": table.name,
        "title": table.title,
        "columns": [name for name, _ in table.columns],
        "rows": [plain(list(row)) for row in table.rows],
        "note": table.note,
    }


def to_csv(table: Table) -> str:
    """A table with a header; means, deviations and interval's ends are columns of their own.

    Scores are fractions with all their digits, an unknown value is an empty cell. Text is left as
    it is, but for control characters, which are shown as escapes.
    """

    def shown(value: Any) -> Any:
        return printable(value) if isinstance(value, str) else value

    columns = list(enumerate(table.columns))
    parts = [(n, name, part) for n, (name, form) in columns for part in form.parts or ("",)]
    rows = [
        [getattr(row[n], part, None) if part else shown(row[n]) for n, _, part in parts]
        for row in table.rows
    ]
    names = [shown(f"{name} {part}" if part else name) for _, name, part in parts]
    frame = pd.DataFrame(rows, columns=names, dtype=object)
    return frame.to_csv(index=False, lineterminator="\n")


def to_markdown(table: Table) -> str:
    """A Markdown table: text is set to the left, numbers to the right.

    >>> print(to_markdown(Table("t", "", head("row text | WA percent"), [("a", 0.7516)])))
    | row | WA |
    | --- | ---: |
    | a | 75.16 |
    """
    header = [escape(name) for name, _ in table.columns]
    align = ["---:" if form.number else "---" for _, form in table.columns]
    lines = [header, align, *(list(map(escape, row)) for row in table.cells)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def escape(text: str) -> str:
    r"""Text of a corpus or a user, so that Markdown shows it and nothing else.

    >>> escape("a|b <img> *c* http://d")
    'a\\|b &lt;img&gt; \\*c\\* http&#58;//d'
    """
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", text)
    return text.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def to_terminal(table: Table, above: str = "") -> RichTable:
    """A table for rich below a heading, which it does not repeat; nothing is read as markup."""
    shown = RichTable(
        title=None if table.title == above else line(table.title, "italic"),
        box=box.SIMPLE,
        show_edge=False,
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    for name, form in table.columns:
        shown.add_column(
            line(name),
            justify="right" if form.number else "left",
            no_wrap=form.number,
            overflow="fold",
            max_width=form.width,
        )
    for number, cells in enumerate(table.cells, start=1):
        shown.add_row(*map(line, cells), end_section=number == table.ruled)
    return shown


def line(text: str, style: str = "") -> Text:
    """Text for a terminal, shown as it is."""
    return Text(printable(text), style=style)
