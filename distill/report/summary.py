"""From finished runs to the numbers of a report."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from distill.report import published
from distill.report.agreements import agreements
from distill.report.comparison import comparisons
from distill.report.data import FoldSplit, Report, Student, Study, Teacher
from distill.report.experiments import Found, experiment
from distill.report.paper import as_printed, incomparable
from distill.report.published import Figures, Published
from distill.report.speakers import test_rows
from distill.report.students import student
from distill.report.teachers import teacher_rows
from distill.report.verdicts import ranges
from distill.runs.read import LeftOut, Run, RunSet
from distill.runs.records import FOLDER as RECORDS
from distill.runs.records import ExperimentRecord, RunFacts

T = TypeVar("T")
K = TypeVar("K")


def summarise(runset: RunSet) -> Report:
    """Every number of the report; the same runs give the same report, whatever their order."""
    printed = published.load()
    by_study = _grouped(runset.runs, lambda run: _study_key(run.facts))
    studies = [_study(by_study[key], printed, runset) for key in sorted(by_study, key=repr)]
    shown = {one.stem for study in studies for one in study.experiments}
    empty = [
        LeftOut(f"{RECORDS}/{stem}.json", "unfinished", "no finished run of its rows was found")
        for stem in sorted(set(runset.records) - shown)
    ]
    return Report(tuple(studies), (*runset.left_out, *empty))


def _study_key(facts: RunFacts) -> tuple[Any, ...]:
    protocol = tuple(sorted(facts.protocol.model_dump().items()))
    return facts.dataset, facts.full_release, facts.classes, facts.n_folds, protocol


def _study(runs: Sequence[Run], printed: Published, runset: RunSet) -> Study:
    facts = runs[0].facts
    reason = incomparable(facts, printed)
    shown = None if reason else printed
    known, conflicts = teacher_rows(runs, shown)
    teachers = tuple(row for row, _ in known)
    students = _students(runs, printed, shown, runset)
    rows = tuple(row for row, _ in students)
    found = Found(
        n_folds=facts.n_folds, teachers=teachers, left_out=runset.left_out, printed=shown,
        students={(row.experiment, row.key): (row, group) for row, group in students},
    )  # fmt: skip
    return Study(
        dataset=facts.dataset,
        full_release=facts.full_release,
        classes=facts.classes,
        protocol=facts.protocol,
        n_folds=facts.n_folds,
        teachers=teachers,
        students=rows,
        comparisons=comparisons(rows, [group for _, group in students]),
        incomparable=reason,
        versions=_versions(runs),
        notes=(*_notes(teachers, students), *conflicts, *_label_note(runs)),
        folds=_splits(runs),
        label_map=_label_map(runs),
        agreements=agreements(known, students),
        experiments=tuple(
            experiment(stem, record, found)
            for stem, record in sorted(runset.records.items(), key=_tables_first)
            if found.concerns(record)
        ),
    )


def _students(
    runs: Sequence[Run], printed: Published, shown: Published | None, runset: RunSet
) -> list[tuple[Student, list[Run]]]:
    """Rows with their runs, in order."""
    asked = _asked(runset)
    groups = _ordered(_grouped(runs, _student_key).values(), printed, list(asked))
    labels = _labels(groups, asked)
    return [
        (student(group, label, _figures(group, shown)), group)
        for group, label in zip(groups, labels, strict=True)
    ]


def _tables_first(item: tuple[str, ExperimentRecord]) -> tuple[bool, str]:
    """Order of experiments: those with a figure last."""
    stem, record = item
    return any(row.point for row in record.rows), stem


def _asked(runset: RunSet) -> dict[tuple[str, str], str]:
    """Experiment and key -> label of an experiment's row: of a table rather than of a figure."""
    records = sorted(runset.records.items())
    rows = [row for _, record in records for row in record.rows if row.teacher is None]
    found: dict[tuple[str, str], str] = {}
    for row in sorted(rows, key=lambda row: row.point.value if row.point else -math.inf):
        found.setdefault((row.experiment, row.key), row.label)
    return found


def _figures(runs: Sequence[Run], printed: Published | None) -> Figures | None:
    """The paper's pair of a student, unless its targets or losses are none of the paper's."""
    facts = runs[0].facts
    figures = printed.student(facts.variant, facts.student.backbone) if printed else None
    return figures if figures and as_printed(facts.variant, runs[0].settings) else None


def _splits(runs: Sequence[Run]) -> tuple[FoldSplit, ...]:
    """Of each fold and store one."""
    found: dict[tuple[int, str], FoldSplit] = {}
    for run in sorted(runs, key=lambda run: run.place):
        facts, roles = run.facts, Counter(run.predictions["role"])
        split, overlap = facts.split, facts.text_overlap
        found.setdefault(
            (facts.fold, facts.store.fingerprint),
            FoldSplit(
                fold=facts.fold, store=facts.store.fingerprint, test=split.test,
                validation=split.validation, train=split.train, n_test=roles["test"],
                n_validation=roles["validation"],
                n_shared_texts=overlap.n_shared if overlap else None,
            ),
        )  # fmt: skip
    return tuple(found[key] for key in sorted(found))


def _label_maps(runs: Sequence[Run]) -> list[tuple[tuple[str, str], ...]]:
    maps = [run.facts.label_map for run in runs]
    return sorted({tuple(sorted(told.items())) for told in maps if told is not None})


def _label_map(runs: Sequence[Run]) -> dict[str, str] | None:
    told = _label_maps(runs)
    return dict(told[0]) if told else None


def _label_note(runs: Sequence[Run]) -> list[str]:
    if len(_label_maps(runs)) < 2:
        return []
    return ["the runs do not agree on the classes that the corpus' own labels count as"]


def _student_key(run: Run) -> tuple[str, str, str, str]:
    facts = run.facts
    return facts.experiment, facts.key, facts.variant, facts.student.backbone


def _ordered(
    groups: Iterable[list[Run]], printed: Published, asked: Sequence[tuple[str, str]]
) -> list[list[Run]]:
    """Students by backbone, in the order of Table 2, in that of experiments, then by name."""
    rank = {row.variant: place for place, row in enumerate(printed.table2) if row.variant}

    place_of = {where: place for place, where in enumerate(asked)}

    def place(group: list[Run]) -> tuple[Any, ...]:
        facts = group[0].facts
        return (
            facts.student.backbone,
            rank.get(facts.variant, len(rank)),
            facts.variant,
            place_of.get((facts.experiment, facts.key), len(place_of)),
            facts.experiment,
            facts.key,
        )

    return sorted(groups, key=place)


def _labels(groups: Sequence[Sequence[Run]], asked: Mapping[tuple[str, str], str]) -> list[str]:
    """Short names, told apart where they would be equal: by experiment, by row, at last by key."""
    facts = [group[0].facts for group in groups]
    names = [f"{f.variant} · {f.student.backbone.rsplit('/', 1)[-1]}" for f in facts]
    rows = [asked.get((f.experiment, f.key), "") for f in facts]
    for extra in ([f.experiment for f in facts], rows, [f.key[:8] for f in facts]):
        shared: dict[str, set[str]] = defaultdict(set)
        for name, more in zip(names, extra, strict=True):
            shared[name].add(more)
        names = [
            f"{name} ({more})" if more and len(shared[name]) > 1 else name
            for name, more in zip(names, extra, strict=True)
        ]
    return names


def _notes(
    teachers: Sequence[Teacher], students: Sequence[tuple[Student, Sequence[Run]]]
) -> list[str]:
    rows: list[Teacher | Student] = [*teachers, *(row for row, _ in students)]
    return _missing(rows) + [note for row, runs in students for note in _unbalanced(row, runs)]


def _missing(rows: Sequence[Teacher | Student]) -> list[str]:
    """Which folds rows' means are without; said once where it is the same for every row."""
    notes: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        lacking = row.results.missing
        done = f"{len(row.results.folds)} of {row.results.n_folds} folds"
        notes[f"{done}; missing {ranges(lacking)}" if lacking else ""].append(row.label)
    every = len(notes) == 1 and len(rows) > 1
    return [
        f"{label}: {said}"
        for said, labels in notes.items()
        if said
        for label in (["every row"] if every else labels)
    ]


def _unbalanced(student: Student, runs: Sequence[Run]) -> list[str]:
    """What else keeps a student's numbers from being those of a balanced experiment."""
    import pandas as pd

    notes = []
    lacking = [f for f in student.results.folds if f.seeds != student.seeds]
    if lacking:
        folds = ranges([f.fold for f in lacking])
        notes.append(f"{student.label}: not every seed was run on fold {folds}")
    tests = test_rows(pd.concat([run.predictions for run in runs]))
    twice = int(tests.duplicated(["seed", "utterance_id"]).sum())
    if twice:
        notes.append(f"{student.label}: {twice} utterance(s) are tested in more than one fold")
    return notes


def _versions(runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    seen: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for library, version in run.facts.versions.items():
            seen[library].add(version)
    return {library: tuple(sorted(seen[library])) for library in sorted(seen)}


def _grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
