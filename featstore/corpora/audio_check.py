"""Every utterance heard before anything is built: what a header cannot tell is told here.

A manifest is made from labels, transcripts and the headers of the audio. NaN, silence, a cut-off
file or a copy of somebody else's recording show only when it is decoded, which costs some five
seconds for the seven hours of IEMOCAP; so a check and a build both do it first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from featstore.core.config import AudioSettings
from featstore.core.console import Advance, progress
from featstore.core.schema import Fault, Manifest
from featstore.corpora.duplicates import Clip, identical_audio
from featstore.corpora.manifest import empty_classes, fault, silent_speakers
from featstore.features.audio import BadAudio, read_mono

if TYPE_CHECKING:
    import pandas as pd

THREADS = 4
"""Decoding gives Python's lock back. Each thread may hold a long file at a high rate, so that
there are not as many as a large machine has CPUs."""
_AT_A_TIME = 64
_WORTH_TELLING_S = 3600.0


class _Source(NamedTuple):
    utterance_id: str
    speaker: str
    file: str
    start_s: float
    duration_s: float


def heard(manifest: Manifest, settings: AudioSettings, threads: int = THREADS) -> Manifest:
    """The manifest of those utterances whose audio can be used, with a fault for each other one.

    A copy under another speaker is warned of. A speaker or a class that is lost with its last
    audio is a fault that stops a build, for its folds would silently be others.

    Args:
        manifest: a corpus as read.
        settings: the limits on duration.
        threads: how many decode.
    """
    table = manifest.utterances
    sources = _sources(table)
    batches = [sources[at : at + _AT_A_TIME] for at in range(0, len(sources), _AT_A_TIME)]
    hear = partial(_hear, manifest.root, settings)
    faults: list[Fault] = []
    clips: list[Clip] = []
    with _progress(sources) as advance, ThreadPoolExecutor(threads) as pool:
        for results in pool.map(hear, batches):
            clips += [one for one in results if isinstance(one, Clip)]
            faults += [one for one in results if isinstance(one, Fault)]
            advance(len(results))
    if not faults:
        return replace(manifest, faults=(*manifest.faults, *identical_audio(clips)))
    kept = table[table["utterance_id"].isin([clip.utterance_id for clip in clips])]
    return replace(
        manifest,
        utterances=kept.reset_index(drop=True),
        faults=(*manifest.faults, *faults, *identical_audio(clips), *_lost(manifest, kept)),
        full_release=False,
    )


def _progress(sources: Sequence[_Source]) -> AbstractContextManager[Advance]:
    """None for a corpus that is heard before anybody could read it."""
    if sum(source.duration_s for source in sources) < _WORTH_TELLING_S:
        return nullcontext(lambda n: None)
    return progress("audio checked", len(sources), unit="utterances")


def _sources(table: pd.DataFrame) -> list[_Source]:
    columns = (table[name].tolist() for name in _Source._fields)
    return [_Source(*row) for row in zip(*columns, strict=True)]


def _hear(root: Path, settings: AudioSettings, sources: Sequence[_Source]) -> list[Clip | Fault]:
    return [_listen(root, settings, source) for source in sources]


def _listen(root: Path, settings: AudioSettings, source: _Source) -> Clip | Fault:
    path = root / source.file
    try:
        signal, rate = read_mono(path, source.start_s, source.duration_s, settings)
    except BadAudio as bad:
        message = bad.message.removeprefix(f"{path}: ")
        return fault(
            bad.reason,
            source.file,
            f"{source.utterance_id}: {message}",
            bad.hint,
            utterance_id=source.utterance_id,
        )
    digest = hashlib.sha256(str(rate).encode("ascii"))
    digest.update(signal.data)
    return Clip(source.utterance_id, source.speaker, source.file, digest.digest())


def _lost(manifest: Manifest, kept: pd.DataFrame) -> list[Fault]:
    """Who and what was there by the headers and is not there by ear."""
    first = manifest.utterances.drop_duplicates("speaker")
    places = dict(zip(first["speaker"], ((file, None) for file in first["file"]), strict=True))
    had = set(manifest.utterances["label"])
    classes = [name for name in manifest.classes if name in had]
    return [
        *silent_speakers(places, set(kept["speaker"])),
        *empty_classes(classes, set(kept["label"])),
    ]
