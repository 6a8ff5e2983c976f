"""What every fit shares: seeds, optimiser, schedule, batches and devices. Teachers and students."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from featstore.core.config import OptimSettings, device_kind
from featstore.core.schema import UserError

Indices = npt.NDArray[np.int64]


def pick_device(name: str = "auto") -> torch.device:
    """The device to compute on: ``auto`` takes a GPU where there is one.

    Raises:
        UserError: the device asked for is not there.
    """
    if name == "auto":
        return torch.device(device_kind())
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not usable here ({error})", "use auto or cpu") from error
    return device


def seed_all(seed: int) -> None:
    """Seed torch's generators, from which weights and dropout draw; all else takes a generator."""
    torch.manual_seed(seed)


def generator(*key: int) -> np.random.Generator:
    """A NumPy generator of its own for each key, e.g. (seed, epoch)."""
    return np.random.default_rng(key)


def make_optimiser(model: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW over what trains; biases and norms (one dimension) are not decayed."""
    return torch.optim.AdamW(parameter_groups(model.named_parameters(), settings))


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], settings: OptimSettings, lr: float | None = None
) -> list[dict[str, Any]]:
    """Two groups at one learning rate: weights, decayed, and biases and norms, not decayed."""
    trainable = [p for _, p in named if p.requires_grad]
    rate = settings.lr if lr is None else lr
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [{**group, "lr": rate} for group in groups if group["params"]]


def make_schedule(
    optimiser: torch.optim.Optimizer, settings: OptimSettings, n_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm-up over a share of the steps, then one cosine to zero (PAPER.md row 13)."""
    from transformers import get_scheduler

    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    schedule: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
        name, optimiser, round(settings.warmup * n_steps), n_steps
    )
    return schedule


def class_weights(labels: npt.NDArray[np.integer[Any]], n_classes: int) -> torch.Tensor:
    """Inverse class frequency, scaled so that an average utterance weighs 1: ``[C]``.

    >>> class_weights(np.array([0, 0, 0, 1]), 2).tolist()
    [0.6666666865348816, 2.0]
    """
    counts = np.bincount(labels, minlength=n_classes)
    weights = len(labels) / (n_classes * np.maximum(counts, 1))
    return torch.tensor(weights, dtype=torch.float32)


def shuffled_batches(
    rows: Indices, lengths: Indices, batch_size: int, rng: np.random.Generator, pool: int = 8
) -> list[Indices]:
    """One epoch in random order, with utterances of similar length in a batch.

    The rows are shuffled, cut into pools of ``pool`` batches, sorted by length within each pool,
    cut into batches, and the batches shuffled: little padding, and still another epoch each time.

    Args:
        rows: the rows to visit, each once.
        lengths: length of every row of the corpus, indexed by row.
        batch_size: rows a batch; the last ones of an epoch may be fewer.
        rng: decides the order.
        pool: batches sorted together; 1 shuffles fully and pads most.
    """
    order = rng.permutation(rows)
    batches: list[Indices] = []
    for start in range(0, len(order), pool * batch_size):
        part = order[start : start + pool * batch_size]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def sorted_batches(rows: Indices, lengths: Indices, batch_size: int) -> Iterator[Indices]:
    """Batches by falling length, for evaluation: the largest comes first, if memory fails."""
    order = rows[np.argsort(-lengths[rows], kind="stable")]
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())
