"""What a report says of a study: sections of sentences, tables and figures, whoever shows them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.metrics import ALPHA, BINS, LEVEL, RESAMPLES, SignFlip
from distill.report import published
from distill.report.data import (
    Comparison,
    Experiment,
    ExperimentRow,
    FoldSplit,
    MissingRun,
    Report,
    Student,
    Study,
    Teacher,
    grouped,
    ranges,
)
from distill.report.tables import (
    COUNT,
    DECIMAL,
    DECIMAL_1,
    INTERVAL,
    NONE,
    PERCENT,
    PERCENT_1,
    PLACE,
    POINT,
    POINTS,
    POINTS_INTERVAL,
    PRINTED,
    SECONDS,
    SHORT,
    SPREAD,
    TEXT,
    VERDICT,
    P,
    Table,
)

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
    columns = [("run", PLACE), ("state", TEXT), ("reason", TEXT)]
    table = Table("left-out", "No number is taken from these", columns, rows)
    return Section("left-out", "Runs left out", [table], terminal=True)


def per_run(study: Study) -> Table:
    """Test scores of each run of a student and of each fold of a teacher: for files alone."""
    columns = [("row", TEXT), ("kind", TEXT), ("fold", COUNT), ("seed", COUNT), ("WA", PERCENT),
               ("UA", PERCENT), ("n", COUNT), ("seconds", SHORT)]  # fmt: skip
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


def named(row: Teacher | Student) -> str:
    """A row's label where no column tells its folds: marked if they are not all."""
    r = row.results
    return f"{row.label}, {len(r.folds)}/{r.n_folds} folds" if r.missing else row.label


def _scores(study: Study) -> Table:
    paper = [] if study.incomparable else [("paper WA", PRINTED), ("paper UA", PRINTED)]
    columns = [("row", TEXT), ("folds", TEXT), ("seeds", COUNT), ("WA", SPREAD), ("UA", SPREAD),
               ("WA pooled", PERCENT), ("UA pooled", PERCENT), *paper]  # fmt: skip
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
    columns = [("row", TEXT), ("speakers", COUNT), ("WA pooled", PERCENT),
               ("WA interval", INTERVAL), ("UA pooled", PERCENT),
               ("UA interval", INTERVAL)]  # fmt: skip
    rows = [
        (named(row), r.wa_interval.n_units, r.pooled.wa, r.wa_interval, r.pooled.ua, r.ua_interval)
        for row in study.rows
        if (r := row.results).wa_interval
    ]
    return Table("intervals", "Pooled scores with intervals, percent", columns, rows, INTERVALS)


def _without_interval(study: Study) -> list[str]:
    rows = [row for row in study.rows if row.results.no_interval]
    by_reason = grouped(rows, lambda row: row.results.no_interval)
    return [f"No interval, {why}: {_listed(x, study)}." for why, x in by_reason.items()]


def _listed(rows: Sequence[Teacher | Student], study: Study) -> str:
    every = len(rows) == len(study.rows) > 1
    return "every row" if every else ", ".join(row.label for row in rows)


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
        columns = [("row", TEXT), ("fold", TEXT), *((str(fold), PERCENT_1) for fold in some)]
        title = "Each fold, percent; a fold's seeds are averaged"
        name = f"folds-{number}" if len(done) > FOLDS_ABREAST else "folds"
        tables.append(Table(name, title, columns, rows, ruled=2 * len(study.teachers)))
    return tables


def _differences(name: str, comparisons: Sequence[Comparison]) -> list[Table]:
    """A table for each reference: students minus it, with intervals and tests."""
    columns = [("row", TEXT), ("score", TEXT), ("folds", COUNT), ("difference", POINTS),
               ("interval", POINTS_INTERVAL), ("p", P), ("p (Holm)", P),
               ("significant", VERDICT)]  # fmt: skip
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
                for test in (_test(c, metric),)
            ],
            COMPARED,
        )
        for number, (reference, rows) in enumerate(groups.items(), start=1)
    ]  # fmt: skip


def _test(row: Comparison, metric: str) -> SignFlip:
    test: SignFlip = getattr(row, f"{metric}_sign_flip")
    return test


def _recall(study: Study) -> Table:
    columns = [("row", TEXT), *((name, PERCENT) for name in study.classes)]
    rows = [
        (named(row), *(row.results.pooled.recall[name] for name in study.classes))
        for row in study.rows
    ]
    title = "Recall of each class, percent, all test utterances"
    return Table("recall", title, columns, rows, ruled=len(study.teachers))


def _confusion(study: Study) -> Table:
    columns = [("row", TEXT), ("truth", TEXT), *((name, COUNT) for name in study.classes)]
    rows = [
        (named(row), truth, *counts)
        for row in study.rows
        for truth, counts in zip(study.classes, row.results.pooled.confusion, strict=True)
    ]
    title = "Confusion: how often each truth was taken for each class, all test utterances"
    return Table("confusion", title, columns, rows)


def _calibration(study: Study) -> Table:
    columns = [("row", TEXT), ("utterances of", TEXT), ("n", COUNT), ("accuracy", PERCENT),
               ("confidence", PERCENT), ("ECE", PERCENT), ("NLL", DECIMAL)]  # fmt: skip
    rows = [
        (named(row), c.role, c.n, c.accuracy, c.confidence, c.ece, c.nll)
        for row in study.rows
        for c in row.calibration
    ]
    return Table("calibration", "Calibration, percent; NLL in nats", columns, rows, CALIBRATED)


def _teachers(study: Study) -> Table:
    columns = [("row", TEXT), ("training speakers", SPREAD), ("validation speaker", SPREAD),
               ("test speaker", SPREAD)]  # fmt: skip
    rows = [(named(t), t.train_ua, t.validation_ua, t.results.ua) for t in study.teachers]
    return Table("teachers", "UA of each teacher, percent, by what it saw", columns, rows)


def _agreements(study: Study) -> Table:
    columns = [("first", TEXT), ("second", TEXT), ("n", COUNT), ("same", PERCENT),
               ("kappa", DECIMAL), ("both right", PERCENT), ("first only", PERCENT),
               ("second only", PERCENT)]  # fmt: skip
    rows = [
        (a.first, a.second, a.n, a.share, a.kappa, a.both_right, a.first_right, a.second_right)
        for a in study.agreements
    ]
    title = "Agreement on the test speakers: same answer, and who is right, percent"
    return Table("agreement", title, columns, rows, AGREED)


def _terms(study: Study) -> Table:
    columns = [("row", TEXT), ("term", TEXT), ("last epoch", SHORT), ("all epochs", SHORT),
               ("gradient, last", SHORT), ("gradient, all", SHORT), ("share, last", PERCENT_1),
               ("share, all", PERCENT_1)]  # fmt: skip
    rows = [
        (s.label, t.name, t.last, t.mean, t.gradient_last, t.gradient_mean, t.share_last,
         t.share_mean)
        for s in study.students
        for t in s.terms
    ]  # fmt: skip
    title = "Loss terms, and the share of each in the gradient, percent"
    return Table("losses", title, columns, rows, TERMS)


def _cost(study: Study) -> Table:
    columns = [("row", TEXT), ("parameters", COUNT), ("runs", COUNT), ("seconds a run", SECONDS),
               ("minutes, all runs", DECIMAL_1)]  # fmt: skip
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
    return Table("settings", title, [(name, TEXT) for name in columns], rows if values else [])


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
    lines += [f"Missing: {text}." for text in missing_lines(experiment)]
    sweep = [f"sweep-{number}"] if experiment.curves else []
    return Section(name, _title(experiment), tables, sweep, lines, terminal=True)


def _title(experiment: Experiment) -> str:
    return f"{experiment.title or experiment.name} ({experiment.name}, {experiment.student})"


def _experiment_rows(name: str, experiment: Experiment, study: Study) -> Table:
    paper = not study.incomparable and not all(row.point for row in experiment.rows)
    columns = [("row", TEXT), ("folds x seeds", TEXT), ("WA", SPREAD), ("UA", SPREAD)]
    if paper:
        columns += [("paper WA", PRINTED), ("paper UA", PRINTED)]
        columns += [("WA minus paper", POINT), ("UA minus paper", POINT)]
    rows = []
    for row in experiment.rows:
        r, own = row.results, row.published
        beside = (own and own.wa, own and own.ua, row.wa_difference, row.ua_difference)
        rows.append((row.label, runs_of(row), r and r.wa, r and r.ua, *(beside if paper else ())))
    note = "Mean ± sample standard deviation over folds, percent."
    if paper:
        note += " Paper: as printed; minus paper: measured mean minus paper, points."
    elif study.incomparable:
        note += f" The paper's figures are not shown: {study.incomparable}."
    return Table(name, _title(experiment), columns, rows, note)


def _common(name: str, experiment: Experiment) -> Table:
    """Scores over the runs that all measured rows have."""
    folds = ranges({fold for fold, _ in experiment.common})
    title = (
        f"The {len(experiment.common)} runs (folds {folds}) that all measured rows have; only "
        "these compare like with like"
    )
    columns = [("row", TEXT), ("WA", SPREAD), ("UA", SPREAD)]
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
        columns = [(curve.axis, SHORT), ("WA", SPREAD), ("UA", SPREAD), (" ", TEXT)]
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
        ("labels", _labels(study.label_map)),
        ("folds", f"{study.n_folds}; each leaves {schemes.get(facts.scheme, facts.scheme)} out"),
        ("folds with a finished run", ranges(fold.fold for fold in study.folds)),
        ("validation", validation.get(facts.validation, facts.validation)),
        ("utterances", "scripted and improvised" if facts.kind == "all" else facts.kind),
        ("the test speaker's texts", texts),
        ("text overlap", _overlap(study.folds)),
        ("speakers", _audit(study.folds)),
        ("seeds", ", ".join(map(str, seeds)) or NONE),
        ("store fingerprints", ", ".join(sorted({row.store for row in study.rows}))),
        ("versions", ", ".join(versions) or NONE),
        ("paper", paper_line(study)),
    ]
    return Table("protocol", "What the numbers mean", [("what", TEXT), ("how", TEXT)], rows)


def _labels(label_map: Mapping[str, str] | None) -> str:
    if label_map is None:
        return "the runs do not tell which of the corpus' labels each class stands for"
    pairs = ", ".join(f"{raw} → {name}" for raw, name in label_map.items())
    return f"{pairs or NONE}; utterances of all other labels are left out"


def _overlap(folds: Sequence[FoldSplit]) -> str:
    told = [(fold.n_shared_texts, fold.n_test) for fold in folds if fold.n_shared_texts is not None]
    if not told:
        return "the runs do not tell how many test utterances share their words with training"
    shared, total = (sum(numbers) for numbers in zip(*told, strict=True))
    return f"{shared:,} of {total:,} test utterances have their exact words in training, too"


def _audit(folds: Sequence[FoldSplit]) -> str:
    """The speaker audit: that no fold tests whom it trained or validated on."""
    mixed = [fold for fold in folds if set(fold.test) & {*fold.validation, *fold.train}]
    if mixed:
        return f"{len(mixed)} fold(s) test a speaker that they trained or validated on"
    return (
        f"{len({speaker for fold in folds for speaker in fold.test})} tested; in none of "
        f"{len(folds)} folds is a test speaker among those trained or validated on"
    )


def _splits(study: Study) -> Table:
    names = ("fold", "store", "test", "validation", "training")
    counts = ("test utterances", "validation utterances", "shared texts")
    columns = [*((name, TEXT) for name in names), *((name, COUNT) for name in counts)]
    rows = [
        (str(f.fold), f.store[:12], ", ".join(f.test), ", ".join(f.validation) or "none",
         ", ".join(f.train), f.n_test, f.n_validation, f.n_shared_texts)
        for f in study.folds
    ]  # fmt: skip
    return Table("splits", "Who is tested, validated and trained on", columns, rows)


def _origin(study: Study) -> Table:
    columns = [(name, TEXT) for name in ("row", "runs", "store", "seeds")]
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
    pair = [("WA", PRINTED), ("UA", PRINTED)]
    names = [(name, TEXT) for name in ("method", "backbone", "modality")]
    tables = [
        Table("paper-1", "Table 1", [*names, *pair], one),
        Table("paper-2", "Table 2, HuBERT-base", [("row", TEXT), *pair], two),
    ]
    return tables, [], [" ".join(printed.source.note.split())]


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
    return f"{study.dataset}, leaving {left.get(study.protocol.scheme, study.protocol.scheme)} out"


def lead(study: Study) -> str:
    """What was measured, in one plain paragraph."""
    tested = {fold.fold: fold.n_test for fold in study.folds}
    students, teachers = len(study.students), len(study.teachers)
    seeds = len({seed for student in study.students for seed in student.seeds})
    people = "machine speech" if study.dataset == "synthetic" else f"the corpus {study.dataset}"
    taught = f" and {_count(teachers, 'teacher')}" if teachers else ""
    return (
        f"WA and UA of {_count(students, 'student')} (speech alone){taught} on "
        f"{len(study.classes)} classes ({', '.join(study.classes)}) of {people}: "
        f"{sum(tested.values()):,} test utterances, {len(tested)} of {study.n_folds} folds, "
        f"{_count(seeds, 'seed')}."
    )


def _count(n: int, what: str) -> str:
    """A number with its noun.

    >>> _count(1, "seed"), _count(3, "seed")
    ('one seed', '3 seeds')
    """
    return f"one {what}" if n == 1 else f"{n} {what}s"


def paper_line(study: Study) -> str:
    """Why the paper's figures are absent, or what they are where they are shown."""
    if study.incomparable:
        return f"The paper's figures are not shown: {study.incomparable}."
    unknown = [s.label for s in study.students if s.published is None]
    text = "Paper: published WA / UA (EmoDistill, arXiv 2309.04849), HuBERT students, BERT-base."
    return text + (f" None for {', '.join(unknown)}." if unknown else "")


def findings(study: Study) -> list[str]:
    """Which differences are significant and which are not: by experiment, else over all."""
    if not study.comparisons:
        return ["No two students have a fold and a seed in common, so no difference is tested."]
    asked = [
        f"{_title(experiment)}. {text}"
        for experiment in study.experiments
        for rows in grouped(experiment.comparisons, lambda row: row.reference).values()
        for text in significance(rows)
    ]
    return asked or [
        text
        for rows in grouped(study.comparisons, lambda row: row.reference).values()
        for text in significance(rows)
    ]


def significance(comparisons: Sequence[Comparison]) -> list[str]:
    """Which differences of a table are significant, which are not, and which cannot be.

    Args:
        comparisons: rows of one reference, corrected together.

    Returns:
        A sentence or two for UA, the same for WA; nothing for no comparison.
    """
    words = {
        True: f"significantly different from {comparisons[0].reference}" if comparisons else "",
        False: "not significantly different",
        None: "not tested, for want of a second fold",
    }
    out = []
    for metric in ("ua", "wa") if comparisons else ():
        rows = grouped(comparisons, lambda row: _test(row, metric).significant)  # noqa: B023
        parts = [
            f"{words[outcome]}: "
            + ", ".join(
                f"{row.label} ({POINT.text(getattr(row, f'{metric}_spread').mean)})"
                for row in rows[outcome]
            )
            for outcome in words
            if outcome in rows
        ]
        limit = _limit([_test(row, metric) for row in comparisons])
        text = f"{metric.upper()}, 5 % level after Holm's correction: {'; '.join(parts)}."
        out.append(f"{text} {limit}".rstrip())
    return out


def _limit(tests: Sequence[SignFlip]) -> str:
    """What so few folds cannot show, whatever the scores."""
    tested = [test for test in tests if test.p is not None]
    smallest = min((test.smallest_p for test in tested), default=0.0)
    corrected = min(1.0, smallest * len(tested))
    if corrected <= ALPHA:
        return ""
    times = f", times {len(tested)} rows {P.text(corrected)}" if len(tested) > 1 else ""
    return (
        f"So few folds cannot show more: the smallest p that they allow is {P.text(smallest)}"
        f"{times}, so that no difference of any size could be significant."
    )


def runs_of(row: ExperimentRow) -> str:
    """Folds times seeds of a row, its runs where these are not all; what became of it if none."""
    if row.results is None:
        states = {run.state for run in row.missing}
        return next((s for s in ("failed", "damaged", "unfinished") if s in states), "not run")
    folds = len(row.results.folds)
    if not row.seeds:
        return str(folds)
    shown = f"{folds} x {len(row.seeds)}"
    whole = row.n_runs == folds * len(row.seeds)
    return shown if whole else f"{shown}, {row.n_runs} runs"


def missing_lines(experiment: Experiment) -> list[str]:
    """The runs that rows lack, with the reason; rows that lack the same ones share a line."""
    by_text: dict[str, list[str]] = defaultdict(list)
    for row in experiment.rows:
        for text in missing_of(row.missing):
            by_text[text].append(row.label)
    every = len(experiment.rows)
    return [
        f"{'every row' if len(labels) == every else ', '.join(labels)}: {text}"
        for text, labels in by_text.items()
    ]


def missing_of(runs: Iterable[MissingRun]) -> list[str]:
    """Runs that are missing, those of one reason together.

    >>> missing_of([MissingRun(1, 7, "not run", ""), MissingRun(2, 7, "failed", "no memory")])
    ['fold 1, seed 7: not run', 'fold 2, seed 7: failed (no memory)']
    """
    out = []
    for (state, reason), own in grouped(runs, lambda run: (run.state, run.reason)).items():
        by_seed = grouped(own, lambda run: run.seed)
        by_folds = grouped(by_seed, lambda seed: tuple(run.fold for run in by_seed[seed]))  # noqa: B023
        for folds, seeds in by_folds.items():
            known = [seed for seed in seeds if seed is not None]
            of_seeds = f", seed {ranges(known)}" if known else ""
            out.append(f"fold {ranges(folds)}{of_seeds}: {state}{f' ({reason})' if reason else ''}")
    return out
