"""Fixtures of the store half: changed builds, and a fold learnt in a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def changed(small_request: Any) -> Callable[..., Any]:
    """``changed(request, "a.b=c", ...)``: the small build's request with other settings."""
    from featstore.core.config import BuildSettings
    from featstore.core.settings import overrides, resolve

    def change(*pairs: str, **fields: Any) -> Any:
        base = small_request.settings.model_dump(mode="json", exclude_none=True)
        settings = resolve(BuildSettings, base, overrides(pairs))
        return replace(small_request, settings=settings, **fields)

    return change


@pytest.fixture(scope="session")
def toy_fold() -> Any:
    """A fold that a teacher learns in a moment: 24 utterances, 2 classes told by word and pitch.

    Rows 0 to 15 are training, 16 to 19 validation, 20 to 23 test; the test speaker alone says
    ``xylophone``, and alone is loud.
    """
    from featstore.features.lld import F0, LOUDNESS
    from featstore.folds import TEST, TRAIN, VALIDATION
    from featstore.teachers import FoldData

    rng = np.random.default_rng(7)
    labels = np.arange(24, dtype=np.int16) % 2
    columns = (LOUDNESS, F0, "F1amplitudeLogRelF0_sma3nz", "mfcc1_sma3")
    llds = []
    for row, label in enumerate(labels.tolist()):
        frames = rng.normal(0, 1, (int(rng.integers(60, 140)), 4)).astype(np.float32)
        frames[:, 0] += 1000.0 * (row >= 20)
        frames[:, 1] = np.where(rng.random(len(frames)) < 0.7, 25 + 10 * label + frames[:, 1], 0)
        frames[frames[:, 1] == 0, 2] = -201.0
        llds.append(frames)
    cues = ("terrible news", "lovely day")
    texts = [f"what a {cues[label]} number {row}" for row, label in enumerate(labels.tolist())]
    texts[20:] = [f"{text} xylophone" for text in texts[20:]]
    return FoldData(
        texts=tuple(texts),
        speakers=tuple(f"s{row // 4}" for row in range(24)),
        labels=labels,
        roles=np.array([TRAIN] * 16 + [VALIDATION] * 4 + [TEST] * 4, dtype=np.int8),
        n_classes=2,
        llds=llds,
        lld_names=columns,
    )
