"""``tiny``: a log-mel front end and a small HuBERT encoder, for machines without a GPU."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from distill.model.encoder import Architecture, TransformerBackbone
from featstore.core.schema import SAMPLING_RATE
from featstore.core.settings import Settings
from featstore.core.torch_pair import load_torchaudio

WINDOW, HOP = 400, 160
"""25 ms windows every 10 ms, in samples."""

MEL_FLOOR = 1e-6
"""Added to mel powers before the logarithm: about the noise of 16 bit audio."""

MEL_MEAN, MEL_SCALE = -8.0, 4.0
"""Where log-mel values of speech lie. Constants, not statistics of a batch or a corpus: level
carries emotion, and one utterance must give one answer."""


class TinyShape(Settings):
    """The sizes of :class:`Tiny`; about 450,000 weights as they stand."""

    n_mels: int = Field(default=40, ge=8, le=128)
    frames_per_token: int = Field(default=4, ge=1, le=16)
    """10 ms frames that make one token. With two, the transformer, which is nine tenths of the
    work, takes twice as long."""
    width: int = Field(default=128, ge=16, le=1024, multiple_of=16)
    layers: int = Field(default=2, ge=1, le=24)
    heads: int = Field(default=4, ge=1, le=16)
    ffn: int = Field(default=512, ge=16, le=4096)
    kernel: int = Field(default=31, ge=1, le=128)
    """Tokens that the positional convolution spans."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """On the transformer's input and on the output of its layers. Attention weights get none: it
    would rule out the fused kernel on a CPU."""


class Tiny(TransformerBackbone):
    """Log-mel spectrogram, a linear layer, and the transformer of torchaudio's HuBERT."""

    pre_norm = True

    def __init__(self, shape: TinyShape | None = None) -> None:
        super().__init__()
        self.shape = shape or TinyShape()
        self.architecture = Architecture(
            family="tiny", type="Tiny", params=self.shape.model_dump(mode="json")
        )
        self.hidden_size, self.n_states = self.shape.width, self.shape.layers + 1
        self.min_samples = WINDOW + (self.shape.frames_per_token - 1) * HOP
        # On the CPU even when the rest is built without storage: the filters check their values.
        with torch.device("cpu"):
            self.mel = load_torchaudio().transforms.MelSpectrogram(
                SAMPLING_RATE,
                n_fft=WINDOW,
                hop_length=HOP,
                n_mels=self.shape.n_mels,
                center=False,
            )
        self.projection = nn.Linear(
            self.shape.frames_per_token * self.shape.n_mels, self.shape.width
        )
        self.dropout = nn.Dropout(0.0)
        self.transformer = _transformer(self.shape)

    def front(self, signals: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled log-mel tokens [B, T', stack * n_mels]; nothing here trains."""
        n_frames = torch.div(lengths - WINDOW, HOP, rounding_mode="floor") + 1
        per_token = self.shape.frames_per_token
        n_tokens = torch.div(n_frames, per_token, rounding_mode="floor").clamp(min=0)
        with torch.no_grad(), torch.autocast(signals.device.type, enabled=False):
            power = self.mel(signals.float()).transpose(1, 2)  # [B, frames, n_mels]
            levels = (torch.log(power + MEL_FLOOR) - MEL_MEAN) / MEL_SCALE
            size = levels.shape[1] // per_token
            return levels[:, : size * per_token].reshape(len(levels), size, -1), n_tokens

    def front_modules(self) -> list[nn.Module]:
        """The filter bank, which has no weights."""
        return [self.mel]

    def stack(self) -> Any:
        """See :class:`TransformerBackbone`."""
        return self.transformer

    def project(self, features: Tensor) -> Tensor:
        """See :class:`TransformerBackbone`."""
        projected: Tensor = self.dropout(self.projection(features))
        return projected

    def projection_dropout(self) -> Any:
        """See :class:`TransformerBackbone`."""
        return self.dropout


def _transformer(shape: TinyShape) -> Any:
    """HuBERT-large's kind of transformer: with norms before the layers it trains from scratch."""
    models = load_torchaudio().models
    return models.wav2vec2_model(
        extractor_mode="layer_norm",
        extractor_conv_layer_config=[(1, 1, 1)],
        extractor_conv_bias=True,
        encoder_embed_dim=shape.width,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=shape.kernel,
        encoder_pos_conv_groups=16,
        encoder_num_layers=shape.layers,
        encoder_num_heads=shape.heads,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=shape.ffn,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=shape.dropout,
        encoder_layer_norm_first=True,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    ).encoder.transformer
