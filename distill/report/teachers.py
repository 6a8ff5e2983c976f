"""Teachers as rows of a report: what the stores recorded of them when they were built."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from distill import metrics
from distill.metrics import Scores
from distill.published import Published
from distill.report.data import FoldResult, Results, Teacher
from distill.report.runs import Run
from distill.run_facts import RunFacts, TeacherFacts, TeacherScores


@dataclass
class _Record:
    """What the runs tell of one teacher; the key is that of the first run that tells it."""

    store: str
    name: str
    key: str
    folds: dict[int, TeacherFacts]

    def agrees(self, folds: Mapping[int, TeacherFacts]) -> bool:
        return all(self.folds.get(fold, facts) == facts for fold, facts in folds.items())


def teacher_rows(
    runs: Sequence[Run], printed: Published | None
) -> tuple[tuple[Teacher, ...], list[str]]:
    """A row for each teacher, and where runs contradict each other about one.

    Runs of one key had the same teachers. Runs of several keys are taken to have had the same one
    where store, name and the scores of every common fold are equal.
    """
    records: list[_Record] = []
    conflicts: list[str] = []
    for (_, key), group in sorted(_by_key(runs).items()):
        store = group[0].facts.store.fingerprint
        for name, folds in _told(group, conflicts).items():
            same = (r for r in records if (r.store, r.name) == (store, name) and r.agrees(folds))
            known = next(same, None)
            if known:
                known.folds |= folds
            else:
                records.append(_Record(store, name, key, folds))
    count = Counter(record.name for record in records)
    rows = []
    for record in sorted(records, key=lambda r: (r.name, r.store, r.key)):
        told_apart = f" ({record.key[:8]})" if count[record.name] > 1 else ""
        row = _teacher(f"{record.name} teacher{told_apart}", record, runs[0].facts, printed)
        rows += [row] if row else []
    return tuple(rows), conflicts


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


def _teacher(
    label: str, record: _Record, facts: RunFacts, printed: Published | None
) -> Teacher | None:
    folds = record.folds
    tested = {fold: folds[fold].test for fold in sorted(folds)}
    known = {fold: scores for fold, scores in tested.items() if scores is not None}
    if not known:
        return None
    results = tuple(FoldResult(fold, (), s.wa, s.ua) for fold, s in known.items())
    train = [t.train.ua for t in folds.values() if t.train]
    validation = [t.validation.ua for t in folds.values() if t.validation]
    return Teacher(
        label=label,
        name=record.name,
        store=record.store,
        results=Results.over(results, facts.n_folds, _pooled(known.values(), facts.classes)),
        train_ua=metrics.spread(train) if train else None,
        validation_ua=metrics.spread(validation) if validation else None,
        published=printed.teacher(record.name) if printed else None,
    )


def _pooled(scores: Iterable[TeacherScores], classes: Sequence[str]) -> Scores | None:
    counts = [s.confusion for s in scores]
    known = [c for c in counts if c is not None]
    if not known or len(known) < len(counts):
        return None
    size = range(len(classes))
    return metrics.from_confusion(
        [[sum(c[i][j] for c in known) for j in size] for i in size], classes
    )
