"""Settings of a run, and the key that names it: a hash of what decides its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from distill.data.augment import AugmentSettings
from distill.losses import LossSettings
from distill.model.backbones import HUGGING_FACE, RANDOM
from distill.model.student import StudentSettings
from featstore.core.config import OptimSettings
from featstore.core.files import folder_digest
from featstore.core.settings import Settings, digest


class StudentOptim(OptimSettings):
    """The student's optimisation: the paper's 1e-4 for everything, or two learning rates."""

    encoder_lr: float | None = Field(None, gt=0)
    """Learning rate of the pre-trained encoder; ``lr`` where not given (PAPER.md row 12)."""


class StreamSettings(Settings):
    """How an effective batch is cut into what the device holds at once."""

    max_batch_s: float = Field(160.0, gt=0)
    """Seconds of audio in a micro-batch, padding included; gradients accumulate over the rest."""
    pool: int = Field(1, ge=1)
    """Batches that are sorted by length together: 1 is a plain shuffle, more means less padding."""
    augment: AugmentSettings | None = None
    """What is done to the audio of training utterances; nothing where not given."""


class TargetSettings(Settings):
    """Which of a store's targets a training utterance gets."""

    shuffle: Literal["none", "label", "any"] = "none"
    """A control: each training utterance gets the targets of another of the same label, or of any.
    What is left of the gain does not come from what the teachers know of the utterance."""
    tau: Literal["given", "validation"] = "given"
    """Temperatures as ``losses.teachers`` gives them, or the ones that calibrate each teacher on
    the fold's validation rows."""
    cross_fit: int = Field(0, ge=0)
    """K: the targets of ``featstore build --cross-fit K``, in which no teacher speaks for a speaker
    that it was fitted on (PAPER.md row 21); 0: the teachers' own, as in the paper."""


class RunSettings(Settings):
    """Everything that decides a student's weights, given a store and a fold."""

    student: StudentSettings = StudentSettings()
    losses: LossSettings = LossSettings()
    targets: TargetSettings = TargetSettings()
    optim: StudentOptim = StudentOptim()
    stream: StreamSettings = StreamSettings()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the GPU has it, else fp32. Losses are float32 always."""
    seed: int = Field(42, ge=0, lt=2**63)


PRESETS: Mapping[str, dict[str, Any]] = {
    "paper": {},
    "safe": {"optim": {"encoder_lr": 1e-5}},
    "tiny": {
        "optim": {"lr": 1e-3, "batch_size": 16, "epochs": 20},
        "stream": {"pool": 8},
    },
}
"""Deltas from the paper's settings. ``tiny`` is what the tiny student learns well with."""

VARIANTS: Mapping[str, dict[str, Any]] = {
    "full": {},
    "no-logits": {"losses": {"alpha": 0.0}},
    "no-embeddings": {"losses": {"beta": 0.0}},
    "no-prosodic": {"losses": {"teachers": {"prosodic": {"weight": 0.0}}}},
    "no-linguistic": {"losses": {"teachers": {"linguistic": {"weight": 0.0}}}},
    "ce-only": {"losses": {"alpha": 0.0, "beta": 0.0}},
}
"""Rows of the paper's Table 2 as deltas: same architecture, terms at weight 0 (PAPER.md row 22)."""


def default_preset(backbone: str) -> str:
    """The preset that a student starts from.

    >>> default_preset("tiny"), default_preset("hubert-base")
    ('tiny', 'paper')
    """
    return "tiny" if backbone == "tiny" else "paper"


def portable(settings: RunSettings) -> RunSettings:
    """The settings as a run records them: a local model folder by its content, not by its path.

    >>> portable(RunSettings()) == RunSettings()
    True
    """
    backbone = settings.student.backbone
    folder = model_folder(backbone)
    if folder is None:
        return settings
    name = backbone.removesuffix(folder) + folder_digest(Path(folder))
    student = settings.student.model_copy(update={"backbone": name})
    return settings.model_copy(update={"student": student})


def model_folder(backbone: str) -> str | None:
    """The local folder that ``hf:FOLDER`` or ``random:hf:FOLDER`` names, if it is one."""
    kind = backbone.removeprefix(RANDOM)
    source = kind.removeprefix(HUGGING_FACE)
    return source if source != kind and Path(source).is_dir() else None


def run_key(
    settings: RunSettings,
    store: str,
    teachers: Sequence[Mapping[str, Any]],
    weights: str | None = None,
) -> str:
    """Twelve hex digits that name runs which differ in nothing but fold and seed.

    Args:
        settings: of the run; the seed does not count, nor where a local model folder lies.
        store: the fingerprint of corpus, audio and splits.
        teachers: what each teacher was made from.
        weights: SHA-256 of the file of weights that the backbone was given, if it was.
    """
    told = portable(settings).model_dump(mode="json", exclude={"seed"})
    del told["student"]["gradient_checkpointing"]  # the same numbers from less memory
    told["targets"] = settings.targets.model_dump(mode="json", exclude_defaults=True)
    if not told["targets"]:  # as all runs were before there was a choice
        del told["targets"]
    made_from: dict[str, Any] = {
        "settings": told,
        "store": store,
        "teachers": list(teachers),
    }
    return digest(made_from | ({"weights": weights} if weights else {}))[:12]
