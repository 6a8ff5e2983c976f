"""Cross-fitted targets: of each training utterance by a teacher that never saw its speaker.

A teacher is over-confident on the utterances that it was fitted on, and these are the ones that a
student learns from (PAPER.md row 21). Here the fold's training speakers are parted into K groups,
and K teachers are fitted as the one teacher would be, each without one group, for which it then
speaks. Its vocabulary, normaliser and class weights come from its own training rows, too.

Teachers that are fitted apart have embedding spaces of their own, and a student one projection to
match them with; :func:`common_space` turns each, by what it has seen alone, to where all agree on
the classes' directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featstore.core.config import TeacherSettings
from featstore.core.schema import TaskFailed
from featstore.core.training import count_parameters
from featstore.folds import OUT, TEST, VALIDATION
from featstore.teachers import Floats, FoldData, OnEpoch, prepare
from featstore.teachers.finetune import Fit, finetune, predict, score

BEYOND_TRAINING = "mean of the parts"
"""What is kept of all other rows, which no student learns from: the parts' mean."""

HOLD = 0.01
"""How much, beside the class means, each axis is held where it is; see :func:`common_space`."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Spoken:
    """One fitted part, and what it says of its group and of the rows beyond training."""

    fit: Fit
    parameters: int
    residual: float
    own: tuple[Floats, Floats]
    beyond: tuple[Floats, Floats]


def fit_parts(
    data: FoldData,
    groups: Sequence[Sequence[str]],
    settings: TeacherSettings,
    device: torch.device,
    on_epoch: OnEpoch = lambda entry: None,
) -> tuple[Floats, Floats, dict[str, Any]]:
    """Fit a teacher without each group of training speakers, and let it speak for that group.

    Args:
        data: the corpus as the fold sees it.
        groups: the fold's training speakers, each in one group.
        settings: of the teacher; all parts have the same, and the same seed.
        device: where to compute.
        on_epoch: see :func:`featstore.teachers.finetune.finetune`; of one part after another.

    Returns:
        Raw logits ``[N, C]``, embeddings ``[N, D]`` (see :data:`BEYOND_TRAINING` for rows that are
        not the fold's training rows), and the unit's facts.

    Raises:
        TaskFailed: a part's loss or outputs are not finite.
    """
    speakers = np.array(data.speakers)
    beyond = [rows for role in (VALIDATION, TEST, OUT) if len(rows := data.rows(role))]
    own = [data.train_rows[np.isin(speakers[data.train_rows], group)] for group in groups]
    parts = [_fit_part(data, rows, beyond, settings, device, on_epoch) for rows in own]
    trained = sorted(name for group in groups for name in group)
    validated = sorted(set(speakers[data.rows(VALIDATION)].tolist()))
    unseen = np.stack([part.beyond[1] for part in parts])
    n, width = len(data.labels), unseen.shape[2]
    logits = np.empty((n, data.n_classes), dtype=np.float32)
    embeddings = np.empty((n, width), dtype=np.float32)
    for rows, part in zip(own, parts, strict=True):
        logits[rows], embeddings[rows] = part.own
    order = np.concatenate(beyond)
    logits[order] = np.mean([part.beyond[0] for part in parts], axis=0, dtype=np.float64)
    embeddings[order] = unseen.mean(axis=0, dtype=np.float64)
    facts = {
        "parts": [
            {
                "held_out": list(group),
                "fitted_on": [name for name in trained if name not in group],
                "selected_on": validated,
                "residual": part.residual,
                "parameters": part.parameters,
                "best_epoch": part.fit.best_epoch,
                "history": list(part.fit.history),
            }
            for group, part in zip(groups, parts, strict=True)
        ],
        "beyond_training": BEYOND_TRAINING,
        "agreement": agreement(unseen),
        "parameters": sum(part.parameters for part in parts),
        "embedding_width": width,
        "scores": score(logits, data),
    }
    return logits, embeddings, facts


def common_space(
    embeddings: Floats, labels: npt.NDArray[np.integer[Any]], n_classes: int
) -> tuple[torch.Tensor, float]:
    """The rotation that takes the class means nearest to one axis each (orthogonal Procrustes).

    It keeps all lengths and angles. To turn a part into the space of another would bring back what
    cross-fitting keeps out: that other part has seen the speakers for whom this one speaks. The
    axes are nobody's. What is orthogonal to the class means is turned as little as can be, since
    fits that start from the same weights also share directions that have nothing to do with them.

    Args:
        embeddings: ``[n, D]`` of rows that the part was fitted on.
        labels: class index of each, ``[n]``; every class occurs.
        n_classes: how many axes to turn them to, the first of the space.

    Returns:
        The rotation ``[D, D]`` float64, for ``embeddings @ rotation``, and how far the class means
        remain from their axes, relative to their distance from 0.

    >>> two_classes = np.array([[0, 3], [-3, 0]], np.float32)
    >>> rotation, residual = common_space(two_classes, np.arange(2), 2)
    >>> (two_classes @ rotation.numpy()).round(2).tolist(), round(residual, 2)
    ([[3.0, 0.0], [-0.0, 3.0]], 0.0)
    """
    # In torch, whose number of threads a fit fixes: the last bits may depend on it.
    values = torch.from_numpy(embeddings.astype(np.float64))
    means = torch.stack([values[torch.from_numpy(labels == c)].mean(0) for c in range(n_classes)])
    length = means.norm(dim=1).mean().clamp_min(1e-12)
    width = values.shape[1]
    axes = length * torch.eye(n_classes, width, dtype=torch.float64)
    held = (HOLD * length) ** 2 * torch.eye(width, dtype=torch.float64)
    left, _, right = torch.linalg.svd(means.T @ axes + held)
    rotation = left @ right
    residual = (means @ rotation - axes).norm() / axes.norm()
    return rotation, round(float(residual), 6)


def _turned(embeddings: Floats, rotation: torch.Tensor) -> Floats:
    turned: Floats = (torch.from_numpy(embeddings.astype(np.float64)) @ rotation).float().numpy()
    return turned


def agreement(parts: Floats) -> dict[str, float]:
    """Mean cosine of different parts' embeddings: of the same utterance, and of two different ones.

    Args:
        parts: ``[K, M, D]``: what K parts say of M utterances that none was fitted on.

    >>> agreement(np.array([[[1, 0], [0, 1]], [[2, 0], [0, 2]]], np.float32))
    {'same': 1.0, 'different': 0.0}
    """
    units = torch.from_numpy(parts.astype(np.float64))
    units = units / units.norm(dim=2, keepdim=True).clamp_min(1e-12)
    n_parts, n, _ = units.shape
    sums = units.sum(1)
    same = torch.einsum("pmd,qmd->pq", units, units)
    others = ~torch.eye(n_parts, dtype=torch.bool)
    different = (sums @ sums.T - same)[others].mean() / (n * max(n - 1, 1))
    same_utterance = same[others].mean() / n
    return {"same": round(float(same_utterance), 6), "different": round(float(different), 6)}


def _fit_part(
    data: FoldData,
    own: Rows,
    beyond: Sequence[Rows],
    settings: TeacherSettings,
    device: torch.device,
    on_epoch: OnEpoch,
) -> _Spoken:
    """A teacher that is fitted without some training rows, and what it says of them.

    They go through it in batches of their own, so that no other row is padded with them.
    """
    roles = data.roles.copy()
    roles[own] = OUT
    seen = replace(data, roles=roles)
    teacher = prepare(seen, settings)
    fit = finetune(teacher, seen, settings.optim, settings.seed, device, on_epoch)
    groups = [predict(teacher, rows, device) for rows in (seen.train_rows, own, *beyond)]
    if not all(np.isfinite(values).all() for pair in groups for values in pair):
        raise TaskFailed("the teacher's outputs are not finite", "lower its learning rate")
    rotation, residual = common_space(groups[0][1], data.labels[seen.train_rows], data.n_classes)
    turned = [(logits, _turned(values, rotation)) for logits, values in groups]
    others = tuple(np.concatenate(values) for values in zip(*turned[2:], strict=True))
    return _Spoken(
        fit, count_parameters(teacher.model), residual, turned[1], (others[0], others[1])
    )
