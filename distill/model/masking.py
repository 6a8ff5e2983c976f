"""Padding kept out of the arithmetic: lengths, masks, and the norms and means that need them.

A batch is padded on the right with samples that mean nothing. Everything here computes over each
utterance's own samples or frames only, so an utterance alone and in a batch give one answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WAVEFORM_EPS = 1e-5
"""Added to the variance by :func:`normalise_signals`: what fairseq trained its models with."""


def conv_lengths(lengths: Tensor, kernels: Sequence[int], strides: Sequence[int]) -> Tensor:
    """How many frames a stack of unpadded convolutions makes of each utterance.

    Args:
        lengths: [B] int64, valid samples.
        kernels: of the layers, from the signal upwards.
        strides: likewise.

    Returns:
        [B] int64; 0 where the utterance is shorter than one receptive field.

    >>> wav2vec2 = ([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])
    >>> conv_lengths(torch.tensor([399, 400, 719, 720, 16_000]), *wav2vec2).tolist()
    [0, 1, 1, 2, 49]
    """
    for kernel, stride in zip(kernels, strides, strict=True):
        lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        lengths = lengths.clamp(min=0)
    return lengths


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that the first frame of a stack of unpadded convolutions needs.

    >>> receptive_field([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])
    400
    """
    field, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * step
        step *= stride
    return field


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """[B, size] bool, True where an utterance has a sample or frame of its own.

    >>> valid_mask(torch.tensor([1, 3]), 3).int().tolist()
    [[1, 0, 0], [1, 1, 1]]
    """
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def masked_mean(hidden: Tensor, n_frames: Tensor) -> Tensor:
    """Mean over each utterance's own frames (PAPER.md row 10), in float32 whatever comes in.

    Args:
        hidden: [B, T, D], of which ``n_frames`` count.
        n_frames: [B] int64, at least 1 each.

    Returns:
        [B, D] float32 (float64 for float64).

    >>> hidden = torch.tensor([[[1.0], [3.0], [99.0]]])
    >>> masked_mean(hidden, torch.tensor([2]))
    tensor([[2.]])
    """
    mask = valid_mask(n_frames, hidden.shape[1])
    kept = wide(hidden).masked_fill(~mask[:, :, None], 0.0)
    return kept.sum(dim=1) / n_frames.clamp(min=1)[:, None]


def normalise_signals(signals: Tensor, lengths: Tensor) -> Tensor:
    """Zero mean and unit variance for each utterance over its own samples; padding becomes 0.

    The variance is the biased one and :data:`WAVEFORM_EPS` is added to it, as fairseq does;
    torchaudio's wrapper takes one mean over the whole padded batch instead, Hugging Face adds 1e-7.

    Args:
        signals: [B, T] float32.
        lengths: [B] int64, valid samples.

    >>> normalise_signals(torch.tensor([[1.0, 3.0, 7.0]]), torch.tensor([2])).round(decimals=3)
    tensor([[-1.,  1.,  0.]])
    """
    padding = ~valid_mask(lengths, signals.shape[1])
    count = lengths.clamp(min=1)[:, None]
    kept = signals.masked_fill(padding, 0.0)
    centred = (kept - kept.sum(dim=1, keepdim=True) / count).masked_fill(padding, 0.0)
    variance = centred.square().sum(dim=1, keepdim=True) / count
    return centred * torch.rsqrt(variance + WAVEFORM_EPS)


def spans(counts: Tensor, size: int, ratio: float, length: int) -> Tensor:
    """Random stretches of each row, drawn from PyTorch's CPU generator.

    The run's seed starts that generator and its checkpoints bring it back, so that an interrupted
    run hides the same frames as an undisturbed one, on whatever device. A row of n entries gets
    ``ratio * n / length`` stretches, rounded up or down at random so that the mean is exact. No
    stretch is longer than half of its row: a word or two may go, never the utterance.

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
    expected = ratio * counts / lengths.clamp(min=1)
    n_spans = torch.floor(expected + torch.rand(len(counts))).where(lengths > 0, torch.tensor(0.0))
    draws = torch.rand(len(counts), int(n_spans.max()))
    starts = torch.floor(draws * (counts - lengths + 1)[:, None])[:, :, None]
    place = torch.arange(size)
    inside = (place >= starts) & (place < starts + lengths[:, None, None])
    chosen = torch.arange(draws.shape[1]) < n_spans[:, None]
    return (inside & chosen[:, :, None]).any(dim=1)


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm with one channel a group, its statistics over each utterance's own frames.

    HuBERT-base's and wav2vec2-base's first layer normalises every channel over time. Over a padded
    batch that takes the padding into account: the pooled output moved by 12 % at 30 % padding.
    """

    @classmethod
    def of(cls, norm: nn.GroupNorm) -> MaskedGroupNorm:
        """The same norm, weights shared, with lengths to look at.

        Raises:
            ValueError: where a group holds several channels, which no speech encoder here has.
        """
        if norm.num_groups != norm.num_channels or not norm.affine:
            raise ValueError(f"expected one channel a group and weights, got {norm}")
        new = cls(norm.num_groups, norm.num_channels, norm.eps, device="meta")
        new.weight, new.bias = norm.weight, norm.bias
        return new

    def forward(self, frames: Tensor, n_frames: Tensor | None = None) -> Tensor:
        """Normalise [B, C, T] over the first ``n_frames`` [B] of each row; padding must be finite.

        Statistics are float32 even under autocast. Without gradients ``frames`` is overwritten: it
        is the largest tensor of the whole network, and making another costs more than the norm.
        """
        if n_frames is None:
            return super().forward(frames)
        x = wide(frames)
        mask = valid_mask(n_frames, frames.shape[2])[:, None, :].to(x.dtype)
        count = n_frames.clamp(min=1)[:, None, None]
        weight, bias = self.weight[:, None], self.bias[:, None]
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            centred = (x - (x * mask).sum(dim=2, keepdim=True) / count) * mask
            return (centred * (weight * self._rsqrt(centred, count)) + bias).to(frames.dtype)
        mean = x.mul_(mask).sum(dim=2, keepdim=True) / count
        centred = x.sub_(mean).mul_(mask)
        return centred.mul_(weight * self._rsqrt(centred, count)).add_(bias).to(frames.dtype)

    def _rsqrt(self, centred: Tensor, count: Tensor) -> Tensor:
        """One over the standard deviation of centred frames whose padding is 0, [B, C, 1]."""
        square = torch.linalg.vector_norm(centred, dim=2, keepdim=True).square()
        return torch.rsqrt(square / count + self.eps)


def wide(values: Tensor) -> Tensor:
    """Half precision raised to float32; float32 and float64 as they are.

    >>> wide(torch.ones(1, dtype=torch.bfloat16)).dtype, wide(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return values if values.dtype == torch.float64 else values.float()
