"""What a corpus from somebody else may have wrong with it: one function each, and what it does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from tests.reliability.corpus_layouts import Layout, Table, scripted

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
HOSTILE = b"n\x00ul \x1b[31mred\x07 \xe2\x80\xae<script>alert(1)</script>\xe2\x81\xa6"
HOSTILE_WORDS = "nul [31mred <script>alert(1)</script>"
LATIN1 = "na\xefve caf\xe9"
NO_LABEL_FOR = b"[900.0 - 901.0]\t%b\tneu\t[2.5, 2.5, 2.5]"

Effect = Literal["use", "warn", "exclude", "stop"]
Make = Callable[[Any, str], object]


@dataclass(frozen=True)
class Damage:
    """One fault, what is to be said of it, and what is to become of its victim.

    Attributes:
        make: does it, to a layout's victim.
        effect: the severity of its first reason; ``use`` is no fault, and the others exclude.
        reasons: what it is to be counted under, and how often.
        loses: the utterances that the store is not to hold for it.
        undoes: whether it strikes others' victims, too, so that it can only come alone.
    """

    make: Make
    effect: Effect
    reasons: Mapping[str, int] = field(default_factory=dict)
    loses: Callable[[Any, str], set[str]] = lambda layout, victim: set()
    undoes: bool = False


def itself(_: Layout, victim: str) -> set[str]:
    return {victim}


def excluded(reason: str, make: Make) -> Damage:
    return Damage(make, "exclude", {reason: 1}, itself)


def samples_of(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(soundfile.read(path, dtype="int16")[0])


def _put(content: Callable[[Path], bytes]) -> Make:
    def make(layout: Layout, victim: str) -> None:
        path = layout.wav(victim)
        path.write_bytes(content(path))

    return make


def _instead(make: Callable[[Path], object]) -> Make:
    """Something else under the audio's name."""

    def do(layout: Layout, victim: str) -> None:
        layout.wav(victim).unlink()
        make(layout.wav(victim))

    return do


def _rate(hz: int) -> Make:
    return _put(lambda path: path.read_bytes()[:24] + hz.to_bytes(4, "little")
                + path.read_bytes()[28:])  # fmt: skip


def _written(change: Callable[[Any], Any], rate: int = 16_000, **options: str) -> Make:
    def make(layout: Layout, victim: str) -> None:
        path = layout.wav(victim)
        soundfile.write(path, change(samples_of(path)), rate, **options)

    return make


def _float(value: float) -> Make:
    def change(samples: Any) -> Any:
        signal = samples / np.float32(32768)
        signal[len(signal) // 2] = value
        return signal

    return _written(change, subtype="FLOAT", format="WAV")


def _link_out(layout: Layout, victim: str) -> None:
    outside = layout.root.with_name("outside.wav")
    layout.wav(victim).rename(outside)
    layout.wav(victim).symlink_to(outside)


def flac(layout: Layout, victim: str) -> None:
    path = layout.wav(victim)
    soundfile.write(path.with_suffix(".flac"), samples_of(path), 16_000)
    path.with_suffix(".flac").rename(path)


def crlf_bom(layout: Layout, victim: str) -> None:
    """The mark comes right before what matters: a needed column, or the first summary line."""
    for path in layout.texts(victim):
        data = path.read_bytes()
        data = data.partition(b"\n\n")[2] or data
        path.write_bytes(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"))


def copied(layout: Layout, victim: str) -> None:
    """Another speaker's recording, losslessly in another format: other bytes, the same sound."""
    shutil.copy(layout.wav(layout.sound()), layout.wav(victim))
    flac(layout, victim)


AUDIO: dict[str, Damage] = {
    "missing wav": excluded("missing-audio", _instead(lambda path: None)),
    "zero bytes": excluded("empty-audio", _put(lambda path: b"")),
    "header only": excluded("empty-audio", _written(lambda samples: samples[:0])),
    "truncated": excluded(
        "truncated", _put(lambda path: path.read_bytes()[: path.stat().st_size // 2])
    ),
    "LFS pointer": excluded("pointer-audio", _put(lambda path: LFS_POINTER)),
    "30 ms": excluded("too-short", _written(lambda samples: samples[:480])),
    "NaN": excluded("non-finite", _float(np.nan)),
    "Inf": excluded("non-finite", _float(-np.inf)),
    "silent": excluded("silent", _written(np.zeros_like)),
    "integers as floats": excluded(
        "out-of-range", _written(lambda s: s.astype(np.float32), subtype="FLOAT", format="WAV")
    ),
    "2^31 Hz": excluded("unreadable-audio", _rate(2**31)),
    "2^31 - 1 Hz": excluded("sampling-rate", _rate(2**31 - 1)),
    "1000 channels": excluded(
        "channels", _written(lambda samples: np.tile(samples[:, None], (1, 1_000)))
    ),
    "directory": excluded("irregular-audio", _instead(Path.mkdir)),
    "pipe": excluded("irregular-audio", _instead(os.mkfifo)),
    "dangling link": excluded("irregular-audio", _instead(lambda p: p.symlink_to("none.wav"))),
    "link loop": excluded("irregular-audio", _instead(lambda path: path.symlink_to(path.name))),
    "link out of the root": excluded("irregular-audio", _link_out),
    "8 kHz": Damage(_written(lambda s: s[::2], 8_000), "use"),
    "stereo": Damage(_written(lambda s: np.stack([s, s], axis=1)), "use"),
    "FLAC named .wav": Damage(flac, "use"),
    "another speaker's audio": Damage(copied, "warn", {"identical-audio": 1}),
}

TEXT: dict[str, Damage] = {
    "no words": Damage(lambda c, name: c.say(name, b""), "warn", {"empty-text": 1}),
    "Latin-1": Damage(lambda c, name: c.say(name, LATIN1.encode("latin-1")), "use"),
    "invalid bytes": Damage(
        lambda c, name: c.say(name, b"so \xff\xfe\x80\x9d what"), "warn", {"control-characters": 1}
    ),
    "escapes in the text": Damage(
        lambda c, name: c.say(name, HOSTILE), "warn", {"control-characters": 1}
    ),
    "10 MB of words": excluded("oversized-text", lambda c, name: c.say(name, b"word " * 2**21)),
    "10 MB of brackets": excluded("oversized-text", lambda c, name: c.say(name, b"[" * 10**7)),
    "CRLF and BOM": Damage(crlf_bom, "use"),
    "the same id twice": Damage(lambda c, name: c.again(name), "warn", {"duplicate-id": 1}),
    "another label for the id": Damage(
        lambda c, name: c.again(name, _other_label), "stop", {"conflicting-label": 1}
    ),
    "end before start": excluded("bad-times", lambda c, name: c.times(name, b"0.3", b"0.1")),
}


def _other_label(line: bytes) -> bytes:
    for old, new in ((b",high,", b",low,"), (b",low,", b",high,"), (b"\tang\t", b"\tsad\t")):
        if old in line:
            return line.replace(old, new)
    return line.replace(b"\thap\t", b"\tsad\t").replace(b"\tneu\t", b"\tsad\t")


def _escaped_file(table: Table, victim: str) -> None:
    """A file whose name would clear the screen, and that is found bad only by ear."""
    _written(np.zeros_like)(table, victim)
    name = "\x1b[2J\x07.wav"
    table.wav(victim).rename(table.root / "audio" / name)
    table.edit(victim, "file", f"audio/{name}".encode())


def _mute(speaker: str, make: Make) -> Make:
    def do(layout: Layout, _: str) -> None:
        for wav in sorted(layout.root.rglob("*.wav")):
            name = layout.name(wav)
            if layout.speaker(name) == speaker and not name.endswith("099"):
                make(layout, name)

    return do


TABLE_ONLY: dict[str, Damage] = {
    "id ../../etc/passwd": excluded(
        "bad-utterance_id", lambda c, name: c.edit(name, "utterance_id", b"../../etc/passwd")
    ),
    "absolute id": excluded(
        "bad-utterance_id", lambda c, name: c.edit(name, "utterance_id", b"/etc/passwd")
    ),
    "id of escapes": excluded(
        "bad-utterance_id", lambda c, name: c.edit(name, "utterance_id", b"\x1b[2J\xe2\x80\xae")
    ),
    "file ../../etc/passwd": excluded(
        "irregular-audio", lambda c, name: c.edit(name, "file", b"../../etc/passwd")
    ),
    "absolute file": excluded(
        "irregular-audio", lambda c, name: c.edit(name, "file", b"/etc/passwd")
    ),
    "file of escapes": excluded("silent", _escaped_file),
    "label of escapes": excluded("bad-label", lambda c, name: c.label(name, b"h\x1b[31migh")),
    "unknown label": Damage(lambda c, name: c.label(name, b"joy"), "stop", {"folds": 1}),
    "row of three fields": Damage(
        lambda c, name: c.again(name, lambda line: b",".join(line.split(b",")[:3])),
        "exclude", {"malformed-row": 1},
    ),
    "speaker without a file": Damage(
        _mute("dee", _instead(lambda path: None)), "stop",
        {"silent-speaker": 1, "missing-audio": 17},
    ),
    "speaker silent by ear": Damage(
        _mute("cy", _float(np.nan)), "stop", {"silent-speaker": 1, "non-finite": 17}, undoes=True
    ),
}  # fmt: skip


def _turns(dialogue: str) -> set[str]:
    return {f"{dialogue}_{letter}{n:03d}" for n in range(2) for letter in "FM"}


def _own(victim: str) -> str:
    """The scripted dialogue of the victim's session."""
    return scripted(int(victim[4]))


def _next(victim: str) -> str:
    """That of another session, for another damage."""
    return scripted(int(victim[4]) % 3 + 1)


def _line(name: bytes) -> Make:
    return lambda c, victim: c.again(victim, lambda _: NO_LABEL_FOR % name)


IEMOCAP_ONLY: dict[str, Damage] = {
    "id ../../etc/passwd": Damage(_line(b"../../etc/passwd"), "exclude", {"bad-id": 1}),
    "absolute id": Damage(_line(b"/etc/passwd"), "exclude", {"bad-id": 1}),
    "id of escapes": Damage(_line(b"\x1b[2J\xe2\x80\xae"), "exclude", {"bad-id": 1}),
    "unknown label": excluded("unknown-label", lambda c, name: c.label(name, b"j\x1b[31moy")),
    "10 MB of label line": Damage(
        lambda c, name: c.again(name, lambda _: b"[" + b"1" * 10**7), "exclude",
        {"malformed-line": 1},
    ),
    "label line that begins with NUL": excluded(
        "unlabelled-turn", lambda c, name: c.edit(c.labels(name), name, lambda one: b"\0" + one)
    ),
    "cut label line": excluded(
        "malformed-line", lambda c, name: c.edit(c.labels(name), name, lambda one: one[:-29])
    ),
    "missing transcript line": excluded(
        "missing-transcript", lambda c, name: c.edit(c.transcript(name), name, lambda _: b"")
    ),
    "missing transcript": Damage(
        lambda c, name: c.transcript(f"{_own(name)}_F000").unlink(), "exclude",
        {"missing-transcript": 4}, lambda _, name: _turns(_own(name)),
    ),
    "missing label file": Damage(
        lambda c, name: c.labels(f"{_next(name)}_F000").unlink(), "exclude",
        {"unlabelled-dialogue": 1}, lambda _, name: _turns(_next(name)),
    ),
    "folders in a loop": Damage(
        lambda c, name: (c.root / f"Session{name[4]}" / "loop").symlink_to(".."), "use"
    ),
    "speaker without a file": Damage(
        _mute("Ses04M", _instead(lambda path: None)), "stop",
        {"silent-speaker": 1, "missing-audio": 6},
    ),
    "speaker silent by ear": Damage(
        _mute("Ses04F", _written(np.zeros_like)), "stop", {"silent-speaker": 1, "silent": 6}
    ),
    "missing session": Damage(
        lambda c, _: shutil.rmtree(c.root / "Session5"), "stop", {"missing-session": 1}
    ),
}  # fmt: skip

DAMAGES: Mapping[str, Mapping[str, Damage]] = {
    "table": AUDIO | TEXT | TABLE_ONLY,
    "iemocap": AUDIO | TEXT | IEMOCAP_ONLY,
}
