"""How far teachers agree with each other, and students with their teachers, on test speakers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from distill.metrics import Agreement, agreement
from distill.report.data import Student, Teacher
from distill.report.speakers import test_rows
from distill.report.teachers import Record
from distill.runs.read import Run

if TYPE_CHECKING:
    import pandas as pd

    Pair = tuple[pd.DataFrame, pd.DataFrame]


def agreements(
    teachers: Sequence[tuple[Teacher, Record]],
    students: Iterable[tuple[Student, Sequence[Run]]],
) -> tuple[Agreement, ...]:
    """Of each two teachers of one store, then of each teacher with each student from it.

    Pairs without a common test utterance in the runs' tables have no row.
    """
    out = []
    for (one, first), (other, second) in combinations(teachers, 2):
        if one.store == other.store and one.name != other.name and set(one.keys) & set(other.keys):
            common = sorted(set(first.tables) & set(second.tables))
            pairs = [(first.tables[fold], second.tables[fold]) for fold in common]
            out.append(_compared(one.label, other.label, pairs))
    for student, runs in students:
        for teacher, record in teachers:
            if teacher.store == student.store and student.key in teacher.keys:
                pairs = [
                    (record.tables[run.facts.fold], run.predictions)
                    for run in sorted(runs, key=lambda run: (run.facts.fold, run.facts.seed))
                    if run.facts.fold in record.tables
                ]
                out.append(_compared(teacher.label, student.label, pairs))
    return tuple(found for found in out if found)


def _compared(first: str, second: str, pairs: Iterable[Pair]) -> Agreement | None:
    import pandas as pd

    columns = ["utterance_id", "prediction"]
    merged = [
        test_rows(one)[[*columns, "truth"]].merge(
            test_rows(other)[columns], on="utterance_id", suffixes=("", "_other")
        )
        for one, other in pairs
    ]
    rows = pd.concat(merged) if merged else None
    if rows is None or rows.empty:
        return None
    names = ("prediction", "prediction_other", "truth")
    return agreement(first, second, *(rows[name].tolist() for name in names))
