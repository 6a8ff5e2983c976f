"""A page taken apart: its elements, its tables, its text, its figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "link", "input", "wbr"}
Attributes = dict[str, str | None]


@dataclass
class Table:
    """A table as text; every cell of a row, headers too."""

    caption: str = ""
    rows: list[list[str]] = field(default_factory=list)

    def column(self, name: str, place: int = 0) -> dict[str, str]:
        """Row header -> cell, of the ``place``-th column of that name."""
        header = next(row for row in self.rows if name in row)
        found = [index for index, cell in enumerate(header) if cell == name][place]
        return {row[0]: row[found] for row in self.rows[self.rows.index(header) + 1 :]}


class Page(HTMLParser):
    """Raises where an element is not closed, or closed out of turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, Attributes]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []  # the element that it stands in, and the text
        self.tables: list[Table] = []
        self.declaration = ""
        self.feed(text)
        self.close()
        if self.open:
            raise ValueError(f"not closed: {self.open}")

    def handle_decl(self, decl: str) -> None:
        self.declaration = decl

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append(Table())
        elif tag == "tr":
            self.tables[-1].rows.append([])
        elif tag in ("td", "th"):
            self.tables[-1].rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise ValueError(f"</{tag}> out of turn at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        if data.strip():
            self.texts.append((where, data))
        if where in ("td", "th"):
            self.tables[-1].rows[-1][-1] += data
        elif where == "caption":
            self.tables[-1].caption += data

    def all(self, tag: str) -> list[Attributes]:
        """Attributes of every element of that name."""
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, caption: str) -> Table:
        """The first table whose caption begins so."""
        return next(table for table in self.tables if table.caption.startswith(caption))
