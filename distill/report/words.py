"""The sentences of a report: what was measured, what is significant, what is missing and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from distill.metrics import ALPHA, SignFlip
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
from distill.report.tables import FORMATS, NONE


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
    return f"{study.dataset}, leaving {scheme(study)} out"


def scheme(study: Study) -> str:
    """Whom a fold leaves out."""
    left = {"speaker": "one speaker", "session": "one session", "groups": "a group of speakers"}
    name: str = study.protocol.scheme
    return left.get(name, name)


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


def named(row: Teacher | Student) -> str:
    """A row's label where no column tells its folds: marked if they are not all."""
    r = row.results
    return f"{row.label}, {len(r.folds)}/{r.n_folds} folds" if r.missing else row.label


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
    tables = [(f"{experiment_title(one)}, against", one.comparisons) for one in study.experiments]
    tables = tables if any(rows for _, rows in tables) else [("Against", study.comparisons)]
    return [
        f"{what} {reference}. {text}"
        for what, comparisons in tables
        for reference, rows in grouped(comparisons, lambda row: row.reference).items()
        for text in significance(rows)
    ]


def significance(comparisons: Sequence[Comparison]) -> list[str]:
    """Which differences of a table are significant, which are not, and which cannot be.

    Args:
        comparisons: rows of one reference, corrected together.

    Returns:
        A sentence or two for UA, the same for WA.
    """
    words = {
        True: f"significantly different from {comparisons[0].reference}",
        False: "not significantly different",
        None: "not tested, for want of a second fold",
    }
    out = []
    for metric in ("ua", "wa"):
        named: dict[bool | None, list[str]] = defaultdict(list)
        for row in comparisons:
            points = FORMATS["point"].text(row[f"{metric}_spread"].mean)
            named[row[f"{metric}_sign_flip"].significant].append(f"{row.label} ({points})")
        parts = [f"{words[key]}: {', '.join(named[key])}" for key in words if key in named]
        limit = _limit([row[f"{metric}_sign_flip"] for row in comparisons])
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
    shown = FORMATS["p"].text
    times = f", times {len(tested)} rows {shown(corrected)}" if len(tested) > 1 else ""
    return (
        f"So few folds cannot show more: the smallest p that they allow is {shown(smallest)}"
        f"{times}, so that no difference of any size could be significant."
    )


def experiment_title(experiment: Experiment) -> str:
    """What an experiment is about, which one it is, and of which student."""
    return f"{experiment.title or experiment.name} ({experiment.name}, {experiment.student})"


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

    >>> missing_of(MissingRun(fold=n, seed=7, state="failed", reason="no memory") for n in (1, 2))
    ['fold 1..2, seed 7: failed (no memory)']
    """
    out = []
    for (state, reason), own in grouped(runs, lambda run: (run.state, run.reason)).items():
        by_seed = grouped(own, lambda run: run.seed)
        by_folds = grouped(by_seed, lambda seed: tuple(run.fold for run in by_seed[seed]))  # noqa: B023
        for folds, seeds in by_folds.items():
            numbers = [seed for seed in seeds if seed is not None]
            of_seeds = f", seed {ranges(numbers)}" if numbers else ""
            out.append(f"fold {ranges(folds)}{of_seeds}: {state}{f' ({reason})' if reason else ''}")
    return out


def labels(label_map: Mapping[str, str] | None) -> str:
    """Which of the corpus' labels count as which class."""
    if label_map is None:
        return "the runs do not tell which of the corpus' labels each class stands for"
    pairs = ", ".join(f"{raw} → {name}" for raw, name in label_map.items())
    return f"{pairs or NONE}; utterances of all other labels are left out"


def overlap(folds: Sequence[FoldSplit]) -> str:
    """How many test utterances share their exact words with training."""
    counts = [
        (fold.n_shared_texts, fold.n_test) for fold in folds if fold.n_shared_texts is not None
    ]
    if not counts:
        return "the runs do not tell how many test utterances share their words with training"
    shared, total = (sum(column) for column in zip(*counts, strict=True))
    return f"{shared:,} of {total:,} test utterances have their exact words in training, too"


def audit(folds: Sequence[FoldSplit]) -> str:
    """The speaker audit: that no fold tests whom it trained or validated on."""
    mixed = [fold for fold in folds if set(fold.test) & {*fold.validation, *fold.train}]
    if mixed:
        return f"{len(mixed)} fold(s) test a speaker that they trained or validated on"
    return (
        f"{len({speaker for fold in folds for speaker in fold.test})} tested; in none of "
        f"{len(folds)} folds is a test speaker among those trained or validated on"
    )
