"""Figures about classes: confusion matrices and recalls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from distill.report import wording
from distill.report.data import Student, Study, Teacher
from distill.report.panels import (
    BLUE,
    INK,
    ON_BLUE,
    SERIES,
    Panel,
    Plot,
    broken,
    rows_down,
    short,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from distill.metrics import Scores


def confusions(study: Study) -> Plot:
    """A panel per row: counts, and below them the share of the true class; recall is diagonal."""
    side = max(2.3, 0.62 * len(study.classes))
    return Plot(
        name="confusion",
        title="Confusion of all test utterances",
        key="Rows: truth. Columns: prediction. Counts of utterances, and below each its share of "
        "the true class, which also sets the shade; on the diagonal, in bold, that is the recall.",
        panels=tuple(
            Panel(f"Confusion matrix of {wording.named(row)}; the recall table gives its diagonal",
                  _matrix(row, pooled))
            for row in study.rows if (pooled := row.results.pooled)
        ),
        width=side,
        height=side + 0.35,
    )  # fmt: skip


def _matrix(row: Teacher | Student, pooled: Scores) -> Callable[[Axes, bool], None]:
    def paint(axes: Axes, first: bool) -> None:
        from matplotlib.patches import Rectangle

        fewer = wording.fewer(row)
        counts = np.asarray(pooled.confusion)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        for (i, j), share in np.ndenumerate(shares):
            # squares, since a picture of pixels could not follow the page's colours
            shade = 0.05 + 0.95 * share
            axes.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, facecolor=BLUE, alpha=shade))
            ink = ON_BLUE if share > 0.5 else INK  # the better contrast on either side
            axes.text(j, i - 0.13, f"{counts[i, j]}", ha="center", va="center", color=ink)
            axes.text(
                j, i + 0.22, f"{100 * share:.0f} %", ha="center", va="center", color=ink,
                fontsize=7, fontweight="bold" if i == j else "normal",
            )  # fmt: skip
        names = [short(name, 10) for name in pooled.classes]
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 6 else 35)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        scores = f"WA {100 * pooled.wa:.1f}  UA {100 * pooled.ua:.1f}"
        axes.set_title(
            "\n".join((broken(row.label, 30), " · ".join(filter(None, (scores, fewer)))))
        )
        axes.set_xlabel("predicted")
        if first:
            axes.set_ylabel("truth")

    return paint


def recalls(study: Study) -> Plot:
    """One panel: a line per row, a mark of its own shape for each class."""
    rows = [row for row in study.rows if row.results.pooled]

    def paint(axes: Axes, first: bool) -> None:
        for number, name in enumerate(study.classes):
            colour, marker = SERIES[number % len(SERIES)]
            found = [r.results.pooled.recall[name] for r in rows if r.results.pooled]
            # classes in lanes of their own, so that equal recalls stay apart
            lanes = np.arange(len(rows)) + 0.6 * ((number + 0.5) / len(study.classes) - 0.5)
            axes.plot(
                100 * np.array(found), lanes, marker, color=colour, markersize=6,
                markerfacecolor="none" if number % 2 else colour, label=short(name, 20),
                linestyle="none",
            )  # fmt: skip
        rows_down(axes, rows, first)
        axes.set_title("recall of each class, %")

    return Plot(
        name="recall",
        title="Recall of each class, all test utterances",
        key="Each class has a shape of its own.",
        panels=(Panel("Recall of each class, a line per teacher and student; the recall table "
                      "gives the numbers", paint),),
        width=6.4,
        height=0.5 + 0.5 * len(rows),
        legend=True,
    )  # fmt: skip
