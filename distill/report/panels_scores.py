"""Figures of the test scores: every fold, mean, deviation, pooled, and the paper's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from distill.report.data import Student, Study, Teacher
from distill.report.panels import BLUE, GREY, INK, ORANGE, Panel, Plot, rows_down

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEY = (
    "Small circles: one fold each. Filled marks with bars: mean ± standard deviation over folds "
    "(squares: teachers, discs: students). Below them, what is no mean of folds: "
    "pooled (diamond, 95 % interval)"
)


def scores(study: Study) -> Plot:
    """WA and UA, a line per teacher and student."""
    chance = f"{100 / len(study.classes):.3g}"
    titles = {"wa": "WA: accuracy, %", "ua": f"UA: mean recall of classes, % (chance {chance})"}
    paper = "" if study.incomparable else " and the paper's figure (star)"
    return Plot(
        name="scores",
        title="WA and UA on the test speakers",
        key=f"{KEY}{paper}.",
        panels=tuple(
            Panel(f"{metric.upper()} of each teacher and student, fold by fold; the table of "
                  "scores gives the numbers", _panel(study, metric, title))
            for metric, title in titles.items()
        ),
        width=4.1,
        height=0.55 + 0.52 * len(study.rows),
        alone=4.5,
        share=True,
    )  # fmt: skip


def _panel(study: Study, metric: str, title: str) -> Callable[[Axes, bool], None]:
    def paint(axes: Axes, first: bool) -> None:
        for place, row in enumerate(study.rows):
            _line(axes, row, metric, place)
        rows_down(axes, study.rows, first)
        axes.set_title(title)

    return paint


def _line(axes: Axes, row: Teacher | Student, metric: str, place: int) -> None:
    """Three lanes: the folds, below them their mean, below that what is not a mean of folds."""
    results = row.results
    values = [100 * getattr(fold, metric) for fold in results.folds]
    spread = getattr(results, metric)
    teacher = isinstance(row, Teacher)
    colour, marker, what = (ORANGE, "s", "teacher") if teacher else (BLUE, "o", "student")
    jitter = 0.07 * np.resize([-1, 0, 1], len(values))  # folds of equal score stay apart
    axes.scatter(
        values, place - 0.27 + jitter, s=13, facecolors="none", edgecolors=GREY,
        linewidths=0.8, label="one fold",
    )  # fmt: skip
    axes.errorbar(
        100 * spread.mean, place, xerr=None if spread.std is None else 100 * spread.std,
        fmt=marker, color=colour, markersize=6.5, capsize=3, linewidth=1.6,
        label=f"{what}: mean ± std over folds",
    )  # fmt: skip
    if results.pooled:
        value, found = getattr(results.pooled, metric), getattr(results, f"{metric}_interval")
        bar = None if found is None else [[100 * (value - found.low)], [100 * (found.high - value)]]
        axes.errorbar(
            100 * value, place + 0.27, xerr=bar, fmt="D", markersize=4.5, color=INK,
            markerfacecolor="none", linewidth=0.9, capsize=2, label="pooled, 95 % interval",
        )  # fmt: skip
    printed = getattr(row.published, metric, None)
    if printed is not None:
        axes.plot(
            printed, place + 0.27, "*", markersize=9, color=INK, label="paper", linestyle="none"
        )
