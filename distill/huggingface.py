"""Speech encoders from Hugging Face: a local folder, the hub's cache or, where allowed, the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from distill.bundles import offline
from distill.encoder import Architecture
from distill.wav2vec2 import TransformersEncoder
from featstore.hub import quiet
from featstore.schema import SAMPLING_RATE, Refused, UserError, printable

KINDS = ("hubert", "wav2vec2", "wavlm", "data2vec-audio")
"""Model types that a student can be built on."""

PARAMS = (
    *("conv_dim", "conv_stride", "conv_kernel", "conv_bias", "conv_pos_kernel_size"),
    *("feat_extract_norm", "feat_extract_activation", "feat_proj_layer_norm", "feat_proj_dropout"),
    *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "hidden_size", "hidden_act"),
    *("num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps"),
    *("hidden_dropout", "attention_dropout", "activation_dropout", "do_stable_layer_norm"),
    *("num_buckets", "max_bucket_distance", "adapter_attn_dim"),
)
"""Configuration keys that decide the encoder. All others (remote code, kernels to fetch, heads,
SpecAugment, layer drop, adapters after the encoder) never reach a student."""

T = TypeVar("T")


def architecture(source: str) -> Architecture:
    """The encoder that a model's configuration files describe.

    Args:
        source: a hub id, or a folder with ``config.json`` and, where the model came with one,
            ``preprocessor_config.json``.

    Raises:
        UserError: where the configuration is not to be had, or is of another kind of model.
    """
    config = _fetch(source, lambda local: _config(source, local))
    kind = str(config.get("model_type"))
    if kind not in KINDS:
        raise UserError(
            f"hf:{source}: a {printable(kind)} model is no speech encoder known here",
            f"use one of the types {', '.join(KINDS)}",
        )
    if config.get("conv_pos_batch_norm"):
        raise UserError(
            f"hf:{source}: its positional convolution has batch norm, under which an utterance's "
            "output would depend on its batch",
            "use a model with weight norm there, as HuBERT and wav2vec 2.0 were published",
        )
    params = {key: value for key, value in config.items() if key in PARAMS}
    normalise = _normalises(source, layer_norm=config.get("feat_extract_norm", "layer") == "layer")
    plain = json.loads(json.dumps(params))
    return Architecture(family="transformers", type=kind, params=plain, normalise=normalise)


def build(shape: Architecture) -> TransformersEncoder:
    """An untrained Hugging Face encoder.

    Raises:
        UserError: where the architecture names another kind of model or unknown keys.
    """
    from transformers import AutoModel

    with quiet():
        model = AutoModel.from_config(_clean(shape), **_attention(shape))
    return TransformersEncoder(model.float(), shape)


def load(source: str) -> TransformersEncoder:
    """A pretrained encoder; safetensors only, and no code from the hub.

    Raises:
        UserError: where weights are missing, cannot be fetched, or are those of another model.
        Refused: where there are only pickled weights.
    """
    shape = architecture(source)
    if _only_pickled(source):
        raise Refused(
            f"hf:{source}: holds pickled weights only, which can run foreign code",
            "load it where you trust it, save_pretrained() it, and give hf:<that folder>",
        )
    model, info = _fetch(source, lambda local: _pretrained(source, shape, local))
    absent = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if absent:
        raise UserError(
            f"hf:{source}: {len(absent)} of the encoder's tensors are missing or of another size, "
            f"e.g. {printable(absent[0])}",
            "give a folder or id whose config.json belongs to its model.safetensors",
        )
    return TransformersEncoder(model, shape)


def _pretrained(source: str, shape: Architecture, local: bool) -> Any:
    from transformers import AutoModel

    with quiet():
        return AutoModel.from_pretrained(
            source,
            config=_clean(shape),
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=local,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported by load(), with the missing ones
            **_attention(shape),
        )


def _clean(shape: Architecture) -> Any:
    """A configuration of the encoder alone, with SpecAugment, layer drop and adapters off."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    unknown = sorted(set(shape.params) - {*PARAMS})
    if shape.type not in KINDS or unknown:
        what = f"keys {unknown}" if unknown else f"type {shape.type!r}"
        raise UserError(f"a backbone of unknown {printable(what)}", "update emodistill")
    off = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0}
    try:
        return AutoConfig.for_model(shape.type, **shape.params, **off)
    except (StrictDataclassError, TypeError, ValueError) as error:
        why = printable(" ".join(str(error).split()))[:200]
        raise UserError(
            f"not the sizes of a {shape.type} model ({why})", "see its config"
        ) from error


def _attention(shape: Architecture) -> dict[str, str]:
    """WavLM's gated position bias has one implementation; never one fetched from the hub."""
    return {"attn_implementation": "eager" if shape.type == "wavlm" else "sdpa"}


def _config(source: str, local: bool) -> dict[str, Any]:
    """The whole configuration, defaults filled in; no code of the repository is run."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=local)
    values: dict[str, Any] = config.to_dict()
    return values


def _normalises(source: str, layer_norm: bool) -> bool:
    """What the model's feature extractor does; where it has none, what such models need."""
    from transformers.utils import cached_file

    def path(local: bool) -> Any:
        return cached_file(
            source,
            "preprocessor_config.json",
            local_files_only=local,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )

    found = path(True) or (None if _local(source) or offline() else path(False))
    if found is None:
        return layer_norm
    settings = json.loads(Path(found).read_text(encoding="utf-8"))
    rate = settings.get("sampling_rate", SAMPLING_RATE)
    if rate != SAMPLING_RATE:
        raise UserError(
            f"hf:{source}: expects {rate} Hz, not {SAMPLING_RATE} Hz", "choose a 16 kHz model"
        )
    return bool(settings.get("do_normalize", True))


def _fetch(source: str, load: Callable[[bool], T]) -> T:
    """What is on this machine first; the hub only where something is missing and is allowed."""
    if _looks_like_path(source) and not _local(source):
        raise UserError(f"hf:{source}: no such folder", "give a folder with config.json")
    from huggingface_hub.errors import StrictDataclassError

    failures = (OSError, ValueError, TypeError, StrictDataclassError)
    try:
        return load(True)
    except failures as error:
        if _local(source) or offline():
            raise _missing(source, error) from error
    try:
        return load(False)
    except failures as error:
        raise _missing(source, error) from error


def _missing(source: str, error: Exception) -> UserError:
    why = printable(next(iter(str(error).splitlines()), type(error).__name__))[:200]
    if _local(source):
        return UserError(
            f"hf:{source}: not a model folder ({why})",
            "it needs config.json and model.safetensors, as save_pretrained() writes them",
        )
    return UserError(
        f"hf:{source}: not on this machine and not fetched ({why})",
        f"where there is a network, run hf download {source} --local-dir FOLDER, copy the folder "
        f"here and give hf:FOLDER; random:hf:FOLDER needs only its config.json and is untrained",
    )


def _local(source: str) -> bool:
    return Path(source).is_dir()


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source


def _only_pickled(source: str) -> bool:
    folder = Path(source)
    return (
        folder.is_dir()
        and not any(folder.glob("*.safetensors"))
        and any([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    )
