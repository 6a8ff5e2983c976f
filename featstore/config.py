"""Settings of a build: frozen models, TOML files, overrides, and the hash that names a result.

Only what changes a byte of the result is a setting here; worker counts, devices and paths are
arguments of the functions that use them. Precedence: flag > ``--set a.b=c`` > file > preset >
the corpus' own defaults > the defaults below, which are the paper's.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from featstore.schema import UTTERANCE_ID, UserError, listed


class Settings(BaseModel):
    """Base of every settings model: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusSettings(Settings):
    """Which utterances of which corpus."""

    name: str = "iemocap"
    kind: Literal["all", "improvised", "scripted"] = "all"
    classes: tuple[str, ...] | None = None
    """Class names in logit order; the corpus' own where not given."""
    label_map: dict[str, str] | None = None
    """Raw label -> class; the corpus' own where not given. Raw labels not in it are left out."""
    embed_text: bool = True
    """Keep transcripts in the store (they are part of a licensed corpus)."""


class AudioSettings(Settings):
    """How a file becomes a signal: mono, 16 kHz, 16 bit."""

    sampling_rate: Literal[16000] = 16000
    min_duration_s: float = Field(0.1, ge=0.06)
    """Shorter utterances are excluded and counted; openSMILE yields nothing under 60 ms."""
    max_duration_s: float = Field(60.0, gt=0, le=600)
    """Longer utterances are excluded and counted (IEMOCAP's longest turn has 34.14 s)."""
    embed_audio: bool = True
    """Keep the signals in the store; else students read the corpus' own files."""


class LldSettings(Settings):
    """Low-level descriptors every 10 ms (PAPER.md rows 16 and 17)."""

    feature_set: Literal["eGeMAPSv02", "GeMAPSv01b"] = "eGeMAPSv02"
    """The paper's set with 25 descriptors, or the minimalistic one with 18."""


class FoldSettings(Settings):
    """How speakers are held out (PAPER.md row 20)."""

    scheme: Literal["speaker", "session", "groups"] = "speaker"
    """Leave one speaker out, leave one session out, or ``groups`` disjoint speaker groups."""
    groups: int = Field(5, ge=2)
    validation: Literal["partner", "random", "none"] | None = None
    """partner: the test speaker's session partner (the default where there are sessions); random:
    one drawn speaker; none: train on all others for a fixed number of epochs."""
    script_disjoint: bool = False
    """Drop training and validation utterances whose words the test speaker also says."""
    seed: int = 42


class OptimSettings(Settings):
    """One optimisation run: AdamW, warm-up and one cosine to zero (PAPER.md rows 12 to 14)."""

    lr: float = Field(1e-4, gt=0)
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(128, ge=1)
    """Utterances per step: the *effective* batch (PAPER.md row 15)."""
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises linearly."""
    clip_norm: float = Field(1.0, gt=0)
    selection: Literal["validation_ua", "last"] = "validation_ua"
    """Which epoch's weights are kept: the best on the validation rows, or the last. A small
    validation set ranks epochs by luck."""
    class_weights: bool = False
    """Weigh the cross entropy by inverse class frequency of the training rows."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class LinguisticSettings(Settings):
    """A text encoder fine-tuned on transcripts; the paper's is BERT-base."""

    kind: Literal["linguistic"] = "linguistic"
    model: str = "bert-base-uncased"
    """A Hugging Face name or local folder, or ``tiny``: BERT with 2 layers of 128 and a WordPiece
    vocabulary trained on the fold's training transcripts."""
    pooling: Literal["cls", "mean"] = "cls"
    """The embedding: [CLS] of the last layer, or the mean over tokens (PAPER.md row 8)."""
    max_tokens: int = Field(128, ge=8, le=512)
    vocabulary: int = Field(2000, ge=100)
    """Size of the vocabulary that ``tiny`` trains."""
    dropout: float = Field(0.1, ge=0, lt=1)
    optim: OptimSettings = OptimSettings()
    seed: int = 42


class ProsodicSettings(Settings):
    """A 2D ResNet of four residual blocks on eGeMAPS LLDs."""

    kind: Literal["prosodic"] = "prosodic"
    channels: tuple[int, int, int, int] = (64, 128, 256, 512)
    time_stride: int = Field(4, ge=1)
    """Stride of the stem along time: how many 10 ms frames become one."""
    max_frames: int = Field(1000, ge=50)
    """Longer utterances: random crop in training, centre crop in evaluation (PAPER.md row 17)."""
    normalisation: Literal["train", "utterance", "speaker"] = "train"
    """z-score by the fold's training speakers; per utterance; or per speaker, which is
    transductive: it uses the unlabelled test speaker's statistics (PAPER.md row 18)."""
    dropout: float = Field(0.2, ge=0, lt=1)
    time_crop: float = Field(1.0, gt=0, le=1)
    """Training keeps a random stretch of at least this share of each utterance."""
    time_masks: int = Field(0, ge=0)
    """Random stretches of up to a tenth of the frames that training blanks."""
    optim: OptimSettings = OptimSettings()
    seed: int = 42


TeacherSettings = Annotated[LinguisticSettings | ProsodicSettings, Field(discriminator="kind")]


def _paper_teachers() -> dict[str, TeacherSettings]:
    return {"linguistic": LinguisticSettings(), "prosodic": ProsodicSettings()}


class BuildSettings(Settings):
    """Everything that decides a store's bytes."""

    corpus: CorpusSettings = CorpusSettings()
    audio: AudioSettings = AudioSettings()
    lld: LldSettings = LldSettings()
    folds: FoldSettings = FoldSettings()
    teachers: dict[str, TeacherSettings] = Field(default_factory=_paper_teachers)
    """Any number of teachers under names of their own; the paper's are these two."""

    @model_validator(mode="after")
    def _names(self) -> BuildSettings:
        for name in self.teachers:
            if not UTTERANCE_ID.match(name):
                raise ValueError(f"teacher name {name!r} has characters beyond A-Z a-z 0-9 _ . -")
        return self


_SAFE_TEACHERS: dict[str, Any] = {
    "linguistic": {"optim": {"lr": 2e-5}},
    "prosodic": {"optim": {"lr": 1e-3}},
}
_TINY_TEACHERS: dict[str, Any] = {
    "linguistic": {
        "model": "tiny",
        "optim": {"lr": 1e-3, "epochs": 12, "batch_size": 32},
    },
    "prosodic": {
        "channels": [16, 32, 64, 128],
        "time_stride": 8,
        "time_crop": 0.7,
        "time_masks": 2,
        "optim": {
            "lr": 1e-3,
            "epochs": 24,
            "batch_size": 16,
            "label_smoothing": 0.1,
            "selection": "last",
        },
    },
}
PRESETS: Mapping[str, dict[str, Any]] = {
    "paper": {},
    "safe": {"teachers": _SAFE_TEACHERS},
    "tiny": {"teachers": _TINY_TEACHERS},
}
"""Deltas from the defaults: ``paper`` is none, ``safe`` the learning rates that fine-tuning
usually takes (PAPER.md row 12), ``tiny`` teachers that a laptop fits in under a minute a fold."""


S = TypeVar("S", bound=Settings)
T = TypeVar("T")


def resolve(model: type[S], *layers: Mapping[str, Any]) -> S:
    """Merge the layers, later ones winning, and check the result.

    Raises:
        UserError: with every fault of the settings at once.

    >>> resolve(FoldSettings, {"scheme": "session"}, {"seed": 7}).seed
    7
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer)
    try:
        return model.model_validate(_with_teacher_defaults(model, merged))
    except ValidationError as error:
        faults = [_fault(model, item) for item in error.errors()]
        raise UserError(
            f"{len(faults)} setting(s) not accepted:\n{listed(faults)}",
            "mend the settings file or the --set flags; --dry-run prints the resolved settings",
        ) from error


def merge(base: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Nested update without touching either: tables merge, anything else is replaced.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    out = dict(base)
    for key, value in delta.items():
        mine = out.get(key)
        nested = isinstance(mine, Mapping) and isinstance(value, Mapping)
        out[key] = merge(mine, value) if nested else value  # type: ignore[arg-type]
    return out


def load_toml(path: Path) -> dict[str, Any]:
    """A settings file as nested tables.

    Raises:
        UserError: where the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such settings file", "give --config an existing TOML"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(
            f"{path}: not a readable TOML file ({error})", "see data/configs"
        ) from error


def overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """``--set a.b=c`` flags as nested tables; values are TOML, bare words are text.

    >>> overrides(["folds.seed=7", "corpus.kind=improvised"])
    {'folds': {'seed': 7}, 'corpus': {'kind': 'improvised'}}
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        dotted, equals, text = pair.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"--set {pair}: expected key=value", "e.g. --set folds.seed=7")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        for key in reversed(keys):
            value = {key: value}
        out = merge(out, value)
    return out


def choose(flag: str, name: str, known: Mapping[str, T]) -> T:
    """One of some named things.

    Raises:
        UserError: with the names there are.
    """
    if name not in known:
        raise UserError(f"{flag} {name}: not known", f"choose one of {', '.join(known)}")
    return known[name]


def to_toml(settings: Settings) -> str:
    """The settings as TOML that :func:`load_toml` reads back; unset optional keys are left out."""
    lines: list[str] = []
    _write_table(settings.model_dump(mode="json", exclude_none=True), "", lines)
    return "\n".join(lines).strip() + "\n"


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, finite numbers only."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Which keys differ between two nested tables, as ``key: old -> new``.

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}})
    ['a.b: 1 -> 2']
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        out: list[str] = []
        for key in sorted(set(old) | set(new)):
            out += differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return out
    if canonical(old) == canonical(new):
        return []
    return [f"{prefix}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:16]}..."


def _write_table(table: Mapping[str, Any], prefix: str, lines: list[str]) -> None:
    scalars = {k: v for k, v in table.items() if not isinstance(v, Mapping)}
    if prefix and (scalars or not table):
        lines.append(f"\n[{prefix}]")
    lines += [f"{_key(k)} = {_text(v)}" for k, v in scalars.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            _write_table(value, f"{prefix}.{_key(key)}" if prefix else _key(key), lines)


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _text(key)


def _text(value: Any) -> str:
    """JSON is TOML but for one character that TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _with_teacher_defaults(model: type[Settings], merged: dict[str, Any]) -> dict[str, Any]:
    """A delta of one of the paper's teachers need not repeat its kind, and keeps the other one.

    Tables that all tell their kind are the whole set: one teacher alone, or five.
    """
    teachers = merged.get("teachers")
    if not issubclass(model, BuildSettings) or not isinstance(teachers, Mapping):
        return merged
    paper = {"linguistic": {"kind": "linguistic"}, "prosodic": {"kind": "prosodic"}}
    given = {name: teachers[name] for name in paper if isinstance(teachers.get(name), Mapping)}
    if all("kind" in table for table in given.values()):
        return merged
    return {**merged, "teachers": merge(paper, teachers)}


def _fault(model: type[Settings], item: Any) -> str:
    parts = [str(part) for part in item["loc"]]
    if parts[:1] == ["teachers"]:
        del parts[2:3]  # pydantic names the kind once more
    place = ".".join(parts)
    if item["type"] == "extra_forbidden":
        known = _known_keys(model)
        near = difflib.get_close_matches(place.split(".")[-1], known, n=1)
        return f"{place}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    given = "" if item["type"] == "missing" else f" (given: {_short(_plain(item['input']))})"
    return f"{place}: {item['msg']}{given}"


def _plain(value: Any) -> Any:
    try:
        canonical(value)
    except (TypeError, ValueError):
        return repr(value)
    return value


def _known_keys(model: type[Settings]) -> list[str]:
    keys: set[str] = set()
    schema = model.model_json_schema()
    for definition in [schema, *schema.get("$defs", {}).values()]:
        keys |= set(definition.get("properties", {}))
    return sorted(keys)
