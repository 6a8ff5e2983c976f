"""Tables of a report as text, whatever shows them: statistics, experiments, protocol, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill.report import wording
from distill.report.data import Student, Study, Teacher
from distill.report.experiment_data import Experiment, ExperimentRow
from distill.report.results import Comparison
from distill.report.verdicts import missing_lines, outcome, ranges, runs_of, significance
from distill.report.wording import (
    NONE,
    bracketed,
    decimal,
    p_value,
    percent,
    plus_minus,
    published_pair,
    with_interval,
)


@dataclass(frozen=True)
class Section:
    """A table with what is said about it.

    Attributes:
        title: plain text, as everything here: whoever shows it escapes it.
        header: its columns.
        rows: its cells.
        left: how many columns are text, set to the left.
        before: lines above the table.
        after: lines below it.
        caption: what its numbers are, in short.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    caption: str = ""


def experiment_sections(experiment: Experiment, study: Study) -> list[Section]:
    """An experiment's rows, its comparisons and its curves."""
    rows = Section(
        title=f"{experiment.title or experiment.name} ({experiment.name}, {experiment.student})",
        header=_experiment_header(experiment, study),
        rows=tuple(_experiment_row(row, experiment, study) for row in experiment.rows),
        before=tuple(f"Warning: {line}." for line in experiment.warnings),
        after=tuple(f"Missing: {line}." for line in missing_lines(experiment)),
    )
    return [rows, *compared(experiment.comparisons), *_curves(experiment)]


def _is_common(experiment: Experiment) -> bool:
    return any(row.common_wa for row in experiment.rows)


def _is_printed(experiment: Experiment, study: Study) -> bool:
    """Whether the paper's columns stand; it only draws the points of its figure."""
    return not study.incomparable and not all(row.point for row in experiment.rows)


def _experiment_header(experiment: Experiment, study: Study) -> tuple[str, ...]:
    common = ("WA, common runs", "UA, common runs") if _is_common(experiment) else ()
    paper = ("paper WA / UA", "minus paper, WA / UA") if _is_printed(experiment, study) else ()
    return ("", "folds x seeds", "WA", "UA", *common, "WA pooled", "UA pooled", *paper)


def _experiment_row(row: ExperimentRow, experiment: Experiment, study: Study) -> tuple[str, ...]:
    results = row.results
    pooled = results.pooled if results else None
    common = (plus_minus(row.common_wa), plus_minus(row.common_ua))
    paper = (published_pair(row.published), differences(row))
    return (
        row.label,
        runs_of(row),
        plus_minus(results.wa) if results else outcome(row),
        plus_minus(results.ua) if results else outcome(row),
        *(common if _is_common(experiment) else ()),
        with_interval(pooled.wa, results.wa_interval) if results and pooled else NONE,
        with_interval(pooled.ua, results.ua_interval) if results and pooled else NONE,
        *(paper if _is_printed(experiment, study) else ()),
    )


def differences(row: ExperimentRow) -> str:
    """Measured minus printed, in percentage points: ``-0.53 / +1.20``."""
    if row.published is None:
        return NONE
    pair = (row.wa_difference, row.ua_difference)
    return " / ".join(NONE if x is None else f"{100 * x:+z.2f}" for x in pair)


def compared(comparisons: Sequence[Comparison]) -> list[Section]:
    """A table for each reference, with the verdict in words."""
    out = []
    for reference in dict.fromkeys(c.reference for c in comparisons):
        own = [c for c in comparisons if c.reference == reference]
        out.append(
            Section(
                title=f"Difference from {reference}",
                header=("", "", "folds", "mean ± std", "interval", "p", "p (Holm)"),
                rows=tuple(row for c in own for row in _compared(c)),
                left=2,
                after=tuple(significance(own)),
                caption="percentage points, common folds and seeds; tests and intervals over folds",
            )
        )
    return out


def _compared(row: Comparison) -> list[tuple[str, ...]]:
    """A line for UA and one for WA."""
    lines = (
        ("UA", row.label, row.ua_spread, row.ua_interval, row.ua_test),
        ("WA", row.label, row.wa_spread, row.wa_interval, row.wa_test),
    )
    return [
        (label, metric, str(len(row.folds)), plus_minus(spread, signed=True),
         bracketed(interval, signed=True), p_value(test.p), p_value(test.p_holm))
        for metric, label, spread, interval, test in lines
    ]  # fmt: skip


def _curves(experiment: Experiment) -> list[Section]:
    rows = {row.label: row for row in experiment.rows}
    out = []
    for curve in experiment.curves:
        best = {"highest UA": curve.best_ua, "highest WA": curve.best_wa}
        best |= {"paper's best": curve.best_published}
        lines = []
        for point in curve.points:
            row = rows[point.label]
            marks = ", ".join(name for name, value in best.items() if value == point.value)
            shown = [plus_minus(row.results.wa), plus_minus(row.results.ua)] if row.results else []
            lines.append((f"{point.value:g}", *(shown or [outcome(row)] * 2), marks))
        header = (curve.axis, "WA", "UA", "")
        out.append(Section(f"Curve of {curve.name}", header, tuple(lines)))
    return out


def intervals(study: Study) -> Section:
    """Pooled scores with their interval over speakers."""
    rows = []
    reasons: dict[str, list[str]] = {}
    for row in study.rows:
        found, pooled = row.results, row.results.pooled
        if pooled and found.wa_interval and found.ua_interval:
            rows.append((
                wording.named(row), str(found.wa_interval.n_units),
                with_interval(pooled.wa, found.wa_interval),
                with_interval(pooled.ua, found.ua_interval),
            ))  # fmt: skip
        else:
            reasons.setdefault(found.no_interval or "not pooled", []).append(row.label)
    header = ("", "speakers", "WA pooled", "UA pooled")
    title = "Pooled scores with intervals"
    how = (wording.INTERVALS,) if rows else ()
    return Section(title, header, tuple(rows), after=(*_without(reasons, study), *how))


def _without(reasons: Mapping[str, Sequence[str]], study: Study) -> list[str]:
    every = len(study.rows)
    named = {why: "every row" if len(x) == every else ", ".join(x) for why, x in reasons.items()}
    return [f"{labels}: no interval, {why}." for why, labels in named.items()]


def calibration(study: Study, roles: Sequence[str] = ("train", "validation", "test")) -> Section:
    """How far stated confidence is borne out, a line per row and role."""
    rows = [
        (wording.named(row), found.role, str(found.n), percent(found.accuracy),
         percent(found.confidence), percent(found.ece), decimal(found.nll))
        for row in study.rows
        for found in row.calibration
        if found.role in roles
    ]  # fmt: skip
    absent = [f"{t.label}: {t.no_calibration}." for t in study.teachers if t.no_calibration]
    header = ("", "utterances of", "n", "accuracy", "confidence", "ECE", "NLL")
    after = (*absent, wording.CALIBRATED)
    return Section("Calibration", header, tuple(rows), left=2, after=after)


def agreements(study: Study) -> list[Section]:
    """Teachers with each other and with students; none where no run holds teachers' answers."""
    if not study.agreements:
        return []
    rows = tuple(
        (a.first, a.second, str(a.n), percent(a.share), decimal(a.kappa, 2), percent(a.both_right),
         percent(a.first_right), percent(a.second_right))
        for a in study.agreements
    )  # fmt: skip
    header = ("first", "second", "n", "same answer", "kappa", "both right", "first alone right",
              "second alone right")  # fmt: skip
    return [Section("Agreement on the test speakers", header, rows, 2, after=(wording.AGREED,))]


def loss_terms(study: Study) -> list[Section]:
    """Loss terms of each student, with how hard they pull; none where no run logs them."""
    rows = tuple(
        (student.label, term.name, decimal(term.last), decimal(term.mean),
         decimal(term.gradient_last), percent(term.share_last, 1), percent(term.share_mean, 1))
        for student in study.students
        for term in student.terms
    )  # fmt: skip
    header = ("", "term", "last epoch", "all epochs", "gradient, last epoch",
              "% of gradients, last", "% of gradients, all")  # fmt: skip
    section = Section("Loss terms and gradients", header, rows, 2, after=(wording.TERMS,))
    return [section] if rows else []


def folds(study: Study) -> Section:
    """Who is tested, validated and trained on, fold by fold."""
    stores = {fold.store for fold in study.folds}
    rows = tuple(
        (str(fold.fold), *((fold.store[:12],) if len(stores) > 1 else ()), ", ".join(fold.test),
         ", ".join(fold.validation) or NONE, ", ".join(fold.train) or NONE, str(fold.n_test),
         str(fold.n_validation), NONE if fold.n_shared_texts is None else str(fold.n_shared_texts))
        for fold in study.folds
    )  # fmt: skip
    store = ("store",) if len(stores) > 1 else ()
    header = ("fold", *store, "test", "validation", "train", "test utterances",
              "validation utterances", "test texts also in training")  # fmt: skip
    return Section("Protocol, fold by fold", header, rows, 4 + len(store), (protocol(study),),
                   tuple(_labels(study)))  # fmt: skip


def protocol(study: Study) -> str:
    """Where the folds' numbers come from."""
    done = ranges(fold.fold for fold in study.folds)
    return f"{wording.protocol(study)}. Folds with a finished run: {done} of {study.n_folds}."


def _labels(study: Study) -> list[str]:
    if study.label_map is None:
        return ["How the corpus' own labels were mapped is not recorded in these runs."]
    pairs = [f"{raw} -> {name}" for raw, name in study.label_map.items()]
    return [f"Labels counted: {', '.join(pairs)}; utterances of all others are left out."]


def cost(study: Study) -> Section:
    """What was trained, from which store, and how long it took."""
    rows = tuple(
        (s.label, f"{s.experiment}/{s.key}", s.store[:12], ", ".join(map(str, s.seeds)),
         _temperatures(s), NONE if s.parameters is None else f"{s.parameters:,}", str(len(s.runs)),
         NONE if s.seconds_per_run is None else decimal(s.seconds_per_run.mean, 1),
         NONE if s.seconds is None else f"{s.seconds / 60:.1f}")
        for s in study.students
    )  # fmt: skip
    header = ("student", "runs", "store", "seeds", "temperatures", "parameters", "number of runs",
              "seconds a run", "minutes, all runs")  # fmt: skip
    versions = [f"{name} {' and '.join(seen)}" for name, seen in study.versions.items()]
    stores = sorted({row.store for row in study.rows})
    after = (f"Stores: {', '.join(stores)}.", f"Versions: {', '.join(versions) or NONE}.",
             wording.COST)  # fmt: skip
    return Section("Where it comes from, and what it cost", header, rows, 5, after=after)


def _temperatures(student: Student) -> str:
    told = student.temperatures.items()
    return "; ".join(f"{name} {_range(taus)}" for name, taus in told) or NONE


def _range(taus: Sequence[float]) -> str:
    return f"{taus[0]:g}" if len(taus) == 1 else f"{taus[0]:g}..{taus[-1]:g}"


def scores(study: Study) -> Section:
    """Means over folds of every row."""
    header = ("", "folds", "seeds", "WA", "UA", "WA pooled", "UA pooled")
    rows = tuple(_score_row(row, study) for row in study.rows)
    paper = () if study.incomparable else ("paper WA / UA",)
    return Section("Scores", (*header, *paper), rows, after=(wording.HOW_TO_READ,))


def _score_row(row: Teacher | Student, study: Study) -> tuple[str, ...]:
    results, pooled = row.results, row.results.pooled
    return (
        row.label,
        wording.folds_done(len(results.folds), results.n_folds),
        str(len(row.seeds)) if isinstance(row, Student) else NONE,
        plus_minus(results.wa),
        plus_minus(results.ua),
        percent(pooled.wa if pooled else None),
        percent(pooled.ua if pooled else None),
        *([] if study.incomparable else [published_pair(row.published)]),
    )
