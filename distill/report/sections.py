"""What a report says of a study: sections of sentences, tables and figures, whoever shows them.

Titles, columns and notes of the tables stand in ``tables.toml``; here are their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distill.report import published, words
from distill.report.data import Comparison, Experiment, Report, Student, Study, grouped, ranges
from distill.report.tables import NONE, Table, table

FOLDS_ABREAST = 10
MANY = 8
"""Rows beyond which folds, classes and calibration are left to the files that ``--out`` writes."""


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
    validated = any(ua is not None for s in study.students for c in s.curves for _, ua in c.points)
    made = [
        *(_experiment(n, one, study) for n, one in enumerate(study.experiments, start=1)),
        _scores(study),
        Section("folds", "Each fold", _folds(study), terminal=few),
        Section(
            "comparisons",
            "Students compared",
            _differences("differences", study.comparisons),
            ["differences"],
            terminal=few or not study.experiments,
        ),
        Section("classes", "Classes", _classes(study), ["recall", "confusion"], terminal=few),
        Section("calibration", "Calibration", [_calibration(study)], ["reliability"], terminal=few),
        Section("teachers", "Teachers", [_teachers(study), _agreements(study)], terminal=True),
        Section("learning", "Learning curves", figures=["curves"]),
        Section("losses", "Loss terms and gradients", [_terms(study)], ["gradients"]),
        Section("cost", "Cost", [_cost(study)]),
        Section("settings", "Settings", [_settings(study)]),
        Section("protocol", "Protocol in full", _protocol(study)),
        _paper(study),
    ]
    shown = {"learning"} if validated else set()  # the one section without a table
    return [s for s in made if s.anchor in shown or any(t.rows for t in s.tables)]


def left_out(report: Report) -> Section:
    """The runs that no number is taken from."""
    rows = [(item.place, item.state, item.reason) for item in report.left_out]
    return Section("left-out", "Runs left out", [table("left-out", rows)], terminal=True)


def tables(study: Study) -> list[Table]:
    """Those of all sections that have a row, and the scores of each run: for files alone."""
    of_folds = [
        (t.label, "teacher", f.fold, None, f.wa, f.ua, f.n, None)
        for t in study.teachers
        for f in t.results.folds
    ]
    of_runs = [
        (s.label, "student", r.fold, r.seed, r.wa, r.ua, r.n, r.seconds)
        for s in study.students
        for r in s.runs
    ]
    shown = [one for section in sections(study) for one in section.tables if one.rows]
    return [*shown, table("runs", [*of_folds, *of_runs])]


def _scores(study: Study) -> Section:
    scores, intervals = [], []
    for row in study.rows:
        r, own = row.results, row.published
        seeds = len(row.seeds) if isinstance(row, Student) else None
        means = (r.wa, r.ua, r.pooled.wa, r.pooled.ua)
        beside = () if study.incomparable else (own and own.wa, own and own.ua)
        scores.append((row.label, f"{len(r.folds)}/{r.n_folds}", seeds, *means, *beside))
        if r.wa_interval:
            pairs = (r.pooled.wa, r.wa_interval, r.pooled.ua, r.ua_interval)
            intervals.append((words.named(row), r.wa_interval.n_units, *pairs))
    paper = [] if study.incomparable else [("paper WA", "printed"), ("paper UA", "printed")]
    without = [row for row in study.rows if row.results.no_interval]
    every = len(without) == len(study.rows) > 1
    return Section(
        "scores",
        "Scores",
        [
            table("scores", scores, more=paper, ruled=len(study.teachers)),
            table("intervals", intervals),
        ],
        ["scores"],
        lines=[
            f"No interval, {why}: {'every row' if every else ', '.join(row.label for row in own)}."
            for why, own in grouped(without, lambda row: row.results.no_interval).items()
        ],
        terminal=True,
    )


def _folds(study: Study) -> list[Table]:
    done = sorted({fold.fold for row in study.rows for fold in row.results.folds})
    made = []
    for number, start in enumerate(range(0, len(done), FOLDS_ABREAST), start=1):
        some = done[start : start + FOLDS_ABREAST]
        rows = []
        for row in study.rows:
            own = {fold.fold: fold for fold in row.results.folds}
            for metric in ("wa", "ua"):
                values = [own[fold][metric] if fold in own else None for fold in some]
                rows.append((row.label, metric.upper(), *values))
        name = f"folds-{number}" if len(done) > FOLDS_ABREAST else "folds"
        more = [(str(fold), "percent1") for fold in some]
        made.append(table("folds", rows, name, more, ruled=2 * len(study.teachers)))
    return made


def _differences(name: str, comparisons: Sequence[Comparison]) -> list[Table]:
    """A table for each reference: students minus it, with intervals and tests."""
    groups = grouped(comparisons, lambda row: row.reference)
    made = []
    for number, (reference, group) in enumerate(groups.items(), start=1):
        rows = []
        for row in group:
            for metric in ("ua", "wa"):
                test = row[f"{metric}_sign_flip"]
                own = (row[f"{metric}_spread"], row[f"{metric}_interval"], test.p, test.p_holm)
                rows.append((row.label, metric.upper(), len(row.folds), *own, test.significant))
        numbered = f"{name}-{number}" if len(groups) > 1 else name
        made.append(table("differences", rows, numbered, reference=reference))
    return made


def _classes(study: Study) -> list[Table]:
    recalls, confusions = [], []
    for row in study.rows:
        name, pooled = words.named(row), row.results.pooled
        recalls.append((name, *(pooled.recall[label] for label in study.classes)))
        for truth, counts in zip(study.classes, pooled.confusion, strict=True):
            confusions.append((name, truth, *counts))
    percents, counted = (
        [(label, form) for label in study.classes] for form in ("percent", "count")
    )
    return [
        table("recall", recalls, more=percents, ruled=len(study.teachers)),
        table("confusion", confusions, more=counted),
    ]


def _calibration(study: Study) -> Table:
    rows = [
        (words.named(row), c.role, c.n, c.accuracy, c.confidence, c.ece, c.nll)
        for row in study.rows
        for c in row.calibration
    ]
    return table("calibration", rows)


def _teachers(study: Study) -> Table:
    rows = [(words.named(t), t.train_ua, t.validation_ua, t.results.ua) for t in study.teachers]
    return table("teachers", rows)


def _agreements(study: Study) -> Table:
    rows = [
        (a.first, a.second, a.n, a.share, a.kappa, a.both_right, a.first_right, a.second_right)
        for a in study.agreements
    ]
    return table("agreement", rows)


def _terms(study: Study) -> Table:
    rows = []
    for s in study.students:
        for t in s.terms:
            pulls = (t.gradient_last, t.gradient_mean, t.share_last, t.share_mean)
            rows.append((s.label, t.name, t.last, t.mean, *pulls))
    return table("losses", rows)


def _cost(study: Study) -> Table:
    rows = [
        (s.label, s.parameters, len(s.runs), s.seconds_per_run, s.seconds and s.seconds / 60)
        for s in study.students
    ]
    return table("cost", rows)


def _settings(study: Study) -> Table:
    """Settings that are not the same for all students, and the teachers' temperatures."""
    students = study.students
    values: dict[str, list[str]] = {}
    for key in sorted({key for s in students for key in s.settings}):
        shown = [str(s.settings[key]) if key in s.settings else NONE for s in students]
        if len(set(shown)) > 1:
            values[key] = shown
    for name in sorted({name for s in students for name in s.temperatures}):
        taus = [", ".join(f"{tau:g}" for tau in s.temperatures.get(name, ())) for s in students]
        values[f"tau of the {name} teacher"] = [text or NONE for text in taus]
    labels = [s.label for s in students]
    rows = [(key, *own) for key, own in values.items()]
    if rows and len(values) < len(labels):  # the narrower way round
        rows = list(zip(labels, *values.values(), strict=True))
        return table("settings", rows, more=[(key, "text") for key in values], what="row")
    return table("settings", rows, more=[(label, "text") for label in labels], what="setting")


def _experiment(number: int, experiment: Experiment, study: Study) -> Section:
    """An experiment's rows with what is missing of them, its comparisons and its curves."""
    name, title = f"experiment-{number}", words.experiment_title(experiment)
    made = [_experiment_rows(name, title, experiment, study)]
    folds = ranges({fold for fold, _ in experiment.common})
    rows = [(row.label, row.common_wa, row.common_ua) for row in experiment.rows if row.common_wa]
    n = len(experiment.common)
    made.append(table("common", rows, f"{name}-common", n=n, folds=folds))
    made += _curves(name, experiment)
    made += _differences(f"{name}-differences", experiment.comparisons)
    lines = [f"Warning: {text}." for text in experiment.warnings]
    lines += [f"Missing: {text}." for text in words.missing_lines(experiment)]
    return Section(name, title, made, [f"sweep-{number}"], lines, terminal=True)


def _experiment_rows(name: str, title: str, experiment: Experiment, study: Study) -> Table:
    more: list[tuple[str, str]] = []
    note = ""
    if study.incomparable:
        note = f" The paper's figures are not shown: {study.incomparable}."
    elif not all(row.point for row in experiment.rows):  # a figure's points are only drawn there
        more = [(f"paper {metric}", "printed") for metric in ("WA", "UA")]
        more += [(f"{metric} minus paper", "point") for metric in ("WA", "UA")]
        note = " Paper: as printed; minus paper: measured mean minus paper, points."
    rows = []
    for row in experiment.rows:
        r, own = row.results, row.published
        beside = (own and own.wa, own and own.ua, row.wa_difference, row.ua_difference)
        scores = (row.label, words.runs_of(row), r and r.wa, r and r.ua)
        rows.append((*scores, *beside) if more else scores)
    return table("experiment", rows, name, more, experiment=title, paper=note)


def _curves(name: str, experiment: Experiment) -> list[Table]:
    """The points of each curve, the best of them marked, and the paper's best."""
    results = {row.label: row.results for row in experiment.rows}
    made = []
    for number, curve in enumerate(experiment.curves, start=1):
        best = {"highest UA": curve.best_ua, "highest WA": curve.best_wa}
        best |= {"paper's best": curve.best_published}
        rows = []
        for point in curve.points:
            r = results[point.label]
            marks = [text for text, value in best.items() if value == point.value]
            marks += [] if r else ["not measured"]
            rows.append((point.value, r and r.wa, r and r.ua, ", ".join(marks)))
        kind = f"{name}-curve-{number}"
        made.append(table("curve", rows, kind, axis=curve.axis, curve=curve.name))
    return made


def _protocol(study: Study) -> list[Table]:
    """All that decides what the numbers mean."""
    facts = study.protocol
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
        ("folds", f"{study.n_folds}; each leaves {words.scheme(study)} out"),
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
    splits = []
    for f in study.folds:
        speakers = [", ".join(f.test), ", ".join(f.validation) or "none", ", ".join(f.train)]
        counts = (f.n_test, f.n_validation, f.n_shared_texts)
        splits.append((str(f.fold), f.store[:12], *speakers, *counts))
    origin = [
        (s.label, f"{s.experiment}/{s.key}", s.store[:12], ", ".join(map(str, s.seeds)))
        for s in study.students
    ]
    return [table("protocol", rows), table("splits", splits), table("origin", origin)]


def _paper(study: Study) -> Section:
    """What the paper printed, where the study may be compared with it."""
    printed = published.load()
    methods = [
        (m.method + f" [{m.reference}]" * bool(m.reference), m.backbone, m.modality, m.wa, m.ua)
        for m in printed.table1
    ]
    ablations = [(row.printed, row.wa, row.ua) for row in printed.table2]
    made = [table("paper-1", methods), table("paper-2", ablations)]
    lines = [" ".join(printed.source.note.split())]
    return Section("paper", "What the paper printed", [] if study.incomparable else made, (), lines)
