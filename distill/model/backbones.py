"""Speech encoders by name: what a student is built on, pretrained, untrained or rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from distill.config import RANDOM, source_of
from distill.model import bundles
from distill.model.encoder import Architecture, Backbone
from distill.model.tiny import Tiny, TinyShape
from featstore.core.schema import UserError
from featstore.core.settings import resolve


def load_backbone(name: str, weights: Path | None = None, seed: int = 42) -> Backbone:
    """A speech encoder, all of it trainable; see :meth:`Backbone.freeze`.

    Args:
        name: ``tiny`` (made to be trained from scratch); a torchaudio bundle such as
            ``hubert-base``; ``hf:<id or folder>``; or ``random:`` and one of the latter two: the
            same architecture with weights drawn from ``seed``, for tests and benchmarks. Missing
            weights are an error, never a reason to draw some.
        weights: for a bundle, a file to use in place of torch hub's cache.
        seed: of drawn weights; PyTorch's own generator is left as it was.

    Raises:
        UserError: for an unknown name, or weights that are missing or do not fit.
        Refused: for pickled weights.
    """
    random, kind = name.startswith(RANDOM), name.removeprefix(RANDOM)
    _refuse_weights_for(name, weights)
    if kind == "tiny" or random:
        with seeded(seed):
            return build_backbone(architecture(kind))
    if kind in bundles.BUNDLES:
        return bundles.load(kind, weights)
    from distill.model import huggingface

    return huggingface.load(source_of(kind))


def check_weights(name: str, weights: Path | None = None) -> str:
    """Whether :func:`load_backbone` would find its weights; cheap, and nothing is downloaded.

    Returns:
        What a run would download first; empty where all is on this machine.

    Raises:
        UserError: for an unknown name, or weights that are missing and may not be downloaded.
        Corrupt: for a damaged file.
        Refused: for pickled weights.
    """
    random, kind = name.startswith(RANDOM), name.removeprefix(RANDOM)
    _refuse_weights_for(name, weights)
    if kind == "tiny" or (random and kind in bundles.BUNDLES):
        return ""
    if kind in bundles.BUNDLES:
        return bundles.check(kind, weights)
    from distill.model import huggingface

    return huggingface.check(source_of(kind), random)


def architecture(name: str) -> Architecture:
    """What a backbone of this name is made of; no weights are read.

    >>> architecture("hubert-base").params["encoder_embed_dim"]
    768
    """
    kind = name.removeprefix(RANDOM)
    if kind == "tiny":
        shape = TinyShape().model_dump(mode="json")
        return Architecture(family="tiny", type="Tiny", params=shape)
    if kind in bundles.BUNDLES:
        return bundles.architecture(kind)
    from distill.model import huggingface

    return huggingface.architecture(source_of(kind))


def build_backbone(shape: Architecture, empty: bool = False) -> Backbone:
    """An untrained backbone.

    Args:
        shape: its architecture.
        empty: without storage behind its parameters (PyTorch's ``meta`` device), to be filled by
            ``load_state_dict(..., assign=True)``.

    Raises:
        UserError: where the family cannot build such a thing.
    """
    place: AbstractContextManager[object] = torch.device("meta") if empty else nullcontext()
    with place:
        return _BUILDERS[shape.family](shape)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's CPU generator at ``seed`` inside, and as it was afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _tiny(shape: Architecture) -> Backbone:
    return Tiny(resolve(TinyShape, shape.params))


def _transformers(shape: Architecture) -> Backbone:
    from distill.model import hf_models

    return hf_models.build(shape)


_BUILDERS: Mapping[str, Callable[[Architecture], Backbone]] = {
    "tiny": _tiny,
    "torchaudio": bundles.build,
    "transformers": _transformers,
}


def _refuse_weights_for(name: str, weights: Path | None) -> None:
    if weights is not None and name not in bundles.BUNDLES:
        raise UserError(
            f"--weights {weights}: {name} takes no file of weights",
            f"give it with {', '.join(bundles.BUNDLES)}, or name a folder as hf:FOLDER",
        )
