"""The prosodic teacher: a 2D ResNet over descriptors x time (paper, section 3).

Its input has two channels: z-scores by the fold's training speakers, and which descriptors were
measured in which frame. Padding is zeroed after every layer and left out of the pooling, so an
utterance gives the same output alone and in any batch. PAPER.md rows 9, 16, 17, 18.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from featstore.core.config import ProsodicSettings
from featstore.core.training import seed_all
from featstore.features.lld import Normaliser
from featstore.teachers import FoldData
from featstore.teachers.finetune import Batch, Prepared

Image = npt.NDArray[np.float32]


class Block(nn.Module):
    """Two 3x3 convolutions beside a 1x1 shortcut; the first halves time and descriptors."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: torch.Tensor, n_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[B, C, T, D]`` and valid frames ``[B]`` -> the same, smaller."""
        n_frames = _after(n_frames, self.stride)
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(_blank(out, n_frames)))
        return _blank(F.relu(out + self.shortcut(x), inplace=True), n_frames), n_frames


class ProsodicTeacher(nn.Module):
    """Stem with a stride along time, four residual blocks, masked mean, linear classifier."""

    def __init__(self, settings: ProsodicSettings, n_classes: int) -> None:
        super().__init__()
        widths = settings.channels
        self.time_stride = settings.time_stride
        self.stem = nn.Conv2d(
            2, widths[0], (2 * settings.time_stride + 1, 3), stride=(settings.time_stride, 1),
            padding=(settings.time_stride, 1), bias=False,
        )  # fmt: skip
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList(
            Block(n_in, n_out, stride)
            for n_in, n_out, stride in zip((widths[0], *widths), widths, (1, 2, 2, 2), strict=False)
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(widths[-1], n_classes)

    def forward(
        self, image: torch.Tensor, n_frames: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[B, C]`` and embeddings ``[B, channels[-1]]``.

        Args:
            image: ``[B, 2, T, D]``: z-scores and mask.
            n_frames: valid frames of each utterance, ``[B]``.
        """
        n_frames = _after(n_frames, self.time_stride)
        image = image.to(memory_format=torch.channels_last)
        x = _blank(F.relu(self.norm(self.stem(image)), inplace=True), n_frames)
        for block in self.blocks:
            x, n_frames = block(x, n_frames)
        embeddings = x.sum(dim=2).mean(dim=2) / n_frames[:, None]
        return self.classifier(self.dropout(embeddings)), embeddings


def prepare(data: FoldData, settings: ProsodicSettings) -> Prepared:
    """A fold's teacher: its normaliser is fitted here, on the training rows alone."""
    images = normalised(data, settings)
    lengths = np.array([min(len(lld), settings.max_frames) for lld in data.llds], dtype=np.int64)
    seed_all(settings.seed)
    model = ProsodicTeacher(settings, data.n_classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # a quarter less time on a CPU
            module.weight.data = module.weight.contiguous(memory_format=torch.channels_last)
    return Prepared(model, partial(collate, images, settings), lengths)


def check(model: str) -> None:
    """Nothing: there are no weights to be had."""


def collate(
    images: list[Image],
    settings: ProsodicSettings,
    rows: npt.NDArray[np.int64],
    rng: np.random.Generator | None,
) -> Batch:
    """Crop, mask and pad: ``image [B, 2, T, D]`` and ``n_frames [B]``."""
    parts = [_crop(images[row], settings, rng) for row in rows]
    longest = max(part.shape[1] for part in parts)
    out = np.zeros((len(parts), 2, longest, parts[0].shape[2]), dtype=np.float32)
    for target, part in zip(out, parts, strict=True):
        target[:, : part.shape[1]] = part
    n_frames = torch.tensor([part.shape[1] for part in parts])
    return {"image": torch.from_numpy(out), "n_frames": n_frames}


def _crop(image: Image, settings: ProsodicSettings, rng: np.random.Generator | None) -> Image:
    """At most ``max_frames``: from the centre, or in training a random stretch with masks."""
    n = image.shape[1]
    keep = min(n, settings.max_frames)
    if rng is None:
        start = (n - keep) // 2
        return image[:, start : start + keep]
    keep = min(keep, max(1, round(n * rng.uniform(settings.time_crop, 1.0))))
    start = int(rng.integers(0, n - keep + 1))
    image = image[:, start : start + keep]
    if settings.time_masks:
        image = image.copy()
        for _ in range(settings.time_masks):
            width = int(rng.integers(0, max(1, keep // 10) + 1))
            begin = int(rng.integers(0, keep - width + 1))
            image[:, begin : begin + width] = 0.0
    return image


def normalised(data: FoldData, settings: ProsodicSettings) -> list[Image]:
    """z-scores and mask of every utterance ``[2, frames, D]``."""
    columns, llds = data.lld_names, data.llds
    if settings.normalisation == "utterance":
        return [Normaliser.fit([lld], columns).apply(lld) for lld in llds]
    if settings.normalisation == "train":
        by_train = Normaliser.fit((llds[row] for row in data.train_rows), columns)
        return [by_train.apply(lld) for lld in llds]
    speakers = {
        speaker: Normaliser.fit(
            (lld for lld, who in zip(llds, data.speakers, strict=True) if who == speaker), columns
        )
        for speaker in sorted(set(data.speakers))
    }
    return [speakers[who].apply(lld) for lld, who in zip(llds, data.speakers, strict=True)]


def _after(n_frames: torch.Tensor, stride: int) -> torch.Tensor:
    """Frames that are left after a stride: those whose centre lies in a valid frame."""
    return (n_frames + stride - 1) // stride


def _blank(x: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
    """Zero the padding: to the next layer it is what lies beyond an utterance's end anyway."""
    valid = torch.arange(x.shape[2], device=x.device) < n_frames[:, None]
    return x * valid[:, None, :, None]
