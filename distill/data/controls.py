"""Targets that belong to another utterance: the control for what distillation is worth.

A student may gain from a teacher because the teacher knows something of the utterance, or because
soft targets of any kind regularise. Where each utterance is taught with another's targets of the
same label, only the second is left, and what the teacher knows of the label.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from distill.data.targets import FoldTargets
from featstore.core.training import generator
from featstore.folds import TRAIN

Indices = npt.NDArray[np.int64]
Among = Literal["none", "label", "any"]

_STREAM = 1_000_003
"""Beside the run's seed: no epoch has this number."""


def shuffled(targets: FoldTargets, among: Among, seed: int) -> FoldTargets:
    """The fold with its training rows' targets handed to other training rows.

    All teachers' targets of an utterance stay together, labels and other roles' rows as they are.

    Args:
        targets: of the fold.
        among: hand on within a label, or to any training row.
        seed: of the order; the run's own.
    """
    if among == "none":
        return targets
    train = targets.rows(TRAIN)
    labels = targets.labels.cpu().numpy()[train]
    groups = labels if among == "label" else np.zeros_like(labels)
    source = np.arange(len(targets.roles))
    source[train] = train[handed_on(groups, seed)]
    index = torch.from_numpy(source).to(targets.labels.device)
    teachers = {name: (pair[0][index], pair[1][index]) for name, pair in targets.teachers.items()}
    return replace(targets, teachers=teachers)


def handed_on(groups: npt.NDArray[np.integer], seed: int) -> Indices:
    """For each row another row of its group, every row once; itself only in a group of one.

    Args:
        groups: ``[n]``, the group of each row.
        seed: of the order.

    Returns:
        ``[n]`` indices.

    >>> handed_on(np.array([0, 1, 0, 1, 2]), seed=1).tolist()
    [2, 3, 0, 1, 4]
    """
    drawn = generator(seed, _STREAM).permutation(len(groups))
    out = np.arange(len(groups))
    for group in np.unique(groups):
        ring = drawn[groups[drawn] == group]
        out[ring] = np.roll(ring, -1)
    return out
