"""Hugging Face's encoders by their sizes: what counts of a configuration, and building from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from distill.model import whisper
from distill.model.encoder import Architecture, Backbone
from distill.model.wav2vec2 import TransformersEncoder
from featstore.core.schema import UserError, printable
from featstore.core.weights import quiet

_WAV2VEC2 = (
    *("conv_dim", "conv_stride", "conv_kernel", "conv_bias", "conv_pos_kernel_size"),
    *("feat_extract_norm", "feat_extract_activation", "feat_proj_layer_norm", "feat_proj_dropout"),
    *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "hidden_size", "hidden_act"),
    *("num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps"),
    *("hidden_dropout", "attention_dropout", "activation_dropout", "do_stable_layer_norm"),
    *("num_buckets", "max_bucket_distance", "adapter_attn_dim"),
)

PARAMS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("hubert", "wav2vec2", "wavlm", "data2vec-audio"), _WAV2VEC2),
    "whisper": whisper.PARAMS,
}
"""Model type -> configuration keys that decide the encoder. All others (remote code, kernels to
fetch, heads, decoders, SpecAugment, layer drop, adapters after the encoder) never reach a student:
SpecAugment and layer drop have keys of our own."""

KINDS = tuple(PARAMS)
"""Model types that a student can be built on."""

MAX_WEIGHTS = 4 * 10**9
"""Twice the largest encoder that was published."""

_FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What models raise of sizes that do not fit together."""


def build(shape: Architecture) -> Backbone:
    """An untrained Hugging Face encoder.

    Raises:
        UserError: as for :func:`refuse_impossible`.
    """
    if torch.empty(0).device.type != "meta":
        refuse_impossible(shape)
    return wrap(_from_config(shape).float(), shape)


def refuse_impossible(shape: Architecture) -> None:
    """Build an encoder without storage, to see whether it can be built at all.

    Raises:
        UserError: where the architecture names another kind of model or unknown keys, fits
            together in no way, or has more than :data:`MAX_WEIGHTS`.
    """
    n_weights = sum(weight.numel() for weight in empty(shape).parameters())
    if n_weights > MAX_WEIGHTS:
        why = ValueError(f"{n_weights:,} weights, more than {MAX_WEIGHTS:,}")
        raise not_the_sizes(shape.type, why)


def wrap(model: Any, shape: Architecture) -> Backbone:
    """Hugging Face's model as a backbone."""
    if shape.type == "whisper":
        return whisper.Whisper(model, shape)
    return TransformersEncoder(model, shape)


def empty(shape: Architecture) -> Any:
    """Hugging Face's model without storage behind its weights."""
    with torch.device("meta"):
        return _from_config(shape)


def _from_config(shape: Architecture) -> Any:
    from transformers import AutoModel
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = clean_config(shape)
    family = WhisperEncoder._from_config if shape.type == "whisper" else AutoModel.from_config
    try:
        with quiet():
            return family(config, **attention(shape))
    except _FAILURES as error:
        raise not_the_sizes(shape.type, error) from error


def clean_config(shape: Architecture) -> Any:
    """A configuration of the encoder alone, with SpecAugment, layer drop and adapters off."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    unknown = sorted(set(shape.params) - {*PARAMS.get(shape.type, ())})
    if shape.type not in PARAMS or unknown:
        what = f"type {shape.type!r}" if shape.type not in PARAMS else f"keys {unknown}"
        raise UserError(f"a backbone of unknown {printable(what)}", "update emodistill")
    off = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0}
    try:
        return AutoConfig.for_model(shape.type, **shape.params, **off)
    except (StrictDataclassError, ArithmeticError, TypeError, ValueError) as error:
        raise not_the_sizes(shape.type, error) from error


def attention(shape: Architecture) -> dict[str, str]:
    """WavLM's gated position bias has one implementation; never one fetched from the hub."""
    return {"attn_implementation": "eager" if shape.type == "wavlm" else "sdpa"}


def not_the_sizes(kind: str, error: Exception) -> UserError:
    """What to say of a configuration that describes no model."""
    why = printable(" ".join(str(error).split()))[:200]
    return UserError(f"not the sizes of a {printable(kind)} model ({why})", "see its config.json")
