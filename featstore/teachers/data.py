"""What a teacher is given, and what it gives back to the one loop that fits it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from featstore.folds import TRAIN
from featstore.store.ragged import Ragged

Batch = dict[str, torch.Tensor]
Collate = Callable[[npt.NDArray[np.int64], np.random.Generator | None], Batch]
"""``collate(rows, rng)``: the model's keyword arguments; ``rng`` augments, None evaluates."""


@dataclass(frozen=True)
class FoldData:
    """A corpus as one fold sees it.

    Attributes:
        texts: the transcript of every utterance.
        speakers: the speaker of every utterance.
        labels: class index of every utterance, ``[N]``.
        roles: what each utterance is in this fold, ``[N]``.
        n_classes: number of classes.
        lld: the LLDs, where the teacher needs them.
        lld_names: their columns.
    """

    texts: Sequence[str]
    speakers: Sequence[str]
    labels: npt.NDArray[np.int16]
    roles: npt.NDArray[np.int8]
    n_classes: int
    lld: Ragged | None = None
    lld_names: tuple[str, ...] = ()

    def rows(self, role: int) -> npt.NDArray[np.int64]:
        """The rows of a role, in order."""
        return np.flatnonzero(self.roles == role)

    @property
    def train_rows(self) -> npt.NDArray[np.int64]:
        """The only rows that anything may be fitted on."""
        return self.rows(TRAIN)


@dataclass(frozen=True)
class Task:
    """A teacher ready to be fitted.

    Attributes:
        model: ``model(**batch) -> (logits [B, C], embeddings [B, D])``.
        collate: rows -> batch.
        lengths: how long each row is to the model, ``[N]``.
        save: writes what else the teacher needs (tokenizer, normaliser) into a folder.
    """

    model: nn.Module
    collate: Collate
    lengths: npt.NDArray[np.int64]
    save: Callable[[Path], None]
