"""Whether this machine computes a student's encoder rightly in bfloat16.

Kernels of a CPU are chosen by its maker and model, and one that is wrong for an encoder's sizes
would train a student on noise without a word: oneDNN's for Intel's AMX, for one, in a grouped
convolution of 8 channels a group.
"""

from __future__ import annotations

import torch

from distill.model.encoders import Encoder
from featstore.core.schema import SAMPLING_RATE, UserError

LIMIT = 2.0**-3
"""Relative error of a layer's hidden frames that is passed. One operation in bfloat16, which keeps
8 bits, errs by up to 2^-8; encoders of 2 to 24 layers were seen to come to 0.005 to 0.013, while a
wrong kernel errs by about the size of its output."""


def bfloat16_error(backbone: Encoder) -> float:
    """How far hidden frames in bfloat16 are off those in float32, for a second of noise on the CPU.

    Args:
        backbone: on the CPU, with float32 weights; left as it was.

    Returns:
        The largest error of a layer's hidden frames ``[1, T', D]`` over their own size, both by
        the Euclidean norm; infinity or NaN where the frames are.
    """
    n_samples = max(SAMPLING_RATE, backbone.min_samples)
    noise = torch.randn(1, n_samples, generator=torch.Generator().manual_seed(0))
    signals, lengths = 0.1 * noise, torch.tensor([n_samples])
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([]):  # some encoders draw in evaluation, too
            truth, _ = backbone.states(signals.clone(), lengths)
            with torch.autocast("cpu", torch.bfloat16):
                states, _ = backbone.states(signals.clone(), lengths)
    finally:
        backbone.train(training)
    pairs = zip(states, truth, strict=True)
    errors = [(state.float() - true.float()).norm() / true.float().norm() for state, true in pairs]
    return float(torch.stack(errors).max())


def require_bfloat16(backbone: Encoder) -> None:
    """Refuse to train in bfloat16 where this machine computes it wrongly.

    Raises:
        UserError: with the error measured.
    """
    error = bfloat16_error(backbone)
    if not error <= LIMIT:
        raise UserError(
            f"precision = bf16: this CPU computes the encoder wrongly in bfloat16 (hidden frames "
            f"are off by {error:.0%} of their size; at most {LIMIT:.0%} are rounding)",
            "use precision = fp32",
        )
