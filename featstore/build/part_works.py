"""What is done for a part of a unit, and what the unit is then made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featstore.build import units as steps
from featstore.build.lld_unit import SUMS, Extraction, write_values
from featstore.build.parts import Part, each_part
from featstore.core.config import AudioSettings, LldSettings
from featstore.features.audio import BadAudio, Samples
from featstore.features.lld import Lld
from featstore.jobs.processes import default_jobs
from featstore.jobs.task import attended
from featstore.store.arrays import RaggedWriter, read_array, write_group
from featstore.store.provenance import versions
from featstore.store.store import Store

_TELL_EVERY = 50


def audio_part(
    part: Part, found: list[steps.Source], root: Path, settings: AudioSettings, jobs: int | None
) -> None:
    """Decode a stretch of the corpus."""
    excluded: list[list[Any]] = []
    with attended(part.store, part.key) as tell, part.writing() as staging:
        write_group(staging.folder)
        writer = RaggedWriter(
            staging.folder, "int16", (), steps.AUDIO_ROWS, "sample", embed=settings.embed_audio
        )
        for at, result in enumerate(steps.decode(found, root, settings, jobs or default_jobs())):
            if isinstance(result, BadAudio):
                excluded.append([at, result.reason])
            else:
                writer.append(result)
            if at % _TELL_EVERY == 0:
                tell(at, len(found))
        writer.close()
        staging.facts.update(excluded=excluded)
        staging.provenance.update(versions())


def decoded(parts: tuple[Part, ...]) -> Iterator[Samples | BadAudio]:
    """What the parts hold, as :func:`featstore.build.units.decode` would yield it."""
    for part, unit, values in each_part(parts):
        reasons = {row: BadAudio(reason, "", "") for row, reason in unit.facts["excluded"]}
        kept: Iterator[Samples]
        if values is None:  # signals that stay outside the store: only their lengths matter
            lengths = np.diff(read_array(unit.path / "offsets"))
            kept = (np.broadcast_to(np.int16(0), (int(n),)) for n in lengths)
        else:
            kept = values.in_order()
        for row in range(len(part.rows)):
            yield reasons[row] if row in reasons else next(kept)


@dataclass(frozen=True)
class Signals:
    """Where some utterances' signals come from; can be pickled."""

    store: Path
    rows: range
    found: tuple[steps.Source, ...]
    root: Path
    settings: AudioSettings

    def in_order(self, jobs: int) -> Iterator[Samples]:
        """Each utterance's, by so many threads where they are decoded."""
        return steps.signals(
            Store(self.store), self.rows, self.found, self.root, self.settings, jobs
        )


def lld_part(part: Part, settings: LldSettings, signals: Signals, jobs: int | None) -> None:
    """Extract the LLDs of a stretch of the corpus."""
    jobs, done = jobs or default_jobs(), 0
    with attended(part.store, part.key) as tell, part.writing() as staging:

        def advance() -> None:
            nonlocal done
            done += 1
            if done % _TELL_EVERY == 0:
                tell(done, len(part.rows))

        source = Extraction(Store(part.store), part.whole, settings, signals.in_order(jobs), jobs)
        write_values(staging.folder, settings, source, advance)
        staging.facts.update(taken=source.taken)
        staging.provenance.update(versions())


class Gathered:
    """LLDs from parts; see :class:`featstore.build.lld_unit.LldSource`."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self.sums: list[bytes] = []
        self.taken = 0
        self._parts = parts

    def values(self) -> Iterator[Lld]:
        """Every utterance's, in order, each part compared before it is used."""
        for _, unit, values in each_part(self._parts):
            self.taken += int(unit.facts["taken"])
            self.sums.append(read_array(unit.path / SUMS).tobytes())
            if values is not None:
                yield from values.in_order()
