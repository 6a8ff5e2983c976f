"""What a report says of a study: sections of sentences, tables and figures, whoever shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.metrics import BINS, LEVEL, RESAMPLES
from distill.report import published, words
from distill.report.data import (
    Comparison,
    Experiment,
    Report,
    Student,
    Study,
    grouped,
    ranges,
)
from distill.report.tables import FORMATS, NONE, Table, head

FOLDS_ABREAST = 10
MANY = 8
"""Rows beyond which folds, classes and calibration are left to the files that ``--out`` writes."""

SCORES = (
    "Percent, on speakers that neither teachers nor student have seen. WA = accuracy; UA = mean of "
    "the recalls of the classes present. Mean ± sample standard deviation (ddof 1) over folds, a "
    "fold's seeds averaged first; pooled = all test utterances of all folds and seeds together."
)
INTERVALS = (
    f"{LEVEL:.0%} percentile bootstrap interval of the pooled score; the test speakers are "
    f"resampled with replacement, {RESAMPLES:,} times, seeds of a speaker kept together. With few "
    "speakers such intervals are rather too narrow than too wide."
)
COMPARED = (
    "Percentage points, student minus reference, on the same test utterances and seeds: mean ± "
    "sample standard deviation over folds, a fold's seeds averaged first. Interval: "
    f"{LEVEL:.0%} percentile bootstrap of the mean, folds resampled {RESAMPLES:,} times. p: "
    "two-sided permutation test that flips the signs of the folds' differences; p (Holm): "
    "corrected over the rows of this table, WA and UA each on their own."
)
CALIBRATED = (
    f"Softmax of the raw logits at temperature 1, all folds and seeds together. ECE: {BINS} "
    "equal-width bins of the largest probability; NLL in nats. A teacher's training rows are those "
    "that it was fitted on, unless it is cross-fitted."
)
AGREED = (
    "Percent of the test utterances that both judged, all folds and seeds together; kappa is "
    "Cohen's, 0 where they agree no more than by chance."
)
TERMS = (
    "Means over the runs. ce: cross-entropy with the label; kl and cos: eqs. 1-5, one term each "
    "teacher. Terms are unweighted, total is their weighted sum. Gradient: norm of the weighted "
    "term's gradient with respect to the pooled output, and its share of the sum over all terms; "
    "it says how hard a term pulls, not where to."
)
COST = "Training time alone, as the runs logged it on whatever machine; energy was not measured."


@dataclass(frozen=True)
class Section:
    """A part of a report that one can link to.

    Attributes:
        anchor: its id, the same for the same part of every report.
        title: its heading.
        tables: its tables, in order; those without a row are not shown.
        figures: names of its figures.
        lines: sentences before the tables.
        terminal: a terminal shows it, too.
    """

    anchor: str
    title: str
    tables: Sequence[Table] = ()
    figures: Sequence[str] = ()
    lines: Sequence[str] = ()
    terminal: bool = False


def sections(study: Study) -> list[Section]:
    """All that there is to show of a study."""
    few = len(study.rows) <= MANY
    made = [
        *(_experiment(n, one, study) for n, one in enumerate(study.experiments, start=1)),
        Section(
            "scores", "Scores", [_scores(study), _intervals(study)], ["scores"],
            lines=_without_interval(study), terminal=True,
        ),
        Section("folds", "Each fold", _folds(study), terminal=few),
        Section(
            "comparisons", "Students compared", _differences("differences", study.comparisons),
            ["differences"], terminal=few or not study.experiments,
        ),
        Section(
            "classes", "Classes", [_recall(study), _confusion(study)], ["recall", "confusion"],
            terminal=few,
        ),
        Section(
            "calibration", "Calibration", [_calibration(study)], ["reliability"], terminal=few
        ),
        Section("teachers", "Teachers", [_teachers(study), _agreements(study)], terminal=True),
        *_learning(study),
        Section("losses", "Loss terms and gradients", [_terms(study)], ["gradients"]),
        Section("cost", "Cost", [_cost(study)]),
        Section("settings", "Settings", [_settings(study)]),
        Section("protocol", "Protocol in full", [_protocol(study), _splits(study), _origin(study)]),
        Section("paper", "What the paper printed", *_paper(study)),
    ]  # fmt: skip
    return [s for s in made if s.anchor == "learning" or any(t.rows for t in s.tables)]


def _learning(study: Study) -> list[Section]:
    validated = any(ua is not None for s in study.students for c in s.curves for _, ua in c.points)
    return [Section("learning", "Learning curves", figures=["curves"])] if validated else []


def left_out(report: Report) -> Section:
    """The runs that no number is taken from."""
    rows = [(item.place, item.state, item.reason) for item in report.left_out]
    columns = head("run place | state text | reason text")
    table = Table("left-out", "No number is taken from these", columns, rows)
    return Section("left-out", "Runs left out", [table], terminal=True)


def per_run(study: Study) -> Table:
    """Test scores of each run of a student and of each fold of a teacher: for files alone."""
    columns = head(
        "row text | kind text | fold count | seed count | WA percent | UA percent | "
        "n count | seconds short"
    )
    rows: list[tuple[Any, ...]] = [
        (t.label, "teacher", f.fold, None, f.wa, f.ua, f.n, None)
        for t in study.teachers
        for f in t.results.folds
    ]
    rows += [
        (s.label, "student", r.fold, r.seed, r.wa, r.ua, r.n, r.seconds)
        for s in study.students
        for r in s.runs
    ]
    return Table("runs", "Test scores of each run", columns, rows)


def _scores(study: Study) -> Table:
    paper = [] if study.incomparable else head("paper WA printed | paper UA printed")
    columns = [
        *head(
            "row text | folds text | seeds count | WA spread | UA spread | "
            "WA pooled percent | UA pooled percent"
        ),
        *paper,
    ]
    rows = []
    for row in study.rows:
        r, own = row.results, row.published
        rows.append((
            row.label, f"{len(r.folds)}/{r.n_folds}",
            len(row.seeds) if isinstance(row, Student) else None, r.wa, r.ua,
            r.pooled.wa, r.pooled.ua, *((own and own.wa, own and own.ua) if paper else ()),
        ))  # fmt: skip
    title = "Scores on the test speakers, percent"
    return Table("scores", title, columns, rows, SCORES, len(study.teachers))


def _intervals(study: Study) -> Table:
    columns = head(
        "row text | speakers count | WA pooled percent | WA interval interval | "
        "UA pooled percent | UA interval interval"
    )
    rows = [
        (
            words.named(row),
            r.wa_interval.n_units,
            r.pooled.wa,
            r.wa_interval,
            r.pooled.ua,
            r.ua_interval,
        )
        for row in study.rows
        if (r := row.results).wa_interval
    ]
    return Table("intervals", "Pooled scores with intervals, percent", columns, rows, INTERVALS)


def _without_interval(study: Study) -> list[str]:
    rows = [row for row in study.rows if row.results.no_interval]
    every = len(rows) == len(study.rows) > 1
    return [
        f"No interval, {why}: {'every row' if every else ', '.join(row.label for row in own)}."
        for why, own in grouped(rows, lambda row: row.results.no_interval).items()
    ]


def _folds(study: Study) -> list[Table]:
    done = sorted({fold.fold for row in study.rows for fold in row.results.folds})
    tables = []
    for number, start in enumerate(range(0, len(done), FOLDS_ABREAST), start=1):
        some = done[start : start + FOLDS_ABREAST]
        rows = []
        for row in study.rows:
            own = {fold.fold: fold for fold in row.results.folds}
            for metric in ("wa", "ua"):
                values = [getattr(own.get(fold), metric, None) for fold in some]
                rows.append((row.label, metric.upper(), *values))
        columns = [
            *head("row text | fold text"),
            *((str(fold), FORMATS["percent1"]) for fold in some),
        ]
        title = "Each fold, percent; a fold's seeds are averaged"
        name = f"folds-{number}" if len(done) > FOLDS_ABREAST else "folds"
        tables.append(Table(name, title, columns, rows, ruled=2 * len(study.teachers)))
    return tables


def _differences(name: str, comparisons: Sequence[Comparison]) -> list[Table]:
    """A table for each reference: students minus it, with intervals and tests."""
    columns = head(
        "row text | score text | folds count | difference points | "
        "interval points_interval | p p | p (Holm) p | significant verdict"
    )
    groups = grouped(comparisons, lambda row: row.reference)
    return [
        Table(
            f"{name}-{number}" if len(groups) > 1 else name,
            f"Difference from {reference}, percentage points",
            columns,
            [
                (c.label, metric.upper(), len(c.folds), getattr(c, f"{metric}_spread"),
                 getattr(c, f"{metric}_interval"), test.p, test.p_holm, test.significant)
                for c in rows
                for metric in ("ua", "wa")
                for test in (words.sign_flip(c, metric),)
            ],
            COMPARED,
        )
        for number, (reference, rows) in enumerate(groups.items(), start=1)
    ]  # fmt: skip


def _recall(study: Study) -> Table:
    columns = [*head("row text"), *((name, FORMATS["percent"]) for name in study.classes)]
    rows = [
        (words.named(row), *(row.results.pooled.recall[name] for name in study.classes))
        for row in study.rows
    ]
    title = "Recall of each class, percent, all test utterances"
    return Table("recall", title, columns, rows, ruled=len(study.teachers))


def _confusion(study: Study) -> Table:
    columns = [
        *head("row text | truth text"),
        *((name, FORMATS["count"]) for name in study.classes),
    ]
    rows = [
        (words.named(row), truth, *counts)
        for row in study.rows
        for truth, counts in zip(study.classes, row.results.pooled.confusion, strict=True)
    ]
    title = "Confusion: how often each truth was taken for each class, all test utterances"
    return Table("confusion", title, columns, rows)


def _calibration(study: Study) -> Table:
    columns = head(
        "row text | utterances of text | n count | accuracy percent | "
        "confidence percent | ECE percent | NLL decimal"
    )
    rows = [
        (words.named(row), c.role, c.n, c.accuracy, c.confidence, c.ece, c.nll)
        for row in study.rows
        for c in row.calibration
    ]
    return Table("calibration", "Calibration, percent; NLL in nats", columns, rows, CALIBRATED)


def _teachers(study: Study) -> Table:
    columns = head(
        "row text | training speakers spread | validation speaker spread | test speaker spread"
    )
    rows = [(words.named(t), t.train_ua, t.validation_ua, t.results.ua) for t in study.teachers]
    return Table("teachers", "UA of each teacher, percent, by what it saw", columns, rows)


def _agreements(study: Study) -> Table:
    columns = head(
        "first text | second text | n count | same percent | kappa decimal | "
        "both right percent | first only percent | second only percent"
    )
    rows = [
        (a.first, a.second, a.n, a.share, a.kappa, a.both_right, a.first_right, a.second_right)
        for a in study.agreements
    ]
    title = "Agreement on the test speakers: same answer, and who is right, percent"
    return Table("agreement", title, columns, rows, AGREED)


def _terms(study: Study) -> Table:
    columns = head(
        "row text | term text | last epoch short | all epochs short | "
        "gradient, last short | gradient, all short | share, last percent1 | "
        "share, all percent1"
    )
    rows = [
        (s.label, t.name, t.last, t.mean, t.gradient_last, t.gradient_mean, t.share_last,
         t.share_mean)
        for s in study.students
        for t in s.terms
    ]  # fmt: skip
    title = "Loss terms, and the share of each in the gradient, percent"
    return Table("losses", title, columns, rows, TERMS)


def _cost(study: Study) -> Table:
    columns = head(
        "row text | parameters count | runs count | seconds a run seconds | "
        "minutes, all runs decimal1"
    )
    rows = [
        (s.label, s.parameters, len(s.runs), s.seconds_per_run, s.seconds and s.seconds / 60)
        for s in study.students
    ]
    note = f"Seconds a run: mean ± sample standard deviation over the runs. {COST}"
    return Table("cost", "Training of the students", columns, rows, note)


def _settings(study: Study) -> Table:
    """Settings that are not the same for all students, and the teachers' temperatures."""
    values: dict[str, list[str]] = {}
    for key in sorted({key for s in study.students for key in s.settings}):
        shown = [_setting(s.settings[key]) if key in s.settings else NONE for s in study.students]
        if len(set(shown)) > 1:
            values[key] = shown
    for name in sorted({name for s in study.students for name in s.temperatures}):
        values[f"tau of the {name} teacher"] = [
            ", ".join(f"{tau:g}" for tau in s.temperatures.get(name, ())) or NONE
            for s in study.students
        ]
    labels = [s.label for s in study.students]
    title = "Settings that are not the same for all students, and temperatures"
    columns, rows = ["setting", *labels], [[key, *own] for key, own in values.items()]
    if len(values) < len(labels):  # the narrower way round
        columns = ["row", *values]
        rows = [[label, *(own[i] for own in values.values())] for i, label in enumerate(labels)]
    return Table(
        "settings", title, [(name, FORMATS["text"]) for name in columns], rows if values else []
    )


def _setting(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _experiment(number: int, experiment: Experiment, study: Study) -> Section:
    """An experiment's rows with what is missing of them, its comparisons and its curves."""
    name = f"experiment-{number}"
    tables = [
        _experiment_rows(name, experiment, study),
        _common(name, experiment),
        *_curves(name, experiment),
        *_differences(f"{name}-differences", experiment.comparisons),
    ]
    lines = [f"Warning: {text}." for text in experiment.warnings]
    lines += [f"Missing: {text}." for text in words.missing_lines(experiment)]
    sweep = [f"sweep-{number}"] if experiment.curves else []
    return Section(name, words.experiment_title(experiment), tables, sweep, lines, terminal=True)


def _experiment_rows(name: str, experiment: Experiment, study: Study) -> Table:
    paper = not study.incomparable and not all(row.point for row in experiment.rows)
    columns = head("row text | folds x seeds text | WA spread | UA spread")
    if paper:
        columns += head("paper WA printed | paper UA printed")
        columns += head("WA minus paper point | UA minus paper point")
    rows = []
    for row in experiment.rows:
        r, own = row.results, row.published
        beside = (own and own.wa, own and own.ua, row.wa_difference, row.ua_difference)
        rows.append(
            (row.label, words.runs_of(row), r and r.wa, r and r.ua, *(beside if paper else ()))
        )
    note = "Mean ± sample standard deviation over folds, percent."
    if paper:
        note += " Paper: as printed; minus paper: measured mean minus paper, points."
    elif study.incomparable:
        note += f" The paper's figures are not shown: {study.incomparable}."
    return Table(name, words.experiment_title(experiment), columns, rows, note)


def _common(name: str, experiment: Experiment) -> Table:
    """Scores over the runs that all measured rows have."""
    folds = ranges({fold for fold, _ in experiment.common})
    title = (
        f"The {len(experiment.common)} runs (folds {folds}) that all measured rows have; only "
        "these compare like with like"
    )
    columns = head("row text | WA spread | UA spread")
    rows = [(row.label, row.common_wa, row.common_ua) for row in experiment.rows if row.common_wa]
    return Table(f"{name}-common", title, columns, rows)


def _curves(name: str, experiment: Experiment) -> list[Table]:
    """The points of each curve, the best of them marked, and the paper's best."""
    results = {row.label: row.results for row in experiment.rows}
    tables = []
    for number, curve in enumerate(experiment.curves, start=1):
        best = {"highest UA": curve.best_ua, "highest WA": curve.best_wa}
        best |= {"paper's best": curve.best_published}
        rows = []
        for point in curve.points:
            r = results[point.label]
            marks = [text for text, value in best.items() if value == point.value]
            marks += [] if r else ["not measured"]
            rows.append((point.value, r and r.wa, r and r.ua, ", ".join(marks)))
        columns = [(curve.axis, FORMATS["short"]), *head("WA spread | UA spread | mark text")]
        tables.append(Table(f"{name}-curve-{number}", f"Curve of {curve.name}", columns, rows))
    return tables


def _protocol(study: Study) -> Table:
    """All that decides what the numbers mean."""
    facts = study.protocol
    schemes = {"speaker": "one speaker", "session": "one session", "groups": "a group of speakers"}
    validation = {
        "partner": "the test speaker's partner in the session; the best epoch is chosen on it",
        "none": "none: every speaker but the tested is trained on, for all epochs",
    }
    texts = "dropped from training" if facts.script_disjoint else "may be in training, by others"
    seeds = sorted({seed for student in study.students for seed in student.seeds})
    versions = [f"{name} {' and '.join(seen)}" for name, seen in study.versions.items()]
    rows = [
        ("corpus", study.dataset + (", full release" if study.full_release else "")),
        ("classes", ", ".join(study.classes)),
        ("labels", words.labels(study.label_map)),
        ("folds", f"{study.n_folds}; each leaves {schemes.get(facts.scheme, facts.scheme)} out"),
        ("folds with a finished run", ranges(fold.fold for fold in study.folds)),
        ("validation", validation.get(facts.validation, facts.validation)),
        ("utterances", "scripted and improvised" if facts.kind == "all" else facts.kind),
        ("the test speaker's texts", texts),
        ("text overlap", words.overlap(study.folds)),
        ("speakers", words.audit(study.folds)),
        ("seeds", ", ".join(map(str, seeds)) or NONE),
        ("store fingerprints", ", ".join(sorted({row.store for row in study.rows}))),
        ("versions", ", ".join(versions) or NONE),
        ("paper", words.paper_line(study)),
    ]
    return Table("protocol", "What the numbers mean", head("what text | how text"), rows)


def _splits(study: Study) -> Table:
    names = ("fold", "store", "test", "validation", "training")
    counts = ("test utterances", "validation utterances", "shared texts")
    columns = [
        *((name, FORMATS["text"]) for name in names),
        *((name, FORMATS["count"]) for name in counts),
    ]
    rows = [
        (str(f.fold), f.store[:12], ", ".join(f.test), ", ".join(f.validation) or "none",
         ", ".join(f.train), f.n_test, f.n_validation, f.n_shared_texts)
        for f in study.folds
    ]  # fmt: skip
    return Table("splits", "Who is tested, validated and trained on", columns, rows)


def _origin(study: Study) -> Table:
    columns = [(name, FORMATS["text"]) for name in ("row", "runs", "store", "seeds")]
    rows = [
        (s.label, f"{s.experiment}/{s.key}", s.store[:12], ", ".join(map(str, s.seeds)))
        for s in study.students
    ]
    return Table("origin", "Where each student's numbers come from", columns, rows)


def _paper(study: Study) -> tuple[list[Table], list[str], list[str]]:
    """Tables, figures and lines about what the paper printed, where it may be compared with."""
    if study.incomparable:
        return [], [], []
    printed = published.load()
    one = [
        (m.method + f" [{m.reference}]" * bool(m.reference), m.backbone, m.modality, m.wa, m.ua)
        for m in printed.table1
    ]
    two = [(row.printed, row.wa, row.ua) for row in printed.table2]
    pair = head("WA printed | UA printed")
    names = [(name, FORMATS["text"]) for name in ("method", "backbone", "modality")]
    tables = [
        Table("paper-1", "Table 1", [*names, *pair], one),
        Table("paper-2", "Table 2, HuBERT-base", [*head("row text"), *pair], two),
    ]
    return tables, [], [" ".join(printed.source.note.split())]
