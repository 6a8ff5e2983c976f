"""The same audio under two speakers: a copy in training gives the test utterance away."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from featstore.corpora.files import fault, kind_of
from featstore.schema import Fault, Manifest

T = TypeVar("T")
Pair = tuple[str, str]

_BLOCK_BYTES = 1024**2


class _Clip(NamedTuple):
    utterance_id: str
    speaker: str
    file: str
    start_ms: int
    duration_ms: int


def identical_audio(
    manifest: Manifest, threads: int = 4
) -> tuple[tuple[Pair, ...], tuple[Fault, ...]]:
    """Pairs of utterances that are the same audio under two speakers, and a warning for each.

    The same audio is the same stretch of one file, or of two files with the same bytes. Only files
    that share their size with one of another speaker are read, so a corpus is rarely read whole.

    Args:
        manifest: a corpus as read; files are looked for below its root.
        threads: hashing gives Python's lock back, so threads help.

    Returns:
        The pairs, each in order of utterance id, and the faults. A file that has meanwhile
        disappeared is passed over: the build will name it.
    """
    table = manifest.utterances
    clips = [
        _Clip(name, speaker, file, round(start_s * 1000), round(duration_s * 1000))
        for name, speaker, file, start_s, duration_s in zip(
            *(table[key].tolist() for key in ("utterance_id", "speaker", "file")),
            *(table[key].tolist() for key in ("start_s", "duration_s")),
            strict=True,
        )
    ]
    speakers_of: dict[str, set[str]] = {}
    for clip in clips:
        speakers_of.setdefault(clip.file, set()).add(clip.speaker)
    digests = _digests(manifest.root, speakers_of, threads)
    groups = _grouped(
        clips, lambda clip: (digests.get(clip.file, clip.file), clip.start_ms, clip.duration_ms)
    )
    pairs = sorted({pair for group in groups for pair in _across(group)})
    return (
        tuple((first.utterance_id, second.utterance_id) for first, second in pairs),
        tuple(_fault(first, second) for first, second in pairs),
    )


def _digests(root: Path, speakers_of: dict[str, set[str]], threads: int) -> dict[str, str]:
    sizes: dict[str, int] = {}
    for file in speakers_of:
        # The manifest was read a moment ago, but a pipe put there since would hang a reader.
        if kind_of(root / file, root) == "file":
            sizes[file] = (root / file).stat().st_size
    same_size = _grouped(sizes, lambda file: sizes[file])
    shared = [
        file
        for files in same_size
        if len(set().union(*(speakers_of[file] for file in files))) > 1
        for file in files
    ]
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda file: _sha256(root / file), shared)
        return {file: digest for file, digest in zip(shared, found, strict=True) if digest}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """The items that share their key with another one."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [group for group in groups.values() if len(group) > 1]


def _across(group: Sequence[_Clip]) -> set[tuple[_Clip, _Clip]]:
    """Each clip with the first one of another speaker: all are named, without all n^2 pairs."""
    first = group[0]
    second = next((clip for clip in group if clip.speaker != first.speaker), None)
    if second is None:
        return set()
    others = ((clip, second if clip.speaker == first.speaker else first) for clip in group)
    return {(a, b) if a < b else (b, a) for a, b in others}


def _fault(first: _Clip, second: _Clip) -> Fault:
    return fault(
        "identical-audio",
        second.file,
        f"{second.utterance_id} ({second.speaker}) is the same audio as {first.utterance_id} "
        f"({first.speaker}, {first.file})",
        "find out who speaks and remove the other one; a copy in training gives a test away",
        utterance_id=second.utterance_id,
        severity="warn",
    )
