"""What a report says about experiments, as plain values; :mod:`distill.report.data` has the rest.

A row's own numbers are those of the student or teacher that it names; they are repeated here so
that a table needs nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distill.metrics import Spread
from distill.report.published import Figures
from distill.report.results import Comparison, Results
from distill.runs.records import SweepPoint

State = Literal["not run", "failed", "damaged", "unfinished"]


@dataclass(frozen=True)
class MissingRun:
    """A run that a row of an experiment lacks.

    Attributes:
        fold: its fold.
        seed: its seed; None for a teacher, and where the experiment has no run to tell the seeds.
        state: what became of it.
        reason: more about it; empty for ``not run``.
    """

    fold: int
    seed: int | None
    state: State
    reason: str


@dataclass(frozen=True)
class ExperimentRow:
    """A row of an experiment: a student, or a teacher on its own.

    Attributes:
        label: its name in the experiment.
        row: label of the student or teacher in the study; None where nothing of it was measured.
        teacher: the teacher's name, where it is one; empty for a student.
        variant: the student's variant; empty for a teacher.
        results: its scores; None where nothing was measured.
        seeds: seeds that it has runs of; empty for a teacher.
        n_runs: finished runs; 0 for a teacher, which needs none.
        missing: runs that it lacks of those that the experiment's rows have together, and of the
            corpus' folds.
        published: the paper's pair for it, percent; None where there is none, where the study is
            not comparable with the paper, and for a point of a sweep, which the paper only draws.
        wa_difference: mean WA over folds minus the paper's, in [-1, 1]; None without ``published``.
        ua_difference: likewise for UA.
        common_wa: spread of WA over the experiment's common folds and seeds alone; None where all
            rows have the same ones, or nothing is common.
        common_ua: of UA, likewise.
        point: where it stands in a figure; None where it does not.
    """

    label: str
    row: str | None
    teacher: str
    variant: str
    results: Results | None
    seeds: tuple[int, ...]
    n_runs: int
    missing: tuple[MissingRun, ...]
    published: Figures | None
    wa_difference: float | None
    ua_difference: float | None
    common_wa: Spread | None
    common_ua: Spread | None
    point: SweepPoint | None


@dataclass(frozen=True)
class SweepValue:
    """A point of a curve.

    Attributes:
        value: where it stands along the axis.
        label: of the row that it is.
    """

    value: float
    label: str


@dataclass(frozen=True)
class SweepCurve:
    """A curve of a figure: rows along an axis, ascending; scores are those of the rows.

    Attributes:
        axis: what the axis is about, e.g. ``tau of the prosodic teacher``.
        name: the curve's name, e.g. the variant.
        points: its measured and missing points, ascending.
        best_wa: value of the highest mean WA among points with the same folds and seeds; None where
            they differ, fewer than two were measured, or several are the highest.
        best_ua: likewise for UA.
        best_published: the value that the paper found best; None where the study is not comparable
            with the paper, or the curve is none of its figure 2.
    """

    axis: str
    name: str
    points: tuple[SweepValue, ...]
    best_wa: float | None
    best_ua: float | None
    best_published: float | None


@dataclass(frozen=True)
class Experiment:
    """An experiment's rows in its own order, with what was measured of each.

    Attributes:
        stem: file name of its record, without ``.json``; unique within the report.
        name: e.g. ``table2``.
        title: what it is about.
        student: the student's name in the record.
        store: fingerprint of its store.
        rows: in order, missing ones too.
        reference: label of the row that others are compared with, of the first student where there
            are several; None where no student was measured.
        comparisons: its students minus the reference, on common folds and seeds, under the labels
            of the rows; corrected over this table alone.
        curves: its figure, if it has one.
        common: (fold, seed) of the runs that every measured student row has, ascending.
        warnings: what a reader must know before comparing rows.
    """

    stem: str
    name: str
    title: str
    student: str
    store: str
    rows: tuple[ExperimentRow, ...]
    reference: str | None
    comparisons: tuple[Comparison, ...]
    curves: tuple[SweepCurve, ...]
    common: tuple[tuple[int, int], ...]
    warnings: tuple[str, ...]
