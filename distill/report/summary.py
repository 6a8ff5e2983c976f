"""From finished runs to the numbers of a report."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar

from distill import metrics, published
from distill.metrics import Scores
from distill.published import Published
from distill.report.comparison import comparisons
from distill.report.data import Curve, FoldResult, Report, Results, Student, Study, Teacher
from distill.report.runs import Run, RunSet
from distill.report.teachers import teacher_rows
from distill.run_facts import RunFacts
from featstore.settings import flat

T = TypeVar("T")
K = TypeVar("K")

SHOWN_ELSEWHERE = {"seed", "variant", "experiment"}
"""Settings that a student's row carries anyway."""


def summarise(runset: RunSet) -> Report:
    """Every number of the report; the same runs give the same report, whatever their order."""
    printed = published.load()
    by_study = _grouped(runset.runs, lambda run: _study_key(run.facts))
    studies = [_study(by_study[key], printed) for key in sorted(by_study, key=repr)]
    return Report(tuple(studies), runset.left_out)


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


def _study(runs: Sequence[Run], printed: Published) -> Study:
    facts = runs[0].facts
    reason = incomparable(facts, printed)
    shown = None if reason else printed
    groups = _ordered(_grouped(runs, _student_key).values(), printed)
    students = [
        _student(group, label, shown) for group, label in zip(groups, _labels(groups), strict=True)
    ]
    teachers, conflicts = teacher_rows(runs, shown)
    rows: tuple[Teacher | Student, ...] = (*teachers, *students)
    notes = [note for row in rows for note in _missing(row)]
    for student, group in zip(students, groups, strict=True):
        notes += _notes(student, group)
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
        notes=(*notes, *conflicts),
    )


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


def _student(runs: Sequence[Run], label: str, printed: Published | None) -> Student:
    import pandas as pd

    first = runs[0].facts
    ordered = sorted(runs, key=lambda run: (run.facts.fold, run.facts.seed))
    scored = {(run.facts.fold, run.facts.seed): run.scores for run in ordered}
    pooled = metrics.from_predictions(pd.concat([r.predictions for r in ordered]), first.classes)
    seconds = [run.facts.seconds for run in ordered]
    return Student(
        label=label,
        experiment=first.experiment,
        key=first.key,
        store=first.store.fingerprint,
        variant=first.variant,
        backbone=first.student.backbone,
        parameters=first.student.parameters,
        seeds=tuple(sorted({seed for _, seed in scored})),
        results=_results(scored, first.n_folds, pooled),
        curves=tuple(
            Curve(run.facts.fold, run.facts.seed, run.curve, run.facts.best_epoch)
            for run in ordered
        ),
        settings={k: v for k, v in flat(ordered[0].settings).items() if k not in SHOWN_ELSEWHERE},
        seconds=None if None in seconds else math.fsum(s for s in seconds if s is not None),
        published=printed.student(first.variant, first.student.backbone) if printed else None,
    )


def _results(
    scored: Mapping[tuple[int, int], Scores], n_folds: int, pooled: Scores | None
) -> Results:
    """Per fold the mean over its seeds, then the spread of those over folds."""
    by_fold = _grouped(scored, lambda cell: cell[0])
    folds = tuple(
        FoldResult(
            fold=fold,
            seeds=tuple(seed for _, seed in by_fold[fold]),
            wa=fmean([scored[cell].wa for cell in by_fold[fold]]),
            ua=fmean([scored[cell].ua for cell in by_fold[fold]]),
        )
        for fold in sorted(by_fold)
    )
    return Results.over(folds, n_folds, pooled)


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
