"""Students set against each other, fold by fold and seed by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from distill import metrics
from distill.report.data import Comparison, Student
from distill.report.runs import Run


def comparisons(
    students: Sequence[Student], groups: Sequence[Sequence[Run]]
) -> tuple[Comparison, ...]:
    """Each student minus the ``full`` one of its backbone, or the first where there is none."""
    out = []
    for backbone in dict.fromkeys(student.backbone for student in students):
        mine = [pair for pair in zip(students, groups, strict=True) if pair[0].backbone == backbone]
        full = [pair for pair in mine if pair[0].variant == "full"] or mine
        reference = max(full, key=lambda pair: len(pair[1]))
        for student, runs in mine:
            if student is not reference[0]:
                found = _compared(student.label, runs, reference[0].label, reference[1])
                out += [found] if found else []
    return tuple(out)


def _compared(
    label: str, runs: Sequence[Run], reference: str, others: Sequence[Run]
) -> Comparison | None:
    """The differences on common folds and seeds; None where nothing is common."""
    theirs = {(run.facts.fold, run.facts.seed): run for run in others}
    wa: dict[int, list[float]] = defaultdict(list)
    ua: dict[int, list[float]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.facts.fold, run.facts.seed)):
        other = theirs.get((run.facts.fold, run.facts.seed))
        if other is None or _tested(run) != _tested(other):
            continue
        mine, base = run.scores, other.scores
        wa[run.facts.fold].append(mine.wa - base.wa)
        ua[run.facts.fold].append(mine.ua - base.ua)
    if not wa:
        return None
    wa_folds = tuple(fmean(values) for values in wa.values())
    ua_folds = tuple(fmean(values) for values in ua.values())
    return Comparison(
        label=label,
        reference=reference,
        folds=tuple(wa),
        wa=wa_folds,
        ua=ua_folds,
        wa_spread=metrics.spread(wa_folds),
        ua_spread=metrics.spread(ua_folds),
    )


def _tested(run: Run) -> dict[str, str]:
    """The utterances that a run was tested on, with their truth."""
    rows = run.predictions[run.predictions["role"] == "test"]
    return dict(zip(rows["utterance_id"], rows["truth"], strict=True))
