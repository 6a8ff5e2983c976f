"""Cross-fitted targets: of each training utterance by a teacher that never saw its speaker.

A teacher is over-confident on the utterances that it was fitted on, and these are the ones that a
student learns from (PAPER.md row 21). Here the fold's training speakers are parted into K groups,
and K teachers are fitted as the one teacher would be, each without one group, for which it then
speaks. Its vocabulary, normaliser and class weights come from its own training rows, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featstore.config import TeacherSettings
from featstore.folds import OUT, TEST, VALIDATION, Fold
from featstore.schema import TaskFailed
from featstore.teachers import prepare
from featstore.teachers.data import FoldData
from featstore.teachers.finetune import Fit, Floats, finetune, predict, score
from featstore.training import count_parameters

BEYOND_TRAINING = "mean of the parts' logits, embeddings of the first part"
"""What is kept of all other rows: nobody is taught these, and no one part is theirs."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Spoken:
    """One fitted part, and what it says of its group and of the rows beyond training."""

    fit: Fit
    parameters: int
    own: tuple[Floats, Floats]
    beyond: tuple[Floats, Floats]


def fit_parts(
    data: FoldData,
    fold: Fold,
    groups: Sequence[Sequence[str]],
    settings: TeacherSettings,
    device: torch.device,
) -> tuple[Floats, Floats, dict[str, Any]]:
    """Fit a teacher without each group of training speakers, and let it speak for that group.

    The parts' embeddings lie in as many spaces, which nothing here brings together. A rotation
    into one of them would have to be fitted on that part's outputs, and that part has seen the
    speakers of every other group: their labels would come back by way of the rotation.

    Args:
        data: the corpus as the fold sees it.
        fold: its speakers.
        groups: the fold's training speakers, each in one group.
        settings: of the teacher; all parts have the same, and the same seed.
        device: where to compute.

    Returns:
        Raw logits ``[N, C]``, embeddings ``[N, D]`` (see :data:`BEYOND_TRAINING` for rows that are
        not the fold's training rows), and the unit's facts.

    Raises:
        TaskFailed: a part's loss or outputs are not finite.
    """
    speakers = np.array(data.speakers)
    beyond = [rows for role in (VALIDATION, TEST, OUT) if len(rows := data.rows(role))]
    order = np.concatenate(beyond)
    own = [data.train_rows[np.isin(speakers[data.train_rows], group)] for group in groups]
    parts = [_fit_part(data, rows, beyond, settings, device) for rows in own]
    n, width = len(data.labels), parts[0].beyond[1].shape[1]
    logits = np.empty((n, data.n_classes), dtype=np.float32)
    embeddings = np.empty((n, width), dtype=np.float32)
    for rows, part in zip(own, parts, strict=True):
        logits[rows], embeddings[rows] = part.own
    logits[order] = np.mean([part.beyond[0] for part in parts], axis=0, dtype=np.float64)
    embeddings[order] = parts[0].beyond[1]
    if not (np.isfinite(logits).all() and np.isfinite(embeddings).all()):
        raise TaskFailed("the teacher's outputs are not finite", "lower its learning rate")
    facts = {
        "parts": [
            {
                "held_out": list(group),
                "fitted_on": [name for name in fold.train if name not in group],
                "selected_on": list(fold.validation),
                "parameters": part.parameters,
                "best_epoch": part.fit.best_epoch,
                "history": list(part.fit.history),
            }
            for group, part in zip(groups, parts, strict=True)
        ],
        "beyond_training": BEYOND_TRAINING,
        "parameters": sum(part.parameters for part in parts),
        "embedding_width": width,
        "scores": score(logits, data),
    }
    return logits, embeddings, facts


def _fit_part(
    data: FoldData,
    own: Rows,
    beyond: Sequence[Rows],
    settings: TeacherSettings,
    device: torch.device,
) -> _Spoken:
    """A teacher that is fitted without some training rows, and what it says of them.

    They go through it in batches of their own, so that no other row is padded with them.
    """
    roles = data.roles.copy()
    roles[own] = OUT
    seen = replace(data, roles=roles)
    task = prepare(seen, settings, getattr(settings, "model", ""))
    fit = finetune(task, seen, settings.optim, settings.seed, device)
    spoken = [predict(task, rows, device) for rows in beyond]
    return _Spoken(
        fit,
        count_parameters(task.model),
        predict(task, own, device),
        (
            np.concatenate([logits for logits, _ in spoken]),
            np.concatenate([embeddings for _, embeddings in spoken]),
        ),
    )
