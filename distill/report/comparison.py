"""Students set against each other, fold by fold and seed by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from distill import metrics
from distill.metrics import bootstrap_mean, sign_flip_tests
from distill.report.data import Student
from distill.report.paper import as_printed
from distill.report.results import Comparison
from distill.runs.read import Run

Named = tuple[str, Sequence[Run]]
"""A label and its runs."""


def comparisons(
    students: Sequence[Student], groups: Sequence[Sequence[Run]]
) -> tuple[Comparison, ...]:
    """Each student minus the ``full`` one of its backbone, or another where there is none."""
    out: tuple[Comparison, ...] = ()
    for backbone in dict.fromkeys(student.backbone for student in students):
        mine = [pair for pair in zip(students, groups, strict=True) if pair[0].backbone == backbone]
        reference = _reference(mine)
        others = [(s.label, runs) for s, runs in mine if s is not reference[0]]
        out += table((reference[0].label, reference[1]), others)
    return out


def _reference(pairs: Sequence[tuple[Student, Sequence[Run]]]) -> tuple[Student, Sequence[Run]]:
    """The full student as in the paper, not a control; of several the one with most runs."""
    full = [pair for pair in pairs if pair[0].variant == "full"] or list(pairs)
    if len(full) > 1:
        plain = [pair for pair in full if as_printed(pair[0].variant, pair[0].settings)]
        full = plain or full
    return max(full, key=lambda pair: len(pair[1]))


def table(reference: Named, others: Sequence[Named]) -> tuple[Comparison, ...]:
    """Each of some students minus one, their tests corrected together.

    One that has no fold and seed in common with the reference has no row.
    """
    paired = [(label, _paired(runs, reference[1])) for label, runs in others]
    known = [(label, pairs) for label, pairs in paired if pairs]
    wa = [[fmean(x for x, _ in pairs[fold]) for fold in sorted(pairs)] for _, pairs in known]
    ua = [[fmean(x for _, x in pairs[fold]) for fold in sorted(pairs)] for _, pairs in known]
    tests = zip(sign_flip_tests(wa), sign_flip_tests(ua), strict=True)
    return tuple(
        Comparison(
            label=label,
            reference=reference[0],
            folds=tuple(sorted(pairs)),
            wa=tuple(wa_folds),
            ua=tuple(ua_folds),
            wa_spread=metrics.spread(wa_folds),
            ua_spread=metrics.spread(ua_folds),
            n_pairs=sum(map(len, pairs.values())),
            wa_interval=bootstrap_mean(wa_folds),
            ua_interval=bootstrap_mean(ua_folds),
            wa_test=wa_test,
            ua_test=ua_test,
        )
        for (label, pairs), wa_folds, ua_folds, (wa_test, ua_test) in zip(
            known, wa, ua, tests, strict=True
        )
    )


def _paired(runs: Sequence[Run], others: Sequence[Run]) -> dict[int, list[tuple[float, float]]]:
    """Fold -> differences in WA and UA, one pair for each seed that both have."""
    theirs = {(run.facts.fold, run.facts.seed): run for run in others}
    pairs: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.facts.fold, run.facts.seed)):
        other = theirs.get((run.facts.fold, run.facts.seed))
        if other is None or _tested(run) != _tested(other):
            continue
        mine, base = run.scores, other.scores
        pairs[run.facts.fold].append((mine.wa - base.wa, mine.ua - base.ua))
    return pairs


def _tested(run: Run) -> dict[str, str]:
    """The utterances that a run was tested on, with their truth."""
    rows = run.predictions[run.predictions["role"] == "test"]
    return dict(zip(rows["utterance_id"], rows["truth"], strict=True))
