"""Students as rows of a report, each from the runs of one experiment and key."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from distill import metrics
from distill.metrics import Scores
from distill.report import speakers
from distill.report.data import Student
from distill.report.published import Figures
from distill.report.results import Curve, FoldResult, LossTerm, Results, RunResult
from distill.report.teachers import calibrated
from distill.runs.read import Run
from featstore.core.settings import flat

SHOWN_ELSEWHERE = {"seed", "variant", "experiment"}
"""Settings that a student's row carries anyway."""
TOTAL = "total"


def student(runs: Sequence[Run], label: str, published: Figures | None) -> Student:
    """A student's row; the same whatever the order of its runs."""
    import pandas as pd

    ordered = sorted(runs, key=lambda run: (run.facts.fold, run.facts.seed))
    first = ordered[0].facts
    frames = [run.predictions for run in ordered]
    seconds = [run.facts.seconds for run in ordered if run.facts.seconds is not None]
    told = len(seconds) == len(ordered)
    return Student(
        label=label,
        experiment=first.experiment,
        key=first.key,
        store=first.store.fingerprint,
        variant=first.variant,
        backbone=first.student.backbone,
        parameters=first.student.parameters,
        seeds=tuple(sorted({run.facts.seed for run in ordered})),
        results=results(
            {(run.facts.fold, run.facts.seed): run.scores for run in ordered}, first.n_folds,
            metrics.from_predictions(pd.concat(frames), first.classes),
            speakers.intervals(speakers.confusions(frames, first.classes)),
        ),
        curves=tuple(
            Curve(
                run.facts.fold, run.facts.seed, tuple((e.number, e.ua) for e in run.epochs),
                run.facts.best_epoch,
            )
            for run in ordered
        ),
        settings={k: v for k, v in flat(ordered[0].settings).items() if k not in SHOWN_ELSEWHERE},
        seconds=math.fsum(seconds) if told else None,
        seconds_per_run=metrics.spread(seconds) if told else None,
        published=published,
        runs=tuple(_run(run) for run in ordered),
        temperatures=_temperatures(ordered),
        calibration=(
            calibrated("test", speakers.test_rows(pd.concat(frames)), first.classes),
        ),
        terms=loss_terms(ordered),
    )  # fmt: skip


def results(
    scored: Mapping[tuple[int, int], Scores], n_folds: int, pooled: Scores | None, intervals: Any
) -> Results:
    """Per fold the mean over its seeds, then the spread of those over folds."""
    by_fold: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for cell in sorted(scored):
        by_fold[cell[0]].append(cell)
    folds = tuple(
        FoldResult(
            fold=fold,
            seeds=tuple(seed for _, seed in cells),
            wa=fmean([scored[cell].wa for cell in cells]),
            ua=fmean([scored[cell].ua for cell in cells]),
            n=max(scored[cell].n for cell in cells),
        )
        for fold, cells in by_fold.items()
    )
    return Results.over(folds, n_folds, pooled, intervals)


def _run(run: Run) -> RunResult:
    facts, found = run.facts, run.scores
    return RunResult(facts.fold, facts.seed, found.wa, found.ua, found.n, facts.seconds)


def _temperatures(runs: Iterable[Run]) -> dict[str, tuple[float, ...]]:
    seen: dict[str, set[float]] = defaultdict(set)
    for run in runs:
        for teacher, tau in run.facts.temperatures.items():
            seen[teacher].add(tau)
    return {teacher: tuple(sorted(seen[teacher])) for teacher in sorted(seen)}


def loss_terms(runs: Iterable[Run]) -> tuple[LossTerm, ...]:
    """Each term in the runs' last epoch and over all, and its share of the gradients."""
    epochs = [run.epochs for run in runs if run.epochs]
    names = {name for log in epochs for epoch in log for name in epoch.terms}
    gradients = {name for log in epochs for epoch in log for name in epoch.gradients}
    last = _means([log[-1:] for log in epochs], gradients)
    whole = _means(epochs, gradients)
    out = []
    for name in sorted(names, key=lambda name: (name != TOTAL, name)):
        term = [_mean(e.terms.get(name) for e in log) for log in epochs]
        final = [_mean(e.terms.get(name) for e in log[-1:]) for log in epochs]
        mean, ended = _mean(term), _mean(final)
        if mean is None or ended is None:
            continue
        out.append(
            LossTerm(
                name, ended, mean, last.get(name), whole.get(name), _share(last, name),
                _share(whole, name),
            )
        )  # fmt: skip
    return tuple(out)


def _means(logs: Sequence[Sequence[Any]], names: Iterable[str]) -> dict[str, float]:
    """Gradient norm by term: mean over each run's epochs, then over the runs."""
    found = {
        name: _mean(_mean(epoch.gradients.get(name) for epoch in log) for log in logs)
        for name in names
    }
    return {name: value for name, value in found.items() if value is not None}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _share(norms: Mapping[str, float], name: str) -> float | None:
    total = math.fsum(norms.values())
    return norms[name] / total if name in norms and total > 0 else None
