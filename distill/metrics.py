"""Scores and how sure they are: every reported number, as a pure function of answers.

WA (weighted accuracy) is the accuracy over all utterances; UA (unweighted accuracy) is the mean of
the per-class recalls. Scores are fractions in [0, 1]; only what is shown to people is percent.

Utterances of one speaker are alike, so intervals resample speakers, not utterances, and tests
compare folds, not utterances. Probabilities are the softmax of raw logits at temperature 1; the
confidence of an answer is the largest of them (Guo et al. 2017, On Calibration of Modern Neural
Networks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LEVEL = 0.95
"""Coverage that intervals aim at."""
ALPHA = 0.05
"""Differences are significant at this level, after Holm's correction."""
RESAMPLES = 9999
SEED = 0
"""Of the resampling, so that the same runs give the same interval."""
MIN_UNITS = 3
"""Fewer speakers or folds have no interval: the resamples would hardly differ."""
MAX_SIGNS = 1 << 16
"""Sign patterns that are enumerated, all of them up to 16 folds; beyond, as many are drawn."""
BINS = 15
"""Equal in width over 0..1, each with its lower edge and the last with its upper one as well."""


@dataclass(frozen=True)
class Scores:
    """How well a set of predictions meets its truth.

    Attributes:
        classes: class names, in the order of the confusion's rows and columns.
        confusion: utterance counts; row = truth, column = prediction.
        wa: accuracy over all utterances, in [0, 1].
        ua: mean recall over the classes that the truth holds, in [0, 1].
        recall: recall of each class in [0, 1]; NaN for a class that the truth does not hold.
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    wa: float
    ua: float
    recall: Mapping[str, float]

    @property
    def n(self) -> int:
        """Number of utterances."""
        return sum(map(sum, self.confusion))


@dataclass(frozen=True)
class Spread:
    """Values of several folds in two numbers.

    Attributes:
        mean: arithmetic mean, each fold counted once whatever its size.
        std: *sample* standard deviation (ddof = 1); None for a single fold.
        n: number of folds.
    """

    mean: float
    std: float | None
    n: int


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
class SignFlip:
    """A sign-flip permutation test of paired differences: could their mean 0 be, signs arbitrary?

    Attributes:
        p: two-sided p-value; None for fewer than two folds, which cannot be tested.
        smallest_p: the smallest that so many folds can give, ``2 / 2^n`` where exact.
        exact: every sign pattern was enumerated; else ``MAX_SIGNS`` of them were drawn.
        p_holm: ``p`` after Holm's correction over ``family`` tests; None where ``p`` is.
        family: how many differences of the table were tested together.
        significant: ``p_holm`` is at most ``ALPHA``; None where there is no ``p``.
    """

    p: float | None
    smallest_p: float
    exact: bool
    p_holm: float | None
    family: int
    significant: bool | None


@dataclass(frozen=True)
class ReliabilityBin:
    """A point of a reliability diagram.

    Attributes:
        low: lower edge of the confidences in it.
        high: upper edge.
        n: answers in it.
        confidence: their mean confidence; None where there are none.
        accuracy: the share of them that is right; None where there are none.
    """

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """How well stated confidence meets the share of right answers.

    Attributes:
        role: whose utterances: ``train``, ``validation`` or ``test``.
        n: answers, over all folds (and seeds) together.
        confidence: their mean confidence, in [0, 1].
        accuracy: the share that is right, in [0, 1].
        ece: expected calibration error: mean over the answers of |accuracy - confidence| of their
            bin, in [0, 1].
        nll: mean negative log-likelihood of the truth, in nats.
        bins: the ``BINS`` points of the reliability diagram, ascending, empty ones too.
    """

    role: str
    n: int
    confidence: float
    accuracy: float
    ece: float
    nll: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Agreement:
    """Two raters on the same test utterances, over all folds (and seeds) together.

    Attributes:
        first: label of a row of the study.
        second: label of another.
        n: utterances that both judged.
        share: share of equal answers, in [0, 1].
        kappa: Cohen's kappa, in [-1, 1]; None where both always say the same one class.
        both_right: share that both judged rightly.
        first_right: share that only the first did.
        second_right: share that only the second did.
    """

    first: str
    second: str
    n: int
    share: float
    kappa: float | None
    both_right: float
    first_right: float
    second_right: float


def confusions(
    rows: pd.DataFrame, by: Sequence[str], classes: Sequence[str]
) -> dict[tuple[Any, ...], Counts]:
    """Confusion of each group of answers.

    Args:
        rows: with the columns ``truth`` and ``prediction``.
        by: columns whose values make a group.
        classes: all class names, in logit order.

    Returns:
        The group's values -> counts ``[C, C]``, row = truth, column = prediction; ascending.
    """
    place = {name: index for index, name in enumerate(classes)}
    groups = rows.groupby(list(by))
    counts = np.zeros((groups.ngroups, len(classes), len(classes)), dtype=np.int64)
    where = [rows[name].map(place).to_numpy(dtype=np.int64) for name in ("truth", "prediction")]
    np.add.at(counts, (groups.ngroup().to_numpy(), *where), 1)
    keys = rows[list(by)].drop_duplicates().sort_values(list(by))  # in which groups are numbered
    return dict(zip(keys.itertuples(index=False, name=None), counts, strict=True))


def from_confusion(confusion: Counts | Sequence[Sequence[int]], classes: Sequence[str]) -> Scores:
    """Score a confusion matrix of counts (row = truth), such as a sum over folds.

    A class that the truth lacks has no recall and does not enter the UA, whatever was predicted
    (PAPER.md, published figures).

    Raises:
        ValueError: where it is not square in the classes, has a negative count, is all zero, or a
            class is named twice.

    >>> from_confusion([[2, 1], [0, 1]], ["ang", "sad"]).wa
    0.75
    """
    counts = np.asarray(confusion)
    shape = (len(classes), len(classes))
    if counts.shape != shape:
        raise ValueError(f"confusion has shape {counts.shape}, expected {shape}")
    if not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any():
        raise ValueError("confusion holds something other than counts")
    if not counts.any():
        raise ValueError("nothing to score: truth and prediction are empty")
    if len(set(classes)) != len(classes):
        raise ValueError(f"a class is named twice: {list(classes)}")
    wa, ua, recall = _wa_ua_recall(counts.astype(np.float64))
    return Scores(
        classes=tuple(classes),
        confusion=tuple(map(tuple, counts.tolist())),
        wa=float(wa),
        ua=float(ua),
        recall=dict(zip(classes, recall.tolist(), strict=True)),
    )


def _wa_ua_recall(confusions: Floats) -> tuple[Floats, Floats, Floats]:
    """WA, UA and recalls of one confusion or of many at once, ``[..., C, C]``."""
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    support = confusions.sum(axis=-1)
    recall = np.divide(right, support, out=np.full_like(support, np.nan), where=support > 0)
    return right.sum(axis=-1) / support.sum(axis=-1), np.nanmean(recall, axis=-1), recall


def from_predictions(
    predictions: pd.DataFrame, classes: Sequence[str], role: str = "test"
) -> Scores:
    """Score the rows of ``predictions.parquet`` that have a role; several runs may be stacked.

    Args:
        predictions: with the columns ``role``, ``truth`` and ``prediction``.
        classes: all class names.
        role: ``test`` or ``validation``.

    Raises:
        ValueError: where no row has the role.

    >>> import pandas as pd
    >>> answers = {"role": "test", "truth": list("aab"), "prediction": list("abb")}
    >>> from_predictions(pd.DataFrame(answers), ["a", "b"]).ua
    0.75
    """
    counts = confusions(predictions, ["role"], classes)
    if (role,) not in counts:
        raise ValueError(f"nothing to score: no row has the role {role}")
    return from_confusion(counts[role,], classes)


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation over folds.

    Raises:
        ValueError: for no value, or one that is not finite.

    >>> spread([0.25, 0.5, 0.75])
    Spread(mean=0.5, std=0.25, n=3)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no value to average")
    if not np.isfinite(array).all():
        raise ValueError(f"not finite: {array[~np.isfinite(array)][0]}")
    std = float(np.std(array, ddof=1)) if array.size > 1 else None
    return Spread(float(np.mean(array)), std, int(array.size))


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
    n, width = len(confusions), confusions.shape[-1]
    if n < MIN_UNITS:
        return None
    flat = np.asarray(confusions, dtype=np.float64).reshape(n, -1)

    def pooled(drawn: Counts, axis: int = -1) -> Floats:
        table = flat[drawn].sum(axis=-2).reshape(*drawn.shape[:-1], width, width)
        return np.stack(_wa_ua_recall(table)[:2])

    low, high = _percentile(np.arange(n), pooled, batch=max(1, 4_000_000 // flat.size))
    ends = zip(low.tolist(), high.tolist(), strict=True)
    wa, ua = (Interval(a, b, LEVEL, "speaker", n, RESAMPLES) for a, b in ends)
    return wa, ua


def bootstrap_mean(differences: Sequence[float]) -> Interval | None:
    """Interval of the mean of the folds' differences, folds resampled with replacement.

    Returns:
        None for fewer than ``MIN_UNITS`` folds.

    >>> interval = bootstrap_mean([0.01, 0.02, 0.03])
    >>> interval.low, interval.high, interval.unit
    (0.01, 0.03, 'fold')
    """
    if len(differences) < MIN_UNITS:
        return None
    low, high = _percentile(np.asarray(differences, dtype=np.float64), np.mean, batch=None)
    return Interval(float(low), float(high), LEVEL, "fold", len(differences), RESAMPLES)


def _percentile(units: npt.NDArray[np.generic], statistic: object, batch: int | None) -> Floats:
    """Ends of the interval, ``[2, ...]``."""
    from scipy import stats

    ends = stats.bootstrap(
        (units,),
        statistic,
        n_resamples=RESAMPLES,
        batch=batch,
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return np.stack([ends.low, ends.high])


def sign_flip_tests(tables: Sequence[Sequence[float]]) -> tuple[SignFlip, ...]:
    """Test the differences of a table's rows, one test a row, and correct over the rows (Holm).

    Under the null hypothesis a fold's difference could as well have the other sign. Rows of fewer
    than two folds are not tested and not counted.

    Args:
        tables: for each row the differences of its folds.

    >>> one, other = sign_flip_tests([[0.1] * 10, [0.1, -0.1, 0.2]])
    >>> one.p, one.p_holm, one.significant
    (0.001953125, 0.00390625, True)
    >>> other.smallest_p, other.p, other.p_holm, other.significant
    (0.25, 0.75, 0.75, False)
    """
    from scipy import stats

    def p_value(differences: Sequence[float]) -> float:
        test = stats.permutation_test(
            (np.asarray(differences, dtype=np.float64),),
            np.mean,
            permutation_type="samples",
            n_resamples=MAX_SIGNS,
            batch=1 << 12,
            rng=np.random.default_rng(SEED),
        )
        return float(test.pvalue)

    p_values = [p_value(row) if len(row) > 1 else None for row in tables]
    tested = [p for p in p_values if p is not None]
    corrected = iter(holm(tested))
    tests = []
    for row, p in zip(tables, p_values, strict=True):
        exact = 2 ** len(row) <= MAX_SIGNS
        smallest = 2 / (2 ** len(row) if exact else MAX_SIGNS + 1)
        p_holm = None if p is None else next(corrected)
        significant = None if p_holm is None else p_holm <= ALPHA
        tests.append(SignFlip(p, min(smallest, 1.0), exact, p_holm, len(tested), significant))
    return tuple(tests)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for being several (Holm 1979): the smallest counts n times, and so on.

    >>> [round(p, 9) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    p, n = np.asarray(p_values, dtype=np.float64), len(p_values)
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(1.0, p[order] * np.arange(n, 0, -1))
    p[order] = np.maximum.accumulate(scaled) if n else scaled
    return [float(value) for value in p]


def calibration(
    role: str, logits: npt.NDArray[np.floating], truth: npt.NDArray[np.integer]
) -> Calibration:
    """Measure the calibration of some answers.

    Args:
        role: whose utterances they are.
        logits: raw, ``[N, C]``.
        truth: class indices, ``[N]``.

    >>> measured = calibration("test", np.log([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1]))
    >>> round(measured.confidence, 9), measured.accuracy, round(measured.ece, 9)
    (0.8, 0.5, 0.3)
    """
    from scipy import special, stats

    log_p = special.log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    confidence = np.exp(log_p.max(axis=1))
    right = (log_p.argmax(axis=1) == truth).astype(np.float64)
    counts, means, shares = (
        stats.binned_statistic(confidence, values, how, bins=BINS, range=(0, 1)).statistic.tolist()
        for values, how in ((right, "count"), (confidence, "mean"), (right, "mean"))
    )
    edges = np.linspace(0, 1, BINS + 1).tolist()
    bins = tuple(
        ReliabilityBin(low, high, int(n), mean if n else None, share if n else None)
        for low, high, n, mean, share in zip(edges, edges[1:], counts, means, shares, strict=False)
    )
    gaps = [n * abs(shares[i] - means[i]) for i, n in enumerate(counts) if n]
    return Calibration(
        role=role,
        n=len(right),
        confidence=float(confidence.mean()),
        accuracy=float(right.mean()),
        ece=sum(gaps) / len(right),
        nll=float(-log_p[np.arange(len(right)), truth].mean()),
        bins=bins,
    )


def agreement(
    first: str,
    second: str,
    answers: Sequence[str],
    others: Sequence[str],
    truth: Sequence[str],
) -> Agreement:
    """Compare two raters' answers, utterance by utterance.

    Cohen's kappa is ``(p_o - p_e) / (1 - p_e)``: the share of equal answers beyond the share that
    the raters' own class frequencies give by chance. Below, chance is 1/2 * 1/4 + 1/2 * 3/4 = 1/2.

    >>> pair = agreement("a", "b", ["x", "x", "y", "y"], ["x", "y", "y", "y"], list("xxyx"))
    >>> pair.share, pair.kappa, pair.both_right, pair.first_right, pair.second_right
    (0.75, 0.5, 0.5, 0.25, 0.0)
    """
    one, two, true = (np.asarray(labels, dtype=object) for labels in (answers, others, truth))
    names = sorted({*answers, *others})
    share = float(np.mean(one == two))
    chance = sum(float(np.mean(one == name) * np.mean(two == name)) for name in names)
    return Agreement(
        first=first,
        second=second,
        n=len(one),
        share=share,
        kappa=None if len(names) == 1 else (share - chance) / (1 - chance),
        both_right=float(np.mean((one == true) & (two == true))),
        first_right=float(np.mean((one == true) & (two != true))),
        second_right=float(np.mean((one != true) & (two == true))),
    )
