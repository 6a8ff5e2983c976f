"""Every setting of a run, the paper's variants, and the key that names a run; imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from featstore.core.config import OptimSettings
from featstore.core.files import folder_digest
from featstore.core.schema import UserError, listed, printable
from featstore.core.settings import Settings, digest, merge

RANDOM, HUGGING_FACE = "random:", "hf:"
BACKBONES = (
    "tiny",
    *("hubert-base", "hubert-large", "hubert-xlarge"),
    *("wav2vec2-base", "wav2vec2-large", "wav2vec2-large-lv60k"),
    *("wavlm-base", "wavlm-base-plus", "wavlm-large"),
)
"""Encoders with a name of their own; beside them ``hf:<id or folder>``, and ``random:`` before any
name: the same architecture with weights drawn from the seed."""

Trainable = Literal["transformer", "all", "none"]
"""What the optimiser may change (PAPER.md row 11): the default keeps the CNN as pretrained."""

Context = Literal["utterance", "window"]
"""What a frame may attend to; :class:`distill.model.encoders.Whisper` offers both."""

Pooling = Literal["mean", "weighted", "attention"]
Direction = Literal["teacher_student", "student_teacher"]
Codec = Literal["mulaw", "narrowband", "telephone"]


class DropoutSettings(Settings):
    """Dropout inside the encoder; where not given, what the architecture was pretrained with."""

    hidden: float | None = None
    """On the transformer's input and on the output of attention and feed-forward layers."""
    attention: float | None = None
    """On attention weights."""
    activation: float | None = None
    """Inside feed-forward layers."""
    projection: float | None = None
    """Between the CNN (or filter bank) and the transformer."""


class SpecAugmentSettings(Settings):
    """Time spans and feature bands hidden from the transformer in training (Park et al. 2019).

    As wav2vec 2.0 is fine-tuned: after the projection, a hidden frame becomes the vector that the
    model was pretrained with for masked frames (drawn from the seed where its file holds none) and
    a hidden feature 0. Whisper has no such vector: frames and features become 0 before its
    positions are added. All draws are PyTorch's own generator's.

    Off by default: the paper does not speak of it. Nothing is hidden in evaluation, nor where
    nothing of the backbone trains.
    """

    time_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Share of an utterance's frames under masks. Masks may overlap, so it is an upper bound of
    the mean; wav2vec 2.0 is fine-tuned with about 0.05."""
    time_length: int = Field(default=10, ge=1, le=1000)
    """Frames that one mask hides: 10 are 0.2 s of most backbones. At most half of an utterance."""
    feature_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Share of the features under masks, likewise."""
    feature_length: int = Field(default=10, ge=1, le=4096)
    """Neighbouring features that one mask hides."""

    @property
    def active(self) -> bool:
        """Whether anything is hidden at all."""
        return self.time_ratio > 0 or self.feature_ratio > 0


class StudentSettings(Settings):
    """What a student is made of; the defaults are the paper's."""

    backbone: str = "hubert-base"
    """One of :data:`BACKBONES`, or ``hf:<id or folder>``."""
    trainable: Trainable = "transformer"
    """Which layers of the backbone are trained (PAPER.md row 11)."""
    context: Context = "utterance"
    """Whisper only: whether frames attend to their own utterance, or also to the silence that fills
    it up to the model's window of 30 s, as in pretraining."""
    pooling: Pooling = "mean"
    """Frames to one vector (PAPER.md row 10): mean of the last layer, mean of a learned weighted
    sum of all layers, or attention over the last layer's frames."""
    projection: Literal["mlp", "linear_gelu"] = "mlp"
    """Per teacher Linear -> GELU -> Linear, or Linear -> GELU as the paper's words can be read
    (PAPER.md row 7), which cannot point where a teacher's embedding is negative."""
    projection_width: int | None = Field(default=None, ge=1, le=16384)
    """Hidden width of an ``mlp`` projection; the backbone's width where not given."""
    head_width: int = Field(default=256, ge=1, le=16384)
    """Hidden width of the classifier."""
    head_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Before each linear layer of the classifier."""
    dropout: DropoutSettings = DropoutSettings()
    """Inside the backbone."""
    layerdrop: float = Field(default=0.0, ge=0, lt=1)
    """Probability of leaving out each of the transformer's layers (WavLM's first one always stays)
    in a training step; off, since the paper does not speak of it. Not with weighted pooling."""
    spec_augment: SpecAugmentSettings = SpecAugmentSettings()
    """Time and feature masks on the transformer's input in a training step; off likewise."""
    gradient_checkpointing: bool = False
    """Recompute the transformer's activations instead of keeping them: the same gradients from less
    memory, for about a third more time."""


class TeacherTerm(Settings):
    """One teacher's part in the loss."""

    tau: float = Field(gt=0)
    """Temperature of its KL divergence, for the teacher and the student alike (row 5)."""
    weight: float = Field(default=1.0, ge=0)
    """Factor on both of its terms; at 0 the student keeps its projection (PAPER.md row 22)."""


_PAPER: Mapping[str, dict[str, float]] = {
    "linguistic": {"tau": 5.0, "weight": 1.0},
    "prosodic": {"tau": 0.5, "weight": 1.0},
}
"""Section 4.2; figure 2 finds tau 4 best for the linguistic teacher (PAPER.md row 1)."""


class LossSettings(Settings):
    """Coefficients of the total loss; the defaults are the paper's (section 4.2)."""

    alpha: float = Field(default=1.0, ge=0)
    """Of the KL divergences to the teachers' logits."""
    beta: float = Field(default=10.0, ge=0)
    """Of the cosine distances to the teachers' embeddings."""
    gamma: float = Field(default=2.0, ge=0)
    """Of the cross entropy."""
    kl: Direction = "teacher_student"
    """KL(teacher‖student), or KL(student‖teacher) as equation 1 prints it (PAPER.md row 2)."""
    tau_squared: bool = False
    """Multiply each KL divergence by tau squared, as Hinton does (PAPER.md row 4)."""
    teachers: dict[str, TeacherTerm] = Field(
        default_factory=lambda: {name: TeacherTerm(**term) for name, term in _PAPER.items()}
    )
    """Terms by teacher name. Keys not given keep the paper's values for its two teachers."""

    @model_validator(mode="before")
    @classmethod
    def _paper_teachers(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("teachers"), Mapping):
            return values
        terms = {
            k: v.model_dump() if isinstance(v, TeacherTerm) else v
            for k, v in values["teachers"].items()
        }
        return {**values, "teachers": merge(_PAPER, terms)}

    @property
    def teaching(self) -> set[str]:
        """The teachers that a student learns from: those with a weight, where their terms have one.

        >>> sorted(LossSettings().teaching), LossSettings(alpha=0, beta=0).teaching
        (['linguistic', 'prosodic'], set())
        """
        counted = self.alpha > 0 or self.beta > 0
        return {name for name, term in self.teachers.items() if counted and term.weight > 0}

    def for_teachers(self, names: Iterable[str]) -> dict[str, TeacherTerm]:
        """The terms of a store's teachers, sorted by name.

        Args:
            names: the teachers that the store holds.

        Raises:
            UserError: naming every teacher without a term and every term without a teacher, or
                where all coefficients together leave nothing to learn from.

        >>> LossSettings().for_teachers(["prosodic"])
        {'prosodic': TeacherTerm(tau=0.5, weight=1.0)}
        """
        present = sorted(names)
        faults = [
            f"teacher {name} of the store has no temperature: --set losses.teachers.{name}.tau=1"
            for name in present
            if name not in self.teachers
        ]
        faults += [
            f"losses.teachers.{name}: the store has no such teacher, it has {', '.join(present)}"
            for name in sorted(self.teachers)
            if name not in present and name not in _PAPER
        ]
        if faults:
            raise UserError(f"losses and store do not match:\n{listed(faults)}", "add those flags")
        if self.gamma == 0 and self.teaching.isdisjoint(present):
            raise UserError("all loss coefficients are 0", "--set losses.gamma=2")
        return {name: self.teachers[name] for name in present}


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"{limits[0]} to {limits[1]} is no range: the smaller one comes first")
    return limits


Db = Annotated[float, Field(ge=-100, le=100)]
DbRange = Annotated[tuple[Db, Db], AfterValidator(_rising)]


class AugmentSettings(Settings):
    """What is done to training utterances; every draw is uniform and each utterance's own."""

    noise_snr_db: DbRange | None = None
    """White noise at a signal-to-noise ratio from this range."""
    gain_db: DbRange | None = None
    """Change of level; what goes beyond full scale is clipped, as a recorder would."""
    codecs: tuple[Codec, ...] = ()
    """One of these is drawn: ``mulaw`` (8 bit, G.711's curve), ``narrowband`` (as if sampled at
    8 kHz), ``telephone`` (both)."""
    codec_share: float = Field(0.5, gt=0, le=1)
    """Share of the utterances that go through a codec, where there are any."""

    @property
    def idle(self) -> bool:
        """Whether nothing is altered."""
        return not self.codecs and self.noise_snr_db is None and self.gain_db is None


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
    """Of the backbone while it trains. auto: bf16 on a GPU, fp32 on a CPU. Heads, losses and every
    evaluation are float32 always."""
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


def refuse_unknown(name: str) -> None:
    """Refuse what is neither a name of :data:`BACKBONES` nor ``hf:...``; whatever weights are here.

    Raises:
        UserError: with the nearest name.

    >>> refuse_unknown("random:hubert-base")
    """
    kind = name.removeprefix(RANDOM)
    if kind not in BACKBONES:
        source_of(kind)


def source_of(kind: str) -> str:
    """The id or folder of ``hf:...``.

    Raises:
        UserError: where it is no such name, nor any other that is known.
    """
    source = kind.removeprefix(HUGGING_FACE)
    if source and source != kind:
        return source
    near = difflib.get_close_matches(kind, BACKBONES, n=1)
    raise UserError(
        f"{printable(kind)}: no such backbone" + (f"; did you mean {near[0]}?" if near else ""),
        f"one of {', '.join(BACKBONES)}, hf:<id or folder>, or random: before a name",
    )


def precision_in_use(settings: RunSettings, device: str) -> str:
    """``fp32``, ``bf16`` or ``fp16``: what the backbone computes in on a kind of device.

    Args:
        settings: of the run.
        device: ``cpu`` or ``cuda``, see :func:`featstore.core.config.device_kind`.

    Raises:
        UserError: the device cannot compute in it.

    >>> [precision_in_use(RunSettings(), device) for device in ("cpu", "cuda")]
    ['fp32', 'bf16']
    """
    if settings.precision == "auto":
        return "bf16" if device == "cuda" else "fp32"
    if settings.precision == "fp16" and device != "cuda":
        raise UserError("precision = fp16 needs a GPU", "use precision = auto or fp32")
    return settings.precision


def run_key(
    settings: RunSettings,
    store: str,
    teachers: Sequence[Mapping[str, Any]],
    weights: str | None = None,
    device: str = "cpu",
) -> str:
    """Twelve hex digits that name runs which differ in nothing but fold and seed.

    Settings that alter no result but its last bits do not count: how a batch is cut into
    micro-batches, recomputed activations, where a local model folder lies.

    Args:
        settings: of the run; the seed does not count.
        store: the fingerprint of corpus, audio and splits.
        teachers: what each teacher was made from.
        weights: SHA-256 of the file of weights that the backbone starts from, if there is one.
        device: the kind that is trained on; it counts, and so does the precision in use there.

    Raises:
        UserError: as :func:`precision_in_use`.
    """
    values = portable(settings).model_dump(mode="json", exclude={"seed", "precision"})
    del values["student"]["gradient_checkpointing"]
    del values["stream"]["max_batch_s"]
    made_from: dict[str, Any] = {
        "settings": values,
        "device": device,
        "precision": precision_in_use(settings, device),
        "store": store,
        "teachers": list(teachers),
    }
    return digest(made_from | ({"weights": weights} if weights else {}))[:12]
