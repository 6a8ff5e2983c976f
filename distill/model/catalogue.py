"""``distill backbones``: what a student can be built on, and whether its weights are here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.config import BACKBONES, HUGGING_FACE, RANDOM, source_of
from distill.model import bundles
from distill.model.backbones import (
    architecture,
    build_backbone,
    check_weights,
)
from distill.model.encoder import Architecture
from featstore.core.schema import UserError
from featstore.core.training import count_parameters

_FAMILIES: Mapping[str, str] = {
    "tiny": "HuBERT on log-mel",
    "hubert": "HuBERT",
    "wav2vec2": "wav2vec 2.0",
    "wavlm": "WavLM",
    "data2vec-audio": "data2vec-audio",
    "whisper": "Whisper encoder",
}

NOTES = 3
"""So many backbones are told of at length."""


@dataclass(frozen=True)
class Row:
    """One backbone; sizes are None where its configuration is not on this machine or is no good."""

    name: str  # for --student
    family: str
    width: int | None  # of a hidden frame
    layers: int | None
    parameters: int | None  # of the encoder, heads and decoders left out
    normalise: bool | None  # whether each waveform is brought to zero mean and unit variance
    source: str  # where the weights come from: torchaudio, Hugging Face, folder or none
    path: str  # where the loader looks for them; empty where there are none to look for
    here: bool  # whether a run could begin without fetching anything
    note: str = ""  # what is missing or wrong, and what to do about it
    licence: str | None = None  # of the weights; None where it is not known for sure

    def to_dict(self) -> dict[str, Any]:
        """As plain data, an unknown licence left out."""
        facts = asdict(self)
        return facts if self.licence is not None else {k: facts[k] for k in facts if k != "licence"}


def rows(names: Iterable[str] = ()) -> list[Row]:
    """What there is to know of backbones, without loading or fetching any.

    Args:
        names: as ``--student`` takes them; where none are given, those with a name of their own and
            the speech encoders in Hugging Face's cache.

    Raises:
        UserError: for a name that is none.
    """
    return [_row(name) for name in [*names] or [*BACKBONES, *cached()]]


def cached() -> list[str]:
    """Backbone names of the speech encoders in Hugging Face's cache, by their configurations."""
    from huggingface_hub import constants

    from distill.model.hf_models import KINDS

    found = set()
    for path in Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/config.json"):
        try:
            kind = json.loads(path.read_bytes()).get("model_type")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue  # no model's, so it is not listed; asked for by name, it gives its reason
        if kind in KINDS:
            found.add(path.parents[2].name.removeprefix("models--").replace("--", "/"))
    return [HUGGING_FACE + name for name in sorted(found)]


def facts(names: Iterable[str] = ()) -> list[dict[str, Any]]:
    """As :func:`rows`, as plain data."""
    return [row.to_dict() for row in rows(names)]


def render(facts: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """The catalogue for a terminal: a table, where files are looked for, and what is missing."""
    from featstore.inspection.render import clean, table

    columns = ("name", "family", "width", "layers", "parameters", "normalised", "weights", "here")
    out = table("Backbones", *columns)
    out.columns[1].justify = out.columns[6].justify = "left"
    out.columns[0].no_wrap = True
    for row in facts:
        size = "-" if row["parameters"] is None else f"{row['parameters'] / 1e6:.1f} M"
        width, layers = ("-" if row[key] is None else str(row[key]) for key in ("width", "layers"))
        normalised = {None: "-", True: "yes", False: "no"}[row["normalise"]]
        here = "yes" if row["here"] else "no"
        names = clean(row["name"]), clean(row["family"])
        out.add_row(*names, width, layers, size, normalised, clean(row["source"]), here)
    yield out
    places = [row["path"] for row in facts if row["path"]]
    few = len(facts) <= NOTES
    for place in places if few else sorted({str(Path(path).parent) for path in places}):
        yield f"looked for in {clean(place)}"
    notes = [row["note"] for row in facts if row["note"]]
    if len(notes) > NOTES:
        yield f"{len(notes)} are not here: `distill backbones NAME` says what to do about one"
    else:
        yield from map(clean, notes)
    yield (
        "also hf:<id or folder> of a HuBERT, wav2vec 2.0, WavLM, data2vec-audio or Whisper model, "
        "and random:<name>: the same with weights drawn from the seed"
    )


def _row(name: str) -> Row:
    kind = name.removeprefix(RANDOM)
    shape = _shape(kind)
    try:
        note = check_weights(name)
        here = not note
    except UserError as error:
        note, here = "; ".join(filter(None, (error.message, error.hint))), False
    # torchaudio's description of each of its bundles gives the licence.
    licence = "MIT" if name in bundles.BUNDLES else None
    family = _family(kind, shape)
    return Row(name, family, *_sizes(shape), *_place(name), here, note, licence)


def _shape(kind: str) -> Architecture | None:
    """The architecture, where this machine has what tells it."""
    if kind in BACKBONES:
        return architecture(kind)
    from distill.model import huggingface

    source = source_of(kind)
    try:
        return huggingface.architecture(source, fetch=False)
    except UserError:
        return None  # the row's note says why


def _family(kind: str, shape: Architecture | None) -> str:
    if kind in BACKBONES:
        return _FAMILIES[kind.split("-")[0]]
    return "" if shape is None else _FAMILIES[shape.type]


def _place(name: str) -> tuple[str, str]:
    """Where weights come from, and where the loader looks for them."""
    if name.startswith(RANDOM) or name == "tiny":
        return "none", ""
    if name in bundles.BUNDLES:
        return "torchaudio", str(bundles.cache_file(name))
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    source = name.removeprefix(HUGGING_FACE)
    if Path(source).is_dir():
        return "folder", source
    folder = repo_folder_name(repo_id=source, repo_type="model")
    return "Hugging Face", str(Path(constants.HF_HUB_CACHE) / folder)


def _sizes(shape: Architecture | None) -> tuple[int | None, int | None, int | None, bool | None]:
    """Width, layers, parameters and normalisation; nothing of the encoder is allocated."""
    if shape is None:
        return None, None, None, None
    try:
        built = build_backbone(shape, empty=True)
    except UserError:
        return None, None, None, None
    return built.hidden_size, built.n_states - 1, count_parameters(built), shape.normalise
