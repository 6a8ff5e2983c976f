"""Experiments as tables: the rows that a record asks for, with what the runs have of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from distill import metrics
from distill.experiment_record import ExperimentRecord
from distill.experiment_record import Row as Asked
from distill.metrics import Spread
from distill.published import Figures, Published
from distill.report.comparison import table
from distill.report.data import Student, Teacher
from distill.report.experiment_data import (
    Experiment,
    ExperimentRow,
    MissingRun,
    State,
    SweepCurve,
    SweepValue,
)
from distill.report.results import Comparison, Results
from distill.report.runs import LeftOut, Run

Cell = tuple[int, int]
"""Fold and seed."""
Place = tuple[str, str]
"""Experiment and key."""


@dataclass(frozen=True)
class Found:
    """What there is to fill experiments from: the rows of one study.

    Attributes:
        n_folds: how many the corpus has.
        teachers: its teachers.
        students: its students, by experiment and key.
        runs: their runs, likewise.
        left_out: runs that are not among them, with the reason.
        printed: the paper's figures; None where the study is not comparable with the paper.
    """

    n_folds: int
    teachers: Sequence[Teacher]
    students: Mapping[Place, Student]
    runs: Mapping[Place, Sequence[Run]]
    left_out: Sequence[LeftOut]
    printed: Published | None

    def teacher(self, name: str, record: ExperimentRecord) -> Teacher | None:
        """The teacher of that name in the record's store, of the record's runs where several."""
        named = [t for t in self.teachers if (t.name, t.store) == (name, record.store)]
        keys = {row.key for row in record.rows}
        return next((t for t in named if keys & set(t.keys)), named[0] if named else None)

    def row(self, asked: Asked, record: ExperimentRecord) -> Teacher | Student | None:
        """What was measured of a row of a record."""
        if asked.teacher is not None:
            return self.teacher(asked.teacher, record)
        return self.students.get((asked.experiment, asked.key))

    def concerns(self, record: ExperimentRecord) -> bool:
        """Whether anything of a record was measured here."""
        return any(self.row(row, record) for row in record.rows)


def experiment(stem: str, record: ExperimentRecord, found: Found) -> Experiment:
    """A record with what was measured of it."""
    measured = [found.row(row, record) for row in record.rows]
    cells = [_cells(row) for row in measured]
    of_students = [
        set(own) for row, own in zip(measured, cells, strict=True) if isinstance(row, Student)
    ]
    common = set.intersection(*of_students) if of_students else set()
    differing = _differ(measured, cells)
    lost = {(x.experiment, x.key, x.fold, x.seed): x for x in found.left_out if x.fold}
    seeds = _seeds(record, cells, lost)
    rows = tuple(
        _row(asked, row, own, found, _Asked(record, seeds, lost), common if differing else set())
        for asked, row, own in zip(record.rows, measured, cells, strict=True)
    )
    reference = _reference(record, rows)
    return Experiment(
        stem=stem,
        name=record.name,
        title=record.title,
        student=record.student,
        store=record.store,
        rows=rows,
        reference=None if reference is None else rows[reference].label,
        comparisons=_comparisons(record, rows, reference, found),
        curves=_curves(rows, cells, found, measured),
        common=tuple(sorted(common)),
        warnings=_warnings(rows, differing, common),
    )


@dataclass(frozen=True)
class _Asked:
    """What a row's runs are counted against."""

    record: ExperimentRecord
    seeds: Sequence[int]
    lost: Mapping[tuple[str, str, int, int], LeftOut]


def _cells(row: Teacher | Student | None) -> dict[Cell, tuple[float, float]]:
    """(fold, seed) -> WA and UA; a teacher's seed is -1."""
    if isinstance(row, Student):
        return {(run.fold, run.seed): (run.wa, run.ua) for run in row.runs}
    return {(fold.fold, -1): (fold.wa, fold.ua) for fold in row.results.folds} if row else {}


def _differ(
    rows: Sequence[Teacher | Student | None], cells: Sequence[Mapping[Cell, object]]
) -> bool:
    """Whether measured rows have other folds or seeds than each other."""
    students = {frozenset(c) for r, c in zip(rows, cells, strict=True) if isinstance(r, Student)}
    folds = {frozenset(f for f, _ in c) for r, c in zip(rows, cells, strict=True) if r}
    return len(students) > 1 or len(folds) > 1


def _seeds(
    record: ExperimentRecord,
    cells: Sequence[Mapping[Cell, object]],
    lost: Iterable[tuple[str, str, int, int]],
) -> list[int]:
    """Seeds that any row has a run of, finished or not."""
    places = {(row.experiment, row.key) for row in record.rows if row.teacher is None}
    begun = {seed for experiment, key, _, seed in lost if (experiment, key) in places}
    return sorted(begun | {seed for own in cells for _, seed in own if seed >= 0})


def _row(
    asked: Asked,
    row: Teacher | Student | None,
    own: Mapping[Cell, tuple[float, float]],
    found: Found,
    against: _Asked,
    common: set[Cell],
) -> ExperimentRow:
    figures = _published(asked, row, against.record, found)
    wa, ua = _over(own, common)
    return ExperimentRow(
        label=asked.label,
        row=row.label if row else None,
        teacher=asked.teacher or "",
        variant=asked.variant,
        results=row.results if row else None,
        seeds=row.seeds if isinstance(row, Student) else (),
        n_runs=len(row.runs) if isinstance(row, Student) else 0,
        missing=_missing(asked, row, own, found, against),
        published=figures,
        wa_difference=_minus(row, "wa", figures),
        ua_difference=_minus(row, "ua", figures),
        common_wa=wa,
        common_ua=ua,
        point=asked.point,
    )


def _published(
    asked: Asked, row: Teacher | Student | None, record: ExperimentRecord, found: Found
) -> Figures | None:
    """The printed pair, where the row is that row of the paper's tables and no setting's own."""
    if found.printed is None or asked.point is not None or row is None:
        return None
    labels = {line.printed for line in found.printed.table2}
    return row.published if record.name == "table1" or asked.label in labels else None


def _minus(row: Teacher | Student | None, metric: str, figures: Figures | None) -> float | None:
    printed = getattr(figures, metric, None)
    if row is None or printed is None:
        return None
    mean: float = getattr(row.results, metric).mean
    return mean - float(printed) / 100


def _over(
    own: Mapping[Cell, tuple[float, float]], common: set[Cell]
) -> tuple[Spread | None, Spread | None]:
    """Spreads over folds of a row's common runs; a teacher's over the common folds."""
    folds = {fold for fold, _ in common}
    by_fold: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for (fold, seed), pair in sorted(own.items()):
        if (fold, seed) in common or (seed < 0 and fold in folds):
            by_fold[fold].append(pair)
    if not by_fold:
        return None, None
    wa, ua = ([fmean(p[i] for p in by_fold[fold]) for fold in sorted(by_fold)] for i in (0, 1))
    return metrics.spread(wa), metrics.spread(ua)


def _missing(
    asked: Asked,
    row: Teacher | Student | None,
    own: Mapping[Cell, object],
    found: Found,
    against: _Asked,
) -> tuple[MissingRun, ...]:
    out = []
    for fold in range(1, found.n_folds + 1):
        if asked.teacher is not None:
            if (fold, -1) not in own:
                why = "no finished run of this store tells of it"
                out.append(MissingRun(fold, None, "not run", why))
            continue
        for seed in against.seeds or (None,):
            if seed is not None and (fold, seed) in own:
                continue
            lost = against.lost.get(
                (asked.experiment, asked.key, fold, -1 if seed is None else seed)
            )
            state: State = "not run"
            if lost and lost.state != "duplicate":
                state = lost.state
            out.append(MissingRun(fold, seed, state, lost.reason if lost else ""))
    return tuple(out)


def _reference(record: ExperimentRecord, rows: Sequence[ExperimentRow]) -> int | None:
    """The full student, or the first one; none among the points of a figure."""
    students = [
        place
        for place, (asked, row) in enumerate(zip(record.rows, rows, strict=True))
        if row.results and asked.teacher is None and asked.point is None
    ]
    full = [place for place in students if rows[place].variant == "full"]
    return next(iter(full or students), None)


def _comparisons(
    record: ExperimentRecord, rows: Sequence[ExperimentRow], reference: int | None, found: Found
) -> tuple[Comparison, ...]:
    if reference is None:
        return ()
    base = _place(record.rows[reference])
    others = [
        (asked.label, found.runs[_place(asked)])
        for asked, row in zip(record.rows, rows, strict=True)
        if row.results and asked.teacher is None and asked.point is None and _place(asked) != base
    ]
    return table((rows[reference].label, found.runs[base]), others)


def _place(asked: Asked) -> Place:
    return asked.experiment, asked.key


def _curves(
    rows: Sequence[ExperimentRow],
    cells: Sequence[Mapping[Cell, object]],
    found: Found,
    measured: Sequence[Teacher | Student | None],
) -> tuple[SweepCurve, ...]:
    curves: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if row.point:
            curves[row.point.axis, row.point.curve].append(place)
    out = []
    for (axis, name), places in curves.items():
        points = sorted((row.point.value, place) for place in places if (row := rows[place]).point)
        known = [(value, rows[place].results) for value, place in points if rows[place].results]
        alike = len({frozenset(cells[p]) for p in places if rows[p].results}) == 1
        comparable = alike and len(known) > 1
        out.append(
            SweepCurve(
                axis=axis,
                name=name,
                points=tuple(SweepValue(value, rows[place].label) for value, place in points),
                best_wa=_best(known, "wa") if comparable else None,
                best_ua=_best(known, "ua") if comparable else None,
                best_published=_best_published(name, found, [measured[p] for p in places]),
            )
        )
    return tuple(out)


def _best(points: Iterable[tuple[float, Results | None]], metric: str) -> float:
    """The value of the highest mean; of equals the lowest."""
    means = [(getattr(results, metric).mean, -value) for value, results in points if results]
    return -max(means)[1]


def _best_published(
    curve: str, found: Found, rows: Iterable[Teacher | Student | None]
) -> float | None:
    """The paper's best, for the student that its figure 2 is about."""
    if found.printed is None:
        return None
    backbones = {row.backbone for row in rows if isinstance(row, Student)}
    if not any(found.printed.student(curve, backbone) for backbone in backbones):
        return None
    return next((s.best for s in found.printed.figure2 if s.variant == curve), None)


def _warnings(rows: Sequence[ExperimentRow], differing: bool, common: set[Cell]) -> tuple[str, ...]:
    out = []
    if differing and common:
        folds = len({fold for fold, _ in common})
        out.append(
            "rows differ in folds or seeds: compare them over the "
            f"{len(common)} run(s) of {folds} fold(s) that all measured students have, not by "
            "their own means"
        )
    elif differing:
        out.append("rows differ in folds or seeds and have none in common: do not compare them")
    unknown = [row.label for row in rows if row.results is None]
    if unknown:
        out.append(f"nothing was measured of {len(unknown)} of {len(rows)} rows")
    return tuple(out)
