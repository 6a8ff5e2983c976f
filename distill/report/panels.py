"""What a figure of the report is made of: panels that can stand in a grid or alone on the page.

Shapes, positions and print carry the meaning; colour only helps. The colours are Okabe and Ito's,
which stay apart in all common kinds of colour blindness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

from distill.report import wording
from distill.report.data import Student, Study, Teacher
from featstore.core.schema import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
INK, GREY, PALE, ON_BLUE = "#222222", "#808080", "#e4e4e4", "#fefefe"
SERIES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (INK, "v"), (GREY, "P"))
"""Colour and shape of each member of a family, such as classes; they repeat after six."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        alt: what it shows, in words, for who cannot see it.
        paint: draws it; the flag tells whether nothing stands to its left, so that it carries the
            labels that its neighbours share with it.
    """

    alt: str
    paint: Callable[[Axes, bool], None]


@dataclass(frozen=True)
class Plot:
    """Panels that belong together.

    Attributes:
        name: of its files, without suffix.
        title: above its panels.
        key: what its marks are, in a sentence.
        panels: what it shows.
        width: of a panel in a grid, in inches.
        height: of a panel, in inches.
        alone: width of a panel that stands alone, in inches; 0 for ``width``.
        share: the panels have their axes in common.
        legend: a panel that stands alone needs the legend, too.
    """

    name: str
    title: str
    key: str
    panels: tuple[Panel, ...]
    width: float
    height: float
    alone: float = 0
    share: bool = False
    legend: bool = False


def corpus(study: Study) -> str:
    """The corpus' name for a title, so that no picture of machine speech passes for people's."""
    kind = "synthetic corpus (machine speech)" if study.dataset == "synthetic" else study.dataset
    return short(kind, 40)


def broken(text: str, width: int, lines: int = 2) -> str:
    r"""A label in lines of at most ``width`` characters, the rest left out.

    >>> broken("no-linguistic · hubert-base", 16)
    'no-linguistic ·\nhubert-base'
    """
    found = wrap(
        drawable(text), width, max_lines=lines, placeholder="…", break_on_hyphens=False
    ) or [""]  # fmt: skip
    return "\n".join(found)


def drawable(text: str) -> str:
    r"""Text that may stand in an XML file: :func:`printable`, and two characters that may not.

    >>> drawable("a\uffff\x1b")
    'a\\uffff\\x1b'
    """
    return printable(text).replace("\ufffe", r"\ufffe").replace("\uffff", r"\uffff")


def short(text: str, limit: int) -> str:
    """Text that cannot disturb a figure, cut where it is longer than ``limit``.

    >>> short("no-linguistic", 8)
    'no-ling…'
    """
    text = drawable(text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def rows_down(axes: Axes, rows: Sequence[Teacher | Student], first: bool) -> None:
    """A line a row from top to bottom, ruled off, teachers above students."""
    if first:
        labels = [broken(wording.named(row), 24, 3) for row in rows]
        axes.set_yticks(range(len(rows)), labels, fontsize=8.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    teachers = sum(isinstance(row, Teacher) for row in rows)
    for place in range(1, len(rows)):
        axes.axhline(place - 0.5, color=GREY if place == teachers else PALE, linewidth=0.8)
