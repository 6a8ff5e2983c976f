"""Students beside the teachers: which finished runs are of this store, and what they predict.

``distill`` reads and checks run folders; this package sits below it and is handed what it read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from featstore.core.schema import UserError, printable
from featstore.store.store import Store


@dataclass(frozen=True)
class Student:
    """A finished run on the page."""

    facts: dict[str, Any]
    logits: npt.NDArray[np.float32]
    """``[N, C]``, raw, in the store's order; NaN where it predicts nothing."""


def students(runs: Any, store: Store) -> tuple[list[Student], list[str]]:
    """The runs of this store, and why each other folder is left out.

    Args:
        runs: a :class:`distill.runs.read.RunSet`; None for no runs.
        store: whose utterances the page shows.
    """
    if runs is None:
        return [], []
    left_out = [f"{one.place}: {one.reason or one.state}" for one in runs.left_out]
    shown = []
    for run in sorted(runs.runs, key=lambda run: str(run.place)):
        names = ("fold", "seed", "experiment", "variant")
        facts = {"place": run.place, "backbone": run.facts.student.backbone}
        facts |= {name: getattr(run.facts, name) for name in names}
        try:
            shown.append(Student(facts, _logits(run, store)))
        except UserError as error:
            left_out.append(f"{run.place}: {error.message}")
    return shown, [printable(line) for line in left_out]


def _logits(run: Any, store: Store) -> npt.NDArray[np.float32]:
    """A run's logits in the store's order."""
    if (run.facts.store.fingerprint, run.facts.classes) != (store.fingerprint(), store.classes):
        raise UserError("of another store")
    ids = pd.Index(store.utterances["utterance_id"])
    rows = ids.get_indexer(run.predictions["utterance_id"])
    if (rows < 0).any() or len(np.unique(rows)) < len(rows):
        raise UserError("predictions of other utterances than the store's")
    out = np.full((len(ids), len(store.classes)), np.nan, dtype=np.float32)
    out[rows] = run.predictions[[f"logit_{name}" for name in store.classes]].to_numpy(np.float32)
    return out
