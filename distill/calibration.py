"""Calibration of class probabilities, and how far two raters agree.

Probabilities are the softmax of raw logits at temperature 1. The confidence of an answer is the
largest of them (Guo et al. 2017, On Calibration of Modern Neural Networks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featstore.core.scores import confusion

BINS = 15
"""Equal in width over 0..1, each with its lower edge and the last with its upper one as well."""


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
    """How far stated confidence is borne out.

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


def calibration(
    role: str, logits: npt.NDArray[np.floating], truth: npt.NDArray[np.integer]
) -> Calibration:
    """Measure the calibration of some answers.

    Args:
        role: whose utterances they are.
        logits: raw, ``[N, C]``.
        truth: class indices, ``[N]``.

    >>> found = calibration("test", np.log([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1]))
    >>> round(found.confidence, 9), found.accuracy, round(found.ece, 9)
    (0.8, 0.5, 0.3)
    """
    from scipy import special, stats

    log_p = special.log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    confidence = np.exp(log_p.max(axis=1))
    right = (log_p.argmax(axis=1) == truth).astype(np.float64)
    binned = [
        stats.binned_statistic(confidence, values, how, bins=BINS, range=(0, 1))
        for values, how in ((right, "count"), (confidence, "mean"), (right, "mean"))
    ]
    counts, means, shares = (part.statistic for part in binned)
    edges = binned[0].bin_edges
    filled = counts > 0
    gaps = np.abs(shares[filled] - means[filled])
    return Calibration(
        role=role,
        n=len(right),
        confidence=float(confidence.mean()),
        accuracy=float(right.mean()),
        ece=float(np.average(gaps, weights=counts[filled])),
        nll=float(-log_p[np.arange(len(right)), truth].mean()),
        bins=tuple(
            ReliabilityBin(
                low=float(edges[i]),
                high=float(edges[i + 1]),
                n=int(counts[i]),
                confidence=float(means[i]) if filled[i] else None,
                accuracy=float(shares[i]) if filled[i] else None,
            )
            for i in range(BINS)
        ),
    )


def agreement(
    first: str,
    second: str,
    answers: Sequence[str],
    others: Sequence[str],
    truth: Sequence[str],
) -> Agreement:
    """Compare two raters' answers, utterance by utterance.

    >>> found = agreement("a", "b", ["x", "x", "y", "y"], ["x", "y", "y", "y"], list("xxyx"))
    >>> found.share, found.kappa, found.both_right, found.first_right, found.second_right
    (0.75, 0.5, 0.5, 0.25, 0.0)
    """
    one, two, true = (np.asarray(given, dtype=object) for given in (answers, others, truth))
    return Agreement(
        first=first,
        second=second,
        n=len(one),
        share=float(np.mean(one == two)),
        kappa=_kappa(answers, others),
        both_right=float(np.mean((one == true) & (two == true))),
        first_right=float(np.mean((one == true) & (two != true))),
        second_right=float(np.mean((one != true) & (two == true))),
    )


def _kappa(answers: Sequence[str], others: Sequence[str]) -> float | None:
    from statsmodels.stats.inter_rater import cohens_kappa

    names = sorted({*answers, *others})
    if len(names) == 1:
        return None
    first, second = ([names.index(name) for name in given] for given in (answers, others))
    counts = np.asarray(confusion(first, second, len(names)))
    return float(cohens_kappa(counts, return_results=False))
