"""Reliability diagrams (Guo et al. 2017): how often answers of each confidence are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from distill.metrics import Calibration
from distill.report.data import Student, Study, Teacher
from distill.report.panels import BLUE, GREY, ORANGE, PALE, Panel, Plot, broken

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reliability(study: Study) -> Plot:
    """A panel per row: accuracy of the answers in each bin of confidence, test speakers."""
    rows = [(row, c) for row in study.rows for c in row.calibration if c.role == "test"]
    return Plot(
        name="reliability",
        title="Reliability on the test speakers",
        key="Marks: the accuracy of the answers whose confidence falls into a bin, larger where "
        "there are more of them. On the dashed line confidence is borne out; below it there is too "
        "much of it. Bars below: the share of answers in each bin.",
        panels=tuple(
            Panel(f"Accuracy by confidence of {row.label}; the calibration table gives the ECE",
                  _diagram(row, found))
            for row, found in rows
        ),
        width=2.5,
        height=2.5,
        share=True,
    )  # fmt: skip


def _diagram(row: Teacher | Student, found: Calibration) -> Callable[[Axes, bool], None]:
    colour, marker = (ORANGE, "s") if isinstance(row, Teacher) else (BLUE, "o")

    def paint(axes: Axes, first: bool) -> None:
        filled = [b for b in found.bins if b.n]
        x = 100 * np.array([b.confidence for b in filled], dtype=float)
        y = 100 * np.array([b.accuracy for b in filled], dtype=float)
        shares = np.array([b.n for b in filled]) / found.n
        axes.bar(
            [50 * (b.low + b.high) for b in filled], 100 * shares,
            width=[94 * (b.high - b.low) for b in filled], color=PALE, label="share of answers",
        )  # fmt: skip
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--", label="borne out")
        axes.plot(x, y, color=colour, linewidth=1)
        axes.scatter(
            x, y, s=10 + 90 * shares, color=colour, marker=marker, zorder=3,
            label="teacher" if isinstance(row, Teacher) else "student",
        )  # fmt: skip
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
        axes.set_aspect("equal")
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_yticks([0, 25, 50, 75, 100])
        axes.grid(color=PALE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(f"{broken(row.label, 25, 3)}\nECE {100 * found.ece:.1f}")
        axes.set_xlabel("confidence, %")
        if first:
            axes.set_ylabel("accuracy, %")

    return paint
