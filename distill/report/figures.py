"""The report's figures as files, PNG and SVG, and as parts of its page."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distill.report import (
    panels_calibration,
    panels_classes,
    panels_comparisons,
    panels_scores,
    panels_training,
    svg,
)
from distill.report.data import Study
from distill.report.panels import GREY, INK, Panel, Plot, corpus, drawable, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
PER_PAGE = 12
"""Panels in one file; more go to further pages."""

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,  # a class may be called "$"
    "figure.facecolor": "white",
    "svg.fonttype": "none",  # text that can be searched, edited and set in the page's own font
    "svg.hashsalt": "emodistill",  # the same ids whenever it is drawn
}


def plots(study: Study) -> list[Plot]:
    """All figures that the study has the numbers for."""
    made = (
        panels_scores.scores(study),
        panels_classes.recalls(study),
        panels_classes.confusions(study),
        panels_comparisons.differences(study),
        panels_calibration.reliability(study),
        panels_training.curves(study),
        panels_training.gradients(study),
        *panels_comparisons.sweeps(study),
    )
    return [plot for plot in made if plot.panels]


def draw(study: Study, found: Sequence[Plot]) -> dict[str, dict[str, bytes]]:
    """All figures of a study as files: name -> suffix -> bytes.

    A name is a plot's, with ``-2``, ``-3`` ... for further pages; a suffix is ``png`` or ``svg``.
    """
    out = {}
    for plot in found:
        for start in range(0, len(plot.panels), PER_PAGE):
            shown = plot.panels[start : start + PER_PAGE]
            number = start // PER_PAGE + 1
            with _style():
                figure = _composed(plot, shown, short(f"{corpus(study)}: {plot.title}", 110))
                _settle(figure)
                key = plot.name if number == 1 else f"{plot.name}-{number}"
                out[key] = {
                    "png": _saved(figure, "png"),
                    "svg": svg.standalone(_saved(figure, "svg")),
                }
    return out


def alone(plot: Plot, prefix: str = "f") -> list[str]:
    """Each panel of a plot as SVG markup of its own, on no ground, so that a page may place it.

    Args:
        plot: what to draw.
        prefix: before the markup's ids, unique on the page.
    """
    with _style():
        drawn = [_single(plot, panel) for panel in plot.panels]
        if plot.share:
            axes = [figure.axes[0] for figure in drawn]
            shared = {"xlim": _union([a.get_xlim() for a in axes]),
                      "ylim": _union([a.get_ylim() for a in axes])}  # fmt: skip
            for own in axes:
                own.set(**shared)
        out = []
        for number, (figure, panel) in enumerate(zip(drawn, plot.panels, strict=True)):
            _settle(figure)
            raw = _saved(figure, "svg", transparent=True)
            out.append(svg.inline(raw, f"{prefix}{number}-", drawable(panel.alt)))
    return out


def _single(plot: Plot, panel: Panel) -> Figure:
    figure = _figure(plot.alone or plot.width, plot.height)
    panel.paint(figure.subplots(), True)
    if plot.legend:
        _legend(figure, 4)
    return figure


def _union(limits: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """What an axis must span to show all of several, which run the same way.

    >>> _union([(0, 5), (1, 6)]), _union([(5, 0), (6, 1)])
    ((0, 6), (6, 0))
    """
    starts, ends = zip(*limits, strict=True)
    if starts[0] > ends[0]:
        return max(starts), min(ends)
    return min(starts), max(ends)


def _composed(plot: Plot, panels: Sequence[Panel], title: str) -> Figure:
    """Panels in rows, the title above, each mark explained once below."""
    columns = _columns(len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = _figure(max(5.4, 0.4 + plot.width * columns), 0.85 + plot.height * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=plot.share, sharey=plot.share)
    for number, axes in enumerate(grid.ravel()):
        if number < len(panels):
            panels[number].paint(axes, number % columns == 0)
        else:
            axes.remove()
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    _legend(figure, 5)
    return figure


def _settle(figure: Figure) -> None:
    """Lay the figure out once for all formats; it takes longer than drawing."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def _legend(figure: Figure, columns: int) -> None:
    handles, texts = figure.axes[0].get_legend_handles_labels()
    once = dict(zip(texts, handles, strict=True))
    if once:
        figure.legend(
            once.values(), once.keys(), loc="outside lower center", ncols=columns, frameon=False,
            handletextpad=0.4, columnspacing=1.4,
        )  # fmt: skip


def _saved(figure: Figure, suffix: str, **options: Any) -> bytes:
    """The same bytes for the same numbers: no date, no version, ids from the content alone."""
    unsaid = {"png": ["Software"], "svg": ["Date", "Creator", "Format", "Type"]}[suffix]
    target = io.BytesIO()
    figure.savefig(target, format=suffix, dpi=DPI, metadata=dict.fromkeys(unsaid), **options)
    return target.getvalue()


@contextmanager
def _unheard(library: str) -> Iterator[None]:
    """Nothing but errors of what a library logs."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _style() -> Iterator[None]:
    with _unheard("matplotlib"):  # that it had nowhere to keep its list of fonts, nor how long
        import matplotlib as mpl  # it took to make the list, is no news about a report
        import matplotlib.font_manager

    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # a class name in a script that the font lacks is drawn as boxes, not a failure
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _columns(n: int) -> int:
    """Panels abreast: one row up to four, then as square as it gets.

    >>> [_columns(n) for n in (1, 4, 5, 6, 8, 12)]
    [1, 4, 3, 3, 4, 4]
    """
    return n if n <= 4 else (3 if n in (5, 6, 9) else 4)
