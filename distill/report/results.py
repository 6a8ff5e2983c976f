"""Scores of a row of a report, and of one row against another, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from distill import metrics
from distill.metrics import Interval, Scores, SignFlip, Spread


@dataclass(frozen=True)
class FoldResult:
    """Test scores of one fold.

    Attributes:
        fold: its number, from 1.
        seeds: the seeds averaged here; empty for a teacher.
        wa: mean WA over the seeds, in [0, 1].
        ua: mean UA over the seeds, in [0, 1].
        n: its test utterances; None where only the scores are known.
    """

    fold: int
    seeds: tuple[int, ...]
    wa: float
    ua: float
    n: int | None = None


@dataclass(frozen=True)
class RunResult:
    """Test scores of one run.

    Attributes:
        fold: its fold.
        seed: its seed.
        wa: in [0, 1].
        ua: in [0, 1].
        n: test utterances.
        seconds: training time; None where the run does not tell.
    """

    fold: int
    seed: int
    wa: float
    ua: float
    n: int
    seconds: float | None


@dataclass(frozen=True)
class Results:
    """Test scores over folds.

    Attributes:
        folds: the folds that were measured, ascending.
        n_folds: how many the corpus has.
        wa: spread of the folds' WA.
        ua: spread of the folds' UA.
        pooled: scores over the test utterances of all folds and seeds together; None where only
            the two numbers of each fold are known.
        wa_interval: of the pooled WA, test speakers resampled; None where there is none.
        ua_interval: of the pooled UA, likewise.
        no_interval: why there is none; empty where there is.
    """

    folds: tuple[FoldResult, ...]
    n_folds: int
    wa: Spread
    ua: Spread
    pooled: Scores | None
    wa_interval: Interval | None
    ua_interval: Interval | None
    no_interval: str

    @classmethod
    def over(
        cls,
        folds: tuple[FoldResult, ...],
        n_folds: int,
        pooled: Scores | None = None,
        intervals: tuple[Interval, Interval] | str = "nothing is known of single speakers",
    ) -> Results:
        """Folds with their spread, each counted once whatever its size.

        Args:
            folds: ascending.
            n_folds: how many the corpus has.
            pooled: see above.
            intervals: WA's and UA's, or why there are none.
        """
        wa = metrics.spread([fold.wa for fold in folds])
        ua = metrics.spread([fold.ua for fold in folds])
        why = intervals if isinstance(intervals, str) else ""
        wa_interval, ua_interval = (None, None) if isinstance(intervals, str) else intervals
        return cls(folds, n_folds, wa, ua, pooled, wa_interval, ua_interval, why)

    @property
    def missing(self) -> tuple[int, ...]:
        """Folds of the corpus that were not measured."""
        done = {result.fold for result in self.folds}
        return tuple(fold for fold in range(1, self.n_folds + 1) if fold not in done)


@dataclass(frozen=True)
class Curve:
    """A run's validation UA, epoch by epoch, and the epoch whose weights were kept."""

    fold: int
    seed: int
    points: tuple[tuple[int, float | None], ...]
    best_epoch: int | None


@dataclass(frozen=True)
class LossTerm:
    """A term of the loss in training, mean over the runs.

    Attributes:
        name: ``ce``, ``kl_<teacher>``, ``cos_<teacher>``; ``total`` is the weighted sum of all.
        last: its unweighted mean in each run's last epoch.
        mean: its unweighted mean over all epochs.
        gradient_last: norm of the *weighted* term's gradient with respect to the pooled output, in
            each run's last epoch; None where none was measured, as for ``total``.
        gradient_mean: the same over all epochs.
        share_last: ``gradient_last`` as a share of the sum over all terms, in [0, 1]; None where
            none was measured or that sum is 0.
        share_mean: the same over all epochs.
    """

    name: str
    last: float
    mean: float
    gradient_last: float | None
    gradient_mean: float | None
    share_last: float | None
    share_mean: float | None


@dataclass(frozen=True)
class Comparison:
    """One student minus another on the folds and seeds that both have, same test utterances.

    Attributes:
        label: the student.
        reference: the student that is subtracted.
        folds: the common folds, ascending.
        wa: WA differences of those folds, each the mean over its common seeds, in [-1, 1].
        ua: UA differences, likewise.
        wa_spread: mean and sample standard deviation of ``wa``.
        ua_spread: mean and sample standard deviation of ``ua``.
        n_pairs: pairs of runs, one for each common fold and seed.
        wa_interval: of the mean WA difference, folds resampled; None for fewer than 3.
        ua_interval: of the mean UA difference, likewise.
        wa_test: whether the mean WA difference could be chance; corrected over the rows of the
            table, which share a reference. WA and UA are corrected each on their own.
        ua_test: likewise for UA.
    """

    label: str
    reference: str
    folds: tuple[int, ...]
    wa: tuple[float, ...]
    ua: tuple[float, ...]
    wa_spread: Spread
    ua_spread: Spread
    n_pairs: int
    wa_interval: Interval | None
    ua_interval: Interval | None
    wa_test: SignFlip
    ua_test: SignFlip
