"""What tables of comparisons and experiments amount to, in plain words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from distill.metrics import LEVEL, SignFlip
from distill.report.experiment_data import Experiment, ExperimentRow, MissingRun
from distill.report.results import Comparison
from distill.report.wording import p_value

ALPHA = 1 - LEVEL
Metric = Literal["wa", "ua"]


def significance(comparisons: Sequence[Comparison]) -> list[str]:
    """Which differences of a table are significant, which are not, and which cannot be.

    Args:
        comparisons: rows of one reference, corrected together.

    Returns:
        A sentence or two for UA, the same for WA; nothing for no comparison.
    """
    if not comparisons:
        return []
    return [_significance(comparisons, metric) for metric in ("ua", "wa")]


def _significance(comparisons: Sequence[Comparison], metric: Metric) -> str:
    by_outcome: dict[bool | None, list[str]] = defaultdict(list)
    for row in comparisons:
        mean = getattr(row, f"{metric}_spread").mean
        by_outcome[_test(row, metric).significant].append(f"{row.label} ({100 * mean:+z.2f})")
    named = {
        True: f"significantly different from {comparisons[0].reference}",
        False: "not significantly different",
        None: "not tested, for want of a second fold",
    }
    said = [
        f"{words}: {', '.join(by_outcome[outcome])}"
        for outcome, words in named.items()
        if by_outcome[outcome]
    ]
    limit = _limit([_test(row, metric) for row in comparisons])
    text = f"{metric.upper()}, 5 % level after Holm's correction: {'; '.join(said)}."
    return f"{text} {limit}" if limit else text


def _test(row: Comparison, metric: Metric) -> SignFlip:
    found: SignFlip = getattr(row, f"{metric}_test")
    return found


def _limit(tests: Sequence[SignFlip]) -> str:
    """What so few folds cannot show, whatever the scores."""
    tested = [test for test in tests if test.p is not None]
    if not tested:
        return ""
    smallest = min(test.smallest_p for test in tested)
    corrected = smallest * tested[0].family
    if corrected <= ALPHA + 1e-12:
        return ""
    times = f", times {tested[0].family} rows {p_value(min(corrected, 1.0))}" * (
        tested[0].family > 1
    )
    return (
        f"So few folds cannot show more: the smallest p that they allow is {p_value(smallest)}"
        f"{times}, so that no difference of any size could be significant."
    )


def runs_of(row: ExperimentRow) -> str:
    """Folds times seeds of a row of an experiment; its runs where these are not all.

    >>> from distill.report.data import Results
    >>> from distill.report.results import FoldResult
    >>> folds = (FoldResult(1, (1, 2), 0.5, 0.5), FoldResult(2, (1,), 0.5, 0.5))
    >>> runs_of(ExperimentRow(label="", row="", teacher="", variant="", seeds=(1, 2), n_runs=3,
    ...     results=Results.over(folds, 2), missing=(), published=None, wa_difference=None,
    ...     ua_difference=None, common_wa=None, common_ua=None, point=None))
    '2 x 2, 3 runs'
    """
    if row.results is None:
        return "0"
    folds = len(row.results.folds)
    if not row.seeds:
        return str(folds)
    shown = f"{folds} x {len(row.seeds)}"
    whole = row.n_runs == folds * len(row.seeds)
    return shown if whole else f"{shown}, {row.n_runs} runs"


def outcome(row: ExperimentRow) -> str:
    """What stands in place of the scores of a row without any: ``not run``, ``failed`` ..."""
    states = {run.state for run in row.missing}
    known = [state for state in ("failed", "damaged", "unfinished") if state in states]
    return known[0] if known else "not run"


def missing_lines(experiment: Experiment) -> list[str]:
    """The runs that rows lack, with the reason; rows that lack the same ones share a line."""
    by_said: dict[str, list[str]] = defaultdict(list)
    for row in experiment.rows:
        for said in missing_of(row.missing):
            by_said[said].append(row.label)
    every = len(experiment.rows)
    return [
        f"{'every row' if len(labels) == every else ', '.join(labels)}: {said}"
        for said, labels in by_said.items()
    ]


def missing_of(runs: Iterable[MissingRun]) -> list[str]:
    """Runs that are missing, those of one reason together.

    >>> missing_of([MissingRun(1, 7, "not run", ""), MissingRun(2, 7, "failed", "no memory")])
    ['fold 1, seed 7: not run', 'fold 2, seed 7: failed (no memory)']
    """
    by_reason: dict[tuple[str, str], dict[int | None, list[int]]] = {}
    for run in runs:
        seeds = by_reason.setdefault((run.state, run.reason), {})
        seeds.setdefault(run.seed, []).append(run.fold)
    out = []
    for (state, reason), seeds in by_reason.items():
        by_folds: dict[tuple[int, ...], list[int]] = {}
        for seed, lacking in seeds.items():
            by_folds.setdefault(tuple(lacking), []).extend([] if seed is None else [seed])
        for folds, own in by_folds.items():
            of_seeds = f", seed {ranges(own)}" if own else ""
            out.append(f"fold {ranges(folds)}{of_seeds}: {state}{f' ({reason})' * bool(reason)}")
    return out


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as the command line takes them.

    >>> ranges([1, 2, 3, 7, 9, 10])
    '1..3,7,9..10'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{r[0]}..{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)
