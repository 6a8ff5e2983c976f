"""Speech encoders: Hugging Face's models, called so that padding changes no utterance's frames.

HuBERT, wav2vec 2.0, WavLM, data2vec-audio and ``tiny`` run by their own ``forward`` with an
attention mask. Two places of theirs see padding all the same, and get the utterances' lengths from
a hook: the group norm of the base models' first convolution, and data2vec's stack of positional
convolutions. Whisper's encoder takes whole windows of 30 s only, so its layers are called here.

The last hidden state is Hugging Face's ``last_hidden_state``: *after* the final layer norm of the
"large" models. torchaudio's ``extract_features()[-1]`` is before that norm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from distill.config import StudentSettings
from distill.model.masking import (
    MaskedGroupNorm,
    conv_lengths,
    normalise_signals,
    receptive_field,
    spans,
    valid_mask,
    wide,
)
from featstore.core.schema import SAMPLING_RATE, UserError, printable
from featstore.core.settings import Settings
from featstore.core.torch_pair import load_torchaudio
from featstore.core.weights import quiet

WINDOW, HOP = 400, 160
"""Of log-mel spectrograms: 25 ms windows every 10 ms, in samples."""
MEL_FLOOR, MEL_MEAN, MEL_SCALE = 1e-6, -8.0, 4.0
"""``tiny`` adds the noise of 16 bit audio to mel powers and scales their logarithms by constants,
not by statistics: level carries emotion, and one utterance must give one answer."""
WHISPER_FLOOR, WHISPER_RANGE = 1e-10, 8.0
"""Least mel power, and decades below an utterance's loudest value at which its values end."""

MAX_WEIGHTS = 4 * 10**9
"""Twice the largest encoder that was published."""

_SIZES = (
    *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "hidden_size", "hidden_act"),
    *("num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps"),
    *("hidden_dropout", "attention_dropout", "activation_dropout", "do_stable_layer_norm"),
    *("feat_proj_layer_norm", "feat_proj_dropout"),
)
_WAV2VEC2 = (
    *("conv_dim", "conv_stride", "conv_kernel", "conv_bias", "conv_pos_kernel_size", *_SIZES),
    *("feat_extract_norm", "feat_extract_activation", "num_buckets", "max_bucket_distance"),
    "adapter_attn_dim",
)
PARAMS: dict[str, tuple[str, ...]] = {
    "tiny": ("n_mels", "frames_per_token", *_SIZES),
    **dict.fromkeys(("hubert", "wav2vec2", "wavlm", "data2vec-audio"), _WAV2VEC2),
    "whisper": (
        *("num_mel_bins", "max_source_positions", "d_model", "encoder_layers", "dropout"),
        *("encoder_attention_heads", "encoder_ffn_dim", "activation_function"),
        *("attention_dropout", "activation_dropout"),
    ),
}
"""Model type -> configuration keys that decide the encoder. All others (remote code, kernels to
fetch, heads, decoders, adapters after the encoder) never reach a student; layer drop and
SpecAugment have settings of our own."""

TINY: dict[str, Any] = {
    **{"n_mels": 40, "frames_per_token": 4, "hidden_size": 128, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "intermediate_size": 512, "num_conv_pos_embeddings": 31},
    **{"num_conv_pos_embedding_groups": 16, "do_stable_layer_norm": True},
    **{"feat_proj_layer_norm": False, "feat_proj_dropout": 0.0, "hidden_dropout": 0.1},
    # Dropout of attention weights would rule out the fused kernel on a CPU.
    **{"attention_dropout": 0.0, "activation_dropout": 0.0},
}
"""Some 450,000 weights. A token is four frames of 10 ms: with two, the transformer, nine tenths of
the work, takes twice as long."""


class Architecture(Settings):
    """An untrained encoder, as :func:`build` makes it.

    It is saved with every student, so that loading one needs no hub and no original weights.
    """

    type: Literal["tiny", "hubert", "wav2vec2", "wavlm", "data2vec-audio", "whisper"]
    params: dict[str, Any]
    """Keys of Hugging Face's configuration, of :data:`PARAMS`."""
    normalise: bool = False
    """Bring each utterance to zero mean and unit variance first, as in the model's training."""

    @model_validator(mode="after")
    def _bounded(self) -> Architecture:
        """Nothing that a stranger's file says makes us build without end."""
        for key, value in self.params.items():
            sizes, most = _flat(value), 256 if "layers" in key else 1 << 16
            least = 1 if key in ("conv_dim", "conv_kernel", "conv_stride") else 0
            wrong = [size for size in sizes if isinstance(size, int) and not least <= size <= most]
            if wrong or len(sizes) > 256:
                raise ValueError(f"{key}: {wrong or len(sizes)} is beyond any speech encoder")
        return self


class Encoder(nn.Module, ABC):
    """Signals to hidden frames; the same for an utterance alone and inside any padded batch.

    Attributes:
        hidden_size: D, the width of a hidden frame.
        n_states: how many hidden states :meth:`states` returns: the transformer's input and the
            output of each of its layers.
        min_samples: the shortest signal that gives one frame.
        architecture: what this module was built from.
        settings: dropout, masks, layer drop and what trains; see :meth:`configure`.
    """

    hidden_size: int
    n_states: int
    min_samples: int

    def __init__(self, model: Any, architecture: Architecture) -> None:
        super().__init__()
        self.model, self.architecture = model, architecture
        self.settings = StudentSettings(trainable="all")

    def forward(self, signals: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The last hidden state.

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
        """As :meth:`forward`, with all ``n_states`` hidden states from the input upwards.

        Layers that layer drop leaves out have no state.
        """
        return self._run(signals, lengths, keep=True)

    def configure(self, settings: StudentSettings) -> None:
        """Set what trains, dropout, layer drop, masks, context and checkpointing.

        What does not train keeps its weights, builds no graph and stays in evaluation mode.

        Raises:
            UserError: for the context ``window`` of an encoder that is not Whisper.
        """
        if settings.context == "window" and self.architecture.type != "whisper":
            raise UserError(
                f"student.context = window: {self.architecture.type} has no window of its own",
                "leave it at utterance; only Whisper was trained on padded windows",
            )
        self.settings = settings
        for key, places in self._dropouts().items():
            rate = getattr(settings.dropout, key)
            for module, name in places if rate is not None else []:
                setattr(module, name, rate)
        if settings.gradient_checkpointing:
            enable = getattr(self.model, "activation_checkpointing_enable", None)
            (enable or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
        self.requires_grad_(settings.trainable != "none")
        if settings.trainable != "all":
            for module in self.front_modules():
                module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        """As ``nn.Module.train``, except that frozen parts never leave evaluation mode."""
        super().train(mode and self.settings.trainable != "none")
        if self.settings.trainable != "all":
            for module in self.front_modules():
                module.eval()
        return self

    @abstractmethod
    def front_modules(self) -> list[nn.Module]:
        """What ``trainable = "transformer"`` keeps frozen: the CNN, a filter bank."""

    @abstractmethod
    def _dropouts(self) -> dict[str, list[tuple[Any, str]]]:
        """Key of the dropout settings -> modules and the attribute that holds their rate."""

    @abstractmethod
    def _run(self, signals: Tensor, lengths: Tensor, keep: bool) -> tuple[list[Tensor], Tensor]:
        """The last hidden state [B, T', D], or all of them, and the frames [B] of each row."""

    def _hidden(self, n_frames: Tensor, size: int, width: int) -> tuple[Tensor | None, ...]:
        """SpecAugment's draw: frames [B, T'] and features [B, width] to hide, None for neither."""
        masks = self.settings.spec_augment
        frames = features = None
        if self.training and masks.time_ratio > 0:
            frames = spans(n_frames.cpu(), size, masks.time_ratio, masks.time_length)
        if self.training and masks.feature_ratio > 0:
            widths = torch.full((len(n_frames),), width)
            features = spans(widths, width, masks.feature_ratio, masks.feature_length)
        return frames, features

    def _with_dropped(self, hidden: Tensor) -> Tensor:
        """Give the weights of layers that were left out a gradient of 0 instead of none.

        Processes that train together wait for a gradient of every weight.
        """
        if not (self.training and self.settings.layerdrop):
            return hidden
        layers = getattr(self.model, "encoder", self.model).layers
        weights = [weight.sum() for weight in layers.parameters() if weight.requires_grad]
        return hidden + 0.0 * torch.stack(weights).sum()


class Wav2Vec2(Encoder):
    """Hugging Face's HuBERT, wav2vec 2.0, WavLM or data2vec-audio; or ``tiny``.

    Args:
        model: in float32, with a vector for masked frames.
        architecture: what ``model`` was built from.
    """

    def __init__(self, model: Any, architecture: Architecture) -> None:
        super().__init__(model, architecture)
        config = model.config
        config.mask_time_prob = 0.0  # it draws from NumPy's generator; our masks are handed over
        self._convolutions = [*config.conv_kernel], [*config.conv_stride]
        self.hidden_size, self.n_states = config.hidden_size, config.num_hidden_layers + 1
        self.min_samples = receptive_field(*self._convolutions)
        self._lengths: Tensor | None = None  # [B] frames after the first convolution
        self._mask: Tensor | None = None  # [B, T'] valid frames, None where all are
        self._bands: Tensor | None = None  # [B, D] features to hide
        if architecture.type == "tiny":
            shape = architecture.params
            model.feature_extractor = LogMelTokens(shape["n_mels"], shape["frames_per_token"])
        elif isinstance(norm := getattr(self._blocks()[0], "layer_norm", None), nn.GroupNorm):
            self._blocks()[0].layer_norm = norm = MaskedGroupNorm.of(norm)
            norm.register_forward_pre_hook(self._add_lengths)
        if architecture.type == "wavlm":
            for layer in model.encoder.layers:
                attend = partial(_wavlm_attention, layer.attention)
                layer.attention.torch_multi_head_self_attention = attend
        for layer in [*getattr(model.encoder.pos_conv_embed, "layers", [])][1:]:
            layer.register_forward_pre_hook(self._zero_padding)
        model.encoder.register_forward_pre_hook(self._zero_bands)

    def configure(self, settings: StudentSettings) -> None:
        """See :meth:`Encoder.configure`."""
        super().configure(settings)
        self.model.config.layerdrop = settings.layerdrop
        for block in self._blocks():  # their lengths are gone by the time of the backward pass
            block.gradient_checkpointing = False
        masked = settings.trainable != "none" and settings.spec_augment.time_ratio > 0
        self.model.masked_spec_embed.requires_grad_(masked)

    def front_modules(self) -> list[nn.Module]:
        """The CNN; the linear projection after it belongs to what trains."""
        return [self.model.feature_extractor]

    def _blocks(self) -> list[Any]:
        return [*getattr(self.model.feature_extractor, "conv_layers", ())]

    def _dropouts(self) -> dict[str, list[tuple[Any, str]]]:
        encoder: Any = self.model.encoder
        feeds = [layer.feed_forward for layer in encoder.layers]
        hidden = [*(layer.dropout for layer in encoder.layers), *(f.output_dropout for f in feeds)]
        return {
            "projection": [(self.model.feature_projection.dropout, "p")],
            "hidden": [(module, "p") for module in (encoder.dropout, *hidden)],
            "attention": [(layer.attention, "dropout") for layer in encoder.layers],
            "activation": [(feed.intermediate_dropout, "p") for feed in feeds],
        }

    def _run(self, signals: Tensor, lengths: Tensor, keep: bool) -> tuple[list[Tensor], Tensor]:
        kernels, strides = self._convolutions
        n_frames = conv_lengths(lengths, kernels, strides)
        size = int(conv_lengths(torch.tensor(signals.shape[1]), kernels, strides))
        # Known on the CPU, a batch without padding takes the attention kernels that need no mask.
        full = n_frames.device.type == "cpu" and bool((n_frames == size).all())
        frames, bands = self._hidden(n_frames, size, self.hidden_size)
        device = signals.device
        n_frames = n_frames.to(device, non_blocking=True)
        lengths = lengths.to(device, non_blocking=True)
        if self.architecture.normalise:
            signals = normalise_signals(signals, lengths)
        self._lengths = conv_lengths(lengths, kernels[:1], strides[:1])
        self._mask = None if full else valid_mask(n_frames, size)
        self._bands = None if bands is None else bands.to(device, non_blocking=True)
        out = self.model(
            signals,
            attention_mask=None if full else valid_mask(lengths, signals.shape[1]),
            mask_time_indices=None if frames is None else frames.to(device, non_blocking=True),
            output_hidden_states=keep,
        )
        last = self._with_dropped(out.last_hidden_state)
        return ([*out.hidden_states[:-1], last] if keep else [last]), n_frames

    def _add_lengths(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*args, self._lengths)

    def _zero_padding(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, D, T'] between data2vec's convolutions, each of which sees what the one before made
        of the padding.
        """
        return args if self._mask is None else (args[0].masked_fill(~self._mask[:, None], 0.0),)

    def _zero_bands(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return args if self._bands is None else (args[0].masked_fill(self._bands[:, None], 0.0),)


def _wavlm_attention(
    attention: Any, hidden: Tensor, mask: Tensor | None, bias: Tensor
) -> tuple[Tensor, None]:
    """WavLM's attention by the fused kernel, in place of one that keeps its weights and warns.

    Args:
        attention: Hugging Face's ``WavLMAttention``.
        hidden: [B, T', D].
        mask: [B, T'], True on valid frames.
        bias: [B * heads, T', T'], the gated position bias.
    """
    batch, size, _ = hidden.shape
    heads = (batch, size, attention.num_heads, attention.head_dim)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (p(hidden).view(heads).transpose(1, 2) for p in projections)
    scores = bias.view(batch, attention.num_heads, size, size)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    rate = attention.dropout if attention.training else 0.0
    scores = scores.to(query.dtype)
    out = nn.functional.scaled_dot_product_attention(query, key, value, scores, rate)
    return attention.out_proj(out.transpose(1, 2).flatten(2)), None


class Whisper(Encoder):
    """Hugging Face's ``WhisperEncoder``, its layers called with a mask.

    Its owners fill every utterance up to 30 s with silence, and frames of speech attend to that
    silence as well. Here the silence is left out by default (``student.context = "utterance"``):
    the features are the original's to the last frame, positions too, and attention alone is kept to
    the utterance's own frames. An utterance of 3 s then has 150 frames to compute, not 1,500.
    Weights that are fine-tuned, as a student's are, can adapt to it; frozen ones were never shown
    it, and ``student.context = "window"`` gives them what they were trained on: hidden frames equal
    to the original's. Frames are pooled over the utterance's own either way.

    Longer utterances, which the original cuts off, are used whole: each further window of 30 s
    starts at the first position again and attends to itself. Their levels are relative to the
    loudest of the whole utterance, and no window's last 2.5 ms are mirrored at its end, as the
    original does. SpecAugment sets features to 0 where the convolutions end, before the positions.

    Args:
        model: in float32; its positions are taken over as constants, which they are.
        architecture: what ``model`` was built from.
    """

    positions: Tensor

    def __init__(self, model: Any, architecture: Architecture) -> None:
        super().__init__(model, architecture)
        self.register_buffer("positions", model.embed_positions.weight.detach())
        del model.embed_positions
        self.hidden_size, self.n_states = self.positions.shape[1], len(model.layers) + 1
        self.min_samples = 2 * HOP
        self.mel = LogMel(model.conv1.in_channels, "slaney")
        self.projection_dropout, self.dropout = nn.Dropout(0.0), nn.Dropout(model.dropout)

    def front_modules(self) -> list[nn.Module]:
        """The filter bank, which has no weights, and the convolutions."""
        return [self.mel, self.model.conv1, self.model.conv2]

    def _dropouts(self) -> dict[str, list[tuple[Any, str]]]:
        layers: Any = self.model.layers
        return {
            "projection": [(self.projection_dropout, "p")],
            "hidden": [(self.dropout, "p"), *((layer, "dropout") for layer in layers)],
            "attention": [(layer.self_attn, "dropout") for layer in layers],
            "activation": [(layer, "activation_dropout") for layer in layers],
        }

    def _run(self, signals: Tensor, lengths: Tensor, keep: bool) -> tuple[list[Tensor], Tensor]:
        n_frames = torch.div(lengths + 2 * HOP - 1, 2 * HOP, rounding_mode="floor")
        features = self._features(signals, lengths)
        size, device = features.shape[1], features.device
        frames, bands = self._hidden(n_frames, size, self.hidden_size)
        if frames is not None:
            features = features.masked_fill(frames.to(device)[:, :, None], 0.0)
        if bands is not None:
            features = features.masked_fill(bands.to(device)[:, None], 0.0)
        full = n_frames.device.type == "cpu" and bool((n_frames == size).all())
        n_frames = n_frames.to(device, non_blocking=True)
        seen = self._attention(None if full else n_frames, size, device)
        place = torch.arange(size, device=device) % len(self.positions)
        hidden = self.dropout(self.projection_dropout(features) + self.positions[place])
        states, drop = [hidden], self.settings.layerdrop
        for layer in self.model.layers:
            if self.training and drop and torch.rand(()) < drop:
                continue
            hidden = layer(hidden, seen)
            states = [*states, hidden] if keep else [hidden]
        states[-1] = self._with_dropped(self.model.layer_norm(hidden))
        return states, n_frames

    def _features(self, signals: Tensor, lengths: Tensor) -> Tensor:
        """Convolved log-mel frames [B, T', D], 50 a second.

        In the ``window`` context T' is a multiple of the window, filled up with silence.
        """
        size, window = -(-signals.shape[1] // HOP), 2 * len(self.positions)
        whole = self.settings.context == "window"
        # Two more than the utterance's own: what its last frame sees through two convolutions.
        levels = self._log_mel(signals, lengths, -(-size // window) * window if whole else size + 2)
        if whole:
            levels = levels.reshape(*levels.shape[:2], -1, window).transpose(1, 2).flatten(0, 1)
        frames = nn.functional.gelu(self.model.conv1(levels.to(self.model.conv1.weight.dtype)))
        frames = nn.functional.gelu(self.model.conv2(frames)).transpose(1, 2)
        if whole:
            return frames.reshape(len(signals), -1, self.hidden_size)
        return frames[:, : (size + 1) // 2]

    def _log_mel(self, signals: Tensor, lengths: Tensor, n_mel: int) -> Tensor:
        """Scaled log-mel values [B, n_mels, n_mel] of signals that silence follows."""
        silence = ~valid_mask(lengths.to(signals.device), signals.shape[1])
        half = WINDOW // 2
        n_samples = (n_mel - 1) * HOP + half
        signals = wide(signals).masked_fill(silence, 0.0)
        signals = nn.functional.pad(signals, (0, n_samples - signals.shape[1]))
        mirrored = torch.cat([signals[:, 1 : half + 1].flip(1), signals], dim=1)
        levels = self.mel(mirrored).clamp(min=WHISPER_FLOOR).log10()
        top = levels.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(levels, top - WHISPER_RANGE) + 4.0) / 4.0

    def _attention(self, n_frames: Tensor | None, size: int, device: torch.device) -> Tensor | None:
        """Which frames each frame attends to, [B, 1, T', T'], or None for all of them."""
        span = len(self.positions)
        if self.settings.context == "window" and n_frames is not None:
            n_windows = torch.div(n_frames + span - 1, span, rounding_mode="floor")
            n_frames = None if size == span else n_windows * span
        if n_frames is None and size <= span:
            return None
        window = torch.div(torch.arange(size, device=device), span, rounding_mode="floor")
        seen = (window[:, None] == window)[None, None]
        if n_frames is not None:
            seen = seen & valid_mask(n_frames, size)[:, None, None, :]
        # A frame of padding in a window of padding has itself, or softmax would have nothing.
        return seen | torch.eye(size, dtype=torch.bool, device=device)


class LogMel(nn.Module):
    """Power of a signal in mel bands.

    Args:
        n_mels: bands from 0 to 8 kHz.
        scale: ``htk``, or ``slaney`` with bands of equal area.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, n_mels: int, scale: Literal["htk", "slaney"]) -> None:
        super().__init__()
        n_bins = WINDOW // 2 + 1
        filters = torch.empty(n_bins, n_mels)
        if not filters.is_meta:
            norm, top = "slaney" if scale == "slaney" else None, SAMPLING_RATE / 2
            mel = load_torchaudio().functional.melscale_fbanks
            filters = mel(n_bins, 0.0, top, n_mels, SAMPLING_RATE, norm, scale)
        self.register_buffer("window", torch.hann_window(WINDOW))
        self.register_buffer("filters", filters)

    def forward(self, signals: Tensor) -> Tensor:
        """Signals [B, T] to powers [B, n_mels, T'], float32 even under autocast."""
        with torch.no_grad(), torch.autocast(signals.device.type, enabled=False):
            spectra = torch.stft(
                wide(signals), WINDOW, HOP, window=self.window, center=False, return_complex=True
            )
            powers: Tensor = self.filters.T @ spectra.abs().square()
            return powers


class LogMelTokens(nn.Module):
    """The front end of ``tiny``: scaled log-mel frames, some neighbours to a token."""

    def __init__(self, n_mels: int, per_token: int) -> None:
        super().__init__()
        self.mel, self.per_token = LogMel(n_mels, "htk"), per_token

    def forward(self, signals: Tensor) -> Tensor:
        """Signals [B, T] to tokens [B, per_token * n_mels, T']."""
        levels = (torch.log(self.mel(signals) + MEL_FLOOR) - MEL_MEAN) / MEL_SCALE
        size = levels.shape[2] // self.per_token
        frames = levels[:, :, : size * self.per_token].transpose(1, 2)
        return frames.reshape(len(levels), size, -1).transpose(1, 2)


def build(shape: Architecture, empty: bool = False) -> Encoder:
    """An untrained encoder.

    Args:
        shape: its architecture.
        empty: without storage behind its parameters (PyTorch's ``meta`` device), to be filled by
            ``load_state_dict(..., assign=True)``.

    Raises:
        UserError: where the architecture has unknown keys, fits together in no way, or has more
            than :data:`MAX_WEIGHTS`.
    """
    with torch.device("meta"):
        model = model_of(shape)
        n_weights = sum(weight.numel() for weight in model.parameters())
        if n_weights > MAX_WEIGHTS:
            raise not_the_sizes(shape.type, f"{n_weights:,} weights, more than {MAX_WEIGHTS:,}")
        if empty:
            return wrap(model, shape)
    return wrap(model_of(shape), shape)


def wrap(model: Any, shape: Architecture) -> Encoder:
    """Hugging Face's model as an encoder."""
    return (Whisper if shape.type == "whisper" else Wav2Vec2)(model.float(), shape)


def model_of(shape: Architecture) -> Any:
    """Hugging Face's untrained model.

    Raises:
        UserError: where its sizes fit together in no way.
    """
    config = configuration(shape)
    from transformers import AutoModel

    make = AutoModel.from_config
    if shape.type == "whisper":  # the encoder alone; an import that the others need not wait for
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        make = WhisperEncoder._from_config
    # WavLM's gated position bias has one implementation; never one fetched from the hub
    attention = "eager" if shape.type == "wavlm" else "sdpa"
    try:
        with quiet():
            return make(config, attn_implementation=attention)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise not_the_sizes(shape.type, str(e)) from e


def configuration(shape: Architecture) -> Any:
    """Hugging Face's configuration of the encoder alone, with a vector for masked frames.

    Raises:
        UserError: for unknown keys, and sizes that are none.
    """
    load_torchaudio()  # transformers imports it, and would say less where it cannot be loaded
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if unknown := sorted(set(shape.params) - {*PARAMS[shape.type]}):
        raise UserError(
            f"a backbone of unknown keys {printable(str(unknown))}", "update emodistill"
        )
    params, kind = dict(shape.params), shape.type
    try:
        if shape.type == "tiny":
            kind, n_mels, per_token = "hubert", params.pop("n_mels"), params.pop("frames_per_token")
            params["conv_dim"] = n_mels, per_token * n_mels
            params |= {"conv_kernel": (WINDOW, per_token), "conv_stride": (HOP, per_token)}
        fixed = {"mask_time_prob": 0.05, "mask_feature_prob": 0.0, "layerdrop": 0.0}
        return AutoConfig.for_model(kind, **params, **fixed)
    except (StrictDataclassError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise not_the_sizes(shape.type, str(error)) from error


def not_the_sizes(kind: str, why: str) -> UserError:
    """What to say of a configuration that describes no model."""
    why = printable(" ".join(why.split()))[:200]
    return UserError(f"not the sizes of a {printable(kind)} model ({why})", "see its config.json")


def _flat(values: Any) -> list[Any]:
    nested = isinstance(values, list | tuple)
    return [leaf for value in values for leaf in _flat(value)] if nested else [values]
