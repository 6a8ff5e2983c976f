"""How each teacher does on each role of each fold: scores, confidence, entropy, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featstore.core import metrics as scores
from featstore.core.metrics import entropy, soften
from featstore.folds import OUT, ROLE_NAMES
from featstore.inspection.teachers import outputs_of
from featstore.store.store import Store


def teacher_facts(
    store: Store, folds: Sequence[int] | None = None, tau: float = 1.0, names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """A row for each fold, teacher and role, as plain data.

    Args:
        store: where from.
        folds: their numbers; every fold that has teachers where not given.
        tau: temperature of the probabilities.
        names: only these teachers; all where empty.

    Returns:
        ``fold``, ``teacher``, ``role``, ``n``, ``wa``, ``ua``, ``confidence`` (mean of the largest
        probability), ``over_confidence`` (that less the accuracy), ``entropy`` (mean, nats), and
        ``agreement``: for each other teacher the share of utterances that both label the same.
    """
    numbers = range(1, len(store.folds) + 1) if folds is None else folds
    return [
        row
        for number in numbers
        if folds is not None or store.target_names(number)
        for row in _of_fold(store, number, tau, names)
    ]


def _of_fold(store: Store, number: int, tau: float, names: Sequence[str]) -> list[dict[str, Any]]:
    outputs = outputs_of(store, number, names)
    labels, roles = store.labels.astype(np.int64), store.roles[number - 1]
    said = {name: output.logits.argmax(1) for name, output in outputs.items()}
    rows = []
    for name, output in outputs.items():
        p = soften(output.logits, tau)
        for role, called in ROLE_NAMES.items():
            index = np.flatnonzero(roles == role)
            if role == OUT or not len(index):
                continue
            accuracy = scores.wa(labels[index], said[name][index])
            confidence = float(p[index].max(1).mean())
            rows.append({
                "fold": number,
                "teacher": name,
                "role": called,
                "n": len(index),
                "wa": accuracy,
                "ua": scores.ua(labels[index], said[name][index], len(store.classes)),
                "confidence": confidence,
                "over_confidence": confidence - accuracy,
                "entropy": float(entropy(p[index]).mean()),
                "agreement": {
                    other: float((said[name][index] == said[other][index]).mean())
                    for other in outputs
                    if other != name
                },
            })  # fmt: skip
    return rows
