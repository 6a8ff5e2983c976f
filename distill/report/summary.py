"""From finished runs to the numbers of a report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from distill import published
from distill.experiment_record import FOLDER as RECORDS
from distill.published import Published
from distill.report.agreements import agreements
from distill.report.comparison import comparisons
from distill.report.data import FoldSplit, Report, Student, Study, Teacher
from distill.report.experiments import Found, experiment
from distill.report.runs import LeftOut, Run, RunSet
from distill.report.speakers import test_rows
from distill.report.students import student
from distill.report.teachers import teacher_rows
from distill.report.verdicts import ranges
from distill.run_facts import RunFacts

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


def incomparable(facts: RunFacts, printed: Published) -> str:
    """Why a run's scores must not be held against the paper's; empty where they may be."""
    source = printed.source
    if facts.dataset != source.dataset:
        return f"they are about {source.dataset.upper()}, this corpus is {facts.dataset}"
    if set(facts.classes) != set(source.classes):
        return f"they are about the classes {', '.join(source.classes)}"
    if not facts.full_release:
        return f"this is not the full {source.dataset.upper()} release"
    protocol = facts.protocol
    if (protocol.scheme, facts.n_folds) != (source.scheme, source.folds):
        return f"they are about {source.folds} folds with one speaker left out"
    if protocol.kind != "all" or protocol.script_disjoint:
        return "they are about scripted and improvised dialogues together, texts overlapping"
    return ""


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
            for stem, record in sorted(runset.records.items())
            if found.concerns(record)
        ),
    )


def _students(
    runs: Sequence[Run], printed: Published, shown: Published | None, runset: RunSet
) -> list[tuple[Student, list[Run]]]:
    """Rows with their runs. A point of a sweep alone is no row of the paper's tables."""
    groups = _ordered(_grouped(runs, _student_key).values(), printed)
    asked = [row for record in runset.records.values() for row in record.rows]
    tabled = {(row.experiment, row.key) for row in asked if not row.point}
    swept = {(row.experiment, row.key) for row in asked if row.point} - tabled
    out = []
    for group, label in zip(groups, _labels(groups), strict=True):
        facts = group[0].facts
        figures = None
        if shown and (facts.experiment, facts.key) not in swept:
            figures = shown.student(facts.variant, facts.student.backbone)
        out.append((student(group, label, figures), group))
    return out


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


def _ordered(groups: Iterable[list[Run]], printed: Published) -> list[list[Run]]:
    """Students by backbone, then in the order of Table 2, then by name."""
    rank = {row.variant: place for place, row in enumerate(printed.table2) if row.variant}

    def place(group: list[Run]) -> tuple[Any, ...]:
        facts = group[0].facts
        return (
            facts.student.backbone,
            rank.get(facts.variant, len(rank)),
            facts.variant,
            facts.experiment,
            facts.key,
        )

    return sorted(groups, key=place)


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Short names, told apart by experiment or else by key where they would be equal."""
    facts = [group[0].facts for group in groups]
    short = [f"{f.variant} · {f.student.backbone.rsplit('/', 1)[-1]}" for f in facts]
    for extra in ([f.experiment for f in facts], [f.key[:8] for f in facts]):
        count = Counter(short)
        if set(count.values()) <= {1}:
            break
        short = [
            f"{name} ({more})" if count[name] > 1 else name
            for name, more in zip(short, extra, strict=True)
        ]
    return short


def _notes(
    teachers: Sequence[Teacher], students: Sequence[tuple[Student, Sequence[Run]]]
) -> list[str]:
    notes = [note for row in teachers for note in _missing(row)]
    notes += [note for row, _ in students for note in _missing(row)]
    return notes + [note for row, runs in students for note in _unbalanced(row, runs)]


def _missing(row: Teacher | Student) -> list[str]:
    """Which folds a row's means are without."""
    results = row.results
    if not results.missing:
        return []
    done = f"{len(results.folds)} of {results.n_folds} folds"
    return [f"{row.label}: {done}; missing {ranges(results.missing)}"]


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
