"""Temperatures that calibrate a teacher (Guo et al., On Calibration of Modern Neural Networks)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from distill.config import LossSettings
from distill.data.targets import FoldTargets
from featstore.core.schema import UserError
from featstore.folds import VALIDATION

RANGE = (0.05, 50.0)
"""Where a temperature is looked for; one that is always right, or never, has none of its own."""


def calibrated(losses: LossSettings, targets: FoldTargets) -> LossSettings:
    """The losses with each teacher's temperature fitted on the fold's validation rows.

    Raises:
        UserError: the fold has no validation rows.
    """
    rows = targets.rows(VALIDATION)
    if not len(rows):
        raise UserError(
            "targets.tau = validation: the store's folds have no validation speaker",
            "--set targets.tau=given, or build with --set folds.validation=random",
        )
    labels = targets.labels.cpu().numpy()[rows]
    fitted = {
        name: term.model_copy(update={"tau": fit(targets.outputs[name].logits[rows], labels)})
        for name, term in losses.for_teachers(targets.teachers).items()
    }
    return losses.model_copy(update={"teachers": {**losses.teachers, **fitted}})


def taus(losses: LossSettings, teachers: Mapping[str, object]) -> dict[str, float]:
    """The temperature in use of each teacher."""
    return {name: losses.teachers[name].tau for name in sorted(teachers)}


def fit(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """The temperature with the least cross entropy, within :data:`RANGE`.

    Args:
        logits: ``[n, C]``, raw.
        labels: ``[n]`` class indices.

    A teacher that is right in 3 of 4 cases and always as sure, by logits 2 log 3 apart where log 3
    would do, is calibrated by 2:

    >>> sure = np.array([[2 * np.log(3), 0.0]] * 4)
    >>> round(fit(sure, np.array([0, 0, 0, 1])), 3)
    2.0
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    wide = logits.astype(np.float64)
    rows = np.arange(len(labels))

    def loss(log_tau: float) -> float:
        return -float(log_softmax(wide / np.exp(log_tau), axis=1)[rows, labels].mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded")
    return float(np.exp(found.x))
