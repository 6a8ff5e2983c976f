"""What becomes of scores if other speakers had been tested: confusions by speaker, resampled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from distill.metrics import MIN_UNITS, Counts, Interval, bootstrap_scores
from featstore.core.metrics import confusion

if TYPE_CHECKING:
    import pandas as pd


def test_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the speakers tested."""
    return frame[frame["role"] == "test"]


def confusions(frames: Iterable[pd.DataFrame], classes: Sequence[str]) -> dict[str, Counts]:
    """Counts of each test speaker, ``[C, C]``, row = truth; folds and seeds summed.

    Args:
        frames: tables with the columns ``role``, ``speaker``, ``truth`` and ``prediction``.
        classes: in logit order.
    """
    place = {name: index for index, name in enumerate(classes)}
    found: dict[str, Counts] = {}
    for frame in frames:
        for speaker, rows in test_rows(frame).groupby("speaker"):
            truth, said = (rows[name].map(place).to_list() for name in ("truth", "prediction"))
            counts = np.asarray(confusion(truth, said, len(classes)), dtype=np.int64)
            found[str(speaker)] = found.get(str(speaker), 0) + counts
    return found


def intervals(found: Mapping[str, Counts]) -> tuple[Interval, Interval] | str:
    """WA's and UA's interval over speakers, or why there is none.

    >>> intervals({"Ses01F": np.eye(4, dtype=np.int64)})
    'too few speakers to resample: 1, fewer than 3'
    """
    if len(found) < MIN_UNITS:
        return f"too few speakers to resample: {len(found)}, fewer than {MIN_UNITS}"
    return bootstrap_scores(np.stack([found[name] for name in sorted(found)])) or ""
