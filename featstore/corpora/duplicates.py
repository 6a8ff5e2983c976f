"""The same audio under two speakers: a copy in training gives the test utterance away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from featstore.core.schema import Fault
from featstore.corpora.manifest import fault


class Clip(NamedTuple):
    """One utterance's audio: whose it is, where it lies, and a digest of its decoded samples."""

    utterance_id: str
    speaker: str
    file: str
    digest: bytes


def identical_audio(clips: Iterable[Clip]) -> list[Fault]:
    """A warning for each pair of utterances of two speakers whose samples are the same.

    Samples are compared and not files, so that a copy in another format, under another header or
    cut out of a longer recording is found too.
    """
    groups: dict[bytes, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.digest, []).append(clip)
    return [_fault(*pair) for pair in sorted(set().union(*map(_across, groups.values())))]


def _across(group: Sequence[Clip]) -> set[tuple[Clip, Clip]]:
    """Each clip with the first one of another speaker: all are named, without all n^2 pairs."""
    first = group[0]
    second = next((clip for clip in group if clip.speaker != first.speaker), None)
    if second is None:
        return set()
    others = ((clip, second if clip.speaker == first.speaker else first) for clip in group)
    return {(a, b) if a < b else (b, a) for a, b in others}


def _fault(first: Clip, second: Clip) -> Fault:
    return fault(
        "identical-audio",
        second.file,
        f"{second.utterance_id} ({second.speaker}) is the same audio as {first.utterance_id} "
        f"({first.speaker}, {first.file})",
        "find out who speaks and remove the other one; a copy in training gives a test away",
        utterance_id=second.utterance_id,
        severity="warn",
    )
