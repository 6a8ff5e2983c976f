"""Which utterances' audio can be used: what a header cannot tell shows when it is decoded.

A manifest is made from labels, transcripts and the headers of the audio. NaN, silence, a cut-off
file or a copy of somebody else's recording show only in the samples. ``featstore check`` decodes
everything for this alone; a build reads each utterance by the same :func:`read` when it writes the
audio, and excludes by the same :func:`with_verdicts`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from featstore.core.config import AudioSettings
from featstore.core.console import Advance, progress
from featstore.core.schema import Fault, Manifest
from featstore.corpora.manifest import empty_classes, fault, silent_speakers
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


class Clip(NamedTuple):
    """One utterance's audio: whose it is, where it lies, and a digest of its decoded samples."""

    utterance_id: str
    speaker: str
    file: str
    digest: bytes


def sources(table: pd.DataFrame) -> list[Source]:
    """Where the audio of each row of a manifest lies."""
    columns = (table[name].tolist() for name in Source._fields)
    return [Source(*row) for row in zip(*columns, strict=True)]


def read(root: Path, source: Source, settings: AudioSettings) -> tuple[Clip, Signal, int] | Fault:
    """An utterance decoded at its file's own rate, or what is wrong with its audio.

    Returns:
        A digest of the samples to find copies by, the samples ``[T]`` and the rate in Hz.
    """
    path = root / source.file
    try:
        signal, rate = read_mono(path, source.start_s, source.duration_s, settings)
    except BadAudio as bad:
        message = f"{source.utterance_id}: {bad.message.removeprefix(f'{path}: ')}"
        return fault(
            bad.reason, source.file, message, bad.hint, utterance_id=source.utterance_id
        )  # fmt: skip
    digest = hashlib.sha256(str(rate).encode("ascii"))
    digest.update(signal.data)
    clip = Clip(source.utterance_id, source.speaker, source.file, digest.digest())
    return clip, signal, rate


def with_verdicts(manifest: Manifest, clips: Sequence[Clip], faults: Sequence[Fault]) -> Manifest:
    """The manifest of those utterances whose audio can be used, with a fault for each other one.

    A copy under another speaker is warned of. A speaker or a class that is lost with its last
    audio is a fault that stops a build, for its folds would silently be others.

    Args:
        manifest: a corpus as read.
        clips: of the utterances that could be decoded.
        faults: of the others.
    """
    copies = identical_audio(clips)
    if not faults:
        return replace(manifest, faults=(*manifest.faults, *copies))
    kept = without(manifest.utterances, {one.utterance_id for one in faults})
    return replace(
        manifest,
        utterances=kept,
        faults=(*manifest.faults, *faults, *copies, *_lost(manifest, kept)),
        full_release=False,
    )


def without(table: pd.DataFrame, utterances: set[str]) -> pd.DataFrame:
    """The rows of all other utterances."""
    return table[~table["utterance_id"].isin(utterances)].reset_index(drop=True)


def checked(manifest: Manifest, settings: AudioSettings, threads: int = THREADS) -> Manifest:
    """Decode everything and keep nothing but the verdict, see :func:`with_verdicts`.

    Args:
        manifest: a corpus as read.
        settings: the limits on duration.
        threads: how many decode.
    """
    rows = sources(manifest.utterances)
    faults: list[Fault] = []
    clips: list[Clip] = []

    def decode(source: Source) -> Clip | Fault:
        result = read(manifest.root, source, settings)
        return result if isinstance(result, Fault) else result[0]

    with progress_of("audio checked", rows) as advance:
        for result in in_threads(decode, rows, threads):
            if isinstance(result, Fault):
                faults.append(result)
            else:
                clips.append(result)
            advance()
    return with_verdicts(manifest, clips, faults)


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


def _lost(manifest: Manifest, kept: pd.DataFrame) -> list[Fault]:
    """Speakers and classes that the headers promise and the samples do not hold."""
    first = manifest.utterances.drop_duplicates("speaker")
    places = dict(zip(first["speaker"], ((file, None) for file in first["file"]), strict=True))
    present = set(manifest.utterances["label"])
    classes = [name for name in manifest.classes if name in present]
    return [
        *silent_speakers(places, set(kept["speaker"])),
        *empty_classes(classes, set(kept["label"])),
    ]


def identical_audio(clips: Iterable[Clip]) -> list[Fault]:
    """A warning for each pair of utterances of two speakers whose samples are the same.

    Samples are compared and not files, so that a copy in another format, under another header or
    cut out of a longer recording is found too.
    """
    groups: dict[bytes, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.digest, []).append(clip)
    return [_copy(*pair) for pair in sorted(set().union(*map(_across, groups.values())))]


def _across(group: Sequence[Clip]) -> set[tuple[Clip, Clip]]:
    """Each clip with the first one of another speaker: all are named, without all n^2 pairs."""
    first = group[0]
    second = next((clip for clip in group if clip.speaker != first.speaker), None)
    if second is None:
        return set()
    others = ((clip, second if clip.speaker == first.speaker else first) for clip in group)
    return {(a, b) if a < b else (b, a) for a, b in others}


def _copy(first: Clip, second: Clip) -> Fault:
    return fault(
        "identical-audio",
        second.file,
        f"{second.utterance_id} ({second.speaker}) is the same audio as {first.utterance_id} "
        f"({first.speaker}, {first.file})",
        "find out who speaks and remove the other one; a copy in training gives a test away",
        utterance_id=second.utterance_id,
        severity="warn",
    )
