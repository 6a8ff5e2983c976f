"""Students against each other, and experiments row by row: measured, missing, the paper's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from distill import metrics
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


def comparisons(students: Sequence[Measured]) -> list[Comparison]:
    """Each student minus the ``full`` one of its backbone, or another where there is none.

    Of several full ones it is one as in the paper, not a control, with the most runs.
    """
    out = []
    for group in grouped(students, lambda one: one.row.backbone).values():
        full = [one for one in group if one.row.variant == "full"] or group
        plain = [one for one in full if as_printed(one.row.variant, one.row.settings)]
        reference = max(plain or full, key=lambda one: len(one.runs))
        others = [(one.row.label, one) for one in group if one is not reference]
        out += _compared(reference.row.label, reference, others)
    return out


def _compared(
    label: str, reference: Measured, others: Iterable[tuple[str, Measured]]
) -> list[Comparison]:
    """Each of some students minus one, their tests corrected together.

    One that has no fold and seed in common with the reference has no row.
    """
    paired = [(name, pairs) for name, one in others if (pairs := _differences(one, reference))]
    rows = [
        Comparison(
            label=name, reference=label, folds=tuple(pairs), n_pairs=sum(map(len, pairs.values()))
        )
        for name, pairs in paired
    ]
    for place, metric in enumerate(("wa", "ua")):
        means = [
            [fmean(pair[place] for pair in fold) for fold in pairs.values()] for _, pairs in paired
        ]
        for row, own, test in zip(rows, means, metrics.sign_flip_tests(means), strict=True):
            row[metric] = tuple(own)
            row[f"{metric}_spread"] = metrics.spread(own)
            row[f"{metric}_interval"] = metrics.bootstrap_mean(own)
            row[f"{metric}_sign_flip"] = test
    return rows


def _differences(one: Measured, other: Measured) -> dict[int, list[tuple[float, float]]]:
    """Fold -> differences in WA and UA, a pair for each seed that both have on the same tests."""
    pairs: dict[int, list[tuple[float, float]]] = {}
    for cell in sorted(set(one.cells) & set(other.cells)):
        if one.tested[cell] == other.tested[cell]:
            (wa, ua), (base_wa, base_ua) = one.cells[cell], other.cells[cell]
            pairs.setdefault(cell[0], []).append((wa - base_wa, ua - base_ua))
    return pairs


@dataclass(frozen=True, eq=False)
class _Line:
    """A row of a record with what was measured of it.

    Attributes:
        planned: the row of the record.
        measured: the student or teacher that it is; None where nothing of it was measured.
        lost: its runs that are not among the finished ones.
    """

    planned: RecordRow
    measured: Measured | None
    lost: Mapping[Cell, LeftOut]

    @property
    def cells(self) -> dict[Cell, tuple[float, float]]:
        return self.measured.cells if self.measured else {}

    @property
    def student(self) -> Student | None:
        return (
            self.measured.row if self.measured and isinstance(self.measured.row, Student) else None
        )


def experiments(
    runset: RunSet, n_folds: int, rows: Sequence[Measured], printed: Published | None
) -> list[Experiment]:
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
        if any(line.measured for line in lines):
            out.append(_experiment(stem, record, lines, n_folds, printed))
    return out


def _line(
    planned: RecordRow,
    record: ExperimentRecord,
    rows: Sequence[Measured],
    left_out: Sequence[LeftOut],
) -> _Line:
    if planned.teacher is not None:  # itself, in the record's store; of its runs where several
        keys, teacher = {row.key for row in record.rows}, (planned.teacher, record.store, 0)
        teachers = [one for one in rows if isinstance(one.row, Teacher)]
        named = [t for t in teachers if (t.row.name, t.row.store, t.row.cross_fit) == teacher]
        return _Line(
            planned, max(named, key=lambda t: bool(keys & {*t.row["keys"]}), default=None), {}
        )
    place = planned.experiment, planned.key
    students = [one for one in rows if isinstance(one.row, Student)]
    one = next((one for one in students if (one.row.experiment, one.row.key) == place), None)
    lost = {(x.fold, x.seed): x for x in left_out if (x.experiment, x.key) == place}
    return _Line(planned, one, lost)


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
    references, compared = _references(lines)
    return Experiment(
        stem=stem,
        name=record.name,
        title=record.title,
        student=record.student,
        store=record.store,
        rows=[
            _row(
                line, n_folds, seeds, common if unlike else set(), _published(line, record, printed)
            )
            for line in lines
        ],
        reference=references[0] if references else None,
        comparisons=compared,
        curves=_curves(lines, printed),
        common=tuple(sorted(common)),
        warnings=_warnings(lines, unlike, common),
    )


def _differ(lines: Sequence[_Line]) -> bool:
    """Whether measured rows have other folds or seeds than each other."""
    students = {frozenset(line.cells) for line in lines if line.student}
    folds = {frozenset(fold for fold, _ in line.cells) for line in lines if line.measured}
    return len(students) > 1 or len(folds) > 1


def _row(
    line: _Line, n_folds: int, seeds: Sequence[int], common: set[Cell], figures: Figures | None
) -> ExperimentRow:
    results = line.measured.row.results if line.measured else None
    row = ExperimentRow(
        label=line.planned.label,
        row=line.measured.row.label if line.measured else None,
        teacher=line.planned.teacher or "",
        variant=line.planned.variant,
        results=results,
        seeds=line.student.seeds if line.student else (),
        n_runs=len(line.measured.runs) if line.measured else 0,
        missing=_missing(line, n_folds, seeds),
        published=figures,
        point=line.planned.point,
    )
    folds = {fold for fold, _ in common}
    by_fold: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for (fold, seed), pair in sorted(line.cells.items()):
        if (fold, seed) in common or (seed == NO_SEED and fold in folds):
            by_fold[fold].append(pair)
    for place, metric in enumerate(("wa", "ua")):
        means = [fmean(pair[place] for pair in pairs) for pairs in by_fold.values()]
        printed = getattr(figures, metric, None)
        row[f"common_{metric}"] = metrics.spread(means) if means else None
        row[f"{metric}_difference"] = (
            results[metric].mean - printed / 100 if results and printed is not None else None
        )
    return row


def _published(line: _Line, record: ExperimentRecord, printed: Published | None) -> Figures | None:
    """The printed pair, where the row is one of the paper's tables and not a setting of its own."""
    if printed is None or line.measured is None or line.planned.point is not None:
        return None
    label = line.planned.label
    if line.student:
        label = label.removesuffix(f" · {line.student.backbone}")
    in_table = record.name == "table1" or label in {row.printed for row in printed.table2}
    return line.measured.row.published if in_table else None


def _missing(line: _Line, n_folds: int, seeds: Sequence[int]) -> list[MissingRun]:
    """Folds and seeds that a row lacks, of the corpus' folds and the experiment's seeds."""
    teacher = line.planned.teacher is not None
    out = []
    for fold in range(1, n_folds + 1):
        for seed in [NO_SEED] if teacher or not seeds else seeds:
            if (fold, seed) not in line.cells:
                lost = line.lost.get((fold, seed))
                state, reason = "not run", "no finished run has its answers" if teacher else ""
                if lost and lost.state != "duplicate":
                    state, reason = lost.state, lost.reason
                number = None if seed == NO_SEED else seed
                out.append(MissingRun(fold=fold, seed=number, state=state, reason=reason))
    return out


def _references(lines: Sequence[_Line]) -> tuple[list[str], list[Comparison]]:
    """Of each backbone its full student, or its first, and what the others are beside it.

    Points of a figure are not compared. Where each backbone has one row, all are with the first.
    """
    rows = [
        (o.planned, o.measured)
        for o in lines
        if o.measured and o.student and o.planned.point is None
    ]
    groups = list(grouped(rows, lambda row: row[1].row.backbone).values())
    if rows and all(len(group) == 1 for group in groups):
        groups = [rows]
    labels, compared = [], []
    for group in groups:
        full = [row for row in group if row[0].variant == "full"]
        planned, reference = (full or group)[0]
        others = [(row.label, one) for row, one in group if one is not reference]
        labels.append(planned.label)
        compared += _compared(planned.label, reference, others)
    return labels, compared


def _curves(lines: Sequence[_Line], printed: Published | None) -> list[SweepCurve]:
    """The curves that rows with a point make up, in order of their first rows."""
    pointed = [(line.planned.point, line) for line in lines if line.planned.point]
    out = []
    for (axis, name), group in grouped(pointed, lambda pair: (pair[0].axis, pair[0].curve)).items():
        points = sorted(((point.value, line) for point, line in group), key=lambda pair: pair[0])
        measured = [(value, line) for value, line in points if line.measured]
        comparable = len(measured) > 1 and not _differ([line for _, line in measured])
        backbones = {line.student.backbone for _, line in measured if line.student}
        drawn = (
            printed.figure2 if printed and any(printed.student(name, b) for b in backbones) else ()
        )
        out.append(
            SweepCurve(
                axis=axis,
                name=name,
                points=[
                    SweepValue(value=value, label=line.planned.label) for value, line in points
                ],
                best_wa=_best(measured, "wa") if comparable else None,
                best_ua=_best(measured, "ua") if comparable else None,
                best_published=next((s.best for s in drawn if s.variant == name), None),
            )
        )
    return out


def _best(points: Sequence[tuple[float, _Line]], metric: str) -> float | None:
    """The value of the highest mean; None where several are equal."""
    means = [
        (line.measured.row.results[metric].mean, value) for value, line in points if line.measured
    ]
    best = [value for mean, value in means if mean == max(means)[0]]
    return best[0] if len(best) == 1 else None


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
    unknown = sum(line.measured is None for line in lines)
    if unknown:
        out.append(f"nothing was measured of {unknown} of {len(lines)} rows")
    return tuple(out)
