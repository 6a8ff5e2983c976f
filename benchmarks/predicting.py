"""How long does one file take to predict, from process start and warm?"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks import stores
from benchmarks.common import Answer, Bench, Row, run, script, told
from benchmarks.students import student_of
from distill.config import RunSettings
from distill.model.predict import predict_files
from distill.model.student import Student
from featstore.core.schema import SAMPLING_RATE
from featstore.core.settings import resolve

CLIP_S = 4.55
"""IEMOCAP's mean."""


def measure(bench: Bench) -> Answer:
    """Tiny and HuBERT-base, random weights: ``distill predict``, and the call behind it."""
    places = {name: _student(bench, name) for name in _BACKBONES}
    clip = stores.made(bench, "clip", _clip) / "clip.wav"
    cold = bench.time(
        {name: partial(run, [script("distill"), "predict", place, clip, "--json"])
         for name, place in places.items()},
        5,
    )  # fmt: skip
    students = {name: Student.from_pretrained(place) for name, place in places.items()}
    warm = bench.time(
        {name: partial(predict_files, student, [clip]) for name, student in students.items()},
        7,
    )
    rows: list[Row] = []
    for name, told_as in _BACKBONES.items():
        for how, seconds in (("from process start", cold), ("warm", warm)):
            each = [s / CLIP_S for s in seconds.wall_s[name]]
            rows.append(Row(f"one-file prediction {how}, {told_as}", "",
                            told(each, " s per s of audio")))  # fmt: skip
    notes = [f"One WAV file of {CLIP_S:g} s, the student's folder and the file in the page cache."]
    measured = {f"from process start: {name}, s": s for name, s in cold.wall_s.items()}
    measured |= {f"warm: {name}, s": s for name, s in warm.wall_s.items()}
    return Answer(rows, notes, measured)


_BACKBONES = {"tiny": "tiny student", "random:hubert-base": "HuBERT-base"}


def _student(bench: Bench, backbone: str) -> Path:
    settings = resolve(RunSettings, {"student": {"backbone": backbone}})

    def fill(folder: Path) -> None:
        student_of(bench, settings, stores.WIDTHS).save_pretrained(folder / "student")

    name = f"student-{backbone.removeprefix('random:')}{bench.pick('', '-quick')}"
    return stores.made(bench, name, fill) / "student"


def _clip(folder: Path) -> None:
    import soundfile

    signal = stores.Noise().signal(round(CLIP_S * SAMPLING_RATE))
    soundfile.write(folder / "clip.wav", signal, SAMPLING_RATE)
