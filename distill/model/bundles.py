"""torchaudio's pretrained speech encoders, from torch hub's cache or from a given file."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from distill.model.encoder import Architecture
from distill.model.wav2vec2 import TorchaudioEncoder
from featstore.core.schema import Refused, UserError, listed
from featstore.core.torch_pair import load_torchaudio
from featstore.core.weights import MAX_BYTES, check_tensors, read_tensors, refuse_giant

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

MAX_SIP = 4 * 1024**2
"""Of an archive's directory: some 80,000 names, where torch writes one for each tensor."""

_FACTORIES: Mapping[str, str] = {"Wav2Vec2": "wav2vec2_model", "WavLM": "wavlm_model"}
"""Kind of encoder -> function of ``torchaudio.models``."""


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
    model = getattr(load_torchaudio().models, factory)(**shape.params)
    return TorchaudioEncoder(model, shape)


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
    cached = cache_file(name)
    if not cached.exists():
        _download(name)
    try:
        return _from_file(name, cached)
    except Refused:
        raise
    except UserError as error:
        raise UserError(
            f"{cached}: not the weights of {name} ({error.message})",
            "delete the file so that it is downloaded anew, or give --weights another",
        ) from error


def check(name: str, weights: Path | None = None) -> str:
    """Look for what :func:`load` would read, as far as that takes no time; nothing is downloaded.

    Returns:
        What would be downloaded; empty where the weights are on this machine.

    Raises:
        UserError: where weights are missing and may not be downloaded, or are of no kind read here.
        Corrupt: where a file is no safetensors file although it says so.
        Refused: where a file is a pickle, or would not fit into memory.
    """
    path = weights or cache_file(name)
    if weights is not None or path.exists():
        refuse_unusable(path)
        return ""
    if offline():
        raise _missing(name, "HF_HUB_OFFLINE is set")
    return f"{name}: its weights are not on this machine and would be downloaded to {path}"


def _download(name: str) -> None:
    """Fill torch hub's cache. What lies there already never goes through torch hub's own loader,
    which would unpack an archive, however large, into the cache.
    """
    if offline():
        raise _missing(name, "HF_HUB_OFFLINE is set")
    options = {"weights_only": True, "map_location": "cpu", "progress": sys.stderr.isatty()}
    # torch.hub announces a download on stdout, where only results belong.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            _bundle(name)._get_state_dict(options)
        except Exception as error:  # whatever it is; what was fetched is read, and judged, by us
            if not cache_file(name).is_file():
                raise _missing(name, str(error)) from error


def cache_file(name: str) -> Path:
    """Where torch hub keeps a bundle's weights; ``TORCH_HOME`` moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_bundle(name)._path).name


def offline() -> bool:
    """Whether the user forbade downloads: Hugging Face's switches, heeded for torch hub too."""
    flags = (os.environ.get(key, "") for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(flag.upper() in {"1", "ON", "YES", "TRUE"} for flag in flags)


def _bundle(name: str) -> Any:
    return getattr(load_torchaudio().pipelines, BUNDLES[name])


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


def refuse_unusable(path: Path) -> None:
    """Look at a file of weights as far as that takes no time, however large it claims to be.

    Raises:
        UserError: it is not there, or of no kind that is read here.
        Corrupt: it is no safetensors file although it says so.
        Refused: it is a pickle in disguise, or would not fit into memory.
    """
    refuse_giant(path)
    if path.suffix == ".safetensors":
        check_tensors(path, max_bytes=MAX_BYTES)
    elif path.suffix in {".pt", ".pth"}:
        _refuse_bomb(path)
    else:
        kinds = ".safetensors, .pt or .pth"
        raise UserError(f"{path}: expected {kinds}, got {path.suffix!r}", "convert it")


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    """A flat state dict; nothing but tensors is ever unpickled."""
    refuse_unusable(path)
    if path.suffix == ".safetensors":
        return read_tensors(path, max_bytes=MAX_BYTES)
    try:
        # Mapped, its tensors are stretches of the file, and none can be larger than it is.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load promises none in particular
        if type(error).__name__ == "UnpicklingError":
            raise _unsafe(path) from error
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


class _InSips(io.FileIO):
    """A file of which no more than :data:`MAX_SIP` bytes are read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As ``FileIO.read``; a directory of a million entries is no archive of weights."""
        rest = size is None or size < 0
        content = super().read(MAX_SIP + 1 if rest else min(size or 0, MAX_SIP + 1)) or b""
        if len(content) > MAX_SIP:
            raise zipfile.BadZipFile(f"a directory of more than {MAX_SIP:,} bytes")
        return content


def _refuse_bomb(path: Path) -> None:
    """Refuse an archive that is larger inside than outside; torch compresses none.

    Raises:
        Refused: it does not begin as torch's archives do, or some of it is compressed.
    """
    again = "save its state dict as .safetensors where you trust the file"
    n_bytes = path.stat().st_size
    with _InSips(path) as file:
        start = file.read(4)
        if start[:1] == b"\x80":
            raise Refused(f"{path}: a bare pickle, as torch wrote before 1.6, may run code", again)
        if start != b"PK\x03\x04":
            raise UserError(f"{path}: not a readable file of weights", again)
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise UserError(f"{path}: not a readable file of weights ({error})", again) from error
    inside = sum(member.file_size for member in members)
    if any(member.compress_type for member in members) or inside > n_bytes:
        raise Refused(f"{path}: a compressed archive of {inside:,} bytes, not torch's", again)


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
