"""RAVDESS: 24 actors say two sentences in eight emotions.

Livingstone & Russo 2018, "The Ryerson Audio-Visual Database of Emotional Speech and Song", doi
10.5281/zenodo.1188976; North American English, 48 kHz, 16 bit, mono but for a few stereo files;
CC BY-NC-SA 4.0. Of its archives only ``Audio_Speech_Actors_01-24.zip`` is needed: 1,440 files in
``Actor_01`` ... ``Actor_24``, or all in one folder. Named
``modality-channel-emotion-intensity-statement-repetition-actor.wav``, two digits each. Video,
full-AV and song files are passed over and counted. Actors with odd numbers are men.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from featstore.core.config import CorpusSettings
from featstore.core.schema import Manifest
from featstore.corpora.named import Named, Skipped, incomplete, read_named
from featstore.corpora.rows import choose_labels

ABOUT = "RAVDESS: CC BY-NC-SA 4.0, Audio_Speech_Actors_01-24.zip from doi 10.5281/zenodo.1188976"

EMOTIONS: Mapping[str, str] = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
STATEMENTS: Mapping[str, str] = {
    "01": "Kids are talking by the door",
    "02": "Dogs are sitting by the door",
}
MODALITIES: Mapping[str, str] = {"01": "full audio-visual", "02": "video only", "03": "audio only"}
CHANNELS: Mapping[str, str] = {"01": "speech", "02": "song"}
N_ACTORS = 24
PER_ACTOR = 60

_NAME = re.compile(
    r"(?P<modality>0[1-3])-(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])"
    r"-(?P<statement>0[12])-(?P<repetition>0[12])-(?P<actor>0[1-9]|1\d|2[0-4])\.(?:wav|flac|mp4)\Z",
    re.ASCII | re.IGNORECASE,
)


def parse(name: str) -> Named | Skipped | None:
    """What a file name says.

    >>> said = parse("03-01-05-02-01-01-12.wav")
    >>> said.speaker, said.gender, said.label_raw
    ('actor12', 'female', 'angry')
    >>> parse("03-02-05-02-01-01-12.wav")
    Skipped(why='song, audio only')
    """
    match = _NAME.match(name)
    if match is None:
        return None
    part = match.groupdict()
    if part["modality"] != "03" or part["channel"] != "01":
        return Skipped(f"{CHANNELS[part['channel']]}, {MODALITIES[part['modality']]}")
    return Named(
        utterance_id=name[:20],
        speaker=f"actor{part['actor']}",
        gender="male" if int(part["actor"]) % 2 else "female",
        text=STATEMENTS[part["statement"]],
        label_raw=EMOTIONS[part["emotion"]],
    )


def read(root: Path, settings: CorpusSettings) -> Manifest:
    """Read RAVDESS' audio-only speech; the raw labels are the eight emotions' English names.

    Raises:
        UserError: where root holds no such file, or the label settings make no sense.
    """
    names = tuple(EMOTIONS.values())
    labels = choose_labels(settings, {name: name for name in names}, names, names)
    manifest = read_named("ravdess", root, settings, labels, parse, "03-01-05-02-01-01-12.wav")
    if settings.label_map is not None or settings.classes is not None:
        return manifest
    full = {f"actor{number:02}": PER_ACTOR for number in range(1, N_ACTORS + 1)}
    return replace(manifest, faults=(*manifest.faults, *incomplete(manifest, full)))
