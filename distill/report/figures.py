"""The report's figures as PNG. Shapes, positions and print carry the meaning; colour only helps."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.report import wording
from distill.report.data import Student, Study, Teacher
from featstore.schema import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
PER_PAGE = 12
"""Panels in one file; more students go to further pages."""
BLUE, ORANGE, INK, GREY, PALE = "#0072B2", "#D55E00", "#222222", "#808080", "#E4E4E4"
"""Okabe and Ito's colours, which stay apart in all common kinds of colour blindness."""

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
}


def draw(study: Study) -> dict[str, bytes]:
    """All figures that the study has the numbers for: name -> PNG bytes.

    ``scores`` always; ``confusion`` and ``curves``, with ``-2``, ``-3`` ... for further pages.
    """
    pooled = [row for row in study.rows if row.results.pooled]
    curves = [s for s in study.students if any(_points(s, run) for run in range(len(s.curves)))]
    out = {"scores": _drawn(lambda: _scores(study))}
    for name, rows, page in (("confusion", pooled, _confusions), ("curves", curves, _curves)):
        for start in range(0, len(rows), PER_PAGE):
            shown = rows[start : start + PER_PAGE]
            number = start // PER_PAGE + 1
            key = name if number == 1 else f"{name}-{number}"
            out[key] = _drawn(lambda page=page, shown=shown: page(study, shown))  # type: ignore[misc]
    return out


def _drawn(make: Callable[[], Figure]) -> bytes:
    """PNG of a figure: the same bytes for the same numbers, no date in it."""
    with _style():
        target = io.BytesIO()
        make().savefig(
            target, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None}
        )
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


def _scores(study: Study) -> Figure:
    """WA and UA, a line per teacher and student: every fold, mean, deviation, pooled, paper."""
    rows = study.rows
    figure = _figure(8.6, 1.4 + 0.52 * len(rows))
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    chance = f"{100 / len(study.classes):.3g}"
    titles = {"wa": "WA: accuracy, %", "ua": f"UA: mean recall of classes, % (chance {chance})"}
    for axes, (metric, title) in zip(panels, titles.items(), strict=True):
        for place, row in enumerate(rows):
            _score_line(axes, row, metric, place)
        axes.set_title(title)
        axes.grid(axis="x", color=PALE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        for place in range(1, len(rows)):
            between = place == len(study.teachers)
            axes.axhline(place - 0.5, color=GREY if between else PALE, linewidth=0.8)
    panels[0].set_yticks(range(len(rows)), [_named(row, 30) for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    _finish(figure, f"{_title(study)}: WA and UA on the test speakers", panels[0])
    return figure


def _score_line(axes: Axes, row: Teacher | Student, metric: str, place: int) -> None:
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
        axes.plot(
            100 * getattr(results.pooled, metric), place + 0.27, "D", markersize=4.5,
            markerfacecolor="white", markeredgecolor=INK, label="pooled", linestyle="none",
        )  # fmt: skip
    printed = getattr(row.published, metric, None)
    if printed is not None:
        axes.plot(
            printed, place + 0.27, "*", markersize=9, color=INK, label="paper", linestyle="none"
        )


def _confusions(study: Study, rows: Sequence[Teacher | Student]) -> Figure:
    """A panel per row: counts, and below them the share of the true class; recall is diagonal."""
    side = max(2.3, 0.62 * len(study.classes))
    figure, panels = _grid(len(rows), side, side + 0.35)
    for number, (axes, row) in enumerate(zip(panels, rows, strict=True)):
        pooled = row.results.pooled
        if pooled is None:
            continue
        counts = np.asarray(pooled.confusion)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
        for (i, j), share in np.ndenumerate(shares):
            ink = "white" if share > 0.77 else INK  # the better contrast on either side
            axes.text(j, i - 0.13, f"{counts[i, j]}", ha="center", va="center", color=ink)
            axes.text(
                j, i + 0.22, f"{100 * share:.0f} %", ha="center", va="center", color=ink,
                fontsize=7, fontweight="bold" if i == j else "normal",
            )  # fmt: skip
        names = [_short(name, 10) for name in study.classes]
        axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 6 else 35)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(f"{_named(row, 28)}\nWA {100 * pooled.wa:.1f}  UA {100 * pooled.ua:.1f}")
        axes.set_xlabel("predicted")
        if number % _columns(len(rows)) == 0:
            axes.set_ylabel("truth")
    _finish(figure, f"{_title(study)}: all test utterances, counts and shares of the true class")
    return figure


def _curves(study: Study, students: Sequence[Student]) -> Figure:
    """A panel per student: UA on the validation speaker, each run thin, their mean thick."""
    figure, panels = _grid(len(students), 2.6, 2.1, share=True)
    for number, (axes, student) in enumerate(zip(panels, students, strict=True)):
        runs = [_points(student, run) for run in range(len(student.curves))]
        known = [points for points in runs if points]
        for points in known:
            axes.plot(
                points.keys(), points.values(), color=GREY, linewidth=0.7, alpha=0.7,
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
        axes.set_title(_short(student.label, 34))
        axes.grid(color=PALE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if number % _columns(len(students)) == 0:
            axes.set_ylabel("UA, %")
    _finish(figure, f"{_title(study)}: UA on the validation speaker", panels[0])
    return figure


def _named(row: Teacher | Student, length: int) -> str:
    """A label of at most that length; below it the number of folds, where these are not all."""
    return "\n".join(filter(None, (_short(row.label, length), wording.fewer(row))))


def _points(student: Student, run: int) -> dict[int, float]:
    """Epoch -> validation UA in percent, of the epochs that have one."""
    return {epoch: 100 * ua for epoch, ua in student.curves[run].points if ua is not None}


def _finish(figure: Figure, title: str, legend_of: Axes | None = None) -> None:
    """Title at the left edge and, below all panels, each mark explained once."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    if legend_of is not None:
        handles, texts = legend_of.get_legend_handles_labels()
        once = dict(zip(texts, handles, strict=True))
        figure.legend(
            once.values(), once.keys(), loc="outside lower center", ncols=5, frameon=False,
            handletextpad=0.4, columnspacing=1.4,
        )  # fmt: skip


def _columns(n: int) -> int:
    """Panels abreast: one row up to four, then as square as it gets.

    >>> [_columns(n) for n in (1, 4, 5, 6, 8, 12)]
    [1, 4, 3, 3, 4, 4]
    """
    return n if n <= 4 else (3 if n in (5, 6, 9) else 4)


def _grid(n: int, width: float, height: float, *, share: bool = False) -> tuple[Figure, list[Any]]:
    """A figure with ``n`` panels of that size in inches, in rows."""
    columns = _columns(n)
    rows = math.ceil(n / columns)
    figure = _figure(max(5.4, 0.4 + width * columns), 0.6 + height * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    panels = list(grid.ravel())
    for unused in panels[n:]:
        unused.remove()
    return figure, panels[:n]


def _title(study: Study) -> str:
    kind = "synthetic corpus (machine speech)" if study.dataset == "synthetic" else study.dataset
    return _short(kind, 40)


def _short(text: str, limit: int) -> str:
    text = printable(text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
