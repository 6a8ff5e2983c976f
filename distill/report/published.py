"""What the paper printed: Table 1, Table 2 and Figure 2, read from ``published.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from pydantic import Field

from distill.runs.records import RunFacts
from featstore.core.settings import Settings, flat, resolve


class Source(Settings):
    """Which paper it is, and on what its figures were measured."""

    title: str
    arxiv: str
    dataset: str
    classes: tuple[str, ...]
    scheme: str
    folds: int
    note: str
    """What a reader must know before quoting a figure."""


class Figures(Settings):
    """One printed pair, in percent; None where the paper prints a dash."""

    wa: float | None = Field(None, ge=0, le=100)
    ua: float | None = Field(None, ge=0, le=100)


class Method(Figures):
    """A row of Table 1: EmoDistill, or a method that it is compared with."""

    method: str
    backbone: str
    modality: Literal["multimodal", "unimodal"]
    reference: int | None = None
    """Number in the paper's list of references; None for EmoDistill itself."""
    student: str | None = None
    """Our name of the backbone, for EmoDistill's own rows."""


class Ablation(Figures):
    """A row of Table 2: a variant of the student, or a teacher on its own."""

    printed: str
    variant: str | None = None
    teacher: str | None = None


class Sweep(Settings):
    """A panel of Figure 2: the temperatures tried with one teacher left, and the best of them."""

    side: Literal["left", "right"]
    variant: str
    teacher: str
    tau: tuple[float, ...]
    best: float


class Published(Settings):
    """All figures of the paper."""

    source: Source
    students: dict[str, tuple[str, ...]]
    """The paper's backbone -> the names under which our students load it."""
    table1: tuple[Method, ...]
    table2: tuple[Ablation, ...]
    figure2: tuple[Sweep, ...]

    def student(self, variant: str, backbone: str) -> Figures | None:
        """The pair printed for a variant of a student; None where the paper has none.

        >>> figures = load().student("full", "hubert-large")
        >>> figures.wa, figures.ua
        (77.49, 78.91)
        >>> load().student("full", "tiny") is None
        True
        """
        backbones = {ours: name for name, names in self.students.items() for ours in names}
        name = backbones.get(backbone)
        if variant == "full":
            return next((m for m in self.table1 if name and m.student == name), None)
        if name != "hubert-base":  # Table 2 was made with HuBERT-base alone
            return None
        return next((row for row in self.table2 if row.variant == variant), None)

    def teacher(self, name: str) -> Figures | None:
        """The pair printed for a teacher alone; None where the paper has none.

        >>> load().teacher("prosodic").ua
        50.08
        """
        return next((row for row in self.table2 if row.teacher == name), None)


@lru_cache(maxsize=1)
def load() -> Published:
    """The figures shipped with this package."""
    text = resources.files("distill.report").joinpath("published.toml").read_text(encoding="utf-8")
    return Published.model_validate(tomllib.loads(text))


def incomparable(facts: RunFacts, printed: Published) -> str:
    """Why a run's scores must not be held against the paper's; empty where they may be."""
    source = printed.source
    if facts.dataset != source.dataset:
        return f"they are about {source.dataset.upper()}, this corpus is {facts.dataset}"
    if set(facts.classes) != set(source.classes):
        return f"they are about the classes {', '.join(source.classes)}"
    if not facts.full_release:
        return f"this is not the full {source.dataset.upper()} release"
    protocol = facts.protocol
    if (protocol.scheme, facts.n_folds) != (source.scheme, source.folds):
        return f"they are about {source.folds} folds with one speaker left out"
    if protocol.kind != "all" or protocol.script_disjoint:
        return "they are about scripted and improvised dialogues together, texts overlapping"
    return ""


def as_printed(variant: str, settings: Mapping[str, Any]) -> bool:
    """Whether a run's targets, losses and class weights are those of the variant in the paper.

    Args:
        variant: a row of Table 2.
        settings: ``config.toml`` as nested tables; what they lack is taken to be so.
    """
    from distill.config import VARIANTS, RunSettings

    if variant not in VARIANTS:
        return False
    paper = flat(resolve(RunSettings, VARIANTS[variant]).model_dump(mode="json"))
    own = flat(settings)
    decisive = ("losses.", "targets.", "optim.class_weights")
    return all(own.get(key, x) == x for key, x in paper.items() if key.startswith(decisive))
