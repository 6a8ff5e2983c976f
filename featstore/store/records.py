"""What the record of each kind of unit must say, so that no reader trips over what it does not.

A record's own SHA-256 proves that it is what somebody wrote; these models prove that it is what
this program could have written. A key that is ever removed or changes its meaning raises
:data:`featstore.store.unit.SCHEMA`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from featstore.core.config import (
    CROSS_FITTED,
    AudioSettings,
    CorpusSettings,
    FoldSettings,
    LldSettings,
    TeacherSettings,
)
from featstore.core.schema import UTTERANCE_ID, Corrupt, listed, printable
from featstore.core.settings import Settings, canonical
from featstore.store.unit import REPAIR

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, strict=True)]
Number = Annotated[int, Field(ge=1, strict=True)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=UTTERANCE_ID.pattern.replace(r"\Z", "$"))]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class CorpusMadeFrom(Settings):
    """``settings`` of ``corpus``; ``rows`` is the digest of the manifest."""

    corpus: CorpusSettings
    classes: tuple[str, ...] = Field(min_length=2)
    rows: Sha256


class CorpusFacts(Settings):
    """``facts`` of ``corpus``: counts are by reason, by raw label, by warning."""

    name: Name
    classes: tuple[str, ...] = Field(min_length=2)
    speakers: Names
    sessions: Names
    excluded: dict[str, Count]
    other_labels: dict[str, Count]
    warnings: dict[str, Count]
    full_release: bool


class AudioMadeFrom(Settings):
    """``settings`` of ``audio``; ``sources`` is the digest of ids, files' sums and times."""

    audio: AudioSettings
    sources: Sha256


class ExcludedAudio(Settings):
    """An utterance that could not be decoded."""

    utterance_id: str
    file: str
    reason: str


class AudioFacts(Settings):
    """``facts`` of ``audio``."""

    n_samples: Count
    n_utterances: Number
    excluded: tuple[ExcludedAudio, ...]


class LldMadeFrom(Settings):
    """``settings`` of ``lld``."""

    lld: LldSettings


class LldFacts(Settings):
    """``facts`` of ``lld``; ``names`` are the columns."""

    names: Names
    n_frames: Count
    n_utterances: Number
    hop_ms: float


class SplitsMadeFrom(Settings):
    """``settings`` of ``splits``."""

    folds: FoldSettings


class FoldFacts(Settings):
    """Who is what in one fold."""

    number: Number
    test: Names
    validation: tuple[str, ...]
    train: Names


class SplitsFacts(Settings):
    """``facts`` of ``splits``."""

    folds: tuple[FoldFacts, ...] = Field(min_length=1)
    text_overlap: tuple[dict[str, float | int | None], ...]


class TeacherMadeFrom(Settings):
    """``settings`` of ``folds/NN/<teacher>``."""

    fold: Number
    teacher: TeacherSettings


class Scores(Settings):
    """How a teacher does on one role's utterances of its fold; confusion: row = truth."""

    wa: Share
    ua: Share
    n: Number
    confusion: tuple[tuple[Count, ...], ...]


def _with_test(scores: dict[str, Scores]) -> dict[str, Scores]:
    if "test" not in scores:
        raise ValueError("none of the test speaker")
    return scores


RoleScores = Annotated[dict[str, Scores], AfterValidator(_with_test)]
"""By role: ``train``, ``validation`` where there are such speakers, ``test``."""


class TeacherFacts(Settings):
    """``facts`` of ``folds/NN/<teacher>``: whom it has seen, and how well it does."""

    fold: Number
    kind: str
    fitted_on: Names
    selected_on: tuple[str, ...]
    held_out: Names
    temperature: None
    parameters: Count
    embedding_width: Number
    scores: RoleScores
    best_epoch: Number
    history: tuple[dict[str, float], ...]


class CrossFitMadeFrom(TeacherMadeFrom):
    """``settings`` of ``folds/NN/<teacher>-crossfit<K>``; ``cross_fit`` is K."""

    cross_fit: int = Field(ge=2, strict=True)


class CrossFitPart(Settings):
    """One of K teachers: whom it has seen, and in ``held_out`` whose targets it gave."""

    held_out: Names
    fitted_on: Names
    selected_on: tuple[str, ...]
    residual: Annotated[float, Field(ge=0)]
    """How far its class means remain from the common axes, relative to their distance from 0."""
    parameters: Count
    best_epoch: Number
    history: tuple[dict[str, float], ...]


class Agreement(Settings):
    """Mean cosine of different parts' embeddings, over utterances that none was fitted on."""

    same: float
    """Of the same utterance."""
    different: float
    """Of two different ones: what ``same`` is to be compared with."""


class CrossFitFacts(Settings):
    """``facts`` of ``folds/NN/<teacher>-crossfit<K>``.

    ``scores`` of training are of each utterance by the part that never saw its speaker.
    """

    fold: Number
    kind: str
    fitted_on: Names
    """By any part."""
    selected_on: tuple[str, ...]
    held_out: Names
    """By all parts: the fold's test speakers."""
    parts: tuple[CrossFitPart, ...] = Field(min_length=2)
    beyond_training: Literal["mean of the parts"]
    """What is kept of utterances that are not the fold's training utterances."""
    agreement: Agreement
    temperature: None
    parameters: Count
    """Of all parts together."""
    embedding_width: Number
    scores: RoleScores


class Nothing(Settings):
    """A kept teacher's record tells nothing beyond its files and its parent."""


_KINDS: dict[str, tuple[type[Settings], type[Settings]]] = {
    "corpus": (CorpusMadeFrom, CorpusFacts),
    "audio": (AudioMadeFrom, AudioFacts),
    "lld": (LldMadeFrom, LldFacts),
    "splits": (SplitsMadeFrom, SplitsFacts),
    "folds": (TeacherMadeFrom, TeacherFacts),
    "cross-fit": (CrossFitMadeFrom, CrossFitFacts),
    "weights": (Nothing, Nothing),
}


def check_record(unit: str, settings: Any, facts: Any, place: str) -> None:
    """Refuse a record that this program could not have written.

    Args:
        unit: the unit's name, e.g. ``folds/01/linguistic``.
        settings: what the record says that it was made from.
        facts: what the record says of the outcome.
        place: the record's file, for the message.

    Raises:
        Corrupt: with every fault at once.
    """
    faults: list[str] = []
    kind = unit.partition("/")[0]
    if kind == "folds" and CROSS_FITTED.match(unit):
        kind = "cross-fit"
    for name, model, value in zip(
        ("settings", "facts"), _KINDS[kind], (settings, facts), strict=True
    ):
        try:
            model.model_validate_json(canonical(value))
        except ValidationError as error:
            faults += [
                printable(f"{name}.{'.'.join(map(str, item['loc']))}: {item['msg']}")
                for item in error.errors(include_input=False)
            ]
    if faults:
        raise Corrupt(
            f"{place}: not the record of a {kind} unit:\n{listed(faults, 5)}",
            REPAIR,
        )
