"""Figures of how training went."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from distill.report.data import Student, Study
from distill.report.panels import (
    BLUE,
    GREY,
    ORANGE,
    PALE,
    SERIES,
    Panel,
    Plot,
    broken,
    short,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HATCHES = ("", "///", "---", "\\\\\\", "|||", "xxx")


def curves(study: Study) -> Plot:
    """A panel per student: UA on the validation speaker, each run thin, their mean thick."""
    students = [s for s in study.students if any(_points(s, run) for run in range(len(s.curves)))]
    return Plot(
        name="curves",
        title="UA on the validation speaker, epoch by epoch",
        key="Thin lines: one run each. Thick line: mean of the runs. Triangle: the epoch kept.",
        panels=tuple(
            Panel(f"UA of {student.label} on the validation speaker after each epoch",
                  _panel(student))
            for student in students
        ),
        width=2.6,
        height=2.1,
        share=True,
    )  # fmt: skip


def _panel(student: Student) -> Callable[[Axes, bool], None]:
    def paint(axes: Axes, first: bool) -> None:
        runs = [_points(student, run) for run in range(len(student.curves))]
        known = [points for points in runs if points]
        for points in known:
            axes.plot(
                list(points), list(points.values()), color=GREY, linewidth=0.7, alpha=0.7,
                label="one run",
            )  # fmt: skip
        common = sorted(set.intersection(*map(set, known)))
        mean = [float(np.mean([points[epoch] for points in known])) for epoch in common]
        axes.plot(common, mean, color=BLUE, linewidth=2.2, label="mean of runs")
        for curve, points in zip(student.curves, runs, strict=True):
            best = curve.best_epoch
            if best is not None and best in points:
                axes.plot(
                    best, points[best], "v", color=ORANGE, markersize=4, label="epoch kept",
                    linestyle="none",
                )  # fmt: skip
        axes.set_title(broken(student.label, 30))
        axes.grid(color=PALE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)
        if first:
            axes.set_ylabel("UA, %")

    return paint


def _points(student: Student, run: int) -> dict[int, float]:
    """Epoch -> validation UA in percent, of the epochs that have one."""
    return {epoch: 100 * ua for epoch, ua in student.curves[run].points if ua is not None}


def gradients(study: Study) -> Plot:
    """One panel: a bar per student, its parts the terms' shares of the gradient."""
    students = [student for student in study.students if _shares(student)]
    names = list(dict.fromkeys(
        t.name for s in students for t in s.terms if t.share_mean is not None
    ))  # fmt: skip

    def paint(axes: Axes, first: bool) -> None:
        left = np.zeros(len(students))
        for number, name in enumerate(names):
            shares = 100 * np.array([_shares(student).get(name, 0.0) for student in students])
            colour, _ = SERIES[number % len(SERIES)]
            axes.barh(
                range(len(students)), shares, left=left, height=0.62, label=short(name, 24),
                facecolor="none", edgecolor=colour, hatch=HATCHES[number % len(HATCHES)],
            )  # fmt: skip
            for place, share in enumerate(shares):
                if share >= 6:
                    axes.text(
                        left[place] + share / 2, place - 0.46, f"{share:.0f}", ha="center",
                        va="center", fontsize=7.5,
                    )  # fmt: skip
            left += shares
        labels = [broken(student.label, 24, 3) for student in students]
        axes.set_yticks(range(len(students)), labels, fontsize=8.5)
        axes.set_ylim(len(students) - 0.5, -0.7)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0)
        axes.set_title("share of the gradient, %")

    return Plot(
        name="gradients",
        title="Share of each weighted loss term in the gradient, mean over all epochs",
        key="Each term has a hatching of its own; numbers are percent, those below 6 left out.",
        panels=(Panel("Share of each loss term in the gradient, a bar per student; the table gives "
                      "the numbers", paint),) if students else (),
        width=6.4,
        height=0.9 + 0.5 * len(students),
        legend=True,
    )  # fmt: skip


def _shares(student: Student) -> dict[str, float]:
    """Share of each term in the gradient, over all epochs."""
    return {t.name: t.share_mean for t in student.terms if t.share_mean is not None}
