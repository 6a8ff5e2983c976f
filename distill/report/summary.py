"""From finished runs to the numbers of a report, by way of one table of answers.

Each row of the table is an answer: whose it is (a student or a teacher), fold, seed, role, speaker,
utterance, truth, prediction and raw logits. Students' answers are ``predictions.parquet`` of their
runs, teachers' are ``teachers.parquet``; what is measured of both is measured by the same code.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from distill import metrics
from distill.metrics import MIN_UNITS, Agreement, Calibration
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

ROLES = ("train", "validation", "test")
SHOWN_ELSEWHERE = {"seed", "variant", "experiment"}
"""Settings that a student's row carries anyway."""


def summarise(runset: RunSet) -> Report:
    """Every number of the report; the same runs give the same report, whatever their order."""

    def study(run: Run) -> tuple[Any, ...]:
        f = run.facts
        protocol = tuple(sorted(f.protocol.model_dump().items()))
        return f.dataset, f.full_release, f.classes, f.n_folds, protocol

    by_study = grouped(sorted(runset.runs, key=lambda run: run.place), study)
    studies = tuple(_study(by_study[key], runset) for key in sorted(by_study, key=repr))
    shown = {one.stem for study in studies for one in study.experiments}
    empty = [
        LeftOut(f"{FOLDER}/{stem}.json", "unfinished", "no finished run of its rows was found")
        for stem in sorted(set(runset.records) - shown)
    ]
    return Report(studies, (*runset.left_out, *empty))


def _study(runs: Sequence[Run], runset: RunSet) -> Study:
    facts, printed = runs[0].facts, published.load()
    reason = incomparable(facts, printed)
    shown = None if reason else printed
    teachers, conflicts = _teachers(runs, shown)
    students = _students(runs, printed, shown, runset)
    rows = [*teachers, *students]
    maps = {tuple(sorted(m.items())) for run in runs if (m := run.facts.label_map) is not None}
    if len(maps) > 1:
        conflicts.append(
            "the runs do not agree on the classes that the corpus' own labels count as"
        )
    return Study(
        dataset=facts.dataset,
        full_release=facts.full_release,
        classes=facts.classes,
        protocol=facts.protocol,
        n_folds=facts.n_folds,
        teachers=tuple(one.row for one in teachers),
        students=tuple(one.row for one in students),
        comparisons=comparisons(students),
        incomparable=reason,
        versions=_values(run.facts.versions for run in runs),
        notes=(*_notes(rows), *conflicts),
        folds=_splits(runs),
        label_map=dict(min(maps)) if maps else None,
        agreements=_agreements(teachers, students),
        experiments=experiments(runset, facts.n_folds, rows, shown),
    )


def _values(mappings: Iterable[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Key -> the different values that it has in some mappings, both ascending."""
    values: dict[str, set[Any]] = defaultdict(set)
    for mapping in mappings:
        for key, value in mapping.items():
            values[key].add(value)
    return {key: tuple(sorted(values[key])) for key in sorted(values)}


def _results(answers: pd.DataFrame, facts: RunFacts) -> Results:
    """Per fold the mean over its seeds, then the spread of those over folds; pooled scores."""
    test = answers[answers["role"] == "test"]
    counts = metrics.confusions(test, ["fold", "seed"], facts.classes)
    scored = {cell: metrics.from_confusion(one, facts.classes) for cell, one in counts.items()}
    folds = [
        FoldResult(
            fold=fold,
            seeds=tuple(seed for _, seed in cells if seed != NO_SEED),
            wa=fmean(scored[cell].wa for cell in cells),
            ua=fmean(scored[cell].ua for cell in cells),
            n=max(scored[cell].n for cell in cells),
        )
        for fold, cells in grouped(sorted(scored), lambda cell: cell[0]).items()
    ]
    speakers = metrics.confusions(test, ["speaker"], facts.classes)
    few = f"too few speakers to resample: {len(speakers)}, fewer than {MIN_UNITS}"
    of_each = np.stack([speakers[name] for name in sorted(speakers)])
    wa_interval, ua_interval = metrics.bootstrap_scores(of_each) or (None, None)
    return Results(
        folds=tuple(folds),
        n_folds=facts.n_folds,
        wa=metrics.spread([fold.wa for fold in folds]),
        ua=metrics.spread([fold.ua for fold in folds]),
        pooled=metrics.from_confusion(np.sum(list(counts.values()), axis=0), facts.classes),
        wa_interval=wa_interval,
        ua_interval=ua_interval,
        no_interval="" if wa_interval else few,
        missing=tuple(sorted({*range(1, facts.n_folds + 1)} - {fold.fold for fold in folds})),
    )


def _calibrations(answers: pd.DataFrame, facts: RunFacts) -> tuple[Calibration, ...]:
    out = []
    for role in ROLES:
        rows = answers[answers["role"] == role]
        if len(rows):
            logits = rows[logit_columns(facts.classes)].to_numpy(dtype=np.float64)
            truth = rows["truth"].map(facts.classes.index).to_numpy(dtype=np.int64)
            out.append(metrics.calibration(role, logits, truth))
    return tuple(out)


def _students(
    runs: Sequence[Run], printed: Published, shown: Published | None, runset: RunSet
) -> list[Measured]:
    """By backbone, in the order of Table 2, in that of experiments, then by name."""
    records = sorted(runset.records.items())
    points = [row for _, record in records for row in record.rows if row.teacher is None]
    named: dict[tuple[str, str], str] = {}
    for row in sorted(points, key=lambda row: row.point.value if row.point else -math.inf):
        named.setdefault((row.experiment, row.key), row.label)  # of a table rather than a figure
    variants = [row.variant for row in printed.table2 if row.variant]
    places = list(named)

    def place(group: Sequence[Run]) -> tuple[Any, ...]:
        f, where = group[0].facts, (group[0].facts.experiment, group[0].facts.key)
        rank = variants.index(f.variant) if f.variant in variants else len(variants)
        order = places.index(where) if where in named else len(places)
        return f.student.backbone, rank, f.variant, order, *where

    def student(run: Run) -> tuple[str, ...]:
        return run.facts.experiment, run.facts.key, run.facts.variant, run.facts.student.backbone

    groups = sorted(grouped(runs, student).values(), key=place)
    labels = _labels([group[0].facts for group in groups], named)
    return [_student(group, label, shown) for group, label in zip(groups, labels, strict=True)]


def _labels(students: Sequence[RunFacts], named: Mapping[tuple[str, str], str]) -> list[str]:
    """Short names, told apart where they would be equal: by experiment, by row, at last by key."""
    names = [f"{f.variant} · {f.student.backbone.rsplit('/', 1)[-1]}" for f in students]
    rows = [named.get((f.experiment, f.key), "") for f in students]
    for extra in ([f.experiment for f in students], rows, [f.key[:8] for f in students]):
        apart = _values({name: more} for name, more in zip(names, extra, strict=True))
        names = [
            f"{name} ({more})" if more and len(apart[name]) > 1 else name
            for name, more in zip(names, extra, strict=True)
        ]
    return names


def _student(runs: Sequence[Run], label: str, printed: Published | None) -> Measured:
    runs = sorted(runs, key=lambda run: (run.facts.fold, run.facts.seed))
    facts, settings = runs[0].facts, runs[0].settings
    answers = pd.concat([run.predictions for run in runs], ignore_index=True)
    seconds = [run.facts.seconds for run in runs if run.facts.seconds is not None]
    timed = len(seconds) == len(runs)
    curves, scores = [], []
    for run in runs:
        f, s = run.facts, run.scores
        points = [(epoch.number, epoch.ua) for epoch in run.epochs]
        curves.append(Curve(fold=f.fold, seed=f.seed, points=points, best_epoch=f.best_epoch))
        scores.append(
            RunResult(fold=f.fold, seed=f.seed, wa=s.wa, ua=s.ua, n=s.n, seconds=f.seconds)
        )
    own = as_printed(facts.variant, settings)
    row = Student(
        label=label,
        experiment=facts.experiment,
        key=facts.key,
        store=facts.store.fingerprint,
        variant=facts.variant,
        backbone=facts.student.backbone,
        parameters=facts.student.parameters,
        seeds=tuple(sorted({run.facts.seed for run in runs})),
        results=_results(answers, facts),
        curves=curves,
        settings={k: v for k, v in flat(settings).items() if k not in SHOWN_ELSEWHERE},
        seconds=math.fsum(seconds) if timed else None,
        seconds_per_run=metrics.spread(seconds) if timed else None,
        published=printed.student(facts.variant, facts.student.backbone)
        if printed and own
        else None,
        runs=scores,
        temperatures=_values(run.facts.temperatures for run in runs),
        calibration=_calibrations(answers[answers["role"] == "test"], facts),
        terms=_loss_terms(runs),
    )
    return Measured(row, answers, runs)


def _loss_terms(runs: Sequence[Run]) -> list[LossTerm]:
    """Each term in the runs' last epoch and over all, and its share of the gradients."""
    logs = pd.DataFrame(
        [
            (place, epoch is run.epochs[-1], name, epoch.terms.get(name), epoch.gradients.get(name))
            for place, run in enumerate(runs)
            for epoch in run.epochs
            for name in {*epoch.terms, *epoch.gradients}
        ],
        columns=["run", "last", "term", "value", "gradient"],
    ).astype({"last": bool, "value": float, "gradient": float})
    means = {}
    for when, part in (("last", logs[logs["last"]]), ("mean", logs)):
        by_run = part.groupby(["term", "run"])[["value", "gradient"]].mean()
        mean = by_run.groupby("term").mean()
        pull = mean["gradient"].sum()
        means[when], means[f"gradient_{when}"] = mean["value"], mean["gradient"]
        means[f"share_{when}"] = mean["gradient"] / (pull if pull > 0 else math.nan)
    table = pd.DataFrame(means).dropna(subset=["last", "mean"]).astype(object)
    rows: Any = table.where(table.notna(), None).to_dict("index")
    names = sorted(map(str, rows), key=lambda name: (name != "total", name))
    return [LossTerm(name=name, **rows[name]) for name in names]


def _teachers(runs: Sequence[Run], printed: Published | None) -> tuple[list[Measured], list[str]]:
    """A row for each teacher, and where runs contradict each other about one.

    Runs of one key had the same teachers. Runs of several keys are taken to have had the same one
    where store, name and the answers of every common fold are equal.
    """
    taught: dict[tuple[str, int, str], list[tuple[set[str], dict[int, pd.DataFrame]]]] = {}
    unlike: list[str] = []
    for (_, key), group in sorted(
        grouped(runs, lambda run: (run.facts.experiment, run.facts.key)).items()
    ):
        targets = group[0].settings.get("targets")
        parts = targets.get("cross_fit", 0) if isinstance(targets, dict) else 0
        cross_fit = parts if isinstance(parts, int) else 0
        for name, folds in _answers_of(group, unlike).items():
            same = taught.setdefault((name, cross_fit, group[0].facts.store.fingerprint), [])
            for keys, answers in same:
                if all(_agree(answers[fold], folds[fold]) for fold in {*answers} & {*folds}):
                    keys.add(key)
                    answers |= folds | answers
                    break
            else:
                same.append(({key}, folds))
    silent = sum(run.teachers is None and bool(run.facts.teachers) for run in runs)
    if silent:
        unlike.append(
            f"{silent} run(s) do not hold the answers of their teachers (an older version)"
        )
    count = Counter((name, k) for (name, k, _), same in taught.items() for _ in same)
    rows = []
    for (name, cross_fit, store), same in sorted(taught.items()):
        for keys, answers in sorted(same, key=lambda one: min(one[0])):
            label = f"{name} teacher" + (f", cross-fitted by {cross_fit}" if cross_fit else "")
            label += f" ({min(keys)[:8]})" if count[name, cross_fit] > 1 else ""
            row = Teacher(label=label, name=name, store=store, cross_fit=cross_fit)
            row["keys"] = tuple(sorted(keys))
            rows.append(_teacher(row, answers, runs[0].facts, printed))
    return rows, list(dict.fromkeys(unlike))


def _answers_of(runs: Sequence[Run], unlike: list[str]) -> dict[str, dict[int, pd.DataFrame]]:
    """Teacher -> fold -> answers; of two runs that differ the first counts, and it is said.

    So is a fold whose logits give other test scores than those that the store recorded.
    """
    out: dict[str, dict[int, pd.DataFrame]] = defaultdict(dict)
    for run in runs:
        f = run.facts
        for name, rows in () if run.teachers is None else run.teachers.groupby("teacher"):
            rows = rows.reset_index(drop=True).assign(seed=NO_SEED)
            recorded = f.teachers.get(str(name))
            if recorded and recorded.test:
                scores, test = metrics.from_predictions(rows, f.classes), recorded.test
                if max(abs(scores.wa - test.wa), abs(scores.ua - test.ua)) > 1e-6:
                    what = "its logits give other scores than were recorded"
                    unlike.append(f"{name} teacher: in fold {f.fold} {what}")
            if not _agree(out[str(name)].setdefault(f.fold, rows), rows):
                unlike.append(
                    f"{run.place} holds other answers of the {name} teacher than another run of "
                    "its key and fold; they are not shown"
                )
    return out


def _agree(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    columns = ["utterance_id", "role", "prediction"]
    return one is other or one[columns].equals(other[columns])


def _teacher(
    row: Teacher, folds: Mapping[int, pd.DataFrame], facts: RunFacts, printed: Published | None
) -> Measured:
    answers = pd.concat([folds[fold] for fold in sorted(folds)], ignore_index=True)
    by_role = metrics.confusions(answers, ["role", "fold"], facts.classes)
    uas: dict[str, list[float]] = {role: [] for role in ROLES}
    for (role, _), counts in by_role.items():
        uas[role].append(metrics.from_confusion(counts, facts.classes).ua)
    row |= {
        "results": _results(answers, facts),
        "train_ua": metrics.spread(uas["train"]) if uas["train"] else None,
        "validation_ua": metrics.spread(uas["validation"]) if uas["validation"] else None,
        "published": printed.teacher(row.name) if printed and not row.cross_fit else None,
        "calibration": _calibrations(answers, facts),
    }
    return Measured(row, answers)


def _agreements(teachers: Sequence[Measured], students: Sequence[Measured]) -> list[Agreement]:
    """Of each two teachers of one store, then of each teacher with each student from it.

    Pairs without a common test utterance have no row.
    """
    pairs = [
        (one, other)
        for one, other in combinations(teachers, 2)
        if one.row.name != other.row.name and {*one.row["keys"]} & {*other.row["keys"]}
    ]
    pairs += [(t, s) for s in students for t in teachers if s.row.key in t.row["keys"]]
    on, out = ["fold", "utterance_id"], []
    for one, other in pairs:
        rows = one.test.merge(other.test[[*on, "prediction"]], on=on, suffixes=("", "_other"))
        if len(rows) and one.row.store == other.row.store:
            answers = (rows[name].tolist() for name in ("prediction", "prediction_other", "truth"))
            out.append(metrics.agreement(one.row.label, other.row.label, *answers))
    return out


def _splits(runs: Sequence[Run]) -> list[FoldSplit]:
    """Of each fold and store one."""
    splits: dict[tuple[int, str], FoldSplit] = {}
    for run in runs:
        facts, roles = run.facts, Counter(run.predictions["role"])
        split = FoldSplit(
            fold=facts.fold,
            store=facts.store.fingerprint,
            **facts.split.model_dump(),
            n_test=roles["test"],
            n_validation=roles["validation"],
            n_shared_texts=facts.text_overlap and facts.text_overlap.n_shared,
        )
        splits.setdefault((split.fold, split.store), split)
    return [splits[key] for key in sorted(splits)]


def _notes(rows: Sequence[Measured]) -> list[str]:
    """What keeps the numbers from being those of a whole and balanced experiment."""
    lacking = grouped(rows, lambda one: one.row.results.missing)
    every = len(lacking) == 1 and len(rows) > 1
    notes = []
    for missing, group in lacking.items():
        r = group[0].row.results
        for label in ["every row"] if every else [one.row.label for one in group]:
            if missing:
                done = f"{len(r.folds)} of {r.n_folds} folds"
                notes.append(f"{label}: {done}; missing {ranges(missing)}")
    for one in rows:
        if isinstance(one.row, Student):
            folds = [fold.fold for fold in one.row.results.folds if fold.seeds != one.row.seeds]
            if folds:
                notes.append(f"{one.row.label}: not every seed was run on fold {ranges(folds)}")
            twice = int(one.test.duplicated(["seed", "utterance_id"]).sum())
            if twice:
                text = f"{twice} utterance(s) are tested in more than one fold"
                notes.append(f"{one.row.label}: {text}")
    return notes
