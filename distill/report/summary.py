"""From finished runs to the numbers of a report, by way of one table of answers.

Each row of the table is an answer: whose it is (a student or a teacher), fold, seed, role, speaker,
utterance, truth, prediction and raw logits. Students' answers are ``predictions.parquet`` of their
runs, teachers' are ``teachers.parquet``; what is measured of both is measured by the same code.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from distill import metrics
from distill.metrics import MIN_UNITS, Agreement, Calibration, Counts
from distill.report import published
from distill.report.data import (
    NO_SEED,
    Curve,
    FoldResult,
    FoldSplit,
    LossTerm,
    Measured,
    Report,
    Results,
    RunResult,
    Student,
    Study,
    Teacher,
    grouped,
    ranges,
)
from distill.report.experiments import comparisons, experiments
from distill.report.published import Published, as_printed, incomparable
from distill.runs.read import LeftOut, Run, RunSet, logit_columns
from distill.runs.records import FOLDER, RunFacts
from featstore.core.settings import flat

if TYPE_CHECKING:
    import pandas as pd

ROLES = ("train", "validation", "test")
SHOWN_ELSEWHERE = {"seed", "variant", "experiment"}
"""Settings that a student's row carries anyway."""


def summarise(runset: RunSet) -> Report:
    """Every number of the report; the same runs give the same report, whatever their order."""
    by_study = grouped(
        sorted(runset.runs, key=lambda run: run.place), lambda run: _study_key(run.facts)
    )
    studies = [_study(by_study[key], runset) for key in sorted(by_study, key=repr)]
    shown = {one.stem for study in studies for one in study.experiments}
    empty = [
        LeftOut(f"{FOLDER}/{stem}.json", "unfinished", "no finished run of its rows was found")
        for stem in sorted(set(runset.records) - shown)
    ]
    return Report(tuple(studies), (*runset.left_out, *empty))


def _study_key(facts: RunFacts) -> tuple[Any, ...]:
    protocol = tuple(sorted(facts.protocol.model_dump().items()))
    return facts.dataset, facts.full_release, facts.classes, facts.n_folds, protocol


def _study(runs: Sequence[Run], runset: RunSet) -> Study:
    facts, printed = runs[0].facts, published.load()
    reason = incomparable(facts, printed)
    shown = None if reason else printed
    teachers, conflicts = _teachers(runs, shown)
    students = _students(runs, printed, shown, runset)
    maps = {tuple(sorted(m.items())) for run in runs if (m := run.facts.label_map) is not None}
    versions: dict[str, set[str]] = defaultdict(set)
    for library, version in (pair for run in runs for pair in run.facts.versions.items()):
        versions[library].add(version)
    unlike = ["the runs do not agree on the classes that the corpus' own labels count as"]
    return Study(
        dataset=facts.dataset,
        full_release=facts.full_release,
        classes=facts.classes,
        protocol=facts.protocol,
        n_folds=facts.n_folds,
        teachers=tuple(one.row for one in teachers if isinstance(one.row, Teacher)),
        students=tuple(one.row for one in students if isinstance(one.row, Student)),
        comparisons=comparisons(students),
        incomparable=reason,
        versions={library: tuple(sorted(versions[library])) for library in sorted(versions)},
        notes=(*_notes([*teachers, *students]), *conflicts, *(unlike if len(maps) > 1 else ())),
        folds=_splits(runs),
        label_map=dict(min(maps)) if maps else None,
        agreements=_agreements(teachers, students),
        experiments=experiments(runset, facts.n_folds, [*teachers, *students], shown),
    )


def results(answers: pd.DataFrame, classes: Sequence[str], n_folds: int) -> Results:
    """Per fold the mean over its seeds, then the spread of those over folds; pooled scores.

    Args:
        answers: of one student or teacher.
        classes: in logit order.
        n_folds: how many the corpus has.
    """
    test = answers[answers["role"] == "test"]
    counts = confusions(test, ["fold", "seed"], classes)
    scored = {cell: metrics.from_confusion(one.tolist(), classes) for cell, one in counts.items()}
    folds = []
    for fold, cells in grouped(sorted(scored), lambda cell: cell[0]).items():
        seeds = tuple(seed for _, seed in cells if seed != NO_SEED)
        wa, ua = (fmean([getattr(scored[cell], name) for cell in cells]) for name in ("wa", "ua"))
        folds.append(FoldResult(fold, seeds, wa, ua, max(scored[cell].n for cell in cells)))
    speakers = confusions(test, ["speaker"], classes)
    few = f"too few speakers to resample: {len(speakers)}, fewer than {MIN_UNITS}"
    intervals = metrics.bootstrap_scores(np.stack([speakers[name] for name in sorted(speakers)]))
    return Results(
        folds=tuple(folds),
        n_folds=n_folds,
        wa=metrics.spread([fold.wa for fold in folds]),
        ua=metrics.spread([fold.ua for fold in folds]),
        pooled=metrics.from_confusion(sum(counts.values()).tolist(), classes),  # type: ignore[union-attr]
        wa_interval=intervals[0] if intervals else None,
        ua_interval=intervals[1] if intervals else None,
        no_interval="" if intervals else few,
    )


def confusions(
    rows: pd.DataFrame, by: Sequence[str], classes: Sequence[str]
) -> dict[tuple[Any, ...], Counts]:
    """Counts ``[C, C]`` of each group of answers, row = truth, by the values of some columns."""
    place = {name: index for index, name in enumerate(classes)}
    groups = rows.groupby(list(by))
    counts = np.zeros((groups.ngroups, len(classes), len(classes)), dtype=np.int64)
    where = [rows[name].map(place).to_numpy(dtype=np.int64) for name in ("truth", "prediction")]
    np.add.at(counts, (groups.ngroup().to_numpy(), *where), 1)
    keys = rows[list(by)].drop_duplicates().sort_values(list(by))  # in which groups are numbered
    return dict(zip(keys.itertuples(index=False, name=None), counts, strict=True))


def _calibrations(
    answers: pd.DataFrame, roles: Sequence[str], classes: Sequence[str]
) -> tuple[Calibration, ...]:
    place = {name: index for index, name in enumerate(classes)}
    out = []
    for role in roles:
        rows = answers[answers["role"] == role]
        if len(rows):
            logits = rows[logit_columns(classes)].to_numpy(dtype=np.float64)
            truth = rows["truth"].map(place).to_numpy(dtype=np.int64)
            out.append(metrics.calibration(role, logits, truth))
    return tuple(out)


def _students(
    runs: Sequence[Run], printed: Published, shown: Published | None, runset: RunSet
) -> list[Measured]:
    """By backbone, in the order of Table 2, in that of experiments, then by name."""
    records = sorted(runset.records.items())
    points = [row for _, record in records for row in record.rows if row.teacher is None]
    asked: dict[tuple[str, str], str] = {}
    for row in sorted(points, key=lambda row: row.point.value if row.point else -math.inf):
        asked.setdefault((row.experiment, row.key), row.label)  # of a table rather than a figure
    rank = {row.variant: place for place, row in enumerate(printed.table2) if row.variant}
    order = {where: place for place, where in enumerate(asked)}

    def place(group: Sequence[Run]) -> tuple[Any, ...]:
        f = group[0].facts
        own = (
            rank.get(f.variant, len(rank)),
            f.variant,
            order.get((f.experiment, f.key), len(order)),
        )
        return f.student.backbone, *own, f.experiment, f.key

    groups = sorted(grouped(runs, _student_key).values(), key=place)
    labels = _labels([group[0].facts for group in groups], asked)
    return [_student(group, label, shown) for group, label in zip(groups, labels, strict=True)]


def _student_key(run: Run) -> tuple[str, str, str, str]:
    facts = run.facts
    return facts.experiment, facts.key, facts.variant, facts.student.backbone


def _labels(students: Sequence[RunFacts], asked: Mapping[tuple[str, str], str]) -> list[str]:
    """Short names, told apart where they would be equal: by experiment, by row, at last by key."""
    names = [f"{f.variant} · {f.student.backbone.rsplit('/', 1)[-1]}" for f in students]
    rows = [asked.get((f.experiment, f.key), "") for f in students]
    for extra in ([f.experiment for f in students], rows, [f.key[:8] for f in students]):
        shared: dict[str, set[str]] = defaultdict(set)
        for name, more in zip(names, extra, strict=True):
            shared[name].add(more)
        names = [
            f"{name} ({more})" if more and len(shared[name]) > 1 else name
            for name, more in zip(names, extra, strict=True)
        ]
    return names


def _student(runs: Sequence[Run], label: str, printed: Published | None) -> Measured:
    import pandas as pd

    runs = sorted(runs, key=lambda run: (run.facts.fold, run.facts.seed))
    facts, settings = runs[0].facts, runs[0].settings
    answers = pd.concat([run.predictions for run in runs], ignore_index=True)
    seconds = [run.facts.seconds for run in runs if run.facts.seconds is not None]
    timed = len(seconds) == len(runs)
    taus: dict[str, set[float]] = defaultdict(set)
    for teacher, tau in (pair for run in runs for pair in run.facts.temperatures.items()):
        taus[teacher].add(tau)
    row = Student(
        label=label,
        experiment=facts.experiment,
        key=facts.key,
        store=facts.store.fingerprint,
        variant=facts.variant,
        backbone=facts.student.backbone,
        parameters=facts.student.parameters,
        seeds=tuple(sorted({run.facts.seed for run in runs})),
        results=results(answers, facts.classes, facts.n_folds),
        curves=tuple(
            Curve(
                fold=run.facts.fold,
                seed=run.facts.seed,
                points=tuple((epoch.number, epoch.ua) for epoch in run.epochs),
                best_epoch=run.facts.best_epoch,
            )
            for run in runs
        ),
        settings={k: v for k, v in flat(settings).items() if k not in SHOWN_ELSEWHERE},
        seconds=math.fsum(seconds) if timed else None,
        seconds_per_run=metrics.spread(seconds) if timed else None,
        published=(
            printed.student(facts.variant, facts.student.backbone)
            if printed and as_printed(facts.variant, settings)
            else None
        ),
        runs=tuple(
            RunResult(
                run.facts.fold, run.facts.seed, run.scores.wa, run.scores.ua, run.scores.n,
                run.facts.seconds,
            )
            for run in runs
        ),
        temperatures={teacher: tuple(sorted(taus[teacher])) for teacher in sorted(taus)},
        calibration=_calibrations(answers, ["test"], facts.classes),
        terms=_loss_terms(runs),
    )  # fmt: skip
    return Measured(row, answers, runs)


def _loss_terms(runs: Iterable[Run]) -> tuple[LossTerm, ...]:
    """Each term in the runs' last epoch and over all, and its share of the gradients."""
    import pandas as pd

    logs = pd.DataFrame(
        [
            (place, epoch is run.epochs[-1], name, epoch.terms.get(name), epoch.gradients.get(name))
            for place, run in enumerate(runs)
            for epoch in run.epochs
            for name in {*epoch.terms, *epoch.gradients}
        ],
        columns=["run", "last", "term", "value", "gradient"],
    ).astype({"value": float, "gradient": float})

    def means(part: pd.DataFrame) -> dict[str, tuple[float | None, ...]]:
        """Value, gradient and its share: the mean over each run's epochs, then over the runs."""
        each = part.groupby(["term", "run"])[["value", "gradient"]].mean()
        mean = each.groupby("term").mean()
        pull = mean["gradient"].sum()
        mean["share"] = mean["gradient"] / pull if pull > 0 else math.nan
        known = mean.astype(object).where(mean.notna(), None)
        return dict(zip(known.index, known.itertuples(index=False, name=None), strict=True))

    last, whole = means(logs[logs["last"].astype(bool)]), means(logs)
    return tuple(
        LossTerm(name, ended, mean, pull_last, pull, share_last, share)
        for name in sorted(set(last) & set(whole), key=lambda name: (name != "total", name))
        for ended, pull_last, share_last in (last[name],)
        for mean, pull, share in (whole[name],)
        if mean is not None and ended is not None
    )


@dataclass(eq=False)
class _Taught:
    """A teacher as the runs of some keys have it."""

    store: str
    name: str
    cross_fit: int
    keys: set[str]
    folds: dict[int, pd.DataFrame]

    @property
    def label(self) -> str:
        """What it is called, unless another is called so."""
        parts = f", cross-fitted by {self.cross_fit}" if self.cross_fit else ""
        return f"{self.name} teacher{parts}"


def _teachers(runs: Sequence[Run], printed: Published | None) -> tuple[list[Measured], list[str]]:
    """A row for each teacher, and where runs contradict each other about one.

    Runs of one key had the same teachers. Runs of several keys are taken to have had the same one
    where store, name and the answers of every common fold are equal.
    """
    taught: list[_Taught] = []
    conflicts: list[str] = []
    for (_, key), group in sorted(
        grouped(runs, lambda run: (run.facts.experiment, run.facts.key)).items()
    ):
        facts, targets = group[0].facts, group[0].settings.get("targets")
        parts = targets.get("cross_fit", 0) if isinstance(targets, dict) else 0
        cross_fit = parts if isinstance(parts, int) else 0
        for name, folds in _answers_of(group, conflicts).items():
            one = _Taught(facts.store.fingerprint, name, cross_fit, {key}, folds)
            like = (t for t in taught if (t.store, t.label) == (one.store, one.label))
            known = next((t for t in like if _agree(t.folds, folds)), None)
            if known is None:
                taught.append(one)
            else:
                known.keys.add(key)
                known.folds = folds | known.folds
    taught.sort(key=lambda t: (t.name, t.cross_fit, t.store, min(t.keys)))
    count = Counter(t.label for t in taught)
    silent = sum(run.teachers is None and bool(run.facts.teachers) for run in runs)
    if silent:
        conflicts.append(
            f"{silent} run(s) do not hold the answers of their teachers (an older version)"
        )
    rows = [
        _teacher(t, f" ({min(t.keys)[:8]})" if count[t.label] > 1 else "", runs[0].facts, printed)
        for t in taught
    ]
    return rows, conflicts + _unlike_the_store(runs)


def _answers_of(runs: Sequence[Run], conflicts: list[str]) -> dict[str, dict[int, pd.DataFrame]]:
    """Teacher -> fold -> answers; of two runs that differ the first counts, and it is said."""
    out: dict[str, dict[int, pd.DataFrame]] = defaultdict(dict)
    for run in runs:
        for name, rows in () if run.teachers is None else run.teachers.groupby("teacher"):
            fold = run.facts.fold
            rows = rows.reset_index(drop=True).assign(seed=NO_SEED)
            if not _agree({fold: out[str(name)].setdefault(fold, rows)}, {fold: rows}):
                conflicts.append(
                    f"{run.place} holds other answers of the {name} teacher than another run of "
                    "its key and fold; they are not shown"
                )
    return out


def _agree(one: Mapping[int, pd.DataFrame], other: Mapping[int, pd.DataFrame]) -> bool:
    """Whether the answers of all common folds are equal."""
    columns = ["utterance_id", "role", "prediction"]
    return all(
        one[fold] is other[fold] or one[fold][columns].equals(other[fold][columns])
        for fold in set(one) & set(other)
    )


def _unlike_the_store(runs: Sequence[Run]) -> list[str]:
    """Folds whose logits give other test scores than those that the store recorded."""
    notes: dict[str, None] = {}
    for run in runs:
        for name, rows in () if run.teachers is None else run.teachers.groupby("teacher"):
            recorded = run.facts.teachers.get(str(name))
            if recorded and recorded.test:
                scores = metrics.from_predictions(rows, run.facts.classes)
                if max(abs(scores.wa - recorded.test.wa), abs(scores.ua - recorded.test.ua)) > 1e-6:
                    notes[
                        f"{name} teacher: in fold {run.facts.fold} its logits give other scores "
                        "than were recorded"
                    ] = None
    return list(notes)


def _teacher(t: _Taught, apart: str, facts: RunFacts, printed: Published | None) -> Measured:
    import pandas as pd

    answers = pd.concat([t.folds[fold] for fold in sorted(t.folds)], ignore_index=True)
    by_role = {
        role: [
            metrics.from_confusion(counts.tolist(), facts.classes).ua
            for counts in confusions(
                answers[answers["role"] == role], ["fold"], facts.classes
            ).values()
        ]
        for role in ("train", "validation")
    }
    row = Teacher(
        label=f"{t.label}{apart}",
        name=t.name,
        store=t.store,
        cross_fit=t.cross_fit,
        keys=tuple(sorted(t.keys)),
        results=results(answers, facts.classes, facts.n_folds),
        train_ua=metrics.spread(by_role["train"]) if by_role["train"] else None,
        validation_ua=metrics.spread(by_role["validation"]) if by_role["validation"] else None,
        published=printed.teacher(t.name) if printed and not t.cross_fit else None,
        calibration=_calibrations(answers, ROLES, facts.classes),
    )
    return Measured(row, answers)


def _agreements(
    teachers: Sequence[Measured], students: Sequence[Measured]
) -> tuple[Agreement, ...]:
    """Of each two teachers of one store, then of each teacher with each student from it.

    Pairs without a common test utterance have no row.
    """
    pairs = [
        (one, other)
        for one, other in combinations(teachers, 2)
        if isinstance(one.row, Teacher) and isinstance(other.row, Teacher)
        if one.row.store == other.row.store and one.row.name != other.row.name
        if set(one.row.keys) & set(other.row.keys)
    ]
    pairs += [
        (teacher, student)
        for student in students
        for teacher in teachers
        if isinstance(teacher.row, Teacher) and isinstance(student.row, Student)
        if teacher.row.store == student.row.store and student.row.key in teacher.row.keys
    ]
    out = []
    for one, other in pairs:
        on = ["fold", "utterance_id"]
        rows = one.test.merge(other.test[[*on, "prediction"]], on=on, suffixes=("", "_other"))
        if len(rows):
            names = ("prediction", "prediction_other", "truth")
            answers = (rows[name].tolist() for name in names)
            out.append(metrics.agreement(one.row.label, other.row.label, *answers))
    return tuple(out)


def _splits(runs: Sequence[Run]) -> tuple[FoldSplit, ...]:
    """Of each fold and store one."""
    splits: dict[tuple[int, str], FoldSplit] = {}
    for run in runs:
        facts, roles = run.facts, Counter(run.predictions["role"])
        split, overlap = facts.split, facts.text_overlap
        splits.setdefault(
            (facts.fold, facts.store.fingerprint),
            FoldSplit(
                fold=facts.fold,
                store=facts.store.fingerprint,
                test=split.test,
                validation=split.validation,
                train=split.train,
                n_test=roles["test"],
                n_validation=roles["validation"],
                n_shared_texts=overlap.n_shared if overlap else None,
            ),
        )
    return tuple(splits[key] for key in sorted(splits))


def _notes(rows: Sequence[Measured]) -> list[str]:
    """What keeps the numbers from being those of a whole and balanced experiment."""
    lacking: dict[str, list[str]] = defaultdict(list)
    for one in rows:
        r = one.row.results
        done = f"{len(r.folds)} of {r.n_folds} folds; missing {ranges(r.missing)}"
        lacking[done if r.missing else ""].append(one.row.label)
    every = len(lacking) == 1 and len(rows) > 1
    notes = [
        f"{label}: {text}"
        for text, labels in lacking.items()
        if text
        for label in (["every row"] if every else labels)
    ]
    for one in rows:
        if isinstance(one.row, Student):
            seeds = one.row.seeds
            folds = [fold.fold for fold in one.row.results.folds if fold.seeds != seeds]
            if folds:
                notes.append(f"{one.row.label}: not every seed was run on fold {ranges(folds)}")
            twice = int(one.test.duplicated(["seed", "utterance_id"]).sum())
            if twice:
                notes.append(
                    f"{one.row.label}: {twice} utterance(s) are tested in more than one fold"
                )
    return notes
