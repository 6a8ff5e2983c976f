"""torchaudio's pretrained speech encoders, from torch hub's cache or from a given file."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchaudio

from distill.encoder import Architecture
from distill.wav2vec2 import TorchaudioEncoder
from featstore.schema import Refused, UserError, listed

BUNDLES: Mapping[str, str] = {
    "hubert-base": "HUBERT_BASE",
    "hubert-large": "HUBERT_LARGE",
    "hubert-xlarge": "HUBERT_XLARGE",
    "wav2vec2-base": "WAV2VEC2_BASE",
    "wav2vec2-large": "WAV2VEC2_LARGE",
    "wav2vec2-large-lv60k": "WAV2VEC2_LARGE_LV60K",
    "wavlm-base": "WAVLM_BASE",
    "wavlm-base-plus": "WAVLM_BASE_PLUS",
    "wavlm-large": "WAVLM_LARGE",
}
"""Backbone name -> attribute of ``torchaudio.pipelines``."""

_FACTORIES: Mapping[str, Any] = {
    "Wav2Vec2": torchaudio.models.wav2vec2_model,
    "WavLM": torchaudio.models.wavlm_model,
}


def architecture(name: str) -> Architecture:
    """Sizes, rates and waveform normalisation of a bundle.

    >>> architecture("hubert-large").normalise
    True
    """
    bundle = _bundle(name)
    return Architecture(
        family="torchaudio",
        type=bundle._model_type,
        params=dict(bundle._params),
        normalise=bundle._normalize_waveform,
    )


def build(shape: Architecture) -> TorchaudioEncoder:
    """An untrained torchaudio encoder.

    Raises:
        UserError: where the architecture is not one of torchaudio's.
    """
    factory = _FACTORIES.get(shape.type)
    if factory is None:
        known = ", ".join(_FACTORIES)
        raise UserError(f"torchaudio has no encoder {shape.type!r}", f"it has {known}")
    return TorchaudioEncoder(factory(**shape.params), shape)


def load(name: str, weights: Path | None = None) -> TorchaudioEncoder:
    """A pretrained encoder.

    Args:
        name: one of :data:`BUNDLES`.
        weights: a ``.safetensors``, ``.pt`` or ``.pth`` state dict in torchaudio's layout; torch
            hub's cache where not given, filled by a download unless ``HF_HUB_OFFLINE`` is set.

    Raises:
        UserError: where the weights are not to be had, or are those of another model.
        Refused: where a file holds more than tensors.
    """
    if weights is not None:
        return _from_file(name, weights)
    bundle = _bundle(name)
    cached = cache_file(name)
    if offline() and not cached.is_file():
        raise _missing(name, "HF_HUB_OFFLINE is set")
    options = {"weights_only": True, "map_location": "cpu", "progress": sys.stderr.isatty()}
    try:
        # torch.hub announces a download on stdout, where only results belong.
        with contextlib.redirect_stdout(sys.stderr):
            model = bundle.get_model(dl_kwargs=options)
    except pickle.UnpicklingError as error:
        raise _unsafe(cached) from error
    except (OSError, RuntimeError, EOFError) as error:
        if not cached.is_file():
            raise _missing(name, str(error)) from error
        raise UserError(
            f"{cached}: not the weights of {name} ({_first_line(error)})",
            "delete the file so that it is downloaded anew, or give --weights another",
        ) from error
    # The wrapper of normalising bundles takes one mean over the whole padded batch.
    inner = model.model if bundle._normalize_waveform else model
    return TorchaudioEncoder(inner, architecture(name))


def cache_file(name: str) -> Path:
    """Where torch hub keeps a bundle's weights; ``TORCH_HOME`` moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_bundle(name)._path).name


def offline() -> bool:
    """Whether the user forbade downloads: Hugging Face's switches, heeded for torch hub too."""
    flags = (os.environ.get(key, "") for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(flag.upper() in {"1", "ON", "YES", "TRUE"} for flag in flags)


def _bundle(name: str) -> Any:
    return getattr(torchaudio.pipelines, BUNDLES[name])


def _from_file(name: str, path: Path) -> TorchaudioEncoder:
    state = {key: value.float() for key, value in _read(path).items() if key[:4] != "aux."}
    with torch.device("meta"):
        encoder = build(architecture(name))
    try:
        encoder.model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        hint = "give the file that torchaudio publishes for it"
        if any(key.startswith(("encoder.layers.", "feature_projection.")) for key in state):
            hint = "it looks like a Hugging Face state dict: use hf:<its folder>"
        raise UserError(
            f"{path}: not the weights of {name} ({_first_line(error)})", hint
        ) from error
    return encoder


def _read(path: Path) -> dict[str, torch.Tensor]:
    """A flat state dict; nothing but tensors is ever unpickled."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights", "give --weights an existing file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix in {".pt", ".pth"}:
            state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            kinds = ".safetensors, .pt or .pth"
            raise UserError(f"{path}: expected {kinds}, got {path.suffix!r}", "convert it")
    except pickle.UnpicklingError as error:
        raise _unsafe(path) from error
    except UserError:
        raise
    except Exception as error:  # torch.load and safetensors promise none in particular
        raise UserError(
            f"{path}: not a readable file of weights ({_first_line(error)})", "copy it anew"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        keys = listed(map(str, state), 5) if isinstance(state, dict) else type(state).__name__
        raise UserError(
            f"{path}: expected a flat state dict, found:\n{keys}", "extract the model's"
        )
    return state


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError


def _missing(name: str, why: str) -> UserError:
    path = cache_file(name)
    call = f"torchaudio.pipelines.{BUNDLES[name]}.get_model()"
    return UserError(
        f"{name}: its weights are not on this machine and were not downloaded ({why})",
        f'where there is a network, run python -c "import torchaudio; {call}" and copy '
        f"{path.name} from that machine's torch hub cache to {path}, or give it with --weights; "
        f"random:{name} is the same architecture untrained",
    )


def _unsafe(path: Path) -> Refused:
    return Refused(
        f"{path}: holds pickled objects beyond tensors, which can run foreign code",
        "save its state dict as .safetensors where you trust the file",
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] if lines else type(error).__name__
