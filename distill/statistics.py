"""Uncertainty of scores: bootstrap intervals, paired permutation tests, Holm's correction.

scipy resamples and permutes, statsmodels corrects; what is ours is the unit. Utterances of one
speaker are alike, so speakers are resampled, not utterances, and folds are compared, not words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LEVEL = 0.95
"""Coverage that intervals aim at; differences are tested at one minus this."""
RESAMPLES = 9999
SEED = 0
"""Of the resampling, so that the same runs give the same interval."""
MIN_UNITS = 3
"""Fewer speakers or folds have no interval: the resamples would hardly differ."""
MAX_SIGNS = 1 << 16
"""Sign patterns that are enumerated, all of them up to 16 folds; beyond, as many are drawn."""


@dataclass(frozen=True)
class Interval:
    """A percentile bootstrap interval.

    Attributes:
        low: its lower end, a fraction.
        high: its upper end, a fraction.
        level: the coverage that it aims at, 0.95.
        unit: what was resampled with replacement: ``speaker`` or ``fold``.
        n_units: how many of them there are.
        n_resamples: how often.
    """

    low: float
    high: float
    level: float
    unit: str
    n_units: int
    n_resamples: int


@dataclass(frozen=True)
class SignTest:
    """A permutation test of paired differences: is their mean 0, signs being arbitrary?

    Attributes:
        p: two-sided p-value; None for fewer than two folds, which cannot be tested.
        smallest_p: the smallest that so many folds can give, ``2 / 2^n`` where exact.
        exact: every sign pattern was enumerated; else ``MAX_SIGNS`` of them were drawn.
        p_holm: ``p`` after Holm's correction over ``family`` tests; None where ``p`` is.
        family: how many differences of the table were tested together.
        significant: ``p_holm`` is at most 0.05; None where there is no ``p``.
    """

    p: float | None
    smallest_p: float
    exact: bool
    p_holm: float | None
    family: int
    significant: bool | None


def bootstrap_scores(confusions: Counts) -> tuple[Interval, Interval] | None:
    """Intervals of the pooled WA and UA, speakers resampled with replacement.

    A resample pools the confusions of as many speakers as there are, some of them twice. Its UA is
    over the classes that it holds, as everywhere.

    Args:
        confusions: counts of each speaker, seeds and folds summed, ``[S, C, C]``; row = truth.

    Returns:
        WA's and UA's; None for fewer than ``MIN_UNITS`` speakers.

    >>> counts = np.array([[[4, 0], [0, 4]], [[2, 2], [2, 2]], [[3, 1], [1, 3]]])
    >>> wa, ua = bootstrap_scores(counts)
    >>> wa.low, wa.high, wa.n_units
    (0.5, 1.0, 3)
    """
    n = len(confusions)
    if n < MIN_UNITS:
        return None
    width = confusions.shape[-1]
    flat = np.asarray(confusions, dtype=np.float64).reshape(n, -1)

    def pooled(drawn: Counts, axis: int = -1) -> Floats:
        table = flat[drawn].sum(axis=-2).reshape(*drawn.shape[:-1], width, width)
        return np.stack(_wa_ua(table))

    low, high = _percentile(np.arange(n), pooled, batch=max(1, 4_000_000 // flat.size))
    wa, ua = (
        Interval(float(a), float(b), LEVEL, "speaker", n, RESAMPLES)
        for a, b in zip(low, high, strict=True)
    )
    return wa, ua


def bootstrap_mean(differences: Sequence[float]) -> Interval | None:
    """Interval of the mean of the folds' differences, folds resampled with replacement.

    Returns:
        None for fewer than ``MIN_UNITS`` folds.

    >>> found = bootstrap_mean([0.01, 0.02, 0.03])
    >>> found.low, found.high, found.unit
    (0.01, 0.03, 'fold')
    """
    if len(differences) < MIN_UNITS:
        return None
    low, high = _percentile(np.asarray(differences, dtype=np.float64), np.mean, batch=None)
    return Interval(float(low), float(high), LEVEL, "fold", len(differences), RESAMPLES)


def sign_tests(tables: Sequence[Sequence[float]]) -> tuple[SignTest, ...]:
    """Test the differences of a table's rows, one test a row, and correct over the rows (Holm).

    Under the null hypothesis a fold's difference could as well have the other sign. Rows of fewer
    than two folds are not tested and not counted.

    Args:
        tables: for each row the differences of its folds.

    >>> one, other = sign_tests([[0.1] * 10, [0.1, -0.1, 0.2]])
    >>> one.p, one.p_holm, one.significant
    (0.001953125, 0.00390625, True)
    >>> other.smallest_p, other.p, other.p_holm, other.significant
    (0.25, 0.75, 0.75, False)
    """
    values = [_p_value(row) for row in tables]
    known = [p for p in values if p is not None]
    corrected = iter(_holm(known))
    out = []
    for row, p in zip(tables, values, strict=True):
        exact = 2 ** len(row) <= MAX_SIGNS
        smallest = 2 / (2 ** len(row) if exact else MAX_SIGNS + 1)
        p_holm = None if p is None else next(corrected)
        significant = None if p_holm is None else bool(p_holm <= 1 - LEVEL + 1e-12)
        out.append(SignTest(p, min(smallest, 1.0), exact, p_holm, len(known), significant))
    return tuple(out)


def _p_value(differences: Sequence[float]) -> float | None:
    from scipy import stats

    if len(differences) < 2:
        return None
    found = stats.permutation_test(
        (np.asarray(differences, dtype=np.float64),),
        np.mean,
        permutation_type="samples",
        n_resamples=MAX_SIGNS,
        batch=1 << 12,
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def _holm(p_values: Sequence[float]) -> list[float]:
    if len(p_values) < 2:  # one test needs no correction
        return list(p_values)
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def _percentile(units: npt.NDArray[np.generic], statistic: object, batch: int | None) -> Floats:
    """Ends of the interval, ``[2, ...]``."""
    from scipy import stats

    found = stats.bootstrap(
        (units,),
        statistic,
        n_resamples=RESAMPLES,
        batch=batch,
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return np.stack([found.low, found.high])


def _wa_ua(confusions: Floats) -> tuple[Floats, Floats]:
    """WA and UA of many confusions at once, ``[..., C, C]``."""
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    support = confusions.sum(axis=-1)
    recall = np.divide(right, support, out=np.zeros_like(right), where=support > 0)
    wa = right.sum(axis=-1) / support.sum(axis=-1)
    return wa, recall.sum(axis=-1) / (support > 0).sum(axis=-1)
