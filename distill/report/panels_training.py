"""Figures of how training went."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from distill.report.data import Student, Study
from distill.report.panels import BLUE, GREY, ORANGE, PALE, Panel, Plot, broken

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
