"""Whisper's encoder: log-mel spectrogram, two convolutions, a transformer with fixed positions.

Its owners fill every utterance up to 30 s with silence, and frames of speech attend to that silence
as well. Here the silence is left out by default (``student.context = "utterance"``): the features
are the original's to the last frame, positions too, and attention alone is kept to the utterance's
own frames. An utterance of 3 s then has 150 frames to compute, not 1,500, and a micro-batch's
seconds of audio tell its size, as with every other backbone. Weights that are fine-tuned, as a
student's are, can adapt to it; frozen ones were never shown it, and ``student.context = "window"``
gives them what they were trained on: hidden frames equal to the original's. Frames are pooled over
the utterance's own either way.

Longer utterances, which the original cuts off, are heard whole: each further window of 30 s starts
at the first position again and attends to itself. Their levels are relative to the loudest of the
whole utterance, and no window's last 2.5 ms are mirrored at its end, as the original does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distill.config import Context, DropoutSettings
from distill.model.encoder import Architecture, Backbone
from distill.model.masking import valid_mask, wide
from featstore.core.schema import SAMPLING_RATE
from featstore.core.torch_pair import load_torchaudio

PARAMS = (
    *("num_mel_bins", "max_source_positions", "d_model", "encoder_layers", "dropout"),
    *("encoder_attention_heads", "encoder_ffn_dim", "activation_function"),
    *("attention_dropout", "activation_dropout"),
)
"""Configuration keys that decide the encoder."""

WINDOW, HOP = 400, 160
"""25 ms windows every 10 ms, in samples."""
POWER_FLOOR = 1e-10
RANGE = 8.0
"""Decades below the loudest value of an utterance at which its log-mel values end."""

_ENCODER = re.compile(r"(model\.)?encoder\.")


class Whisper(Backbone):
    """Hugging Face's ``WhisperEncoder``, driven layer by layer with a mask.

    Args:
        model: in float32; its positions are taken over as constants, which they are.
        architecture: what ``model`` was built from.
    """

    positions: Tensor

    def __init__(self, model: Any, architecture: Architecture) -> None:
        super().__init__()
        self.model = model
        self.architecture = architecture
        self.context: Context = "utterance"
        self.register_buffer("positions", self.model.embed_positions.weight.detach())
        del self.model.embed_positions
        self.hidden_size = self.positions.shape[1]
        self.n_states = len(self.layers()) + 1
        self.min_samples = 2 * HOP
        # On the CPU even when the rest is built without storage: the filters check their values.
        with torch.device("cpu"):
            self.mel = load_torchaudio().transforms.MelSpectrogram(
                SAMPLING_RATE,
                n_fft=WINDOW,
                hop_length=HOP,
                n_mels=self.model.conv1.in_channels,
                center=False,
                norm="slaney",
                mel_scale="slaney",
            )
        self.projection_dropout, self.dropout = nn.Dropout(0.0), nn.Dropout(self.model.dropout)

    def set_context(self, context: Context) -> None:
        """See :meth:`Backbone.set_context`."""
        self.context = context

    def front(self, signals: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Convolved log-mel frames [B, T', D], 50 a second.

        In the ``window`` context T' is a multiple of the window, filled up with silence.
        """
        n_mel = torch.div(lengths + HOP - 1, HOP, rounding_mode="floor")
        n_frames = torch.div(n_mel + 1, 2, rounding_mode="floor")
        size = -(-signals.shape[1] // HOP)
        window = 2 * len(self.positions)
        whole = self.context == "window"
        # Two more than the utterance's own: what its last frame sees through two convolutions.
        levels = self._log_mel(signals, lengths, -(-size // window) * window if whole else size + 2)
        if whole:
            cut = levels.reshape(*levels.shape[:2], -1, window)
            levels = cut.transpose(1, 2).flatten(0, 1)
        frames = nn.functional.gelu(self.model.conv1(levels.to(self.model.conv1.weight.dtype)))
        frames = nn.functional.gelu(self.model.conv2(frames)).transpose(1, 2)
        if whole:
            return frames.reshape(len(signals), -1, self.hidden_size), n_frames
        return frames[:, : (size + 1) // 2], n_frames

    def _log_mel(self, signals: Tensor, lengths: Tensor, n_mel: int) -> Tensor:
        """Scaled log-mel values [B, n_mels, n_mel] of signals that silence follows."""
        silence = ~valid_mask(lengths.to(signals.device), signals.shape[1])
        half = WINDOW // 2
        n_samples = (n_mel - 1) * HOP + half
        with torch.no_grad(), torch.autocast(signals.device.type, enabled=False):
            signals = wide(signals).masked_fill(silence, 0.0)
            signals = nn.functional.pad(signals, (0, n_samples - signals.shape[1]))
            mirrored = torch.cat([signals[:, 1 : half + 1].flip(1), signals], dim=1)
            levels = self.mel(mirrored).clamp(min=POWER_FLOOR).log10()
            top = levels.amax(dim=(1, 2), keepdim=True)
            scaled: Tensor = (torch.maximum(levels, top - RANGE) + 4.0) / 4.0
            return scaled

    def encode(self, features: Tensor, mask: Tensor | None, keep: bool) -> list[Tensor]:
        """See :meth:`Backbone.encode`; the last state is after the final norm."""
        size = features.shape[1]
        place = torch.arange(size, device=features.device) % len(self.positions)
        hidden = self.projection_dropout(features) + self.positions[place]
        seen = self._attention(mask, size, features.device)
        states = self.climb(
            self.dropout(hidden), lambda layer, h, _: (self.call(layer, h, seen), None), keep
        )
        states[-1] = self.model.layer_norm(states[-1])
        return states

    def _attention(self, mask: Tensor | None, size: int, device: torch.device) -> Tensor | None:
        """Which frames each frame attends to, [B, 1, T', T'], or None for all of them."""
        span = len(self.positions)
        if self.context == "window" and mask is not None:
            n_windows = torch.div(mask.sum(dim=1) + span - 1, span, rounding_mode="floor")
            mask = None if size == span else valid_mask(n_windows * span, size)
        if mask is None and size <= span:
            return None
        window = torch.div(torch.arange(size, device=device), span, rounding_mode="floor")
        seen = (window[:, None] == window)[None, None]
        if mask is not None:
            seen = seen & mask[:, None, None, :]
        # A frame of padding in a window of padding has itself, or softmax would have nothing.
        return seen | torch.eye(size, dtype=torch.bool, device=device)

    def layers(self) -> list[Any]:
        """See :meth:`Backbone.layers`."""
        return list(self.model.layers)

    def front_modules(self) -> list[nn.Module]:
        """The filter bank, which has no weights, and the convolutions."""
        return [self.mel, self.model.conv1, self.model.conv2]

    def set_dropout(self, settings: DropoutSettings) -> None:
        """See :meth:`Backbone.set_dropout`."""
        if settings.projection is not None:
            self.projection_dropout.p = settings.projection
        if settings.hidden is not None:
            self.dropout.p = settings.hidden
        for layer in self.layers():
            if settings.hidden is not None:
                layer.dropout = settings.hidden
            if settings.attention is not None:
                layer.self_attn.dropout = settings.attention
            if settings.activation is not None:
                layer.activation_dropout = settings.activation


def encoder_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors of a state dict, by the encoder's own names.

    Args:
        state: of a ``WhisperModel``, of one with a head on it, or of a bare encoder.

    >>> state = {"model.encoder.conv1.bias": torch.ones(1), "model.decoder.x": torch.ones(1)}
    >>> encoder_weights(state)
    {'conv1.bias': tensor([1.])}
    """
    inside = {_ENCODER.sub("", k, count=1): v for k, v in state.items() if _ENCODER.match(k)}
    return inside or dict(state)


def other_front(settings: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    """What of a model's feature extractor is not as here; empty where all is.

    Args:
        settings: of its ``preprocessor_config.json``, possibly empty.
        params: of the encoder.

    >>> other_front({"hop_length": 320, "n_fft": 400}, {"num_mel_bins": 80})
    ['hop_length is 320, not 160']
    """
    wanted: dict[str, Any] = {"n_fft": WINDOW, "hop_length": HOP, "dither": 0.0}
    if "num_mel_bins" in params:
        wanted["feature_size"] = params["num_mel_bins"]
    if "max_source_positions" in params:
        wanted["chunk_length"] = params["max_source_positions"] * 2 * HOP / SAMPLING_RATE
    return [
        f"{key} is {settings[key]}, not {value:g}"
        for key, value in wanted.items()
        if settings.get(key, value) != value
    ]
