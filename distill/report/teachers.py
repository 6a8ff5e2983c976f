"""Teachers as rows of a report: what stores recorded of them, and their logits if runs have them.

Scores are those that the store recorded when it was built; calibration needs ``teachers.parquet``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from distill import metrics
from distill.metrics import Calibration, Counts, Interval, Scores, calibration
from distill.report import speakers
from distill.report.data import Teacher
from distill.report.published import Published
from distill.report.results import FoldResult, Results
from distill.runs.read import Run, logit_columns
from distill.runs.records import RunFacts, SplitFacts, TeacherFacts, TeacherScores

if TYPE_CHECKING:
    import pandas as pd

ROLES = ("train", "validation", "test")


@dataclass
class Record:
    """What the runs tell of one teacher; the first key is that of the first run that tells it.

    Attributes:
        store: fingerprint of its store.
        name: its name there.
        cross_fit: parts that its targets are cross-fitted by; 0 for the teacher itself.
        keys: of the runs that tell of it.
        folds: fold -> what the store recorded.
        splits: fold -> who is what.
        tables: fold -> its rows of ``teachers.parquet``, where a run has them.
    """

    store: str
    name: str
    cross_fit: int
    keys: list[str]
    folds: dict[int, TeacherFacts]
    splits: dict[int, SplitFacts] = field(default_factory=dict)
    tables: dict[int, pd.DataFrame] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """What it is called, unless another is called so."""
        parts = f", cross-fitted by {self.cross_fit}" if self.cross_fit else ""
        return f"{self.name} teacher{parts}"

    def agrees(self, folds: Mapping[int, TeacherFacts]) -> bool:
        """Whether no common fold has other scores."""
        return all(self.folds.get(fold, facts) == facts for fold, facts in folds.items())

    def add(self, runs: Iterable[Run]) -> None:
        """Take splits and logits from some runs, of each fold the first that has them."""
        for run in runs:
            fold = run.facts.fold
            if fold not in self.folds or self.name not in run.facts.teachers:
                continue
            self.splits.setdefault(fold, run.facts.split)
            if run.teachers is not None and fold not in self.tables:
                rows = run.teachers[run.teachers["teacher"] == self.name]
                if len(rows):
                    self.tables[fold] = rows


def teacher_rows(
    runs: Sequence[Run], printed: Published | None
) -> tuple[list[tuple[Teacher, Record]], list[str]]:
    """A row for each teacher with its record, and where runs contradict each other about one.

    Runs of one key had the same teachers. Runs of several keys are taken to have had the same one
    where store, name and the scores of every common fold are equal.
    """
    records: list[Record] = []
    conflicts: list[str] = []
    for (_, key), group in sorted(_by_key(runs).items()):
        store, cross_fit = group[0].facts.store.fingerprint, _cross_fit(group[0])
        for name, folds in _told(group, conflicts).items():
            of = (store, name, cross_fit)
            same = [r for r in records if (r.store, r.name, r.cross_fit) == of and r.agrees(folds)]
            known = next(iter(same), None)
            if known:
                known.folds |= folds
                known.keys.append(key)
            else:
                known = Record(store, name, cross_fit, [key], folds)
                records.append(known)
            known.add(group)
    count = Counter(record.shown for record in records)
    rows = []
    for record in sorted(records, key=lambda r: (r.name, r.cross_fit, r.store, r.keys[0])):
        told_apart = f" ({record.keys[0][:8]})" if count[record.shown] > 1 else ""
        row = _teacher(f"{record.shown}{told_apart}", record, runs[0].facts, printed)
        if row:
            rows.append((row, record))
            conflicts += _contradicted(row.label, record, runs[0].facts.classes)
    return rows, conflicts


def _cross_fit(run: Run) -> int:
    targets = run.settings.get("targets")
    parts = targets.get("cross_fit", 0) if isinstance(targets, dict) else 0
    return parts if isinstance(parts, int) else 0


def _by_key(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.place):
        groups[run.facts.experiment, run.facts.key].append(run)
    return groups


def _told(group: Sequence[Run], conflicts: list[str]) -> dict[str, dict[int, TeacherFacts]]:
    """Teacher -> fold -> facts; of two runs that differ the first counts, and it is said."""
    told: dict[str, dict[int, TeacherFacts]] = defaultdict(dict)
    for run in group:
        for name, teacher in run.facts.teachers.items():
            if told[name].setdefault(run.facts.fold, teacher) != teacher:
                conflicts.append(
                    f"{run.place} records other scores of the {name} teacher than another run of "
                    "its key and fold; they are not shown"
                )
    return told


def _contradicted(label: str, record: Record, classes: Sequence[str]) -> list[str]:
    """Folds whose logits give other test scores than those that the store recorded."""
    out = []
    for fold, table in sorted(record.tables.items()):
        recorded = record.folds[fold].test
        tested = speakers.test_rows(table)
        if recorded is None or tested.empty:
            continue
        found = metrics.from_predictions(tested, classes)
        if max(abs(found.wa - recorded.wa), abs(found.ua - recorded.ua)) > 1e-6:
            out.append(f"{label}: in fold {fold} its logits give other scores than were recorded")
    return out


def _teacher(
    label: str, record: Record, facts: RunFacts, printed: Published | None
) -> Teacher | None:
    folds = record.folds
    tested = {fold: folds[fold].test for fold in sorted(folds)}
    known = {fold: scores for fold, scores in tested.items() if scores is not None}
    if not known:
        return None
    results = tuple(FoldResult(fold, (), s.wa, s.ua, _n(s)) for fold, s in known.items())
    pooled = _pooled(known.values(), facts.classes)
    train = [t.train.ua for t in folds.values() if t.train]
    validation = [t.validation.ua for t in folds.values() if t.validation]
    return Teacher(
        label=label,
        name=record.name,
        store=record.store,
        cross_fit=record.cross_fit,
        keys=tuple(sorted(set(record.keys))),
        results=Results.over(
            results, facts.n_folds, pooled, _intervals(record, known, facts.classes)
        ),
        train_ua=metrics.spread(train) if train else None,
        validation_ua=metrics.spread(validation) if validation else None,
        published=printed.teacher(record.name) if printed and not record.cross_fit else None,
        calibration=_calibrations(record, facts.classes),
        no_calibration=_uncalibrated(record, known),
    )


def _n(found: TeacherScores) -> int | None:
    return found.n if found.confusion is None else sum(map(sum, found.confusion))


def _intervals(
    record: Record, known: Mapping[int, TeacherScores], classes: Sequence[str]
) -> tuple[Interval, Interval] | str:
    """From its logits, or from the confusions of folds that test one speaker each."""
    if set(known) <= set(record.tables):
        return speakers.intervals(
            speakers.confusions([record.tables[fold] for fold in known], classes)
        )
    found: dict[str, Counts] = {}
    for fold, recorded in known.items():
        tested = record.splits[fold].test
        if recorded.confusion is None or len(tested) > 1:
            return "the runs do not hold its answers, speaker by speaker"
        counts = np.asarray(recorded.confusion, dtype=np.int64)
        found[tested[0]] = found.get(tested[0], 0) + counts
    return speakers.intervals(found)


def _calibrations(record: Record, classes: Sequence[str]) -> tuple[Calibration, ...]:
    import pandas as pd

    if not record.tables:
        return ()
    rows = pd.concat([record.tables[fold] for fold in sorted(record.tables)])
    by_role = [(role, rows[rows["role"] == role]) for role in ROLES]
    return tuple(calibrated(role, part, classes) for role, part in by_role if len(part))


def calibrated(role: str, rows: pd.DataFrame, classes: Sequence[str]) -> Calibration:
    """The calibration of a table's rows."""
    place = {name: index for index, name in enumerate(classes)}
    logits = rows[logit_columns(classes)].to_numpy(dtype=np.float64)
    return calibration(role, logits, rows["truth"].map(place).to_numpy(dtype=np.int64))


def _uncalibrated(record: Record, known: Mapping[int, TeacherScores]) -> str:
    lacking = sorted(set(known) - set(record.tables))
    if not lacking:
        return ""
    if not record.tables:
        return "the runs do not hold its logits (they were made by an older version)"
    return f"no run holds its logits of fold {', '.join(map(str, lacking))}"


def _pooled(scores: Iterable[TeacherScores], classes: Sequence[str]) -> Scores | None:
    counts = [s.confusion for s in scores]
    known = [c for c in counts if c is not None]
    if not known or len(known) < len(counts):
        return None
    size = range(len(classes))
    return metrics.from_confusion(
        [[sum(c[i][j] for c in known) for j in size] for i in size], classes
    )
