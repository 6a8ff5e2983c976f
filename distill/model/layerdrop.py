"""Layer drop (Fan et al. 2019): layers that a training step passes by, and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _PassedBy(torch.autograd.Function):
    """Identity, with a gradient of 0 for weights that were not used."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return (gradients[0], *(torch.zeros_like(weight) for weight in ctx.saved_tensors))


def passed_by(layer: nn.Module, hidden: Tensor) -> Tensor:
    """Hidden frames as they are; the layer's weights get a gradient of 0 rather than none.

    Processes that train together wait for a gradient of every weight, whichever layers each of
    them drops; and the optimiser treats a weight alike however many of a step's micro-batches
    passed it by.
    """
    weights = [weight for weight in layer.parameters() if weight.requires_grad]
    out: Tensor = _PassedBy.apply(hidden, *weights)
    return out
