"""Speech encoders by name: pretrained, from a folder or the hub, or untrained.

torchaudio's bundles, whose weights the paper used, are read from torch hub's cache or a given file
into Hugging Face's classes; torchaudio itself is not needed for that.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from distill.config import BACKBONES, HUGGING_FACE, RANDOM, source_of
from distill.model.encoders import (
    HOP,
    PARAMS,
    TINY,
    WINDOW,
    Architecture,
    Encoder,
    build,
    model_of,
    not_the_sizes,
    wrap,
)
from featstore.core.os_errors import is_library_failure
from featstore.core.schema import SAMPLING_RATE, Refused, UserError, listed, printable
from featstore.core.torch_pair import load_torchaudio
from featstore.core.training import count_parameters
from featstore.core.weights import (
    MAX_BYTES,
    WEIGHTS,
    check_tensors,
    model_file,
    read_json,
    read_tensors,
    refuse_giant,
    weight_files,
)
from featstore.core.weights import check_weights as check_files

T = TypeVar("T")


URL = "https://download.pytorch.org/torchaudio/models/"
_LARGE = {
    **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    **{"intermediate_size": 4096},
}
_XLARGE = _LARGE | {"hidden_size": 1280, "num_hidden_layers": 48, "intermediate_size": 5120}
_PRE_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
_RATES = {
    **{"feat_proj_dropout": 0.1, "hidden_dropout": 0.1, "attention_dropout": 0.1},
    **{"activation_dropout": 0.0},
}
_NO_DROPOUT = _PRE_NORM | dict.fromkeys(_RATES, 0.0)
_NO_HIDDEN = _LARGE | _RATES | {"hidden_dropout": 0.0}
BUNDLES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "hubert-base": ("hubert_fairseq_base_ls960.pth", _RATES),
    "hubert-large": ("hubert_fairseq_large_ll60k.pth", _LARGE | _NO_DROPOUT),
    "hubert-xlarge": ("hubert_fairseq_xlarge_ll60k.pth", _XLARGE | _NO_DROPOUT),
    "wav2vec2-base": ("wav2vec2_fairseq_base_ls960.pth", _RATES),
    "wav2vec2-large": ("wav2vec2_fairseq_large_ls960.pth", _NO_HIDDEN),
    "wav2vec2-large-lv60k": (
        "wav2vec2_fairseq_large_lv60k.pth",
        _NO_HIDDEN | _PRE_NORM | {"conv_bias": True},
    ),
    "wavlm-base": ("wavlm_base.pth", _RATES),
    "wavlm-base-plus": ("wavlm_base_plus.pth", _RATES),
    "wavlm-large": ("wavlm_large.pth", _LARGE | _PRE_NORM | _RATES),
}
"""Backbone name -> a pretrained model of torchaudio's: its file, in torch hub's cache and below
:data:`URL`, and what differs from the defaults of Hugging Face's configuration. All are published
under the MIT licence; those with layer norm in the CNN take normalised waveforms."""

_FAMILIES = {
    "tiny": "HuBERT on log-mel",
    "hubert": "HuBERT",
    "wav2vec2": "wav2vec 2.0",
    "wavlm": "WavLM",
    "data2vec-audio": "data2vec-audio",
    "whisper": "Whisper encoder",
}


class NotHere(UserError):
    """Something is not on this machine, and was not fetched."""


def load_backbone(name: str, weights: Path | None = None, seed: int = 42) -> Encoder:
    """A speech encoder, all of it trainable; see :meth:`Encoder.configure`.

    Args:
        name: ``tiny`` (made to be trained from scratch); a torchaudio bundle such as
            ``hubert-base``; ``hf:<id or folder>``; or ``random:`` and one of the latter two: the
            same architecture with weights drawn from ``seed``, for tests and benchmarks. Missing
            weights are an error, never a reason to draw some.
        weights: for a bundle, a ``.safetensors``, ``.pt`` or ``.pth`` state dict by torchaudio's
            names of tensors (or by Hugging Face's), to use in place of torch hub's cache.
        seed: of drawn weights (a pretrained model's vector for masked frames, where its file holds
            none, among them); PyTorch's own generator is left as it was.

    Raises:
        UserError: for an unknown name, or weights that are missing or do not fit.
        Refused: for pickled weights.
    """
    kind = name.removeprefix(RANDOM)
    _refuse_weights_for(name, weights)
    with seeded(seed):
        if kind == "tiny" or kind != name:
            return build(architecture(kind))
        return _bundle(kind, weights) if kind in BUNDLES else _hugging_face(source_of(kind))


def check_weights(name: str, weights: Path | None = None) -> str:
    """Whether :func:`load_backbone` would find its weights; cheap, and nothing is downloaded.

    Returns:
        What a run would download first; empty where all is on this machine.

    Raises:
        UserError: for an unknown name, or weights that are missing and may not be downloaded.
        Corrupt: for a damaged file.
        Refused: for pickled weights.
    """
    kind = name.removeprefix(RANDOM)
    _refuse_weights_for(name, weights)
    drawn = kind == "tiny" or kind != name
    if kind in BUNDLES and not drawn:
        path = weights or cache_file(kind)
        if weights is not None or path.exists():
            refuse_unusable(path)
            return ""
        if offline():
            raise _missing_bundle(kind, "HF_HUB_OFFLINE is set")
        return f"{kind}: its weights are not on this machine and would be downloaded to {path}"
    if kind in BACKBONES:
        return ""
    source = source_of(kind)
    if not drawn:
        _refuse_pickled(source)
    try:
        build(_configured(source, fetch=False), empty=True)
        if drawn or check_files(source, local=True):
            return ""
        raise _missing(source, OSError(f"no {WEIGHTS}"))
    except NotHere:
        if not _may_fetch(source):
            raise
    return f"hf:{source}: not on this machine; it would be fetched from the hub"


def architecture(name: str, fetch: bool = True) -> Architecture:
    """What a backbone of this name is made of; no weights are read.

    Args:
        name: as for :func:`load_backbone`.
        fetch: whether a model's configuration may be fetched from the hub.

    >>> architecture("hubert-large").params["hidden_size"]
    1024
    """
    kind = name.removeprefix(RANDOM)
    if kind == "tiny":
        return Architecture(type="tiny", params=TINY)
    if kind in BUNDLES:
        params = BUNDLES[kind][1]
        normalise = "feat_extract_norm" in params
        return Architecture(type=kind.split("-")[0], params=params, normalise=normalise)
    return _configured(source_of(kind), fetch)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's CPU generator at ``seed`` inside, and as it was afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def catalogue(names: Iterable[str] = ()) -> list[dict[str, Any]]:
    """What ``distill backbones`` shows, without loading or fetching anything.

    Args:
        names: as ``--student`` takes them; where none are given, those with a name of their own and
            the speech encoders in Hugging Face's cache.

    Returns:
        For each its ``name``, ``family``, ``width`` of a hidden frame, ``layers``, ``parameters``
        and ``normalise``, all None where its configuration is not here;
        ``source`` and ``path`` of its weights, whether they are ``here``, a ``note`` on what is
        missing and what to do about it, and the weights' ``licence`` where it is known.

    Raises:
        UserError: for a name that is none.
    """
    load_torchaudio()  # without it no size is known
    return [_facts(name) for name in [*names] or [*BACKBONES, *_cached()]]


def _facts(name: str) -> dict[str, Any]:
    kind = name.removeprefix(RANDOM)
    facts: dict[str, Any] = {"name": name, "family": ""}
    if kind in BACKBONES:
        facts["family"] = _FAMILIES[kind.split("-")[0]]
    else:
        source_of(kind)
    facts |= dict.fromkeys(("width", "layers", "parameters", "normalise"))
    with suppress(UserError):  # the note says why
        encoder = build(architecture(kind, fetch=False), empty=True)
        facts["family"] = _FAMILIES[encoder.architecture.type]
        facts["width"], facts["layers"] = encoder.hidden_size, encoder.n_states - 1
        facts["parameters"] = count_parameters(encoder)
        facts["normalise"] = encoder.architecture.normalise
    facts["source"], facts["path"] = _place(name)
    try:
        note = check_weights(name)
        facts |= {"here": not note, "note": note}
    except UserError as error:
        facts |= {"here": False, "note": "; ".join(filter(None, (error.message, error.hint)))}
    return facts | ({"licence": "MIT"} if name in BUNDLES else {})


def _place(name: str) -> tuple[str, str]:
    """Where weights come from, and where the loader looks for them."""
    if name.startswith(RANDOM) or name == "tiny":
        return "none", ""
    if name in BUNDLES:
        return "torchaudio", str(cache_file(name))
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    source = name.removeprefix(HUGGING_FACE)
    if Path(source).is_dir():
        return "folder", source
    folder = repo_folder_name(repo_id=source, repo_type="model")
    return "Hugging Face", str(Path(constants.HF_HUB_CACHE) / folder)


def _cached() -> list[str]:
    """Backbone names of the speech encoders in Hugging Face's cache, by their configurations."""
    from huggingface_hub import constants

    names = set()
    for path in Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/config.json"):
        try:
            kind = json.loads(path.read_bytes()).get("model_type")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue  # no model's, so it is not listed; asked for by name, it gives its reason
        if isinstance(kind, str) and kind in PARAMS:
            names.add(path.parents[2].name.removeprefix("models--").replace("--", "/"))
    return [HUGGING_FACE + name for name in sorted(names)]


# --- a file's tensors as the encoder names them

_RENAMED = (
    (r"^encoder\.feature_projection\.", "feature_projection."),
    (r"^encoder\.transformer\.", "encoder."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    (r"\.attention\.attention\.", ".attention."),
)
"""torchaudio's names of tensors -> Hugging Face's; the weight norm's are older torch's."""


def encoder_weights(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The tensors of an encoder by its own names, in float32.

    A head on it is left out, so is Whisper's decoder, and torchaudio's projection of WavLM's
    queries, keys and values is cut into three.

    Args:
        state: by Hugging Face's names, of a bare encoder or of a model around it, or by
            torchaudio's.
        kind: the architecture's type.

    >>> list(encoder_weights({"encoder.transformer.layer_norm.bias": torch.ones(1)}, "hubert"))
    ['encoder.layer_norm.bias']
    >>> heard = {"model.encoder.conv1.bias": torch.ones(1), "model.decoder.x": torch.ones(1)}
    >>> encoder_weights(heard, "whisper")
    {'conv1.bias': tensor([1.])}
    """
    around = r"(model\.)?encoder\." if kind == "whisper" else rf"{kind.replace('-', '_')}\."
    inside = {key: re.sub(f"^{around}", "", key) for key in state if re.match(around, key)}
    weights: dict[str, Tensor] = {}
    for key, name in (inside or {key: key for key in state}).items():
        for old, new in _RENAMED:
            name = re.sub(old, new, name)
        value = state[key].float()
        if ".in_proj_" in name and value.ndim:
            for letter, part in zip(
                "qkv", value.chunk(3), strict=False
            ):  # too few are missing ones
                weights[name.replace("in_proj_", f"{letter}_proj.")] = part.clone()
        elif not name.startswith("aux."):
            weights[name] = value
    return weights


def _filled(
    shape: Architecture, state: Mapping[str, Tensor]
) -> tuple[Encoder, list[str], list[str]]:
    """An encoder of a file's weights, those that it lacks or has in another size, and unknown ones.

    Where the file holds no vector for masked frames, one is drawn.
    """
    with torch.device("meta"):
        model = model_of(shape)
    own = model.state_dict()
    weights = encoder_weights(state, shape.type)
    if "masked_spec_embed" in own and "masked_spec_embed" not in weights:
        weights["masked_spec_embed"] = torch.empty(own["masked_spec_embed"].shape).uniform_()
    fitting = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    model.load_state_dict(fitting, strict=False, assign=True)
    return wrap(model, shape), sorted({*own} - {*fitting}), sorted({*weights} - {*own})


# --- torchaudio's bundles


def _bundle(name: str, weights: Path | None) -> Encoder:
    path = weights or cache_file(name)
    if weights is None and not path.exists():
        _download(name)
    again = "delete the file so that it is downloaded anew, or give --weights another"
    try:
        state = _read(path)
    except Refused:
        raise
    except UserError as error:
        if weights is not None:
            raise
        raise UserError(f"{path}: not the weights of {name} ({error.message})", again) from error
    encoder, missing, unknown = _filled(architecture(name), state)
    if missing or unknown:
        which = "missing or of another size" if missing else "unknown"
        raise UserError(
            f"{path}: not the weights of {name} ({len(missing or unknown)} tensors are {which}, "
            f"e.g. {printable((missing or unknown)[0])})",
            "give the file that torchaudio publishes for it" if weights else again,
        )
    return encoder


def cache_file(name: str) -> Path:
    """Where torch hub keeps a bundle's weights; ``TORCH_HOME`` moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / BUNDLES[name][0]


def offline() -> bool:
    """Whether the user forbade downloads: Hugging Face's switches, heeded for torch hub too."""
    flags = (os.environ.get(key, "") for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(flag.upper() in {"1", "ON", "YES", "TRUE"} for flag in flags)


def _download(name: str) -> None:
    """Fill torch hub's cache; what is fetched is read, and judged, as any file is."""
    if offline():
        raise _missing_bundle(name, "HF_HUB_OFFLINE is set")
    path = cache_file(name)
    with redirect_stdout(sys.stderr):  # only results belong on stdout
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL + path.name, str(path), progress=sys.stderr.isatty())
        except Exception as error:  # whatever it is
            raise _missing_bundle(name, str(error)) from error


def _missing_bundle(name: str, why: str) -> UserError:
    path = cache_file(name)
    return UserError(
        f"{name}: its weights are not on this machine and were not downloaded ({why})",
        f"where there is a network, fetch {URL}{path.name} and copy it to {path}, or give it with "
        f"--weights; random:{name} is the same architecture untrained",
    )


def _refuse_weights_for(name: str, weights: Path | None) -> None:
    if weights is not None and name not in BUNDLES:
        raise UserError(
            f"--weights {weights}: {name} takes no file of weights",
            f"give it with {', '.join(BUNDLES)}, or name a folder as hf:FOLDER",
        )


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


def _read(path: Path) -> Mapping[str, Tensor]:
    """A flat state dict; nothing but tensors is ever unpickled."""
    refuse_unusable(path)
    if path.suffix == ".safetensors":
        return read_tensors(path, max_bytes=MAX_BYTES)
    try:
        # Mapped, its tensors are stretches of the file, and none can be larger than it is.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load promises none in particular
        if type(error).__name__ == "UnpicklingError":
            raise Refused(
                f"{path}: holds pickled objects beyond tensors, which can run foreign code", _AGAIN
            ) from error
        raise UserError(
            f"{path}: not a readable file of weights ({_first_line(error)})", "copy it anew"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        keys = listed(map(str, state), 5) if isinstance(state, dict) else type(state).__name__
        raise UserError(f"{path}: expected a flat state dict, got:\n{keys}", "extract the model's")
    packed = [
        key
        for key, value in state.items()
        if value.layout is not torch.strided or value.is_quantized or value.is_nested
    ]
    if packed:
        message = f"{path}: sparse, nested or quantized tensors:\n{listed(packed, 5)}"
        raise UserError(message, "save them as plain ones")
    return state


_AGAIN = "save its state dict as .safetensors where you trust the file"
MAX_DIRECTORY = 4 * 1024**2
"""Bytes of an archive's directory: 80,000 names, where torch writes one for each tensor."""


class _Bounded(io.FileIO):
    """A file of which no more than :data:`MAX_DIRECTORY` bytes are read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        whole = size is None or size < 0
        content = super().read(MAX_DIRECTORY + 1 if whole else min(size or 0, MAX_DIRECTORY + 1))
        if len(content or b"") > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"a directory of more than {MAX_DIRECTORY:,} bytes")
        return content or b""


def _refuse_bomb(path: Path) -> None:
    """Refuse an archive that is larger inside than outside; torch compresses none."""
    n_bytes = path.stat().st_size
    with _Bounded(path) as file:
        start = file.read(4)
        if start[:1] == b"\x80":
            raise Refused(f"{path}: a bare pickle, as torch wrote before 1.6, may run code", _AGAIN)
        if start != b"PK\x03\x04":
            raise UserError(f"{path}: not a readable file of weights", _AGAIN)
        try:
            members = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise UserError(f"{path}: not a readable file of weights ({error})", _AGAIN) from error
    inside = sum(member.file_size for member in members)
    if any(member.compress_type for member in members) or inside > n_bytes:
        raise Refused(f"{path}: a compressed archive of {inside:,} bytes, not torch's", _AGAIN)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] if lines else type(error).__name__


# --- Hugging Face's models, from a folder, the hub's cache or, where allowed, the hub


def _configured(source: str, fetch: bool) -> Architecture:
    """The encoder that ``config.json`` and, where there is one, ``preprocessor_config.json``
    describe; no code of the repository is run.

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
    params = json.loads(json.dumps({k: v for k, v in config.items() if k in PARAMS[kind]}))
    front = _front(source, fetch)
    if kind == "whisper":
        normalise = False
        if others := other_front(front or {}, params):
            raise UserError(f"hf:{source}: {'; '.join(others)}", "choose a model as published")
    else:  # without such a file, what its models need
        default = front is not None or config.get("feat_extract_norm", "layer") == "layer"
        normalise = bool((front or {}).get("do_normalize", default))
    try:
        return Architecture(type=kind, params=params, normalise=normalise)
    except ValidationError as error:
        raise not_the_sizes(kind, str(error)) from error


def _config(source: str, local: bool) -> dict[str, Any]:
    """The whole configuration, defaults filled in."""
    from transformers import AutoConfig

    path = model_file(source, "config.json", local)
    if path is None:
        raise OSError("no config.json")
    config, ours = read_json(path), [*PARAMS][1:]
    kind, hint = config.get("model_type"), f"use one of the types {', '.join(ours)}"
    if kind in ours:
        return dict(AutoConfig.from_pretrained(path.parent, trust_remote_code=False).to_dict())
    if config.get("auto_map"):
        raise Refused(f"hf:{source}: needs code of its own, which is never run", hint)
    if not kind:
        raise UserError(f"hf:{source}: its config.json names no model_type", hint)
    kind = printable(str(kind))[:80]
    raise UserError(f"hf:{source}: a {kind} model is no speech encoder known here", hint)


def _front(source: str, fetch: bool) -> dict[str, Any] | None:
    """The settings of the model's feature extractor; None where it came without."""
    name = "preprocessor_config.json"
    path = model_file(source, name, True)
    if path is None and fetch and _may_fetch(source):
        path = model_file(source, name, False)
    if path is None:
        return None
    settings = read_json(path)
    rate = settings.get("sampling_rate", SAMPLING_RATE)
    if rate != SAMPLING_RATE:
        raise UserError(
            f"hf:{source}: expects {rate} Hz, not {SAMPLING_RATE} Hz", "choose a 16 kHz model"
        )
    return settings


def other_front(settings: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    """What of a Whisper model's feature extractor is not as here; empty where all is.

    Args:
        settings: of its ``preprocessor_config.json``, possibly empty.
        params: of the encoder.

    >>> other_front({"hop_length": 320, "n_fft": 400}, {"num_mel_bins": 80})
    ['hop_length is 320, not 160']
    """
    ours: dict[str, Any] = {"n_fft": WINDOW, "hop_length": HOP, "dither": 0.0}
    if "num_mel_bins" in params:
        ours["feature_size"] = params["num_mel_bins"]
    if "max_source_positions" in params:
        ours["chunk_length"] = params["max_source_positions"] * 2 * HOP / SAMPLING_RATE
    return [
        f"{key} is {settings[key]}, not {value:g}"
        for key, value in ours.items()
        if settings.get(key, value) != value
    ]


def _hugging_face(source: str) -> Encoder:
    """A pretrained encoder; safetensors only."""
    shape = _configured(source, fetch=True)
    _refuse_pickled(source)
    build(shape, empty=True)  # before a gigabyte is fetched for what cannot be built
    encoder, missing, _ = _filled(shape, _fetch(source, lambda local: _tensors(source, local)))
    if missing:
        raise UserError(
            f"hf:{source}: {len(missing)} of the encoder's tensors are missing or of another size, "
            f"e.g. {printable(missing[0])}",
            "give a folder or id whose config.json belongs to its model.safetensors",
        )
    return encoder


def _tensors(source: str, local: bool) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for path in weight_files(source, local):
        state |= read_tensors(path, max_bytes=MAX_BYTES)
    if not state:
        raise OSError(f"no {WEIGHTS}")
    return state


def _fetch(source: str, load: Callable[[bool], T], fetch: bool = True) -> T:
    """What is on this machine first; the hub only where something is missing and is allowed."""
    from huggingface_hub.errors import StrictDataclassError

    path_like = source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source
    if path_like and not Path(source).is_dir():
        raise UserError(f"hf:{source}: no such folder", "give a folder with config.json")
    failures = (OSError, ValueError, TypeError, StrictDataclassError)
    local = True
    while True:
        try:
            return load(local)
        except failures as error:
            if is_library_failure(error):  # an installation that is broken, not a missing model
                raise
            if not local or not fetch or not _may_fetch(source):
                raise _missing(source, error) from error
        local = False


def _may_fetch(source: str) -> bool:
    return not (Path(source).is_dir() or offline())


def _missing(source: str, error: Exception) -> NotHere:
    why = printable(next(iter(str(error).splitlines()), type(error).__name__))[:200]
    if Path(source).is_dir():
        return NotHere(
            f"hf:{source}: not a model folder ({why})",
            "it needs config.json and model.safetensors, as save_pretrained() writes them",
        )
    return NotHere(
        f"hf:{source}: not on this machine and not fetched ({why})",
        f"where there is a network, run hf download {source} --local-dir FOLDER, copy the folder "
        f"here and give hf:FOLDER; random:hf:FOLDER needs only its config.json and is untrained",
    )


def _refuse_pickled(source: str) -> None:
    names = [path.name for path in Path(source).glob("*")] if Path(source).is_dir() else []
    pickled = any(name.endswith((".bin", ".pt", ".pth")) for name in names)
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise Refused(
            f"hf:{source}: holds pickled weights only, which can run foreign code",
            "load it where you trust it, save_pretrained() it, and give hf:<that folder>",
        )
