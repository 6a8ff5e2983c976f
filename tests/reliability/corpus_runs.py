"""A corpus read, checked and built as the commands do it, and what a store then holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import cli
from featstore.build.plan import Request
from featstore.build.run import build
from featstore.core.config import BuildSettings
from featstore.core.schema import Fault, Manifest
from featstore.corpora import audio_check, load
from featstore.inspection import render
from featstore.inspection.corpus import audit
from featstore.store.store import Store
from tests.reliability.corpus_layouts import Layout

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What must not reach a terminal from a corpus."""


class Kept(NamedTuple):
    """What a store holds of one utterance."""

    samples: bytes
    lld: bytes
    text: str
    label: str

    @property
    def signal(self) -> Any:
        return np.frombuffer(self.samples, dtype=np.int16).astype(np.float64)


def settings_of(dataset: str) -> BuildSettings:
    return BuildSettings.model_validate({"corpus": {"name": dataset}, "teachers": {}})


def read(layout: Layout) -> Manifest:
    return load(layout.dataset, layout.root, settings_of(layout.dataset).corpus)


def checked(manifest: Manifest) -> list[Fault]:
    """What ``featstore check`` finds; printed as it prints it."""
    settings = settings_of(manifest.name)
    facts = audit(audio_check.checked(manifest, settings.audio), settings.folds)
    cli._print(facts, False, render.audit)
    return [Fault(**fault) for fault in facts["faults"]]


def built(manifest: Manifest, store: Path, *, strict: bool = False) -> Store:
    """What ``featstore build`` does, without teachers."""
    settings = settings_of(manifest.name)
    build(Request(manifest, settings, store, jobs=1, device="cpu", strict=strict))
    return Store.open(store)


def contents(store: Store) -> Mapping[str, Kept]:
    table = store.utterances
    columns = (table[name] for name in ("utterance_id", "text", "label"))
    return {
        name: Kept(store.audio.read(row).tobytes(), store.lld.read(row).tobytes(), text, label)
        for row, (name, text, label) in enumerate(zip(*columns, strict=True))
    }
