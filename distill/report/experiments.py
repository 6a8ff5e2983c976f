"""Experiments as tables: the rows that a record asks for, with what the runs have of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from distill import metrics
from distill.metrics import Spread
from distill.report.comparison import table
from distill.report.data import Student, Teacher
from distill.report.experiment_data import Experiment, ExperimentRow, MissingRun
from distill.report.experiment_lines import (
    TEACHER_SEED,
    Cell,
    Line,
    common_cells,
    curves,
    differ,
)
from distill.report.published import Figures, Published
from distill.report.results import Comparison
from distill.runs.read import LeftOut, Run
from distill.runs.records import ExperimentRecord
from distill.runs.records import Row as Asked

Place = tuple[str, str]
"""Experiment and key."""


@dataclass(frozen=True)
class Found:
    """What there is to fill experiments from: the rows of one study.

    Attributes:
        n_folds: how many the corpus has.
        teachers: its teachers.
        students: its students with their runs, by experiment and key.
        left_out: runs that are not among them, with the reason.
        printed: the paper's figures; None where the study is not comparable with the paper.
    """

    n_folds: int
    teachers: Sequence[Teacher]
    students: Mapping[Place, tuple[Student, Sequence[Run]]]
    left_out: Sequence[LeftOut]
    printed: Published | None

    def line(self, asked: Asked, record: ExperimentRecord) -> Line:
        """What there is of a row of a record."""
        if asked.teacher is not None:
            return Line(asked, self._teacher(asked.teacher, record), (), {})
        place = asked.experiment, asked.key
        row, runs = self.students.get(place, (None, ()))
        lost = {(x.fold, x.seed): x for x in self.left_out if (x.experiment, x.key) == place}
        return Line(asked, row, runs, lost)

    def _teacher(self, name: str, record: ExperimentRecord) -> Teacher | None:
        """The teacher itself in the record's store, of the record's runs where several."""
        of = (name, record.store, 0)
        named = [t for t in self.teachers if (t.name, t.store, t.cross_fit) == of]
        keys = {row.key for row in record.rows}
        return next((t for t in named if keys & set(t.keys)), named[0] if named else None)

    def concerns(self, record: ExperimentRecord) -> bool:
        """Whether anything of a record was measured here."""
        return any(self.line(row, record).row for row in record.rows)


def experiment(stem: str, record: ExperimentRecord, found: Found) -> Experiment:
    """A record with what was measured of it."""
    lines = [found.line(row, record) for row in record.rows]
    common, differing = common_cells(lines), differ(lines)
    seeds = sorted({s for line in lines for _, s in (*line.cells, *line.lost) if s != TEACHER_SEED})
    rows = tuple(_row(line, record, found, seeds, common if differing else set()) for line in lines)
    references = _references(lines)
    return Experiment(
        stem=stem,
        name=record.name,
        title=record.title,
        student=record.student,
        store=record.store,
        rows=rows,
        reference=references[0][0].asked.label if references else None,
        comparisons=tuple(row for one, others in references for row in _comparisons(one, others)),
        curves=curves(lines, found.printed),
        common=tuple(sorted(common)),
        warnings=_warnings(lines, differing, common),
    )


def _row(
    line: Line, record: ExperimentRecord, found: Found, seeds: Sequence[int], common: set[Cell]
) -> ExperimentRow:
    row, asked = line.row, line.asked
    figures = _published(line, record, found.printed)
    wa, ua = _over(line, common)
    return ExperimentRow(
        label=asked.label,
        row=row.label if row else None,
        teacher=asked.teacher or "",
        variant=asked.variant,
        results=row.results if row else None,
        seeds=row.seeds if isinstance(row, Student) else (),
        n_runs=len(line.runs),
        missing=_missing(line, found.n_folds, seeds),
        published=figures,
        wa_difference=_minus(row, "wa", figures),
        ua_difference=_minus(row, "ua", figures),
        common_wa=wa,
        common_ua=ua,
        point=asked.point,
    )


def _published(line: Line, record: ExperimentRecord, printed: Published | None) -> Figures | None:
    """The printed pair, where the row is one of the paper's tables and not a setting of its own."""
    if printed is None or line.row is None or line.asked.point is not None:
        return None
    backbone = line.row.backbone if isinstance(line.row, Student) else ""
    label = line.asked.label.removesuffix(f" · {backbone}")
    in_table = record.name == "table1" or label in {row.printed for row in printed.table2}
    return line.row.published if in_table else None


def _minus(row: Teacher | Student | None, metric: str, figures: Figures | None) -> float | None:
    printed = getattr(figures, metric, None)
    if row is None or printed is None:
        return None
    mean: float = getattr(row.results, metric).mean
    return mean - float(printed) / 100


def _over(line: Line, common: set[Cell]) -> tuple[Spread | None, Spread | None]:
    """Spreads over folds of a row's common runs; a teacher's over the common folds."""
    folds = {fold for fold, _ in common}
    by_fold: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for (fold, seed), pair in sorted(line.cells.items()):
        if (fold, seed) in common or (seed == TEACHER_SEED and fold in folds):
            by_fold[fold].append(pair)
    if not by_fold:
        return None, None
    wa, ua = ([fmean(p[i] for p in by_fold[fold]) for fold in sorted(by_fold)] for i in (0, 1))
    return metrics.spread(wa), metrics.spread(ua)


def _missing(line: Line, n_folds: int, seeds: Sequence[int]) -> tuple[MissingRun, ...]:
    """Folds and seeds that a row lacks, of the corpus' folds and the experiment's seeds."""
    folds = range(1, n_folds + 1)
    if line.asked.teacher is not None:
        why = "no finished run tells of it"
        lacking = [fold for fold in folds if (fold, TEACHER_SEED) not in line.cells]
        return tuple(MissingRun(fold, None, "not run", why) for fold in lacking)
    if not seeds:
        return tuple(MissingRun(fold, None, "not run", "") for fold in folds)
    cells = [(fold, seed) for fold in folds for seed in seeds if (fold, seed) not in line.cells]
    return tuple(_lost(cell, line.lost.get(cell)) for cell in cells)


def _lost(cell: Cell, lost: LeftOut | None) -> MissingRun:
    if lost is None or lost.state == "duplicate":
        return MissingRun(*cell, "not run", "")
    return MissingRun(*cell, lost.state, lost.reason)


def _references(lines: Sequence[Line]) -> list[tuple[Line, list[Line]]]:
    """What is compared with what: of each backbone its full student, or its first, with the others.

    Points of a figure are not compared. Where each backbone has one row, all are with the first.
    """
    by_backbone: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if isinstance(line.row, Student) and line.asked.point is None:
            by_backbone[line.row.backbone].append(line)
    groups = list(by_backbone.values())
    if all(len(group) == 1 for group in groups):
        groups = [[line for group in groups for line in group]] if groups else []
    out = []
    for group in groups:
        reference = next((line for line in group if line.asked.variant == "full"), group[0])
        out.append((reference, [line for line in group if line.row is not reference.row]))
    return out


def _comparisons(reference: Line, others: Sequence[Line]) -> tuple[Comparison, ...]:
    named = [(line.asked.label, line.runs) for line in others]
    return table((reference.asked.label, reference.runs), named)


def _warnings(lines: Sequence[Line], differing: bool, common: set[Cell]) -> tuple[str, ...]:
    out = []
    if differing and common:
        folds = len({fold for fold, _ in common})
        out.append(
            f"rows differ in folds or seeds: compare them over the {len(common)} run(s) of {folds} "
            "fold(s) that all measured students have, not by their own means"
        )
    elif differing:
        out.append("rows differ in folds or seeds and have none in common: do not compare them")
    unknown = sum(line.row is None for line in lines)
    if unknown:
        out.append(f"nothing was measured of {unknown} of {len(lines)} rows")
    return tuple(out)
