"""From finished runs to the numbers of a report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from distill import published
from distill.experiment_record import FOLDER as RECORDS
from distill.published import Figures, Published
from distill.report.agreements import agreements
from distill.report.comparison import comparisons
from distill.report.data import FoldSplit, Report, Student, Study, Teacher
from distill.report.experiments import Found, experiment
from distill.report.runs import LeftOut, Run, RunSet
from distill.report.students import student
from distill.report.teachers import teacher_rows
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
    groups = _ordered(_grouped(runs, _student_key).values(), printed)
    swept = {
        (row.experiment, row.key) for r in runset.records.values() for row in r.rows if row.point
    }
    students = [
        student(group, label, _published(group[0].facts, shown, swept))
        for group, label in zip(groups, _labels(groups), strict=True)
    ]
    known, conflicts = teacher_rows(runs, shown)
    teachers = tuple(row for row, _ in known)
    rows: tuple[Teacher | Student, ...] = (*teachers, *students)
    notes = [note for row in rows for note in _missing(row)]
    for row, group in zip(students, groups, strict=True):
        notes += _notes(row, group)
    places = [(row.experiment, row.key) for row in students]
    found = Found(
        n_folds=facts.n_folds, teachers=teachers, students=dict(zip(places, students, strict=True)),
        runs=dict(zip(places, groups, strict=True)), left_out=runset.left_out, printed=shown,
    )  # fmt: skip
    label_map, differing = _label_map(runs)
    return Study(
        dataset=facts.dataset,
        full_release=facts.full_release,
        classes=facts.classes,
        protocol=facts.protocol,
        n_folds=facts.n_folds,
        teachers=teachers,
        students=tuple(students),
        comparisons=comparisons(students, groups),
        incomparable=reason,
        versions=_versions(runs),
        notes=(*notes, *conflicts, *differing),
        folds=_splits(runs),
        label_map=label_map,
        agreements=agreements(known, zip(students, groups, strict=True)),
        experiments=tuple(
            experiment(stem, record, found)
            for stem, record in sorted(runset.records.items())
            if found.concerns(record)
        ),
    )


def _published(
    facts: RunFacts, printed: Published | None, swept: Collection[tuple[str, str]]
) -> Figures | None:
    """The printed pair of a student; a point of a sweep is no row of the paper's tables."""
    if printed is None or (facts.experiment, facts.key) in swept:
        return None
    return printed.student(facts.variant, facts.student.backbone)


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


def _label_map(runs: Sequence[Run]) -> tuple[dict[str, str] | None, list[str]]:
    """What the corpus' own labels count as, and a note where runs differ about it."""
    told = {
        tuple(sorted(run.facts.label_map.items()))
        for run in runs
        if run.facts.label_map is not None
    }
    note = ["runs count the corpus' labels as different classes"] if len(told) > 1 else []
    return (dict(min(told)) if told else None), note


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


def _missing(row: Teacher | Student) -> list[str]:
    """Which folds a row's means are without."""
    results = row.results
    if not results.missing:
        return []
    done = f"{len(results.folds)} of {results.n_folds} folds"
    return [f"{row.label}: {done}; missing {ranges(results.missing)}"]


def _notes(student: Student, runs: Sequence[Run]) -> list[str]:
    """What else keeps a student's numbers from being those of a balanced experiment."""
    import pandas as pd

    notes = []
    lacking = [f for f in student.results.folds if f.seeds != student.seeds]
    if lacking:
        folds = ranges([f.fold for f in lacking])
        notes.append(f"{student.label}: not every seed was run on fold {folds}")
    tests = pd.concat([r.predictions for r in runs])
    tests = tests[tests["role"] == "test"]
    twice = int(tests.duplicated(["seed", "utterance_id"]).sum())
    if twice:
        notes.append(f"{student.label}: {twice} utterance(s) are tested in more than one fold")
    return notes


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as the command line takes them.

    >>> ranges([1, 2, 3, 7, 9, 10])
    '1..3,7,9..10'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{r[0]}..{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


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
