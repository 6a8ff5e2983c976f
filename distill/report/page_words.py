"""Sentences and short forms that only the report's page uses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from distill.report.data import Study
from distill.report.experiment_data import MissingRun
from distill.report.results import Comparison
from distill.report.summary import ranges
from distill.report.wording import NONE
from distill.statistics import Interval, SignTest

TESTED = (
    "Percentage points, student minus reference, on the same test utterances, folds and seeds; a "
    "fold's seeds are averaged first. 95 % intervals: folds resampled. p: two-sided sign-flip "
    "permutation test over folds; Holm: p corrected over the rows of this table, WA and UA each on "
    "their own. A difference is called significant where the corrected p is at most 0.05."
)
INTERVALS = (
    "Brackets: 95 % interval of the pooled score by bootstrap, test speakers resampled with all "
    "their utterances."
)


def interval(found: Interval | None, *, signed: bool = False) -> str:
    """Both ends in percent, or in points with their sign.

    >>> interval(Interval(0.7, 0.75164, 0.95, "speaker", 10, 9999))
    '[70.00, 75.16]'
    """
    if found is None:
        return NONE
    form = "+.2f" if signed else ".2f"
    return f"[{100 * found.low:{form}}, {100 * found.high:{form}}]"


def p_value(p: float | None) -> str:
    """To four places, as far as they tell anything.

    >>> p_value(0.001953125), p_value(0.00003), p_value(None)
    ('0.0020', '< 0.0001', '-')
    """
    if p is None:
        return NONE
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def verdict(test: SignTest) -> str:
    """Whether a difference is significant, in a word or two."""
    if test.significant is None:
        return "not testable"
    if test.significant:
        return "significant"
    return "no" if test.smallest_p <= 0.05 else "cannot be"


def lead(study: Study) -> str:
    """What was measured, in one plain paragraph."""
    tested = {fold.fold: fold.n_test for fold in study.folds}
    seeds = sorted({seed for student in study.students for seed in student.seeds})
    people = "machine speech" if study.dataset == "synthetic" else f"the corpus {study.dataset}"
    of = f"{len(tested)} of {study.n_folds}" if len(tested) < study.n_folds else f"{len(tested)}"
    held = {"speaker": "the one speaker", "session": "the one session", "groups": "the speakers"}
    teachers = ", ".join(teacher.name for teacher in study.teachers)
    taught = (
        f" They learn from what {_count(len(study.teachers), 'teacher')} ({teachers}) made of the "
        "same utterances; the teachers' own scores stand beside theirs."
        if study.teachers
        else ""
    )
    return (
        f"How well {_count(len(study.students), 'student')} that "
        f"{'hears' if len(study.students) == 1 else 'hear'} speech alone "
        f"{'tells' if len(study.students) == 1 else 'tell'} {len(study.classes)} classes "
        f"({', '.join(study.classes)}) apart in {people}: WA and UA on "
        f"{sum(tested.values()):,} utterances of {held.get(study.protocol.scheme, 'speakers')} "
        f"that each of {of} folds leaves out, {_count(len(seeds), 'seed')}.{taught}"
    )


def findings(title: str, rows: Sequence[Comparison]) -> list[str]:
    """Which of a table's differences are significant and which are not, a sentence each metric.

    Args:
        title: what the table is, as a sentence begins.
        rows: its differences, all from one reference.
    """
    if not rows:
        return []
    out = []
    for metric in ("ua", "wa"):
        groups: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            test: SignTest = getattr(row, f"{metric}_test")
            kind = verdict(test)
            shown = f"{row.label} ({100 * getattr(row, f'{metric}_spread').mean:+.2f}"
            shown += f", p {p_value(test.p_holm)})" if test.significant else ")"
            groups[kind].append(shown)
        parts = [
            f"{words}: {', '.join(groups[kind])}."
            for kind, words in (
                ("significant", "significantly different"),
                ("no", "not significantly different"),
                ("cannot be", "not significant, and too few folds for it ever to be"),
                ("not testable", "not testable on one fold"),
            )
            if groups[kind]
        ]
        out.append(f"{title}, {metric.upper()}: {' '.join(_continued(parts))}")
    return out


def _continued(parts: Sequence[str]) -> list[str]:
    """Sentences after the first begin with a capital.

    >>> _continued(["one: a.", "not one: b."])
    ['one: a.', 'Not one: b.']
    """
    return [part if n == 0 else part[0].upper() + part[1:] for n, part in enumerate(parts)]


def absent(runs: Iterable[MissingRun]) -> str:
    """Which runs a row lacks, and why, folds of one reason together.

    >>> lost = [MissingRun(fold, 42, "not run", "") for fold in (4, 5, 6)]
    >>> absent([*lost, MissingRun(7, 42, "unfinished", "3 epoch(s) logged")])
    'fold 4..6, seed 42: not run; fold 7, seed 42: unfinished (3 epoch(s) logged)'
    """
    seeds: dict[tuple[int, str, str], list[str]] = defaultdict(list)
    for run in runs:
        known = "" if run.seed is None else str(run.seed)
        seeds[run.fold, run.state, run.reason].append(known)
    folds: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for (fold, state, reason), found in seeds.items():
        folds[", ".join(filter(None, found)), state, reason].append(fold)
    out = []
    for (those, state, reason), found_folds in folds.items():
        seed = f", seed{'s' if ',' in those else ''} {those}" if those else ""
        why = f" ({reason})" if reason else ""
        out.append(f"fold {ranges(found_folds)}{seed}: {state}{why}")
    return "; ".join(out)


def _count(n: int, what: str) -> str:
    """A number with its noun.

    >>> _count(1, "seed"), _count(3, "seed")
    ('one seed', '3 seeds')
    """
    return f"one {what}" if n == 1 else f"{n} {what}s"
