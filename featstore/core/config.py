"""Settings of a build, and its presets; the defaults are the paper's.

Only what changes a byte of the result is a setting here; worker counts, devices and paths are
arguments of the functions that use them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from featstore.core.schema import UTTERANCE_ID
from featstore.core.settings import Settings, merge


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
    seed: int = Field(42, ge=0, lt=2**63)


class OptimSettings(Settings):
    """One optimisation run: AdamW, warm-up and one cosine to zero (PAPER.md rows 12 to 14)."""

    lr: float = Field(1e-4, gt=0)
    epochs: int = Field(30, ge=1, le=100_000)
    batch_size: int = Field(128, ge=1, le=65_536)
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


TINY = "tiny"
"""In place of a model's name: BERT with 2 layers of 128, made and trained here, no weights."""


class LinguisticSettings(Settings):
    """A text encoder fine-tuned on transcripts; the paper's is BERT-base."""

    kind: Literal["linguistic"] = "linguistic"
    model: str = "bert-base-uncased"
    """A Hugging Face name or local folder, or ``tiny``: BERT with 2 layers of 128 and a WordPiece
    vocabulary trained on the fold's training transcripts."""
    pooling: Literal["cls", "mean"] = "cls"
    """The embedding: [CLS] of the last layer, or the mean over tokens (PAPER.md row 8)."""
    max_tokens: int = Field(128, ge=8, le=512)
    vocabulary: int = Field(2000, ge=100, le=1_000_000)
    """Size of the vocabulary that ``tiny`` trains."""
    dropout: float = Field(0.1, ge=0, lt=1)
    optim: OptimSettings = OptimSettings()
    seed: int = Field(42, ge=0, lt=2**63)


Width = Annotated[int, Field(ge=1, le=4096)]


class ProsodicSettings(Settings):
    """A 2D ResNet of four residual blocks on eGeMAPS LLDs."""

    kind: Literal["prosodic"] = "prosodic"
    channels: tuple[Width, Width, Width, Width] = (64, 128, 256, 512)
    time_stride: int = Field(4, ge=1, le=64)
    """Stride of the stem along time: how many 10 ms frames become one."""
    max_frames: int = Field(1000, ge=50, le=60_000)
    """Longer utterances: random crop in training, centre crop in evaluation (PAPER.md row 17)."""
    normalisation: Literal["train", "utterance", "speaker"] = "train"
    """z-score by the fold's training speakers; per utterance; or per speaker, which is
    transductive: it uses the unlabelled test speaker's statistics (PAPER.md row 18)."""
    dropout: float = Field(0.2, ge=0, lt=1)
    time_crop: float = Field(1.0, gt=0, le=1)
    """Training keeps a random stretch of at least this share of each utterance."""
    time_masks: int = Field(0, ge=0, le=100)
    """Random stretches of up to a tenth of the frames that training blanks."""
    optim: OptimSettings = OptimSettings()
    seed: int = Field(42, ge=0, lt=2**63)


TeacherSettings = Annotated[LinguisticSettings | ProsodicSettings, Field(discriminator="kind")]

CROSS_FITTED = re.compile(r"(?P<teacher>.+)-crossfit(?P<parts>\d+)\Z", re.ASCII)
"""Names of cross-fitted targets, see :func:`cross_fitted`; no user's teacher has one."""


def cross_fitted(teacher: str, parts: int) -> str:
    """The name of a teacher's targets, cross-fitted by so many parts; its own name for 0.

    >>> cross_fitted("linguistic", 4), cross_fitted("linguistic", 0)
    ('linguistic-crossfit4', 'linguistic')
    """
    return f"{teacher}-crossfit{parts}" if parts else teacher


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

    @model_validator(mode="before")
    @classmethod
    def _paper_kinds(cls, values: Any) -> Any:
        """A delta of one of the paper's teachers need not repeat its kind, and keeps the other.

        Tables that all tell their kind are the whole set: one teacher alone, or five.
        """
        teachers = values.get("teachers") if isinstance(values, Mapping) else None
        if not isinstance(teachers, Mapping):
            return values
        paper = {"linguistic": {"kind": "linguistic"}, "prosodic": {"kind": "prosodic"}}
        tables = [t for name in paper if isinstance(t := teachers.get(name), Mapping)]
        if all("kind" in table for table in tables):
            return values
        return {**values, "teachers": merge(paper, teachers)}

    @model_validator(mode="after")
    def _names(self) -> BuildSettings:
        for name in self.teachers:
            if not UTTERANCE_ID.match(name):
                raise ValueError(f"teacher name {name!r} has characters beyond A-Z a-z 0-9 _ . -")
            if CROSS_FITTED.match(name):
                raise ValueError(f"teacher name {name!r} is kept for what --cross-fit makes")
        return self


PRESETS: Mapping[str, dict[str, Any]] = {
    "paper": {},
    "safe": {
        "teachers": {"linguistic": {"optim": {"lr": 2e-5}}, "prosodic": {"optim": {"lr": 1e-3}}}
    },
    "tiny": {
        "teachers": {
            "linguistic": {
                "model": TINY,
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
    },
}
"""Deltas from the defaults: ``paper`` is none, ``safe`` the learning rates that fine-tuning
usually takes (PAPER.md row 12), ``tiny`` teachers that a laptop fits in under a minute a fold."""

GPU_FILES = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""One of these is there where a GPU can be used: NVIDIA, Tegra, WSL, ROCm."""


def device_kind(name: str = "auto") -> str:
    """``cpu`` or ``cuda``: what ``--device NAME`` means on this machine.

    Imports torch only to ask it about a GPU that is there.

    >>> device_kind("cuda:1")
    'cuda'
    """
    if name != "auto":
        return name.partition(":")[0]
    if not any(Path(file).exists() for file in GPU_FILES):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
