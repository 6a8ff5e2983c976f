"""The wav2vec 2.0 family, from torchaudio and from Hugging Face, with lengths in every layer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill.model.encoder import Architecture, TransformerBackbone, attention_mask, zero_padding
from distill.model.masking import MaskedGroupNorm, conv_lengths, normalise_signals, receptive_field


class Wav2Vec2(TransformerBackbone):
    """A stack of convolutions on the waveform, then a transformer.

    Args:
        model: torchaudio's ``Wav2Vec2Model`` or one of Hugging Face's, in float32.
        architecture: what ``model`` was built from.
    """

    def __init__(self, model: nn.Module, architecture: Architecture) -> None:
        super().__init__()
        self.model: Any = model
        self.architecture = architecture
        for block in self._convolutions():
            if isinstance(getattr(block, "layer_norm", None), nn.GroupNorm):
                block.layer_norm = MaskedGroupNorm.of(block.layer_norm)
        self.hidden_size = self.stack().layer_norm.normalized_shape[0]
        self.n_states = len(self.layers()) + 1
        self.min_samples = receptive_field(*self._kernels_and_strides())

    def front(self, signals: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Convolutional features [B, T', F], about 50 a second."""
        there = lengths.to(signals.device, non_blocking=True)
        if self.architecture.normalise:
            signals = normalise_signals(signals, there)
        frames = signals[:, None]
        for block in self._convolutions():
            conv = block.conv
            frames = conv(frames)
            lengths = conv_lengths(lengths, conv.kernel_size, conv.stride)
            there = conv_lengths(there, conv.kernel_size, conv.stride)
            frames = self._activate(block, _norm(block, frames, there))
        return frames.transpose(1, 2), lengths

    def front_modules(self) -> list[nn.Module]:
        """The CNN; the linear projection after it belongs to what trains."""
        return [self.model.feature_extractor]

    def _convolutions(self) -> list[Any]:
        return list(self.model.feature_extractor.conv_layers)

    def _kernels_and_strides(self) -> tuple[list[int], list[int]]:
        convs = [block.conv for block in self._convolutions()]
        return [conv.kernel_size[0] for conv in convs], [conv.stride[0] for conv in convs]

    def _activate(self, block: Any, frames: Tensor) -> Tensor:
        return nn.functional.gelu(frames)


class TorchaudioEncoder(Wav2Vec2):
    """torchaudio's Wav2Vec2Model: HuBERT, wav2vec 2.0, and WavLM with its mask passed on."""

    def __init__(self, model: nn.Module, architecture: Architecture) -> None:
        super().__init__(model, architecture)
        # torchaudio's flag says where the *outer* norm stands: first means norms after the layers.
        self.pre_norm = not self.stack().layer_norm_first
        self.wavlm = architecture.type == "WavLM"

    def stack(self) -> Any:
        """See :class:`TransformerBackbone`."""
        return self.model.encoder.transformer

    def project(self, features: Tensor) -> Tensor:
        """See :class:`TransformerBackbone`."""
        projected: Tensor = self.model.encoder.feature_projection(features)
        return projected

    def projection_dropout(self) -> Any:
        """See :class:`TransformerBackbone`."""
        return self.model.encoder.feature_projection.dropout

    def step(
        self, layer: Any, hidden: Tensor, mask: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`TransformerBackbone`; WavLM takes what to add to scores."""
        if not self.wavlm:
            return super().step(layer, hidden, mask, bias)
        dtype = layer.attention.attention.in_proj_weight.dtype
        padding = None if mask is None else _additive(mask, dtype)
        out: tuple[Tensor, Tensor | None] = self.call(layer, hidden, None, bias, padding)
        return out


class TransformersEncoder(Wav2Vec2):
    """Hugging Face's Hubert-, Wav2Vec2-, WavLM- and Data2VecAudioModel."""

    def __init__(self, model: nn.Module, architecture: Architecture) -> None:
        super().__init__(model, architecture)
        self.kind = architecture.type
        self.pre_norm = bool(architecture.params.get("do_stable_layer_norm", False))
        if self.kind == "wavlm":
            for layer in self.layers():
                attend = partial(_wavlm_attention, layer.attention)
                layer.attention.torch_multi_head_self_attention = attend

    def stack(self) -> Any:
        """See :class:`TransformerBackbone`."""
        return self.model.encoder

    def project(self, features: Tensor) -> Tensor:
        """See :class:`TransformerBackbone`."""
        projected = self.model.feature_projection(features)
        first: Tensor = projected[0] if isinstance(projected, tuple) else projected
        return first

    def projection_dropout(self) -> Any:
        """See :class:`TransformerBackbone`."""
        return self.model.feature_projection.dropout

    def positions(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """data2vec stacks convolutions, and each would let the padding in of the one before."""
        if self.kind != "data2vec-audio":
            return super().positions(hidden, mask)
        for layer in self.stack().pos_conv_embed.layers:
            hidden = zero_padding(layer(hidden.transpose(1, 2)).transpose(1, 2), mask)
        return hidden

    def step(
        self, layer: Any, hidden: Tensor, mask: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`TransformerBackbone`; only WavLM's layers hand a position bias on."""
        if self.kind == "wavlm":
            out: tuple[Tensor, Tensor | None] = self.call(layer, hidden, mask, bias)
            return out
        hidden = self.call(layer, hidden, attention_mask(mask))
        return hidden, None

    def _activate(self, block: Any, frames: Tensor) -> Tensor:
        activated: Tensor = block.activation(frames)
        return activated


def _wavlm_attention(
    attention: Any, hidden: Tensor, mask: Tensor | None, bias: Tensor
) -> tuple[Tensor, None]:
    """WavLM's attention by the fused kernel, in place of the slow one that keeps its weights.

    Args:
        attention: Hugging Face's ``WavLMAttention``.
        hidden: [B, T, D].
        mask: [B, T], True on valid frames.
        bias: [B * heads, T, T], the gated position bias.
    """
    batch, size, _ = hidden.shape
    heads = (batch, size, attention.num_heads, attention.head_dim)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (p(hidden).view(heads).transpose(1, 2) for p in projections)
    scores = bias.view(batch, attention.num_heads, size, size)
    if mask is not None:
        scores = scores + _additive(mask, scores.dtype)[:, None, None, :]
    out = nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=scores.to(query.dtype),
        dropout_p=attention.dropout if attention.training else 0.0,
    )
    return attention.out_proj(out.transpose(1, 2).reshape(batch, size, -1)), None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 on valid frames and -inf on padding."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)


def _norm(block: Any, frames: Tensor, n_frames: Tensor) -> Tensor:
    """A convolution's norm, if it has one; Hugging Face's layer norms want channels last."""
    norm: Any = getattr(block, "layer_norm", None)
    if isinstance(norm, MaskedGroupNorm):
        frames = norm(frames, n_frames)
    elif type(norm) is nn.LayerNorm:
        frames = norm(frames.transpose(1, 2)).transpose(1, 2)
    elif norm is not None:
        frames = norm(frames)
    return frames
