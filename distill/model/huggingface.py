"""Speech encoders from Hugging Face: a local folder, the hub's cache or, where allowed, the hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from distill.model import hf_models, whisper
from distill.model.bundles import offline
from distill.model.encoder import Architecture, Backbone
from featstore.core.os_errors import is_library_failure
from featstore.core.schema import SAMPLING_RATE, Refused, UserError, printable
from featstore.core.weights import (
    MAX_BYTES,
    WEIGHTS,
    check_weights,
    model_file,
    quiet,
    read_json,
    read_tensors,
    weight_files,
)

_CONVOLUTIONS = ("conv_dim", "conv_kernel", "conv_stride")

T = TypeVar("T")


class NotHere(UserError):
    """Something is not on this machine, and was not fetched."""


def architecture(source: str, fetch: bool = True) -> Architecture:
    """The encoder that a model's configuration files describe.

    Args:
        source: a hub id, or a folder with ``config.json`` and, where the model came with one,
            ``preprocessor_config.json``.
        fetch: whether files that are not on this machine may be fetched.

    Raises:
        UserError: where the configuration is not to be had, or is of another kind of model.
        Corrupt: where it is no JSON.
        Refused: where it needs code of its own.
    """
    if Path(source).is_file():
        raise UserError(f"hf:{source}: a file", "give the folder that holds config.json")
    config = _fetch(source, lambda local: _config(source, local), fetch)
    kind = config["model_type"]
    if config.get("conv_pos_batch_norm"):
        raise UserError(
            f"hf:{source}: its positional convolution has batch norm, under which an utterance's "
            "output would depend on its batch",
            "use a model with weight norm there, as HuBERT and wav2vec 2.0 were published",
        )
    params = {key: value for key, value in config.items() if key in hf_models.PARAMS[kind]}
    front = _front(source, fetch)
    if kind == "whisper":
        normalise = False
        if others := whisper.other_front(front or {}, params):
            raise UserError(f"hf:{source}: {'; '.join(others)}", "choose a model as published")
    elif front is None:  # what such models need
        normalise = config.get("feat_extract_norm", "layer") == "layer"
    else:
        normalise = bool(front.get("do_normalize", True))
    plain = json.loads(json.dumps(params))
    if 0 in [size for key in _CONVOLUTIONS for size in _flat(plain.get(key))]:
        raise hf_models.not_the_sizes(kind, ValueError("a convolution of size 0"))
    try:
        return Architecture(family="transformers", type=kind, params=plain, normalise=normalise)
    except ValidationError as error:
        raise hf_models.not_the_sizes(kind, error) from error


def load(source: str) -> Backbone:
    """A pretrained encoder; safetensors only, and no code from the hub.

    Raises:
        UserError: where weights are missing, cannot be fetched, or are those of another model.
        Refused: where there are only pickled weights.
    """
    shape = architecture(source)
    _refuse_pickled(source)
    hf_models.refuse_impossible(shape)
    read = _whisper if shape.type == "whisper" else _pretrained
    model, info = _fetch(source, lambda local: read(source, shape, local))
    absent = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if absent:
        raise UserError(
            f"hf:{source}: {len(absent)} of the encoder's tensors are missing or of another size, "
            f"e.g. {printable(absent[0])}",
            "give a folder or id whose config.json belongs to its model.safetensors",
        )
    return hf_models.wrap(model, shape)


def check(source: str, random: bool = False) -> str:
    """Look at what :func:`load` would read as far as that takes no time; nothing is fetched.

    Args:
        source: a hub id or a folder.
        random: whether the configuration is enough, as for untrained weights.

    Returns:
        What would be fetched; empty where all is on this machine.

    Raises:
        UserError: where a file is missing and may not, or cannot, be fetched.
        Corrupt: where a file is damaged.
        Refused: where one could run foreign code.
    """
    if not random:
        _refuse_pickled(source)
    try:
        hf_models.refuse_impossible(architecture(source, fetch=False))
        if random or check_weights(source, local=True):
            return ""
        raise _missing(source, OSError(f"no {WEIGHTS}"))
    except NotHere:
        if _local(source) or offline():
            raise
    return f"hf:{source}: not on this machine; it would be fetched from the hub"


def _whisper(source: str, shape: Architecture, local: bool) -> Any:
    """The encoder alone: transformers would build the decoder, the larger half, with it."""
    state: dict[str, torch.Tensor] = {}
    for path in weight_files(source, local):
        state |= whisper.encoder_weights(read_tensors(path, max_bytes=MAX_BYTES))
    if not state:
        raise OSError(f"no {WEIGHTS}")
    model = hf_models.empty(shape)
    own = model.state_dict()
    fits = {k: v.float() for k, v in state.items() if k in own and v.shape == own[k].shape}
    model.load_state_dict(fits, strict=False, assign=True)
    return model, {"missing_keys": sorted(set(own) - set(fits)), "mismatched_keys": []}


def _pretrained(source: str, shape: Architecture, local: bool) -> Any:
    from transformers import AutoModel

    check_weights(source, local)
    with quiet():
        return AutoModel.from_pretrained(
            source,
            config=hf_models.clean_config(shape),
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=local,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported by load(), with the missing ones
            **hf_models.attention(shape),
        )


def _config(source: str, local: bool) -> dict[str, Any]:
    """The whole configuration, defaults filled in; no code of the repository is run."""
    from transformers import AutoConfig

    if (path := model_file(source, "config.json", local)) is not None:
        _refuse_other_kinds(source, read_json(path))
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=local)
    values: dict[str, Any] = config.to_dict()
    _refuse_other_kinds(source, values)
    return values


def _refuse_other_kinds(source: str, config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if kind in hf_models.KINDS:
        return
    known = f"use one of the types {', '.join(hf_models.KINDS)}"
    if config.get("auto_map"):
        raise Refused(f"hf:{source}: needs code of its own, which is never run", known)
    if not kind:
        raise UserError(f"hf:{source}: its config.json names no model_type", known)
    raise UserError(
        f"hf:{source}: a {printable(str(kind))[:80]} model is no speech encoder known here", known
    )


def _front(source: str, fetch: bool) -> dict[str, Any] | None:
    """The settings of the model's feature extractor; None where it came without."""
    name = "preprocessor_config.json"
    found = model_file(source, name, True)
    if found is None and fetch and not (_local(source) or offline()):
        found = model_file(source, name, False)
    if found is None:
        return None
    settings = read_json(found)
    rate = settings.get("sampling_rate", SAMPLING_RATE)
    if rate != SAMPLING_RATE:
        raise UserError(
            f"hf:{source}: expects {rate} Hz, not {SAMPLING_RATE} Hz", "choose a 16 kHz model"
        )
    return settings


def _fetch(source: str, load: Callable[[bool], T], fetch: bool = True) -> T:
    """What is on this machine first; the hub only where something is missing and is allowed."""
    _refuse_no_folder(source)
    from huggingface_hub.errors import StrictDataclassError

    failures = (OSError, ValueError, TypeError, StrictDataclassError)
    try:
        return load(True)
    except failures as error:
        if is_library_failure(error):  # an installation that is broken, not a missing model
            raise
        if not fetch or _local(source) or offline():
            raise _missing(source, error) from error
    try:
        return load(False)
    except failures as error:
        raise _missing(source, error) from error


def _missing(source: str, error: Exception) -> NotHere:
    why = printable(next(iter(str(error).splitlines()), type(error).__name__))[:200]
    if _local(source):
        return NotHere(
            f"hf:{source}: not a model folder ({why})",
            "it needs config.json and model.safetensors, as save_pretrained() writes them",
        )
    return NotHere(
        f"hf:{source}: not on this machine and not fetched ({why})",
        f"where there is a network, run hf download {source} --local-dir FOLDER, copy the folder "
        f"here and give hf:FOLDER; random:hf:FOLDER needs only its config.json and is untrained",
    )


def _flat(sizes: Any) -> list[Any]:
    return [*sizes] if isinstance(sizes, list | tuple) else [sizes]


def _local(source: str) -> bool:
    return Path(source).is_dir()


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source


def _refuse_no_folder(source: str) -> None:
    if _looks_like_path(source) and not _local(source):
        raise UserError(f"hf:{source}: no such folder", "give a folder with config.json")


def _refuse_pickled(source: str) -> None:
    folder = Path(source)
    if (
        folder.is_dir()
        and not any(folder.glob("*.safetensors"))
        and any([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    ):
        raise Refused(
            f"hf:{source}: holds pickled weights only, which can run foreign code",
            "load it where you trust it, save_pretrained() it, and give hf:<that folder>",
        )
