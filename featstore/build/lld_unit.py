"""The LLD unit: extracted utterance by utterance, and taken over where the signal is the same.

Next to the LLDs stands each signal's SHA-256, so that one edited recording costs one extraction.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from featstore.core.config import LldSettings
from featstore.core.console import progress
from featstore.core.schema import UserError
from featstore.features import lld
from featstore.features.audio import Samples
from featstore.features.lld import Lld
from featstore.store.arrays import RaggedWriter, read_array, write_array, write_group
from featstore.store.provenance import versions
from featstore.store.ragged import Ragged
from featstore.store.staging import staged
from featstore.store.store import Store
from featstore.store.unit import Identity

ROWS = 40 * 1024
"""Rows a chunk: about 4 MiB."""

SUMS = "signal_sha256"


def lld_identity(settings: LldSettings, audio: Identity) -> Identity:
    """The LLDs: a pure function of the audio unit."""
    return Identity("lld", {"lld": settings.model_dump(mode="json")}, {"audio": audio.fingerprint})


def write_lld(
    store: Store,
    identity: Identity,
    settings: LldSettings,
    signals: Iterable[Samples],
    n_utterances: int,
    jobs: int,
    *,
    replace: bool = False,
    n_bytes: int | None = None,
) -> int:
    """Extract and write the LLDs of every utterance, in order.

    Args:
        store: where to.
        identity: of the unit.
        settings: which descriptors.
        signals: the store's signals, in order.
        n_utterances: how many, for the progress.
        jobs: processes.
        replace: swap out the unit that stands there.
        n_bytes: about how large it will be.

    Returns:
        How many utterances were taken over from the unit that stood there.
    """
    source = Extraction(store, identity, settings, signals, jobs)
    commit_lld(store, identity, settings, source, n_utterances, replace=replace, n_bytes=n_bytes)
    return source.taken


class LldSource(Protocol):
    """LLDs on their way into a unit.

    Attributes:
        sums: SHA-256 of each signal, once its LLDs have been taken.
        taken: how many of them came from the unit that stood there.
    """

    sums: list[bytes]
    taken: int

    def values(self) -> Iterator[Lld]:
        """Every utterance's, in order."""


def commit_lld(
    store: Store,
    identity: Identity,
    settings: LldSettings,
    source: LldSource,
    n_utterances: int,
    *,
    replace: bool = False,
    n_bytes: int | None = None,
) -> None:
    """Write the unit, whatever its LLDs come from; arguments as of :func:`write_lld`."""
    with staged(store.path / "lld", identity, replace=replace, n_bytes=n_bytes) as staging:
        with progress("LLDs", n_utterances, unit="utterances") as advance:
            n_frames = write_values(staging.folder, settings, source, advance)
        columns = lld.names(settings.feature_set)
        staging.facts.update(
            names=list(columns), n_frames=n_frames, hop_ms=lld.HOP_MS, n_utterances=n_utterances
        )
        staging.provenance.update(versions())


def write_values(
    folder: Path, settings: LldSettings, source: LldSource, advance: Callable[[], None]
) -> int:
    """Write the arrays of a unit or of a part of one; how many frames they hold."""
    write_group(folder)
    width = len(lld.names(settings.feature_set))
    writer = RaggedWriter(folder, "float32", (width,), ROWS, "frame", ("descriptor",))
    for values in source.values():
        writer.append(values)
        advance()
    n_frames = writer.close()
    sums = np.frombuffer(b"".join(source.sums), dtype=np.int8).reshape(-1, 32)
    write_array(folder, SUMS, sums, ("utterance", "byte"))
    return n_frames


class Extraction:
    """LLDs extracted now, but for those that are there already for the very same signal."""

    def __init__(
        self,
        store: Store,
        identity: Identity,
        settings: LldSettings,
        signals: Iterable[Samples],
        jobs: int,
    ) -> None:
        self.sums: list[bytes] = []
        self.taken = 0
        self._signals, self._feature_set, self._jobs = signals, settings.feature_set, jobs
        self._rows: dict[bytes, int] = {}
        self._old: Ragged | None = None
        try:
            unit = store.unit("lld", deep=True)
            if _same_extractor(unit.settings, unit.provenance, identity.settings):
                sums: npt.NDArray[Any] = read_array(unit.path / SUMS)
                self._old = Ragged(unit.path, check=False)
                self._rows = {row.tobytes(): at for at, row in enumerate(sums)}
        except UserError:  # none there, or nothing that can be relied on
            self._rows = {}

    def values(self) -> Iterator[Lld]:
        """Each signal's LLDs in order; only unknown signals go to the extractor."""
        waiting: deque[int | None] = deque()

        def unknown() -> Iterator[Samples]:
            for samples in self._signals:
                self.sums.append(hashlib.sha256(samples.tobytes()).digest())
                row = self._rows.get(self.sums[-1])
                waiting.append(row)
                if row is None:
                    yield samples

        for values in lld.extract_all(unknown(), self._feature_set, self._jobs):
            yield from self._taken_over(waiting)
            waiting.popleft()
            yield values
        yield from self._taken_over(waiting)

    def _taken_over(self, waiting: deque[int | None]) -> Iterator[Lld]:
        """The known ones that come before the next extracted one."""
        while waiting and waiting[0] is not None and self._old is not None:
            self.taken += 1
            yield self._old.read(waiting.popleft() or 0)


def _same_extractor(
    old: Mapping[str, Any], provenance: Mapping[str, str], new: Mapping[str, Any]
) -> bool:
    """Whether the old values are, to the byte, what would be extracted today."""
    return old == new and provenance.get("opensmile") == versions().get("opensmile")
