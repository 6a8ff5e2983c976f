"""Two sound corpora, a table and one in IEMOCAP's layout, and the places where they can be hurt."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from featstore.core.schema import SAMPLING_RATE
from tests.featstore.corpora.layouts import Said, write_dialogue
from tests.reliability.harness import tones

CODES = ("ang", "hap", "neu", "sad")
PER_SPEAKER = 12
"""Turns of each of IEMOCAP's speakers in sessions 1 to 3, beside two scripted ones."""
IN_TABLE = 17


@dataclass(frozen=True)
class Table:
    """The tones: a CSV file with one row per utterance beside its audio.

    Ids are not the files' names, so that a table whose ids are overlooked is another one.
    """

    root: Path
    dataset = "table"

    @property
    def table(self) -> Path:
        return self.root / "table.csv"

    def victims(self) -> list[str]:
        """All but the last utterance of each class of three speakers."""
        return [f"u-{who}{n}" for n in range(IN_TABLE - 2) for who in ("ada", "bo", "cy")]

    def speaker(self, name: str) -> str:
        return name.removeprefix("u-").rstrip("0123456789")

    def sound(self) -> str:
        """An utterance that nothing happens to, and whose copies another speaker gets."""
        return f"u-cy{IN_TABLE - 1}"

    def name(self, wav: Path) -> str:
        return f"u-{wav.stem}"

    def wav(self, name: str) -> Path:
        return self.root / "audio" / f"{name.removeprefix('u-')}.wav"

    def edit(self, name: str, column: str, value: bytes) -> None:
        header, *lines = self.table.read_bytes().split(b"\n")
        at = header.rstrip(b"\r").split(b",").index(column.encode())
        for number, line in enumerate(lines):
            if line.startswith(f"{name},".encode()):
                fields = line.split(b",")
                fields[at] = value
                lines[number] = b",".join(fields)
        self.table.write_bytes(b"\n".join([header, *lines]))

    def say(self, name: str, words: bytes) -> None:
        self.edit(name, "text", words)

    def label(self, name: str, code: bytes) -> None:
        self.edit(name, "label", code)

    def times(self, name: str, start: bytes, end: bytes) -> None:
        self.edit(name, "start", start)
        self.edit(name, "end", end)

    def again(self, name: str, change: Callable[[bytes], bytes] = lambda line: line) -> None:
        data = self.table.read_bytes().rstrip(b"\n")
        line = next(one for one in data.split(b"\n") if one.startswith(f"{name},".encode()))
        self.table.write_bytes(data + b"\n" + change(line) + b"\n")

    def texts(self, name: str) -> list[Path]:
        return [self.table]


@dataclass(frozen=True)
class Iemocap:
    """Five sessions of two speakers: an improvised dialogue each and a short scripted one."""

    root: Path
    dataset = "iemocap"

    def victims(self) -> list[str]:
        """All but the last turn of each class in sessions 1 to 3; whole speakers go in 4 and 5."""
        return [
            f"Ses0{session}F_impro01_{letter}{n:03d}"
            for n in range(PER_SPEAKER - len(CODES))
            for session in (1, 2, 3)
            for letter in "FM"
        ]

    def speaker(self, name: str) -> str:
        return name[:5] + name.rpartition("_")[2][0]

    def name(self, wav: Path) -> str:
        return wav.stem

    def sound(self) -> str:
        return f"Ses01F_impro01_F{PER_SPEAKER - 1:03d}"

    def _of(self, name: str, part: str, suffix: str = ".txt") -> Path:
        dialogue = name.rpartition("_")[0]
        return self.root / f"Session{name[4]}" / part / f"{dialogue}{suffix}"

    def wav(self, name: str) -> Path:
        return self._of(name, "sentences/wav", "") / f"{name}.wav"

    def labels(self, name: str) -> Path:
        return self._of(name, "dialog/EmoEvaluation")

    def transcript(self, name: str) -> Path:
        return self._of(name, "dialog/transcriptions")

    def edit(self, path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
        lines = path.read_bytes().split(b"\n")
        path.write_bytes(b"\n".join(change(one) if name.encode() in one else one for one in lines))

    def say(self, name: str, words: bytes) -> None:
        self.edit(self.transcript(name), name, lambda line: line.split(b"]: ")[0] + b"]: " + words)

    def label(self, name: str, code: bytes) -> None:
        def change(line: bytes) -> bytes:
            fields = line.split(b"\t")
            return b"\t".join([*fields[:2], code, *fields[3:]])

        self.edit(self.labels(name), name, change)

    def times(self, name: str, start: bytes, end: bytes) -> None:
        def change(line: bytes) -> bytes:
            return b"[%b - %b]" % (start, end) + line[line.index(b"]") + 1 :]

        self.edit(self.labels(name), name, change)

    def again(self, name: str, change: Callable[[bytes], bytes] = lambda line: line) -> None:
        path = self.labels(name)
        line = next(one for one in path.read_bytes().split(b"\n") if name.encode() in one)
        path.write_bytes(path.read_bytes() + b"\n" + change(line) + b"\n")

    def texts(self, name: str) -> list[Path]:
        return [self.labels(name), self.transcript(name)]


Layout = Table | Iemocap


def make_table(root: Path) -> Table:
    """17 utterances of each of four speakers, with (empty) columns start and end."""
    path = tones(root, IN_TABLE) / "table.csv"
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    lines = [f"{header},start,end", *(f"u-{row},," for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Table(root)


def make_iemocap(root: Path) -> Iemocap:
    """Ten speakers' utterances of 0.2 to 0.3 s, and some on which nobody agreed."""
    for session in range(1, 6):
        improvised = PER_SPEAKER if session < 4 else len(CODES)
        for dialogue, n in ((f"Ses0{session}F_impro01", improvised), (scripted(session), 2)):
            names = [f"{dialogue}_{letter}{at:03d}" for at in range(n) for letter in "FM"]
            codes = [CODES[at % 4] for at in range(n) for _ in "FM"]
            turns = [*zip(names, codes, strict=True), (f"{dialogue}_M099", "xxx")]
            words = (f"It is number {at} of {dialogue}." for at in range(len(turns)))
            said = [Said(*turn, text) for turn, text in zip(turns, words, strict=True)]
            write_dialogue(root, dialogue, said)
            for at, one in enumerate(said):
                rng = np.random.default_rng([session, ord(dialogue[5]), at])
                path = Iemocap(root).wav(one.utterance_id)
                soundfile.write(path, _tone(at, rng), SAMPLING_RATE, subtype="PCM_16")
    return Iemocap(root)


def _tone(at: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    seconds = np.arange(int(rng.uniform(0.2, 0.3) * SAMPLING_RATE)) / SAMPLING_RATE
    wave = sum(np.sin(2 * np.pi * (120 + 3 * at) * k * seconds) / k for k in range(1, 8))
    return 0.1 * wave + rng.normal(0, 0.005, len(seconds))


def scripted(session: int) -> str:
    """A session's dialogue whose transcript can go without taking a speaker with it."""
    return f"Ses0{session}M_script01_1"


def copy_of(layout: Layout, root: Path) -> Layout:
    """The same corpus elsewhere, to be hurt."""
    return type(layout)(Path(shutil.copytree(layout.root, root, symlinks=True)))
