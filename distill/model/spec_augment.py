"""SpecAugment: stretches of time and of features hidden from the transformer while it trains.

Masks keep cached targets valid: a word or two may go, never the utterance. They are drawn on the
CPU from PyTorch's own generator, which the run's seed starts and its checkpoints bring back, so
that an interrupted run hides the same frames as an undisturbed one, on whatever device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.config import SpecAugmentSettings


def spec_augment(features: Tensor, n_frames: Tensor, settings: SpecAugmentSettings) -> Tensor:
    """Features with masked time spans and feature bands at 0.

    Zero is a level that every front end here gives often: the mean of ``tiny``'s scaled log-mels,
    and next to the most frequent value after the GELU of a CNN.

    Args:
        features: [B, T, F], what the transformer is about to be fed.
        n_frames: [B] int64, valid frames.
        settings: what to hide.
    """
    batch, size, width = features.shape
    counts = n_frames.cpu()
    if settings.time_ratio > 0:
        hidden = spans(counts, size, settings.time_ratio, settings.time_length)
        features = features.masked_fill(_to(hidden, features)[:, :, None], 0.0)
    if settings.feature_ratio > 0:
        widths = torch.full((batch,), width)
        hidden = spans(widths, width, settings.feature_ratio, settings.feature_length)
        features = features.masked_fill(_to(hidden, features)[:, None, :], 0.0)
    return features


def spans(counts: Tensor, size: int, ratio: float, length: int) -> Tensor:
    """Random stretches of each row, drawn from PyTorch's CPU generator.

    A row of n entries gets ``ratio * n / length`` stretches, rounded up or down at random so that
    the mean is exact. No stretch is longer than half of its row.

    Args:
        counts: [B] int64, entries of each row that may be drawn; on the CPU.
        size: N, entries of a row.
        ratio: share of a row under stretches.
        length: entries of one stretch.

    Returns:
        [B, N] bool, True inside a stretch.

    >>> _ = torch.manual_seed(0)
    >>> spans(torch.tensor([8, 2]), 8, ratio=0.5, length=4).sum(dim=1).tolist()
    [4, 1]
    """
    lengths = torch.div(counts, 2, rounding_mode="floor").clamp(max=length)
    wanted = ratio * counts / lengths.clamp(min=1)
    n_spans = torch.floor(wanted + torch.rand(len(counts))).where(lengths > 0, torch.tensor(0.0))
    draws = torch.rand(len(counts), int(n_spans.max()))
    starts = torch.floor(draws * (counts - lengths + 1)[:, None])[:, :, None]
    place = torch.arange(size)
    inside = (place >= starts) & (place < starts + lengths[:, None, None])
    chosen = torch.arange(draws.shape[1]) < n_spans[:, None]
    return (inside & chosen[:, :, None]).any(dim=1)


def _to(mask: Tensor, like: Tensor) -> Tensor:
    return mask.to(like.device, non_blocking=True)
