"""Students against each other, and experiments row by row: measured, missing, the paper's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from distill import metrics
from distill.metrics import Spread, bootstrap_mean, sign_flip_tests
from distill.report.data import (
    NO_SEED,
    Cell,
    Comparison,
    Experiment,
    ExperimentRow,
    Measured,
    MissingRun,
    Student,
    SweepCurve,
    SweepValue,
    Teacher,
    grouped,
)
from distill.report.published import Figures, Published, as_printed
from distill.runs.read import LeftOut, RunSet
from distill.runs.records import ExperimentRecord
from distill.runs.records import Row as RecordRow


def comparisons(students: Sequence[Measured]) -> tuple[Comparison, ...]:
    """Each student minus the ``full`` one of its backbone, or another where there is none."""
    out: tuple[Comparison, ...] = ()
    for group in grouped(students, lambda one: _student(one).backbone).values():
        reference = _reference(group)
        others = [(one.row.label, one) for one in group if one is not reference]
        out += _compared(reference.row.label, reference, others)
    return out


def _student(one: Measured) -> Student:
    assert isinstance(one.row, Student)
    return one.row


def _reference(students: Sequence[Measured]) -> Measured:
    """The full student as in the paper, not a control; of several the one with most runs."""
    full = [one for one in students if _student(one).variant == "full"] or list(students)
    if len(full) > 1:
        plain = [o for o in full if as_printed(_student(o).variant, _student(o).settings)]
        full = plain or full
    return max(full, key=lambda one: len(one.runs))


def _compared(
    label: str, reference: Measured, others: Iterable[tuple[str, Measured]]
) -> tuple[Comparison, ...]:
    """Each of some students minus one, their tests corrected together.

    One that has no fold and seed in common with the reference has no row.
    """
    paired = [(name, differences(one, reference)) for name, one in others]
    paired = [(name, pairs) for name, pairs in paired if pairs]
    wa, ua = (
        [[fmean(pair[i] for pair in pairs[fold]) for fold in pairs] for _, pairs in paired]
        for i in (0, 1)
    )
    return tuple(
        Comparison(
            label=name,
            reference=label,
            folds=tuple(pairs),
            wa=tuple(wa_folds),
            ua=tuple(ua_folds),
            wa_spread=metrics.spread(wa_folds),
            ua_spread=metrics.spread(ua_folds),
            n_pairs=sum(map(len, pairs.values())),
            wa_interval=bootstrap_mean(wa_folds),
            ua_interval=bootstrap_mean(ua_folds),
            wa_sign_flip=wa_test,
            ua_sign_flip=ua_test,
        )
        for (name, pairs), wa_folds, ua_folds, wa_test, ua_test in zip(
            paired, wa, ua, sign_flip_tests(wa), sign_flip_tests(ua), strict=True
        )
    )


def differences(one: Measured, other: Measured) -> dict[int, list[tuple[float, float]]]:
    """Fold -> differences in WA and UA, a pair for each seed that both have on the same tests."""
    common = sorted(set(one.cells) & set(other.cells))
    pairs: dict[int, list[tuple[float, float]]] = {}
    for cell in common:
        if one.tested[cell] == other.tested[cell]:
            (wa, ua), (base_wa, base_ua) = one.cells[cell], other.cells[cell]
            pairs.setdefault(cell[0], []).append((wa - base_wa, ua - base_ua))
    return pairs


@dataclass(frozen=True, eq=False)
class _Line:
    """A row of a record with what was measured of it.

    Attributes:
        asked: the row of the record.
        one: the student or teacher that it is; None where nothing of it was measured.
        lost: its runs that are not among the finished ones.
    """

    asked: RecordRow
    one: Measured | None
    lost: Mapping[Cell, LeftOut]

    @property
    def cells(self) -> dict[Cell, tuple[float, float]]:
        return self.one.cells if self.one else {}

    @property
    def student(self) -> Student | None:
        return self.one.row if self.one and isinstance(self.one.row, Student) else None


def experiments(
    runset: RunSet, n_folds: int, rows: Sequence[Measured], printed: Published | None
) -> tuple[Experiment, ...]:
    """The records of which a study measured anything, tables before figures.

    Args:
        runset: with the records, and runs left out of the study.
        n_folds: how many the corpus has.
        rows: the study's.
        printed: the paper's figures; None where the study is not comparable with the paper.
    """
    out = []
    for stem, record in sorted(
        runset.records.items(), key=lambda item: (any(r.point for r in item[1].rows), item[0])
    ):
        lines = [_line(row, record, rows, runset.left_out) for row in record.rows]
        if any(line.one for line in lines):
            out.append(_experiment(stem, record, lines, n_folds, printed))
    return tuple(out)


def _line(
    asked: RecordRow,
    record: ExperimentRecord,
    rows: Sequence[Measured],
    left_out: Sequence[LeftOut],
) -> _Line:
    if asked.teacher is not None:  # itself, in the record's store; of its runs where several
        keys = {row.key for row in record.rows}
        named = [
            one
            for one in rows
            if isinstance(one.row, Teacher)
            and (one.row.name, one.row.store, one.row.cross_fit) == (asked.teacher, record.store, 0)
        ]
        return _Line(asked, max(named, key=lambda t: bool(keys & {*t.row.keys}), default=None), {})  # type: ignore[union-attr]
    place = asked.experiment, asked.key
    students = (one for one in rows if isinstance(one.row, Student))
    one = next((o for o in students if (_student(o).experiment, _student(o).key) == place), None)
    lost = {(x.fold, x.seed): x for x in left_out if (x.experiment, x.key) == place}
    return _Line(asked, one, lost)


def _experiment(
    stem: str,
    record: ExperimentRecord,
    lines: Sequence[_Line],
    n_folds: int,
    printed: Published | None,
) -> Experiment:
    measured = [set(line.cells) for line in lines if line.student]
    common = set.intersection(*measured) if measured else set()
    unlike = _differ(lines)
    seeds = sorted({s for line in lines for _, s in (*line.cells, *line.lost) if s != NO_SEED})
    references = _references(lines)
    return Experiment(
        stem=stem,
        name=record.name,
        title=record.title,
        student=record.student,
        store=record.store,
        rows=tuple(
            _row(line, record, n_folds, seeds, common if unlike else set(), printed)
            for line in lines
        ),
        reference=references[0][0].asked.label if references else None,
        comparisons=tuple(
            row
            for one, others in references
            if one.one
            for row in _compared(
                one.asked.label, one.one, [(o.asked.label, o.one) for o in others if o.one]
            )
        ),
        curves=_curves(lines, printed),
        common=tuple(sorted(common)),
        warnings=_warnings(lines, unlike, common),
    )


def _differ(lines: Sequence[_Line]) -> bool:
    """Whether measured rows have other folds or seeds than each other."""
    students = {frozenset(line.cells) for line in lines if line.student}
    folds = {frozenset(fold for fold, _ in line.cells) for line in lines if line.one}
    return len(students) > 1 or len(folds) > 1


def _row(
    line: _Line,
    record: ExperimentRecord,
    n_folds: int,
    seeds: Sequence[int],
    common: set[Cell],
    printed: Published | None,
) -> ExperimentRow:
    results = line.one.row.results if line.one else None
    figures = _published(line, record, printed)
    common_wa, common_ua = _over(line, common)
    return ExperimentRow(
        label=line.asked.label,
        row=line.one.row.label if line.one else None,
        teacher=line.asked.teacher or "",
        variant=line.asked.variant,
        results=results,
        seeds=line.student.seeds if line.student else (),
        n_runs=len(line.one.runs) if line.one else 0,
        missing=_missing(line, n_folds, seeds),
        published=figures,
        wa_difference=(
            results.wa.mean - figures.wa / 100 if results and figures and figures.wa else None
        ),
        ua_difference=(
            results.ua.mean - figures.ua / 100 if results and figures and figures.ua else None
        ),
        common_wa=common_wa,
        common_ua=common_ua,
        point=line.asked.point,
    )


def _published(line: _Line, record: ExperimentRecord, printed: Published | None) -> Figures | None:
    """The printed pair, where the row is one of the paper's tables and not a setting of its own."""
    if printed is None or line.one is None or line.asked.point is not None:
        return None
    backbone = line.student.backbone if line.student else ""
    label = line.asked.label.removesuffix(f" · {backbone}")
    in_table = record.name == "table1" or label in {row.printed for row in printed.table2}
    return line.one.row.published if in_table else None


def _over(line: _Line, common: set[Cell]) -> tuple[Spread | None, Spread | None]:
    """Spreads over folds of a row's common runs; a teacher's over the common folds."""
    folds = {fold for fold, _ in common}
    by_fold: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for (fold, seed), pair in sorted(line.cells.items()):
        if (fold, seed) in common or (seed == NO_SEED and fold in folds):
            by_fold[fold].append(pair)
    if not by_fold:
        return None, None
    wa, ua = ([fmean(p[i] for p in pairs) for pairs in by_fold.values()] for i in (0, 1))
    return metrics.spread(wa), metrics.spread(ua)


def _missing(line: _Line, n_folds: int, seeds: Sequence[int]) -> tuple[MissingRun, ...]:
    """Folds and seeds that a row lacks, of the corpus' folds and the experiment's seeds."""
    folds = range(1, n_folds + 1)
    if line.asked.teacher is not None:
        why = "no finished run has its answers"
        lacking = [fold for fold in folds if (fold, NO_SEED) not in line.cells]
        return tuple(MissingRun(fold, None, "not run", why) for fold in lacking)
    if not seeds:
        return tuple(MissingRun(fold, None, "not run", "") for fold in folds)
    out = []
    for fold, seed in ((f, s) for f in folds for s in seeds if (f, s) not in line.cells):
        lost = line.lost.get((fold, seed))
        if lost is None or lost.state == "duplicate":
            out.append(MissingRun(fold, seed, "not run", ""))
        else:
            out.append(MissingRun(fold, seed, lost.state, lost.reason))
    return tuple(out)


def _references(lines: Sequence[_Line]) -> list[tuple[_Line, list[_Line]]]:
    """What is compared with what: of each backbone its full student, or its first, with the others.

    Points of a figure are not compared. Where each backbone has one row, all are with the first.
    """
    rows = [line for line in lines if line.student and line.asked.point is None]
    groups = list(grouped(rows, lambda line: line.student.backbone).values())  # type: ignore[union-attr]
    if rows and all(len(group) == 1 for group in groups):
        groups = [rows]
    out = []
    for group in groups:
        reference = next((line for line in group if line.asked.variant == "full"), group[0])
        out.append((reference, [line for line in group if line.one is not reference.one]))
    return out


def _curves(lines: Sequence[_Line], printed: Published | None) -> tuple[SweepCurve, ...]:
    """The curves that rows with a point make up, in order of their first rows."""
    by_curve: dict[tuple[str, str], list[tuple[float, _Line]]] = defaultdict(list)
    for line in lines:
        if line.asked.point:
            point = line.asked.point
            by_curve[point.axis, point.curve].append((point.value, line))
    out = []
    for (axis, name), points in by_curve.items():
        points.sort(key=lambda point: point[0])
        measured = [(value, line) for value, line in points if line.one]
        comparable = len(measured) > 1 and not _differ([line for _, line in measured])
        out.append(
            SweepCurve(
                axis=axis,
                name=name,
                points=tuple(SweepValue(value, line.asked.label) for value, line in points),
                best_wa=_best(measured, "wa") if comparable else None,
                best_ua=_best(measured, "ua") if comparable else None,
                best_published=_best_published(name, measured, printed),
            )
        )
    return tuple(out)


def _best(points: Sequence[tuple[float, _Line]], metric: str) -> float | None:
    """The value of the highest mean; None where several are equal."""
    means = [(getattr(o.one.row.results, metric).mean, value) for value, o in points if o.one]
    best = [value for mean, value in means if mean == max(means)[0]]
    return best[0] if len(best) == 1 else None


def _best_published(
    curve: str, points: Sequence[tuple[float, _Line]], printed: Published | None
) -> float | None:
    """The paper's best, for the student that its figure 2 is about."""
    backbones = {line.student.backbone for _, line in points if line.student}
    if printed is None or not any(printed.student(curve, backbone) for backbone in backbones):
        return None
    return next((sweep.best for sweep in printed.figure2 if sweep.variant == curve), None)


def _warnings(lines: Sequence[_Line], unlike: bool, common: set[Cell]) -> tuple[str, ...]:
    out = []
    if unlike and common:
        folds = len({fold for fold, _ in common})
        out.append(
            f"rows differ in folds or seeds: compare them over the {len(common)} run(s) of {folds} "
            "fold(s) that all measured students have, not by their own means"
        )
    elif unlike:
        out.append("rows differ in folds or seeds and have none in common: do not compare them")
    unknown = sum(line.one is None for line in lines)
    if unknown:
        out.append(f"nothing was measured of {unknown} of {len(lines)} rows")
    return tuple(out)
