"""Corpora by name: disk -> manifest. An adapter is prose and one function."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.core.config import CorpusSettings
from featstore.core.schema import Manifest, UserError, printable
from featstore.corpora import iemocap, synthetic, table
from featstore.corpora.acted import EMODB, RAVDESS


@dataclass(frozen=True)
class Corpus:
    """What the commands need to know of a corpus.

    Attributes:
        read: ``(root, settings) -> Manifest``; raises UserError where root is not the corpus.
        about: licence and where to get it, one line, shown where the corpus is missing.
        licensed: whether a store made from it holds derived data of licensed speech.
        defaults: settings of a build that this corpus wants to differ from the paper's.
    """

    read: Callable[[Path, CorpusSettings], Manifest]
    about: str
    licensed: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


NO_SESSIONS: Mapping[str, Any] = {"folds": {"validation": "random"}}

CORPORA: Mapping[str, Corpus] = {
    "iemocap": Corpus(iemocap.read, iemocap.ABOUT, licensed=True),
    "ravdess": Corpus(RAVDESS.read, RAVDESS.about, licensed=True, defaults=NO_SESSIONS),
    "emodb": Corpus(EMODB.read, EMODB.about, defaults=NO_SESSIONS),
    "table": Corpus(table.read, table.ABOUT),
    "synthetic": Corpus(synthetic.read, synthetic.ABOUT),
}
"""Every corpus that ``--dataset`` may name."""


def corpus(name: str) -> Corpus:
    """The corpus of this name.

    Raises:
        UserError: where there is none; the hint lists all.
    """
    if name not in CORPORA:
        message = f"no corpus {printable(name)!r}"
        raise UserError(message, f"--dataset takes {', '.join(CORPORA)}")
    return CORPORA[name]


def load(name: str, root: Path | None, settings: CorpusSettings) -> Manifest:
    """Find a corpus and read it; the synthetic one is made where it is not there yet.

    It lies in ``root``, else in ``FEATSTORE_<NAME>_ROOT``, else in ``data/<name>``. The first of
    these that is given counts; where it does not exist, the others are not tried, since a mistyped
    ``--root`` must not end in another corpus.

    Raises:
        UserError: where nothing is there, naming the three places and how to get the corpus; or
            where something else is.
    """
    reader = corpus(name)
    variable = f"FEATSTORE_{name.upper()}_ROOT"
    folder, usual = os.environ.get(variable), Path("data") / name
    place = root if root is not None else Path(folder) if folder else usual
    if name == "synthetic" and not os.path.lexists(place):
        synthetic.generate(place, jobs=None)
    if not place.exists():
        places = (
            f"--root ({root if root is not None else 'not given'}), "
            f"{variable} ({folder or 'not set'}), {usual} (under {Path.cwd()})"
        )
        message = f"{place}: no {name} corpus there; looked at {places}, first given one counts"
        raise UserError(message, reader.about)
    return reader.read(place, settings)
