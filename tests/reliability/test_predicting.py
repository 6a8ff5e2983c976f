"""``distill predict`` on a file alone says what the evaluation said, however the file is stored."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from distill.model.predict import predict_files
from distill.model.student import Student
from featstore.core.schema import SAMPLING_RATE
from featstore.features.audio import resample
from tests.reliability.at_once import run_now
from tests.reliability.sandbox import Ended, Sandbox, shared

pytestmark = [pytest.mark.reliability]

EXACT = 1e-5
RESAMPLED = {48_000: 0.01, 44_100: 0.01, 22_050: 0.01, 8_000: 0.15}
"""How far a probability may move where the file has another rate, by that rate in Hz.

Up to 44.1 kHz and back is a filter's ripple and rounding to 16 bits; 8 kHz has lost the upper half
of the band, which no resampling brings back.
"""


@pytest.fixture(scope="module")
def run(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that has learnt enough to be sure of something."""
    return run_now(undisturbed, tmp_path_factory.mktemp("predicting"), "optim.epochs=30").folder


@pytest.fixture(scope="module")
def student(run: Path) -> Student:
    return Student.from_pretrained(run / "student")


@pytest.fixture(scope="module")
def evaluated(run: Path) -> Mapping[str, Mapping[str, float]]:
    """Utterance -> class -> probability: the softmax of the stored logits, in plain Python."""
    table = pd.read_parquet(run / "predictions.parquet")
    found = {}
    for row in table[table["role"] == "test"].to_dict("records"):
        logits = {k.removeprefix("logit_"): v for k, v in row.items() if k.startswith("logit_")}
        top = max(logits.values())
        parts = {name: math.exp(value - top) for name, value in logits.items()}
        found[row["utterance_id"]] = {k: v / sum(parts.values()) for k, v in parts.items()}
    assert len(found) == 6
    sure = [max(row.values()) for row in found.values()]
    assert max(sure) > 0.7, "a student that is sure of nothing proves nothing"
    return found


@pytest.fixture(scope="module")
def distill() -> Sandbox:
    return shared()


def apart(row: Mapping[Any, Any], expected: Mapping[str, float]) -> float:
    """The largest difference of two sets of probabilities."""
    assert row["label"] == max(expected, key=lambda name: expected[name])
    return max(abs(row[name] - value) for name, value in expected.items())


def alone(student: Student, path: Path) -> Mapping[Any, Any]:
    (row,) = predict_files(student, [path]).to_dict("records")
    return row


def test_each_recording_alone(
    student: Student, evaluated: Mapping[str, Mapping[str, float]], tone_corpus: Path
) -> None:
    moved = [
        apart(alone(student, tone_corpus / "audio" / f"{name}.wav"), expected)
        for name, expected in evaluated.items()
    ]
    assert max(moved) <= EXACT
    print(f"{len(moved)} recordings alone: at most {max(moved):.1e} from the evaluation")


def test_by_the_command_from_any_working_directory(
    distill: Sandbox, run: Path, evaluated: Mapping[str, Mapping[str, float]], tone_corpus: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Absolute, relative, through a link, and under names that no text can hold."""
    audio = tone_corpus / "audio"
    names = [*evaluated]
    (tmp_path / "link.wav").symlink_to(audio / f"{names[0]}.wav")
    odd = [os.fsdecode(b"caf\xe9.wav"), "-dash.wav", "two words\n.wav", "no-suffix"]
    for name in odd:
        shutil.copy(audio / f"{names[0]}.wav", tmp_path / name)
    places: list[tuple[Path, list[str], list[str]]] = [
        (tmp_path, [str(audio / f"{name}.wav") for name in names], names),
        (audio, [f"{name}.wav" for name in names], names),
        (audio / "..", [f"audio/../audio/{name}.wav" for name in names[::-1]], names[::-1]),
        (tmp_path, ["link.wav", *(f"./{name}" for name in odd)], names[:1] * 5),
    ]
    moved = []
    for cwd, files, expected in places:
        student = os.path.relpath(run / "student", cwd)
        done = distill("distill", "predict", student, *files, "--json", cwd=cwd)
        assert done.code == 0, done.err
        rows = json.loads(done.out)
        assert [row["file"].removeprefix("./") for row in rows] == [
            name.removeprefix("./") for name in files
        ]
        moved += [apart(row, evaluated[name]) for row, name in zip(rows, expected, strict=True)]
    assert max(moved) <= EXACT
    print(f"{len(moved)} rows of 4 commands: at most {max(moved):.1e} from the evaluation")


def stored(kind: str, samples: np.ndarray, to: Path) -> Path:
    """The same int16 samples in another container, with as many channels as it says."""
    container, channels = kind.rsplit(" x", 1)
    suffix, subtype = container.split(" ")
    path = to / f"a.{suffix.lower()}"
    columns = np.repeat(samples[:, None], int(channels), axis=1)
    if subtype in ("FLOAT", "DOUBLE"):
        columns = columns / 32768
    soundfile.write(path, columns, SAMPLING_RATE, format=suffix, subtype=subtype)
    return path


@pytest.mark.parametrize(
    "kind",
    ["WAV PCM_16 x2", "WAV PCM_16 x6", "WAV PCM_16 x16", "WAV PCM_24 x1", "WAV PCM_32 x2",
     "WAV FLOAT x1", "WAV DOUBLE x2", "FLAC PCM_16 x1", "FLAC PCM_24 x2", "AIFF PCM_16 x2",
     "W64 PCM_24 x1", "CAF PCM_16 x3"],
)  # fmt: skip
def test_container_and_channels_do_not_matter(
    kind: str, student: Student, evaluated: Mapping[str, Mapping[str, float]], tone_corpus: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    moved = []
    for name, expected in evaluated.items():
        samples, _ = soundfile.read(tone_corpus / "audio" / f"{name}.wav", dtype="int16")
        moved.append(apart(alone(student, stored(kind, samples, tmp_path)), expected))
    assert max(moved) <= EXACT
    print(f"{kind}: at most {max(moved):.1e} from the evaluation")


@pytest.mark.parametrize("rate", RESAMPLED)
def test_another_rate_is_close(
    rate: int, student: Student, evaluated: Mapping[str, Mapping[str, float]], tone_corpus: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    moved, labels = [], 0
    for name, expected in evaluated.items():
        signal, _ = soundfile.read(tone_corpus / "audio" / f"{name}.wav", dtype="float32")
        soundfile.write(tmp_path / "a.wav", resample(signal, SAMPLING_RATE, rate), rate, "FLOAT")
        row = alone(student, tmp_path / "a.wav")
        moved.append(max(abs(row[c] - value) for c, value in expected.items()))
        labels += row["label"] == max(expected, key=lambda c: expected[c])
    print(f"{rate} Hz: at most {max(moved):.1e} from the evaluation, {labels} of 6 labels equal")
    assert max(moved) <= RESAMPLED[rate]


def write(path: Path, samples: Any, rate: int = SAMPLING_RATE, subtype: str = "FLOAT") -> None:
    soundfile.write(path, samples, rate, format="WAV", subtype=subtype)


NOISE = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


def header_only(path: Path) -> None:
    write(path, NOISE, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:44])


def truncated(path: Path) -> None:
    write(path, NOISE, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:-9_000])


def with_a(value: float) -> Callable[[Path], None]:
    return lambda path: write(path, np.where(np.arange(16_000) == 777, value, NOISE))


BAD: Mapping[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "not a regular file"),
    "pipe": (os.mkfifo, "not a regular file"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "link loop": (lambda path: path.symlink_to(path.name), "no such file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "empty": (lambda path: path.touch(), "empty file"),
    "header only": (header_only, "truncated"),
    "truncated": (truncated, "truncated"),
    "Git LFS pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\nsize 1\n"),
        "a Git LFS pointer",
    ),
    "text": (lambda path: path.write_text("no audio at all\n" * 99), "not readable as audio"),
    "a picture": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(999)), "not readable"),
    "30 ms": (lambda path: write(path, NOISE[:480]), "shorter than 0.06 s"),
    "61 s": (lambda path: write(path, np.tile(NOISE, 61)), "longer than 60 s"),
    "NaN": (with_a(math.nan), "NaN or Inf"),
    "Inf": (with_a(math.inf), "NaN or Inf"),
    "silence": (lambda path: write(path, np.zeros(16_000)), "every sample is zero"),
    "integers as floats": (lambda path: write(path, NOISE * 32_768), "peak"),
    "1 kHz": (lambda path: write(path, NOISE, 1_000), "sampling rate of 1000 Hz"),
    "2^31 Hz": (lambda path: write(path, NOISE, 2**31 - 1), "sampling rate"),
    "17 channels": (lambda path: write(path, np.tile(NOISE[:, None], 17)), "17 channels"),
}
"""What a file may be instead of a recording, and what is said of it."""


def told(done: Ended, path: Path, why: str) -> None:
    """One error, one hint, exit 2, nothing on stdout."""
    assert done.code == 2, done.err
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 2, done.err
    assert lines[0].startswith(f"error: {path}")
    assert why in lines[0]
    assert lines[1].startswith("hint: ")


def test_bad_audio_is_one_line_and_exit_2(
    distill: Sandbox, run: Path, tone_corpus: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    good = tone_corpus / "audio" / "ada0.wav"
    for number, (make, why) in enumerate(BAD.values()):
        path = tmp_path / f"{number}.wav"
        make(path)
        for files in ([path], [good, path]) if number % 5 == 0 else ([path],):
            told(distill("distill", "predict", run / "student", *files), path, why)
    everything = [tmp_path / f"{number}.wav" for number in range(len(BAD))]
    done = distill("distill", "predict", run / "student", *everything, good, "--json")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {len(BAD)} files cannot be used:\n")
    assert sum(f"{path}: " in done.err for path in everything) == 20
    assert f"\nand {len(BAD) - 20} more\n" in done.err
    assert "Traceback" not in done.err
    print(f"{len(BAD)} kinds of bad audio: {len(BAD)} told in one line with exit 2, "
          f"{time.monotonic() - began:.1f} s")  # fmt: skip
