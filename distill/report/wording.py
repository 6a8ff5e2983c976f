"""The report's words: what its Markdown, its terminal tables and its figures say alike."""

from __future__ import annotations

from collections.abc import Iterable

from distill.metrics import BINS, LEVEL, RESAMPLES, Interval, Spread
from distill.report.data import Report, Student, Study, Teacher
from distill.report.published import Figures

NONE = "-"
"""Stands where there is no number."""

HOW_TO_READ = (
    "Percent, on speakers that neither teachers nor student have seen. WA = accuracy; UA = mean of "
    "the recalls of the classes present. Mean ± sample standard deviation (ddof 1) over folds, a "
    "fold's seeds averaged first; pooled = all test utterances of all folds and seeds together."
)
TEACHERS_FROM = "Teachers' scores are those that the store recorded when it was built."
INTERVALS = (
    f"Brackets: {LEVEL:.0%} percentile bootstrap interval of the pooled score; the test speakers "
    f"are resampled with replacement, {RESAMPLES:,} times, seeds of a speaker kept together. With "
    "few speakers such intervals are rather too narrow than too wide."
)
COMPARED = (
    "Percentage points, student minus reference, on the same test utterances and seeds: mean ± "
    "sample standard deviation over folds, a fold's seeds averaged first. Brackets: "
    f"{LEVEL:.0%} percentile bootstrap interval of the mean, folds resampled {RESAMPLES:,} times. "
    "p: two-sided permutation test that flips the signs of the folds' differences; p (Holm): "
    "corrected over the rows of this table, WA and UA each on their own."
)
CALIBRATED = (
    f"Softmax of the raw logits at temperature 1, all folds and seeds together. ECE: {BINS} "
    "equal-width bins of the largest probability; NLL in nats. A teacher's training rows are those "
    "that it was fitted on, unless it is cross-fitted."
)
AGREED = (
    "Shares of the test utterances that both judged, all folds and seeds together; kappa is "
    "Cohen's, 0 where they agree no more than by chance."
)
TERMS = (
    "Means over the runs. Terms are unweighted, total is their weighted sum. Gradient: norm of the "
    "weighted term's gradient with respect to the pooled output, and its share of the sum over "
    "all terms; it says how hard a term pulls, not where to."
)
COST = "Training time alone, as the runs logged it on whatever machine; energy was not measured."
EXPLANATIONS = (HOW_TO_READ, INTERVALS, COMPARED, CALIBRATED, AGREED, TERMS, COST)
"""For a page; a terminal goes without."""


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as percent without the sign.

    >>> percent(0.75164), percent(0.75164, 1), percent(None)
    ('75.16', '75.2', '-')
    """
    return NONE if value is None or value != value else f"{100 * value:.{digits}f}"


def plus_minus(spread: Spread | None, digits: int = 2, *, signed: bool = False) -> str:
    """Mean and standard deviation in percent; the mean alone where there is but one fold.

    >>> plus_minus(Spread(0.7516, 0.012, 10)), plus_minus(Spread(-0.01, None, 1), signed=True)
    ('75.16 ± 1.20', '-1.00')
    """
    if spread is None:
        return NONE
    mean = f"{100 * spread.mean:+z.{digits}f}" if signed else percent(spread.mean, digits)
    return mean if spread.std is None else f"{mean} ± {percent(spread.std, digits)}"


def bracketed(interval: Interval | None, digits: int = 2, *, signed: bool = False) -> str:
    """An interval's ends in percent.

    >>> found = Interval(-0.012, 0.034, 0.95, "fold", 10, 9999)
    >>> bracketed(found), bracketed(found, 1, signed=True), bracketed(None)
    ('[-1.20, 3.40]', '[-1.2, +3.4]', '-')
    """
    if interval is None:
        return NONE
    sign = "+" if signed else ""
    return f"[{100 * interval.low:{sign}.{digits}f}, {100 * interval.high:{sign}.{digits}f}]"


def with_interval(value: float | None, interval: Interval | None, digits: int = 2) -> str:
    """A score in percent with its interval, if it has one.

    >>> with_interval(0.75164, Interval(0.7, 0.8, 0.95, "speaker", 10, 9999), 1)
    '75.2 [70.0, 80.0]'
    """
    shown = percent(value, digits)
    return shown if interval is None else f"{shown} {bracketed(interval, digits)}"


def p_value(p: float | None) -> str:
    """A p-value, never rounded to 0.

    >>> p_value(0.03125), p_value(3e-5), p_value(None)
    ('0.0312', '3.0e-05', '-')
    """
    return NONE if p is None else (f"{p:.4f}" if p >= 5e-5 else f"{p:.1e}")


def decimal(value: float | None, digits: int = 3) -> str:
    """A plain number.

    >>> decimal(0.12345), decimal(None)
    ('0.123', '-')
    """
    return NONE if value is None else f"{value:.{digits}f}"


def published_pair(figures: Figures | None) -> str:
    """The paper's WA and UA, as printed to two digits.

    >>> published_pair(Figures(ua=72.6))
    '- / 72.60'
    """
    if figures is None:
        return NONE
    return " / ".join(NONE if x is None else f"{x:.2f}" for x in (figures.wa, figures.ua))


def first_lines(report: Report) -> list[str]:
    """What stands above everything else; empty for natural speech."""
    synthetic = [study.dataset == "synthetic" for study in report.studies]
    if not any(synthetic):
        return []
    which = "Synthetic corpus" if all(synthetic) else "One corpus below is synthetic"
    return [
        f"{which}: its speech was made by a speech synthesiser. "
        "Those figures say nothing about people's emotions."
    ]


def title(study: Study) -> str:
    """The corpus and how speakers were held out, in a few words."""
    left = {"speaker": "one speaker", "session": "one session", "groups": "a group of speakers"}
    held = left.get(study.protocol.scheme, study.protocol.scheme)
    return f"{study.dataset}, leaving {held} out"


def protocol(study: Study) -> str:
    """The protocol in one line."""
    facts = study.protocol
    scripts = "dropped from training" if facts.script_disjoint else "may be in training"
    return (
        f"{study.n_folds} folds · {len(study.classes)} classes ({', '.join(study.classes)}) · "
        f"validation: {facts.validation} · utterances: {facts.kind} · "
        f"the test speaker's texts {scripts}"
    )


def paper_line(study: Study) -> str:
    """Why the paper's figures are absent, or what they are where they are shown."""
    if study.incomparable:
        return f"The paper's figures are not shown: {study.incomparable}."
    unknown = [s.label for s in study.students if s.published is None]
    line = "Paper: published WA / UA (EmoDistill, arXiv 2309.04849), HuBERT students, BERT-base."
    return line + (f" None for {', '.join(unknown)}." if unknown else "")


def folds_done(row_folds: int, n_folds: int) -> str:
    """How many folds a row averages.

    >>> folds_done(3, 10), folds_done(10, 10)
    ('3 of 10', '10')
    """
    return str(n_folds) if row_folds == n_folds else f"{row_folds} of {n_folds}"


def fewer(row: Teacher | Student) -> str:
    """Over how many folds a row's numbers are, where these are not all: ``3/10 folds``, or ''."""
    results = row.results
    return f"{len(results.folds)}/{results.n_folds} folds" if results.missing else ""


def named(row: Teacher | Student) -> str:
    """A row's label where no column tells its folds: marked if they are not all."""
    return ", ".join(filter(None, (row.label, fewer(row))))


def differing(students: Iterable[Student]) -> dict[str, tuple[str, ...]]:
    """Settings that are not the same for all students: key -> one value per student."""
    rows = [student.settings for student in students]
    out = {}
    for key in sorted({key for row in rows for key in row}):
        values = tuple(_shown(row[key]) if key in row else NONE for row in rows)
        if len(set(values)) > 1:
            out[key] = values
    return out


def _shown(value: object) -> str:
    return value if isinstance(value, str) else repr(value)
