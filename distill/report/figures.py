"""The figures of a report: functions of a study that give a Matplotlib figure, or None.

Shapes, positions and print carry the meaning; colour only helps. The colours are Okabe and Ito's,
which stay apart in all common kinds of colour blindness.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.metrics import Interval
from distill.report.data import Experiment, Student, Study, Teacher
from distill.report.words import named
from featstore.core.schema import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
INK, GREY, PALE = "#222222", "#808080", "#e4e4e4"
SERIES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (INK, "v"), (GREY, "P"))
"""Colour and shape of each member of a family, such as classes; they repeat after six."""
HATCHES = ("", "///", "---", "\\\\\\", "|||", "xxx")
DPI = 150
MOST = 60
"""Rows or panels in a figure; a study of more is for the tables."""
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 6.5,
    "errorbar.capsize": 3,
    "text.parse_math": False,  # a class may be called "$"
    "figure.facecolor": "white",
    "svg.fonttype": "none",  # text that can be searched and edited
    "svg.hashsalt": "emodistill",  # the same ids whenever it is drawn
}


@dataclass(frozen=True)
class Drawing:
    """A figure as its two files.

    Attributes:
        title: what it shows.
        key: what its marks are, in a sentence.
        png: at ``DPI``.
        svg: an image of its own.
        width: on a page, in CSS pixels.
        height: likewise.
    """

    title: str
    key: str
    png: bytes
    svg: bytes
    width: int
    height: int


def draw(study: Study) -> dict[str, Drawing]:
    """All figures that the study has the numbers for, by name."""
    with _style():
        made = {name: (make(study), make.__doc__, "") for name, make in FIGURES.items()}
        for number, one in enumerate(study.experiments, start=1):
            title = f"{one.title} ({one.student})"
            made[f"sweep-{number}"] = (sweep(one), sweep.__doc__, title)
        return {
            name: _drawing(figure, study, doc or "", title)
            for name, (figure, doc, title) in made.items()
            if figure
        }


def _drawing(figure: Figure, study: Study, doc: str, title: str) -> Drawing:
    """Title, legend and files; the same bytes for the same numbers."""
    first, _, key = " ".join(doc.split()).partition(". ")
    title = title or first
    synthetic = study.dataset == "synthetic"  # no picture of machine speech passes for people's
    corpus = "synthetic corpus (machine speech)" if synthetic else _short(study.dataset, 40)
    head = _short(f"{corpus}: {title}", 110)
    figure.suptitle(head, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    once: dict[str, Any] = {}
    for axes in figure.axes:
        handles, texts = axes.get_legend_handles_labels()
        once |= dict(zip(texts, handles, strict=True))
    if once:
        columns = min(5, max(2, int(figure.get_figwidth() / 1.8)))
        below: Any = {"loc": "outside lower center", "frameon": False, "ncols": columns}
        figure.legend(once.values(), once.keys(), **below)
    engine = figure.get_layout_engine()
    if engine is not None:  # once for both files: it takes longer than drawing
        engine.execute(figure)
        figure.set_layout_engine("none")
    files = {}
    for suffix, omitted in (("png", ["Software"]), ("svg", ["Date", "Creator", "Format", "Type"])):
        target = io.BytesIO()
        figure.savefig(target, format=suffix, dpi=DPI, metadata=dict.fromkeys(omitted))
        files[suffix] = target.getvalue()
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Drawing(title, key, files["png"], files["svg"], width, height)


@contextmanager
def _style() -> Iterator[None]:
    logger = logging.getLogger("matplotlib")  # what fonts it looked for is no news about a report
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import matplotlib as mpl

        with mpl.rc_context(STYLE), warnings.catch_warnings():
            # a class name in a script that the font lacks is drawn as boxes, not a failure
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            yield
    finally:
        logger.setLevel(level)


def _grid(n: int, width: float, height: float, **share: Any) -> tuple[Figure, list[Axes]]:
    """A figure of panels: one row up to four, then as square as it gets."""
    from matplotlib.figure import Figure

    columns = n if n <= 4 else (3 if n in (5, 6, 9) else 4)
    rows = math.ceil(n / columns)
    size = max(5.4, 0.4 + width * columns), 0.85 + height * rows
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **share).ravel()
    for axes in grid[n:]:
        axes.remove()
    for axes in grid[:n]:
        axes.tick_params(labelleft=True, labelbottom=True)
    return figure, list(grid[:n])


def _rows_down(axes: Axes, labels: Sequence[str], teachers: int = 0) -> None:
    """A line a row from top to bottom, teachers ruled off above students."""
    axes.set_yticks(range(len(labels)), [_broken(label, 24, 3) for label in labels], fontsize=8.5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    for place in range(1, len(labels)):
        axes.axhline(place - 0.5, color=GREY if place == teachers else PALE, linewidth=0.8)


def _broken(text: str, width: int, lines: int = 2) -> str:
    r"""A label in lines of at most ``width`` characters, the rest left out.

    >>> _broken("no-linguistic · hubert-base", 16)
    'no-linguistic ·\nhubert-base'
    """
    cut: Any = {"max_lines": lines, "placeholder": "…", "break_on_hyphens": False}
    return "\n".join(wrap(_drawable(text), width, **cut))


def _drawable(text: str) -> str:
    r"""Text that may stand in an XML file: :func:`printable`, and two characters that may not.

    >>> _drawable("a\uffff\x1b")
    'a\\uffff\\x1b'
    """
    return printable(text).replace("\ufffe", r"\ufffe").replace("\uffff", r"\uffff")


def _short(text: str, limit: int) -> str:
    """Text that cannot disturb a figure, cut where it is longer than ``limit``.

    >>> _short("no-linguistic", 8)
    'no-ling…'
    """
    text = _drawable(text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _look(row: Teacher | Student) -> tuple[str, str, str]:
    return (ORANGE, "s", "teacher") if isinstance(row, Teacher) else (BLUE, "o", "student")


def scores(study: Study) -> Figure | None:
    """WA and UA on the test speakers.

    Small circles: one fold each. Marks with bars: mean ± standard deviation over folds (squares:
    teachers, discs: students). Diamonds: pooled score, 95 % interval. Stars: the paper's figures,
    where they may be compared with.
    """
    rows = study.rows[:MOST]
    figure, panels = _grid(2, 4.6, 0.55 + 0.52 * len(rows), sharey=True)
    chance = f"{100 / len(study.classes):.3g}"
    titles = {"wa": "WA: accuracy, %", "ua": f"UA: mean recall of classes, % (chance {chance})"}
    hollow: Any = {"fmt": "D", "color": INK, "markersize": 4.5, "markerfacecolor": "none"}
    star: Any = {"markersize": 9, "color": INK, "linestyle": "none", "label": "paper"}
    for axes, (metric, title) in zip(panels, titles.items(), strict=True):
        for place, row in enumerate(rows):
            r, (colour, marker, what) = row.results, _look(row)
            mean, std = r[metric].mean, r[metric].std
            pooled, printed = getattr(r.pooled, metric), getattr(row.published, metric, None)
            _dots(axes, [fold[metric] for fold in r.folds], place)
            label = f"{what}: mean ± std over folds"
            ends = None if std is None else (mean - std, mean + std)
            _bar(axes, place, mean, ends, label, fmt=marker, color=colour)
            ends = _ends(r[f"{metric}_interval"])
            _bar(axes, place + 0.27, pooled, ends, "pooled, 95 % interval", linewidth=0.9, **hollow)
            if printed is not None:
                axes.plot(printed, place + 0.27, "*", **star)
        _rows_down(axes, [named(row) for row in rows], len(study.teachers))
        axes.set_title(title)
    return figure


def _dots(axes: Axes, folds: Sequence[float], place: float) -> None:
    jitter = 0.07 * np.resize([-1, 0, 1], len(folds))  # folds of equal score stay apart
    x, y = 100 * np.asarray(folds), place - 0.27 + jitter
    axes.scatter(x, y, s=13, facecolors="none", edgecolors=GREY, linewidths=0.8, label="one fold")


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return (interval.low, interval.high) if interval else None


def _bar(axes: Axes, place: float, value: float, ends: Any, label: str, **mark: Any) -> None:
    """A score in percent, with a bar from one fraction to another."""
    reach = [[100 * (value - ends[0])], [100 * (ends[1] - value)]] if ends else None
    axes.errorbar(100 * value, place, xerr=reach, label=label, **mark)


def recalls(study: Study) -> Figure | None:
    """Recall of each class, all test utterances.

    Each class has a shape of its own.
    """
    rows = study.rows[:MOST]
    figure, (axes,) = _grid(1, 6.4, 0.5 + 0.5 * len(rows))
    for number, name in enumerate(study.classes):
        colour, marker = SERIES[number % len(SERIES)]
        # classes in lanes of their own, so that equal recalls stay apart
        lanes = np.arange(len(rows)) + 0.6 * ((number + 0.5) / len(study.classes) - 0.5)
        shares = [100 * row.results.pooled.recall[name] for row in rows]
        style: Any = {"color": colour, "markerfacecolor": "none" if number % 2 else colour}
        axes.plot(shares, lanes, marker, label=_short(name, 20), linestyle="none", **style)
    _rows_down(axes, [named(row) for row in rows], len(study.teachers))
    axes.set_title("recall of each class, %")
    return figure


def confusions(study: Study) -> Figure | None:
    """Confusion of all test utterances.

    Rows: truth. Columns: prediction. Counts of utterances, and below each its share of the true
    class, which also sets the shade; on the diagonal, in bold, that is the recall.
    """
    rows = study.rows[:MOST]
    side = max(2.3, 0.62 * len(study.classes))
    figure, panels = _grid(len(rows), side, side + 0.35)
    for axes, row in zip(panels, rows, strict=True):
        pooled = row.results.pooled
        counts = np.asarray(pooled.confusion)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        # so light that dark text can be read on all of it
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1.6, edgecolors="white", linewidth=2)
        for (i, j), share in np.ndenumerate(shares):
            style: Any = {"ha": "center", "va": "center"}
            axes.text(j + 0.5, i + 0.4, str(counts[i, j]), **style)
            weight = "bold" if i == j else "normal"
            text = f"{100 * share:.0f} %"
            axes.text(j + 0.5, i + 0.72, text, fontsize=7, fontweight=weight, **style)
        names = [_short(name, 10) for name in pooled.classes]
        places = np.arange(len(names)) + 0.5
        axes.set_xticks(places, names, rotation=0 if max(map(len, names)) < 6 else 35)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        title = f"{_broken(named(row), 30)}\nWA {100 * pooled.wa:.1f}  UA {100 * pooled.ua:.1f}"
        axes.set(aspect="equal", title=title, xlabel="predicted", ylabel="truth")
    return figure


def differences(study: Study) -> Figure | None:
    """Differences from the reference, percentage points.

    Small circles: one fold each. Discs with bars: mean difference, 95 % interval, filled where it
    is significant after Holm's correction. Right of the line the student is better than its
    reference.
    """
    rows = study.comparisons[:MOST]
    if not rows:
        return None
    figure, panels = _grid(2, 4.6, 0.8 + 0.44 * len(rows), sharey=True)
    for axes, metric in zip(panels, ("wa", "ua"), strict=True):
        axes.axvline(0, color=INK, linewidth=0.9)
        for place, row in enumerate(rows):
            mean, ends = row[f"{metric}_spread"].mean, _ends(row[f"{metric}_interval"])
            significant = bool(row[f"{metric}_sign_flip"].significant)
            style = {"fmt": "o", "color": BLUE, "markerfacecolor": BLUE if significant else "none"}
            label = f"{'significant' if significant else 'not significant'}: mean, 95 % interval"
            _dots(axes, row[metric], place)
            _bar(axes, place + 0.12, mean, ends, label, **style)
        _rows_down(axes, [row.label for row in rows])
        axes.set_title(f"{metric.upper()}, points")
    return figure


def reliability(study: Study) -> Figure | None:
    """Reliability on the test speakers.

    Marks: the accuracy of the answers whose confidence falls into a bin, larger where there are
    more of them. Below the dashed line there is too much confidence. Bars: the share of answers in
    each bin (Guo et al. 2017).
    """
    rows = [(row, c) for row in study.rows[:MOST] for c in row.calibration if c.role == "test"]
    if not rows:
        return None
    figure, panels = _grid(len(rows), 2.5, 2.7, sharex=True, sharey=True)
    for axes, (row, c) in zip(panels, rows, strict=True):
        colour, marker, what = _look(row)
        bins = [b for b in c.bins if b.n]
        x, y = (100 * np.array([getattr(b, of) for b in bins]) for of in ("confidence", "accuracy"))
        shares = np.array([b.n for b in bins]) / c.n
        middles, widths = (
            [50 * (b.low + b.high) for b in bins],
            [94 * (b.high - b.low) for b in bins],
        )
        axes.bar(middles, 100 * shares, color=PALE, width=widths, label="share of answers")
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--", label="calibrated")
        axes.plot(x, y, color=colour, linewidth=1)
        style: Any = {"color": colour, "marker": marker, "zorder": 3, "label": what}
        axes.scatter(x, y, s=10 + 90 * shares, **style)
        ticks = [0, 25, 50, 75, 100]
        axes.set(xlim=(0, 102), ylim=(0, 102), aspect="equal", xticks=ticks, yticks=ticks)
        axes.grid(linewidth=0.6)
        title = f"{_broken(row.label, 25, 3)}\nECE {100 * c.ece:.1f}"
        axes.set(title=title, xlabel="confidence, %", ylabel="accuracy, %")
    return figure


def curves(study: Study) -> Figure | None:
    """UA on the validation speaker, epoch by epoch.

    Thin lines: one run each. Thick line: mean of the runs. Triangle: the epoch kept.
    """
    students = []
    for student in study.students:
        runs = [
            (curve.best_epoch, {epoch: 100 * ua for epoch, ua in curve.points if ua is not None})
            for curve in student.curves
        ]
        if any(points for _, points in runs):
            students.append((student.label, [run for run in runs if run[1]]))
    if not students:
        return None
    students = students[:MOST]
    figure, panels = _grid(len(students), 2.6, 2.3, sharex=True, sharey=True)
    thin: Any = {"color": GREY, "linewidth": 0.7, "alpha": 0.7, "label": "one run"}
    for axes, (label, runs) in zip(panels, students, strict=True):
        for _, points in runs:
            axes.plot(list(points), list(points.values()), **thin)
        common = sorted(set.intersection(*(set(points) for _, points in runs)))
        mean = [float(np.mean([points[epoch] for _, points in runs])) for epoch in common]
        axes.plot(common, mean, color=BLUE, linewidth=2.2, label="mean of runs")
        kept = np.array([(best, points[best]) for best, points in runs if best in points])
        x, y = kept.reshape(-1, 2).T
        axes.plot(x, y, "v", color=ORANGE, markersize=4, label="epoch kept")
        axes.set(title=_broken(label, 30), xlabel="epoch", ylabel="UA, %")
        axes.grid(linewidth=0.8)
        axes.locator_params(axis="x", integer=True)
    return figure


def gradients(study: Study) -> Figure | None:
    """Share of each loss term in the gradient.

    Weighted terms, mean over all epochs. Each has its hatching; numbers are percent, those below 6
    left out.
    """
    shares = {
        s.label: {t.name: t.share_mean for t in s.terms if t.share_mean is not None}
        for s in study.students[:MOST]
    }
    shares = {label: own for label, own in shares.items() if own}
    if not shares:
        return None
    figure, (axes,) = _grid(1, 6.4, 0.9 + 0.5 * len(shares))
    left = np.zeros(len(shares))
    for number, name in enumerate(dict.fromkeys(n for own in shares.values() for n in own)):
        parts = 100 * np.array([own.get(name, 0.0) for own in shares.values()])
        colour, hatch = SERIES[number % len(SERIES)][0], HATCHES[number % len(HATCHES)]
        style: Any = {"height": 0.62, "facecolor": "none", "edgecolor": colour, "hatch": hatch}
        axes.barh(range(len(shares)), parts, left=left, label=_short(name, 24), **style)
        for place, part in enumerate(parts):
            if part >= 6:
                middle = left[place] + part / 2
                axes.text(middle, place - 0.4, f"{part:.0f}", ha="center", fontsize=7.5)
        left += parts
    _rows_down(axes, list(shares))
    axes.set(xlim=(0, 100), ylim=(len(shares) - 0.5, -0.7), title="share of the gradient, %")
    return figure


def sweep(experiment: Experiment) -> Figure | None:
    """Scores along an axis, as in the paper's Figure 2.

    Discs: UA; squares: WA; each the mean over folds, the bars its standard deviation. Dashed line:
    the value that the paper found best, where it may be compared with. Crosses on the axis: not
    measured.
    """
    if not experiment.curves:
        return None
    figure, panels = _grid(len(experiment.curves), 3.6, 2.8)
    results = {row.label: row.results for row in experiment.rows}
    marks: Any = (
        ("ua", -0.05, {"marker": "o", "color": BLUE}),
        ("wa", 0.05, {"marker": "s", "color": ORANGE, "markerfacecolor": "none"}),
    )
    for axes, curve in zip(panels, experiment.curves, strict=True):
        # the values lie evenly: from 0.1 to 10 neither a linear nor a logarithmic axis shows all
        values = [point.value for point in curve.points]
        own = {n: r for n, point in enumerate(curve.points) if (r := results[point.label])}
        for metric, aside, style in marks:
            x, label = [place + aside for place in own], f"{metric.upper()}: mean ± std over folds"
            y = [100 * r[metric].mean for r in own.values()]
            bars = [100 * (r[metric].std or 0) for r in own.values()]
            axes.errorbar(x, y, yerr=bars, linestyle="-", label=label, **style)
        lost = [place for place in range(len(values)) if place not in own]
        if lost:
            low: Any = {"transform": axes.get_xaxis_transform(), "label": "not measured"}
            axes.plot(lost, [0.04] * len(lost), "x", color=INK, **low)
        if curve.best_published in values:
            best = values.index(curve.best_published)
            axes.axvline(best, color=INK, linewidth=1, linestyle="--", label="paper's best")
        axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        titles = {"title": _broken(curve.name, 40), "xlabel": _broken(curve.axis, 40)}
        axes.set(xlim=(-0.4, len(values) - 0.6), ylabel="%", **titles)
        axes.grid(axis="y", linewidth=0.8)
    return figure


FIGURES: dict[str, Callable[[Study], Figure | None]] = {
    "scores": scores,
    "recall": recalls,
    "confusion": confusions,
    "differences": differences,
    "reliability": reliability,
    "curves": curves,
    "gradients": gradients,
}
"""Name -> what draws it; its docstring is the title, and what the marks are."""
