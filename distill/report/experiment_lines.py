"""A row that an experiment asks for with what the runs have of it, and curves of such rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill.report.data import Student, Teacher
from distill.report.experiment_data import SweepCurve, SweepValue
from distill.report.published import Published
from distill.runs.read import LeftOut, Run
from distill.runs.records import Row as Asked

Cell = tuple[int, int]
"""Fold and seed."""
TEACHER_SEED = -1
"""Stands in a teacher's cells: it has no seed."""


@dataclass(frozen=True)
class Line:
    """A row of a record with what there is of it.

    Attributes:
        asked: the row.
        row: the student or teacher that it is; None where nothing of it was measured.
        runs: its finished runs; none for a teacher.
        lost: its runs that are not among the finished ones.
    """

    asked: Asked
    row: Teacher | Student | None
    runs: Sequence[Run]
    lost: Mapping[Cell, LeftOut]

    @property
    def cells(self) -> dict[Cell, tuple[float, float]]:
        """WA and UA of each run; of each fold for a teacher."""
        if isinstance(self.row, Student):
            return {(run.fold, run.seed): (run.wa, run.ua) for run in self.row.runs}
        folds = self.row.results.folds if self.row else ()
        return {(fold.fold, TEACHER_SEED): (fold.wa, fold.ua) for fold in folds}


def differ(lines: Sequence[Line]) -> bool:
    """Whether measured rows have other folds or seeds than each other."""
    students = {frozenset(line.cells) for line in lines if isinstance(line.row, Student)}
    folds = {frozenset(fold for fold, _ in line.cells) for line in lines if line.row}
    return len(students) > 1 or len(folds) > 1


def common_cells(lines: Sequence[Line]) -> set[Cell]:
    """Fold and seed of the runs that every measured student has."""
    found = [set(line.cells) for line in lines if isinstance(line.row, Student)]
    return set.intersection(*found) if found else set()


def curves(lines: Sequence[Line], printed: Published | None) -> tuple[SweepCurve, ...]:
    """The curves that rows with a point make up, in order of their first rows."""
    found: dict[tuple[str, str], list[tuple[float, Line]]] = defaultdict(list)
    for line in lines:
        if line.asked.point:
            point = line.asked.point
            found[point.axis, point.curve].append((point.value, line))
    return tuple(
        _curve(axis, name, sorted(points, key=lambda point: point[0]), printed)
        for (axis, name), points in found.items()
    )


def _curve(
    axis: str, name: str, points: Sequence[tuple[float, Line]], printed: Published | None
) -> SweepCurve:
    known = [(value, line) for value, line in points if line.row]
    comparable = len(known) > 1 and not differ([line for _, line in known])
    return SweepCurve(
        axis=axis,
        name=name,
        points=tuple(SweepValue(value, line.asked.label) for value, line in points),
        best_wa=_best(known, "wa") if comparable else None,
        best_ua=_best(known, "ua") if comparable else None,
        best_published=_best_published(name, known, printed),
    )


def _best(points: Sequence[tuple[float, Line]], metric: str) -> float | None:
    """The value of the highest mean; None where several are equal."""
    means = [(getattr(line.row.results, metric).mean, value) for value, line in points if line.row]
    highest = max(mean for mean, _ in means)
    best = [value for mean, value in means if mean == highest]
    return best[0] if len(best) == 1 else None


def _best_published(
    curve: str, points: Sequence[tuple[float, Line]], printed: Published | None
) -> float | None:
    """The paper's best, for the student that its figure 2 is about."""
    backbones = {line.row.backbone for _, line in points if isinstance(line.row, Student)}
    if printed is None or not any(printed.student(curve, backbone) for backbone in backbones):
        return None
    return next((sweep.best for sweep in printed.figure2 if sweep.variant == curve), None)
