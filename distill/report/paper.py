"""Which scores may be held against the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.report.published import Published
from distill.runs.records import RunFacts
from featstore.core.settings import flat, resolve


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
        settings: ``config.toml`` as nested tables; what it does not tell is taken to be so.
    """
    from distill.config import VARIANTS, RunSettings  # brings torch

    if variant not in VARIANTS:
        return False
    paper = flat(resolve(RunSettings, VARIANTS[variant]).model_dump(mode="json"))
    told = flat(settings)
    decisive = [
        key for key in paper
        if key.startswith(("losses.", "targets.")) or key == "optim.class_weights"
    ]  # fmt: skip
    return all(told[key] == paper[key] for key in decisive if key in told)
