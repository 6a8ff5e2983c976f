"""What every speech encoder of a student offers: frames from signals, and what of it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distill.config import Context, DropoutSettings, SpecAugmentSettings, Trainable
from distill.model.layerdrop import passed_by
from distill.model.masking import valid_mask
from distill.model.spec_augment import spec_augment
from featstore.core.schema import UserError
from featstore.core.settings import Settings


class Architecture(Settings):
    """An untrained twin of a backbone, made by :func:`distill.model.backbones.build_backbone`.

    It is saved with every student, so that loading one needs no hub and no original weights.
    """

    family: Literal["tiny", "torchaudio", "transformers"]
    type: str
    """The family's own name of the model: ``Wav2Vec2``, ``WavLM``; ``hubert``, ``wavlm`` ..."""
    params: dict[str, Any]
    """The sizes and rates that its constructor takes."""
    normalise: bool = False
    """Bring each utterance to zero mean and unit variance first, as in the model's training."""

    @model_validator(mode="after")
    def _bounded(self) -> Architecture:
        """Nothing that a stranger's file says makes us build without end."""
        for key, value in self.params.items():
            sizes, limit = _flat(value), 256 if "layers" in key else 1 << 16
            wrong = [size for size in sizes if isinstance(size, int) and not 0 <= size <= limit]
            if wrong or len(sizes) > 256:
                raise ValueError(f"{key}: {wrong or len(sizes)} is beyond any speech encoder")
        return self


class Backbone(nn.Module):
    """Signals to hidden frames; the same for an utterance alone and inside any padded batch.

    A subclass gives ``front`` (signals to features: a CNN or a filter bank) and ``encode`` (the
    transformer), and passes lengths through every layer that could see padding.

    Attributes:
        hidden_size: D, the width of a hidden frame.
        n_states: how many hidden states :meth:`states` returns: the transformer's input and the
            output of each of its layers.
        min_samples: the shortest signal that gives one frame.
        architecture: what this module was built from.
        checkpointing: recompute layers in the backward pass instead of keeping their activations:
            the same numbers from less memory and about a third more time.
        layerdrop: probability of passing a layer by in a training step.
        spec_augment: what is hidden from the transformer in a training step.
    """

    hidden_size: int
    n_states: int
    min_samples: int
    architecture: Architecture
    checkpointing: bool = False
    layerdrop: float = 0.0
    spec_augment: SpecAugmentSettings = SpecAugmentSettings()
    trainable: Trainable = "all"

    def front(self, signals: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Signals [B, T] and lengths [B] to features [B, T', F] and their counts [B]."""
        raise NotImplementedError

    def encode(self, features: Tensor, mask: Tensor | None, keep: bool) -> list[Tensor]:
        """Features [B, T', F] to hidden states [B, T', D]: the last one, or all with ``keep``.

        ``mask`` [B, T'] is True on valid frames, or None where every frame is valid.
        """
        raise NotImplementedError

    def front_modules(self) -> list[nn.Module]:
        """What ``trainable="transformer"`` keeps frozen."""
        raise NotImplementedError

    def set_dropout(self, settings: DropoutSettings) -> None:
        """Replace the architecture's dropout rates by those that are given."""
        raise NotImplementedError

    def layers(self) -> list[Any]:
        """The transformer's layers, from the input upwards."""
        raise NotImplementedError

    def set_context(self, context: Context) -> None:
        """Say what a frame may attend to.

        Raises:
            UserError: for anything but ``utterance``, which all encoders but Whisper are made for.
        """
        if context != "utterance":
            raise UserError(
                f"student.context = {context}: {self.architecture.type} has no window of its own",
                "leave it at utterance; only Whisper was trained on padded windows",
            )

    def forward(self, signals: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The last hidden layer.

        Args:
            signals: [B, T] float32 at 16 kHz, padded on the right with anything finite.
            lengths: [B] int64, valid samples, each at least ``min_samples``. On the CPU (where
                loaders make them) they cost no synchronisation with a GPU.

        Returns:
            hidden [B, T', D] and n_frames [B] int64, on the signals' device. Frames from
            ``n_frames`` on are padding.
        """
        states, n_frames = self._run(signals, lengths, keep=False)
        return states[-1], n_frames

    def states(self, signals: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """As :meth:`forward`, with all ``n_states`` hidden states from the input upwards."""
        return self._run(signals, lengths, keep=True)

    def freeze(self, trainable: Trainable) -> None:
        """Say what trains; the rest keeps its weights, builds no graph and stays in eval mode."""
        self.trainable = trainable
        self.requires_grad_(trainable != "none")
        if trainable != "all":
            for module in self.front_modules():
                module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """As ``nn.Module.train``, except that frozen parts never leave eval mode."""
        super().train(mode and self.trainable != "none")
        if self.trainable != "all":
            for module in self.front_modules():
                module.eval()
        return self

    def _run(self, signals: Tensor, lengths: Tensor, keep: bool) -> tuple[list[Tensor], Tensor]:
        graph = torch.is_grad_enabled()
        with torch.set_grad_enabled(graph and self.trainable == "all"):
            features, n_frames = self.front(signals, lengths)
        # Known on the CPU, a batch without padding takes the attention kernels that need no mask.
        full = n_frames.device.type == "cpu" and bool((n_frames == features.shape[1]).all())
        if self.training and self.spec_augment.active:
            features = spec_augment(features, n_frames, self.spec_augment)
        n_frames = n_frames.to(signals.device, non_blocking=True)
        mask = None if full else valid_mask(n_frames, features.shape[1])
        with torch.set_grad_enabled(graph and self.trainable != "none"):
            return self.encode(features, mask, keep), n_frames

    def climb(
        self,
        hidden: Tensor,
        step: Callable[[Any, Tensor, Tensor | None], tuple[Tensor, Tensor | None]],
        keep: bool,
    ) -> list[Tensor]:
        """Hidden frames [B, T', D] through all layers: the last state, or all from the input on.

        Args:
            hidden: the transformer's input.
            step: ``(layer, hidden, bias)`` to the layer's output and what it hands on.
            keep: whether to keep all states.
        """
        states: list[Tensor] = [hidden]
        bias: Tensor | None = None
        for index, layer in enumerate(self.layers()):
            # WavLM's first layer makes the position bias of all others, so the first one stays.
            if index and self.training and self.layerdrop and torch.rand(()) < self.layerdrop:
                hidden = passed_by(layer, hidden)
            else:
                hidden, bias = step(layer, hidden, bias)
            states = [*states, hidden] if keep else [hidden]
        return states

    def call(self, layer: Callable[..., Any], *args: Any) -> Any:
        """A layer's output, its activations recomputed later where that was asked for."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *args, use_reentrant=False)
        return layer(*args)


class TransformerBackbone(Backbone):
    """The transformer that wav2vec 2.0, HuBERT, WavLM and data2vec share, driven layer by layer.

    Driven here, not through its owner's ``forward``: layer drop and SpecAugment are then ours, with
    our keys and our seed, and the mask reaches layers that its owner does not pass it to
    (torchaudio's WavLM; data2vec's stack of positional convolutions).
    """

    pre_norm: bool
    """Whether norms stand before each layer, and one after the last ("large" models)."""

    def stack(self) -> Any:
        """The module that has ``pos_conv_embed``, ``layer_norm``, ``dropout`` and ``layers``."""
        raise NotImplementedError

    def project(self, features: Tensor) -> Tensor:
        """Features [B, T', F] to the transformer's width [B, T', D]."""
        raise NotImplementedError

    def projection_dropout(self) -> Any:
        """The dropout that :meth:`project` ends with."""
        raise NotImplementedError

    def positions(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """The positional embedding [B, T', D] of hidden frames whose padding is 0."""
        embedding: Tensor = self.stack().pos_conv_embed(hidden)
        return embedding

    def step(
        self, layer: Any, hidden: Tensor, mask: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """One layer, as torchaudio calls it: the new hidden frames and WavLM's position bias."""
        out: tuple[Tensor, Tensor | None] = self.call(layer, hidden, attention_mask(mask), bias)
        return out

    def encode(self, features: Tensor, mask: Tensor | None, keep: bool) -> list[Tensor]:
        """See :meth:`Backbone.encode`; the last state is after the final norm."""
        stack = self.stack()
        hidden = zero_padding(self.project(features), mask)
        hidden = hidden + self.positions(hidden, mask)
        if not self.pre_norm:
            hidden = stack.layer_norm(hidden)
        hidden = stack.dropout(hidden)
        states = self.climb(hidden, lambda layer, h, bias: self.step(layer, h, mask, bias), keep)
        if self.pre_norm:
            states[-1] = stack.layer_norm(states[-1])
        return states

    def layers(self) -> list[Any]:
        """See :meth:`Backbone.layers`."""
        return list(self.stack().layers)

    def set_dropout(self, settings: DropoutSettings) -> None:
        """See :meth:`Backbone.set_dropout`; torchaudio and Hugging Face use the same names."""
        if settings.projection is not None:
            self.projection_dropout().p = settings.projection
        if settings.hidden is not None:
            self.stack().dropout.p = settings.hidden
        for layer in self.layers():
            feed_forward, attention = layer.feed_forward, layer.attention
            if settings.hidden is not None:
                layer.dropout.p = feed_forward.output_dropout.p = settings.hidden
            if settings.attention is not None:
                attention.dropout = settings.attention
            if settings.activation is not None:
                feed_forward.intermediate_dropout.p = settings.activation


def _flat(values: Any) -> list[Any]:
    nested = isinstance(values, list | tuple)
    return [leaf for value in values for leaf in _flat(value)] if nested else [values]


def zero_padding(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Hidden [B, T, D] with padded frames at 0, as beyond the end of an utterance alone."""
    return hidden if mask is None else hidden.masked_fill(~mask[:, :, None], 0.0)


def attention_mask(mask: Tensor | None) -> Tensor | None:
    """[B, T] valid frames to the [B, 1, T, T] that scaled_dot_product_attention takes."""
    if mask is None:
        return None
    size = mask.shape[1]
    return mask[:, None, None, :].expand(-1, 1, size, size)
