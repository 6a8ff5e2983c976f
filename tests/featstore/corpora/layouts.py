"""Small corpora in IEMOCAP's layout, made on the spot and then damaged by the tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from tests import STANDIN as STANDIN


class Said(NamedTuple):
    utterance_id: str
    code: str
    text: str = "Some words."


def write_wav(path: Path, n_frames: int = 1600, rate: int = 16000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((n_frames, channels), dtype=np.int16), rate, subtype="PCM_16")


def write_dialogue(
    root: Path, dialogue: str, said: Sequence[Said], wav: Path | None = None
) -> None:
    """A dialogue's label file, transcript and wavs; ``wav`` is hard-linked instead of written."""
    session = root / f"Session{dialogue[4]}"
    labels = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
    transcript = session / "dialog" / "transcriptions" / f"{dialogue}.txt"
    folder = session / "sentences" / "wav" / dialogue
    for place in (labels.parent, transcript.parent, folder):
        place.mkdir(parents=True, exist_ok=True)
    summary = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    spoken = []
    for at, (name, code, text) in enumerate(said):
        start, end = 2.0 * at, 2.0 * at + 1.5
        summary.append(f"[{start:.4f} - {end:.4f}]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]")
        summary += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act ; dom  ;\t()", ""]
        spoken.append(f"{name} [{start:08.4f}-{end:08.4f}]: {text}")
        target = folder / f"{name}.wav"
        if wav is None:
            write_wav(target)
        else:
            os.link(wav, target)
    labels.write_text("\n".join(summary), encoding="utf-8")
    transcript.write_text("\n".join(spoken) + "\n", encoding="utf-8")


def write_corpus(root: Path) -> Path:
    """Five sessions, one dialogue each, one utterance of each code for each of two speakers.

    All wavs are one file, 0.1 s long, under many names: tests replace them, never write into them.
    """
    wav = root.parent / "one.wav"
    write_wav(wav)
    for number in range(1, 6):
        dialogue = f"Ses0{number}F_impro01"
        said = [
            Said(f"{dialogue}_{letter}{at:03d}", code, f"Number {at}, {letter}!")
            for at, code in enumerate(("ang", "hap", "exc", "neu", "sad", "xxx"))
            for letter in "FM"
        ]
        write_dialogue(root, dialogue, said, wav)
    return root


def label_file(root: Path, number: int = 1) -> Path:
    name = f"Ses0{number}F_impro01.txt"
    return root / f"Session{number}" / "dialog" / "EmoEvaluation" / name


def transcript_file(root: Path, number: int = 1) -> Path:
    name = f"Ses0{number}F_impro01.txt"
    return root / f"Session{number}" / "dialog" / "transcriptions" / name


def wav_file(root: Path, name: str) -> Path:
    dialogue = name.rpartition("_")[0]
    return root / f"Session{name[4]}" / "sentences" / "wav" / dialogue / f"{name}.wav"
