"""Which utterances' audio can be used: what a header cannot tell shows when it is decoded.

A manifest is made from labels, transcripts and the headers of the audio. NaN, silence, a cut-off
file or a copy of somebody else's recording show only in the samples. ``featstore check`` decodes
everything for this alone; a build reads each utterance by the same :func:`read` when it writes the
audio, and excludes by the same :func:`with_verdicts`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from featstore.core.config import AudioSettings
from featstore.core.console import Advance, progress
from featstore.core.schema import Fault, Manifest
from featstore.corpora.manifest import fault, losses
from featstore.features.audio import BadAudio, Signal, read_mono

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
R = TypeVar("R")

THREADS = 4
"""Decoding gives Python's lock back. Each thread may hold a long file at a high rate, so that
there are not as many as a large machine has CPUs."""
PROGRESS_FROM_S = 3600.0
"""Less audio than this is decoded before anybody could read a progress line."""


class Source(NamedTuple):
    """Where an utterance's audio lies, and whose it is."""

    utterance_id: str
    speaker: str
    file: str
    start_s: float
    duration_s: float


def sources(utterances: pd.DataFrame) -> list[Source]:
    """Where the audio of each row of a manifest lies."""
    rows = utterances[list(Source._fields)].itertuples(index=False, name=None)
    return [Source(*row) for row in rows]


def read(root: Path, source: Source, settings: AudioSettings) -> tuple[bytes, Signal, int] | Fault:
    """An utterance decoded at its file's own rate, or what is wrong with its audio.

    Returns:
        A digest of the samples to find copies by, the samples ``[T]`` and the rate in Hz.
    """
    path = root / source.file
    try:
        signal, rate = read_mono(path, source.start_s, source.duration_s, settings)
    except BadAudio as bad:
        message = f"{source.utterance_id}: {bad.message.removeprefix(f'{path}: ')}"
        return fault(bad.reason, source.file, message, bad.hint, utterance_id=source.utterance_id)
    digest = hashlib.sha256(str(rate).encode("ascii"))
    digest.update(signal.data)
    return digest.digest(), signal, rate


def checked(manifest: Manifest, settings: AudioSettings, threads: int = THREADS) -> Manifest:
    """Decode everything and keep nothing but the verdict, see :func:`with_verdicts`.

    Args:
        manifest: a corpus as read.
        settings: the limits on duration.
        threads: how many decode.
    """
    rows = sources(manifest.utterances)
    faults: list[Fault] = []
    digests: dict[str, bytes] = {}

    def decode(row: Source) -> bytes | Fault:
        result = read(manifest.root, row, settings)
        return result if isinstance(result, Fault) else result[0]

    with progress_of("audio checked", rows) as advance:
        for row, result in zip(rows, in_threads(decode, rows, threads), strict=True):
            if isinstance(result, Fault):
                faults.append(result)
            else:
                digests[row.utterance_id] = result
            advance()
    return with_verdicts(manifest, digests, faults)


def with_verdicts(
    manifest: Manifest, digests: Mapping[str, bytes], faults: Sequence[Fault]
) -> Manifest:
    """The manifest of those utterances whose audio can be used, with a fault for each other one.

    A copy under another speaker is warned of. A speaker or a class that is lost with its last
    audio is a fault that stops a build, for its folds would silently be others.

    Args:
        manifest: a corpus as read.
        digests: of the utterances that could be decoded, by id.
        faults: of the others.
    """
    copies = _identical_audio(manifest, digests)
    if not faults:
        return replace(manifest, faults=(*manifest.faults, *copies))
    table = manifest.utterances
    kept = without(table, {one.utterance_id for one in faults})
    first = table.drop_duplicates("speaker")
    places = dict(zip(first["speaker"], ((file, None) for file in first["file"]), strict=True))
    present = set(table["label"])
    lost = losses(kept, places, [name for name in manifest.classes if name in present])
    every = (*manifest.faults, *faults, *copies, *lost)
    return replace(manifest, utterances=kept, faults=every, full_release=False)


def without(table: pd.DataFrame, utterances: set[str]) -> pd.DataFrame:
    """The rows of all other utterances."""
    return table[~table["utterance_id"].isin(utterances)].reset_index(drop=True)


def _identical_audio(manifest: Manifest, digests: Mapping[str, bytes]) -> list[Fault]:
    """A warning for each pair of utterances of two speakers whose samples are the same.

    Samples are compared and not files, so that a copy in another format, under another header or
    cut out of a longer recording is found too. Each utterance is paired with the first one of
    another speaker: all are named, without all n^2 pairs.
    """
    groups: dict[bytes, list[Source]] = {}
    for row in sources(manifest.utterances):
        if row.utterance_id in digests:
            groups.setdefault(digests[row.utterance_id], []).append(row)
    pairs: set[tuple[Source, Source]] = set()
    for group in groups.values():
        first = group[0]
        others = [row for row in group if row.speaker != first.speaker]
        pairs |= {(first, row) for row in others}
        pairs |= {(row, others[0]) for row in group if others and row.speaker == first.speaker}
    return [
        fault(
            "identical-audio",
            b.file,
            f"{b.utterance_id} ({b.speaker}) is the same audio as {a.utterance_id} "
            f"({a.speaker}, {a.file})",
            utterance_id=b.utterance_id,
        )
        for a, b in sorted({(min(pair), max(pair)) for pair in pairs})
    ]


def progress_of(what: str, rows: Sequence[Source]) -> AbstractContextManager[Advance]:
    """The progress of decoding; none where it takes no time."""
    if sum(row.duration_s for row in rows) < PROGRESS_FROM_S:
        return nullcontext(lambda n=1, note="": None)
    return progress(what, len(rows), unit="utterances")


def in_threads(function: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[R]:
    """Map in order by ``jobs`` threads, with only a few results waiting at a time."""
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 4 * max(jobs, 1):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
