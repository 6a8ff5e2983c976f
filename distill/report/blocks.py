"""What the report's page is made of: sections of words, tables and figures, as plain values.

They hold text as it is in the report; the template escapes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Size = Literal["small", "medium", "large"]
Tone = Literal["", "missing", "strong", "quiet"]


@dataclass(frozen=True)
class Cell:
    """A cell that is not plain: ``missing`` has no number, ``strong`` stands out."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """A table; its first column names the row.

    Attributes:
        caption: what its numbers are.
        header: names of the columns.
        rows: the cells, as many as columns.
        left: so many columns are text and set to the left, the others are numbers.
        spans: names above groups of columns, each with how many it spans; empty for none.
        rule: a line is drawn after so many rows; 0 for none.
        note: what a reader must know beside the caption.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: int = 1
    spans: Sequence[tuple[str, int]] = ()
    rule: int = 0
    note: str = ""
    kind: Literal["table"] = "table"

    @property
    def cells(self) -> Iterator[list[Cell]]:
        """Rows with every cell a :class:`Cell`."""
        for row in self.rows:
            yield [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]


@dataclass(frozen=True)
class Figure:
    """A figure of one or more panels, each SVG markup.

    Attributes:
        title: what it shows.
        key: what its marks are.
        panels: the markup.
        size: how much room a panel needs.
    """

    title: str
    key: str
    panels: Sequence[str]
    size: Size
    kind: Literal["figure"] = "figure"


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str
    tone: Literal["", "quiet", "warning"] = ""
    kind: Literal["words"] = "words"


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: Sequence[str]
    kind: Literal["items"] = "items"


@dataclass(frozen=True)
class Facts:
    """Names and what they stand for."""

    pairs: Sequence[tuple[str, str]]
    kind: Literal["facts"] = "facts"


Block = Table | Figure | Words | Items | Facts


@dataclass(frozen=True)
class Section:
    """A part of the page that one can link to.

    Attributes:
        anchor: its id, the same for the same part of every report.
        title: its heading.
        blocks: what it shows, in order.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Finding:
    """What a table of differences amounts to.

    Attributes:
        title: which table, against which reference.
        sentences: what is significant, what is not, and what could not be.
    """

    title: str
    sentences: Sequence[str]


@dataclass(frozen=True)
class Chapter:
    """All sections about one study.

    Attributes:
        anchor: its id.
        title: the corpus and how speakers were held out.
        lead: what was measured, a paragraph.
        findings: which differences are significant, and which are not.
        notes: what a reader must know before using the numbers.
        sections: the rest.
    """

    anchor: str
    title: str
    lead: str
    findings: Sequence[Finding]
    notes: Sequence[str]
    sections: Sequence[Section]
