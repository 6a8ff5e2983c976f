"""Figures of differences between students, and of scores along an axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from distill.report.data import Study
from distill.report.experiment_data import Experiment, ExperimentRow, SweepCurve
from distill.report.panels import BLUE, GREY, INK, ORANGE, PALE, Panel, Plot, broken
from distill.report.results import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def differences(study: Study) -> Plot:
    """Each student minus its reference: every fold, the mean with its interval, the verdict."""
    rows = study.comparisons
    references = dict.fromkeys(row.reference for row in rows)
    return Plot(
        name="differences",
        title="Differences from the reference, percentage points",
        key="Small circles: one fold each. Discs with bars: mean difference, 95 % interval, "
        "filled where it is significant after Holm's correction. Right of the line the student is "
        f"better than its reference ({', '.join(references)}).",
        panels=tuple(
            Panel(f"{metric.upper()} of each student minus its reference; the tables of "
                  "differences give the numbers", _forest(rows, metric))
            for metric in ("wa", "ua") if rows
        ),
        width=4.1,
        height=0.8 + 0.44 * len(rows),
        alone=4.5,
        share=True,
    )  # fmt: skip


def _forest(rows: Sequence[Comparison], metric: str) -> Callable[[Axes, bool], None]:
    def paint(axes: Axes, first: bool) -> None:
        axes.axvline(0, color=INK, linewidth=0.9)
        for place, row in enumerate(rows):
            values = 100 * np.array(getattr(row, metric))
            jitter = 0.06 * np.resize([-1, 0, 1], len(values))
            axes.scatter(
                values, place - 0.24 + jitter, s=13, facecolors="none", edgecolors=GREY,
                linewidths=0.8, label="one fold",
            )  # fmt: skip
            mean = 100 * getattr(row, f"{metric}_spread").mean
            found = getattr(row, f"{metric}_interval")
            bar = None if found is None else [[mean - 100 * found.low], [100 * found.high - mean]]
            sure = bool(getattr(row, f"{metric}_test").significant)
            axes.errorbar(
                mean, place + 0.12, xerr=bar, fmt="o", color=BLUE, markersize=6.5, capsize=3,
                linewidth=1.6, markerfacecolor=BLUE if sure else "none",
                label="significant: mean, 95 % interval" if sure
                else "not significant: mean, 95 % interval",
            )  # fmt: skip
        if first:
            labels = [broken(row.label, 24, 3) for row in rows]
            axes.set_yticks(range(len(rows)), labels, fontsize=8.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", color=PALE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.set_title(f"{metric.upper()}, points")

    return paint


def sweeps(study: Study) -> list[Plot]:
    """For each experiment with a figure, a panel for each of its curves."""
    out = []
    for number, experiment in enumerate(ordered(study), start=1):
        out.append(
            Plot(
                name=f"sweep-{number}",
                title=f"{experiment.title} ({experiment.student})",
                key="Discs: UA; squares: WA; each the mean over folds, the bars its standard "
                "deviation. Dashed line: the value that the paper found best, where it may be "
                "compared with. Crosses on the axis: not measured.",
                panels=tuple(
                    Panel(f"UA and WA along {curve.axis}, {curve.name}; the table gives the "
                          "numbers", _sweep(curve, _by_label(experiment)))
                    for curve in experiment.curves
                ),
                width=3.4,
                height=2.6,
                alone=4.2,
                share=False,
            )
        )  # fmt: skip
    return out


def ordered(study: Study) -> list[Experiment]:
    """Tables before figures, in both the order of the study."""
    return sorted(study.experiments, key=lambda experiment: bool(experiment.curves))


def _by_label(experiment: Experiment) -> dict[str, ExperimentRow]:
    return {row.label: row for row in experiment.rows}


def _sweep(curve: SweepCurve, rows: Mapping[str, ExperimentRow]) -> Callable[[Axes, bool], None]:
    def paint(axes: Axes, first: bool) -> None:
        ticks = [point.value for point in curve.points]
        places = {value: place for place, value in enumerate(ticks)}
        for metric, colour, marker, fill, aside in (
            ("ua", BLUE, "o", BLUE, -0.05), ("wa", ORANGE, "s", "none", 0.05),
        ):  # fmt: skip
            known = [
                (places[point.value] + aside, getattr(row.results, metric))
                for point in curve.points
                if (row := rows[point.label]).results
            ]
            axes.errorbar(
                [x for x, _ in known], [100 * spread.mean for _, spread in known],
                yerr=[100 * (spread.std or 0) for _, spread in known], fmt=marker, color=colour,
                markerfacecolor=fill, markersize=6, capsize=3, linewidth=1.6, linestyle="-",
                label=f"{metric.upper()}: mean ± std over folds",
            )  # fmt: skip
            if known:  # the curves bear their names, so that nobody needs the legend
                x, spread = known[-1]
                measured = [found for p in curve.points if (found := rows[p.label].results)]
                above = spread.mean >= max(measured[-1].wa.mean, measured[-1].ua.mean)
                axes.annotate(
                    metric.upper(), (x, 100 * spread.mean), (9, 0), textcoords="offset points",
                    color=colour, va="bottom" if above else "top", fontweight="bold",
                )  # fmt: skip
        for point in curve.points:
            if rows[point.label].results is None:
                axes.plot(
                    places[point.value], 0.04, "x", color=INK, label="not measured",
                    transform=axes.get_xaxis_transform(), linestyle="none",
                )  # fmt: skip
        if curve.best_published in places:
            best = places[curve.best_published]
            axes.axvline(best, color=INK, linewidth=1, linestyle="--")
            axes.text(
                best, 1.0, " paper's best", transform=axes.get_xaxis_transform(), va="top",
                fontsize=8,
            )  # fmt: skip
        # the values lie evenly: from 0.1 to 10 neither a linear nor a logarithmic axis shows all
        axes.set_xticks(range(len(ticks)), [f"{value:g}" for value in ticks])
        axes.set_xlim(-0.4, len(ticks) - 0.6)
        axes.set_xlabel(broken(curve.axis, 40))
        axes.set_ylabel("%")
        axes.set_title(broken(curve.name, 40))
        axes.grid(axis="y", color=PALE, linewidth=0.8)
        axes.set_axisbelow(True)

    return paint
