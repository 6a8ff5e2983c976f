"""Signal -> eGeMAPSv02 low-level descriptors, and their normalisation.

25 descriptors every 10 ms (about ``100 * duration_s - 4`` frames). The fifteen whose names end in
``nz`` are measured in voiced frames only: elsewhere openSMILE writes sentinels (0, and -201 for
the formants' amplitudes), so they take part in statistics, and reach the teacher, through a mask.
Source: Eyben et al. 2015; opensmile-python. PAPER.md rows 16 to 18.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.schema import SAMPLING_RATE
from featstore.features.audio import Samples, from_samples

Lld = npt.NDArray[np.float32]

F0 = "F0semitoneFrom27.5Hz_sma3nz"
LOUDNESS = "Loudness_sma3"
HOP_MS = 10


def extract(samples: Samples, feature_set: str = "eGeMAPSv02") -> Lld:
    """LLDs of one utterance.

    Args:
        samples: ``[T]`` int16 at 16 kHz, at least 60 ms.
        feature_set: openSMILE's name of the set.

    Returns:
        ``[frames, D]`` float32, D = 25 for eGeMAPSv02, columns as in :func:`names`. The same
        samples give the same bytes.
    """
    with _no_frame_lost():
        table = _smile(feature_set).process_signal(from_samples(samples), SAMPLING_RATE)
    return np.ascontiguousarray(table.to_numpy(dtype=np.float32))


@contextmanager
def _no_frame_lost() -> Iterator[None]:
    """Raise what was raised while openSMILE handed over a frame.

    It calls Python for each frame, and an exception cannot pass through C: Ctrl-C at that moment
    would be printed, forgotten, and leave the utterance a frame short.
    """
    lost: list[BaseException] = []
    before = sys.unraisablehook

    def hear(told: sys.UnraisableHookArgs) -> None:
        if told.exc_value is not None and "ctypes callback" in (told.err_msg or ""):
            lost.append(told.exc_value)
        else:
            before(told)

    sys.unraisablehook = hear
    try:
        yield
    finally:
        sys.unraisablehook = before
    if lost:
        raise lost[0]


def names(feature_set: str = "eGeMAPSv02") -> tuple[str, ...]:
    """The descriptors in openSMILE's order, which is the order of the store's columns."""
    return tuple(str(name) for name in _smile(feature_set).feature_names)


def measured(lld: Lld, columns: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Where a descriptor was measured: ``[frames, D]``; the voiced-only ones where F0 > 0."""
    voiced = lld[:, columns.index(F0)] > 0
    anywhere = np.array([not name.endswith("nz") for name in columns])
    mask: npt.NDArray[np.bool_] = voiced[:, None] | anywhere[None, :]
    return mask


@dataclass(frozen=True)
class Normaliser:
    """Mean and standard deviation of each descriptor over measured frames, both ``[D]``."""

    columns: tuple[str, ...]
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]

    @staticmethod
    def fit(llds: Iterable[Lld], columns: tuple[str, ...]) -> Normaliser:
        """Statistics over all measured frames of the given utterances, in float64.

        A descriptor that was never measured, or never varies, gets std 1.
        """
        count, total, squares = np.zeros((3, len(columns)))
        for lld in llds:
            mask = measured(lld, columns)
            values = np.where(mask, lld, 0.0).astype(np.float64)
            count += mask.sum(axis=0)
            total += values.sum(axis=0)
            squares += np.square(values).sum(axis=0)
        mean = total / np.maximum(count, 1)
        std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - np.square(mean), 0.0))
        usable = (count > 1) & (std > 1e-6)
        return Normaliser(
            columns, mean.astype(np.float32), np.where(usable, std, 1.0).astype(np.float32)
        )

    def apply(self, lld: Lld) -> npt.NDArray[np.float32]:
        """z-scores and mask: ``[2, frames, D]``; 0 where a descriptor was not measured.

        Scores are limited to +-10, so that one odd frame cannot drown an utterance.
        """
        mask = measured(lld, self.columns)
        scores = np.clip((lld - self.mean) / self.std, -10.0, 10.0)
        return np.stack([np.where(mask, scores, 0.0), mask]).astype(np.float32)


@lru_cache(maxsize=2)
def _smile(feature_set: str) -> Any:
    """One extractor a process: building it anew costs as much as two utterances."""
    import opensmile

    return opensmile.Smile(
        feature_set=opensmile.FeatureSet[feature_set],
        feature_level=opensmile.FeatureLevel.LowLevelDescriptors,
    )
