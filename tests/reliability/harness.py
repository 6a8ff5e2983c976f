"""A corpus of tones that builds in seconds, and the two commands as users run them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from featstore.core.schema import SAMPLING_RATE
from tests import ROOT

SPEAKERS = ("ada", "bo", "cy", "dee")
LABELS = ("high", "low")
WORDS = {"high": "what a lovely day", "low": "what a terrible night"}

CONFIG = """\
[teachers.linguistic]
model = "tiny"
[teachers.linguistic.optim]
lr = 1e-3
epochs = 2
batch_size = 8
[teachers.prosodic]
channels = [4, 4, 8, 8]
time_stride = 8
[teachers.prosodic.optim]
lr = 1e-3
epochs = 2
batch_size = 8
"""
"""Teachers that are fitted in a moment; they learn next to nothing."""

Completed = subprocess.CompletedProcess[str]


def tones(root: Path, per_speaker: int = 6) -> Path:
    """A corpus of the ``table`` adapter: 4 speakers, 2 classes told by pitch and by word.

    Utterances last 0.4 to 0.8 s; the same call writes the same bytes.
    """
    (root / "audio").mkdir(parents=True)
    rows = []
    for s, speaker in enumerate(SPEAKERS):
        for n in range(per_speaker):
            label = LABELS[n % 2]
            rng = np.random.default_rng([s, n])
            seconds = np.arange(int(rng.uniform(0.4, 0.8) * SAMPLING_RATE)) / SAMPLING_RATE
            pitch = (130 if label == "low" else 230) * (1 + 0.08 * s)
            wave = sum(np.sin(2 * np.pi * pitch * k * seconds) / k for k in range(1, 8))
            wave = 0.1 * wave + rng.normal(0, 0.005, len(seconds))
            file = f"audio/{speaker}{n}.wav"
            soundfile.write(root / file, wave, SAMPLING_RATE, subtype="PCM_16")
            rows.append([f"{speaker}{n}", file, speaker, label, f"{WORDS[label]} {speaker} {n}"])
    with (root / "table.csv").open("w", newline="") as file_:
        csv.writer(file_).writerows([["utterance_id", "file", "speaker", "label", "text"], *rows])
    return root


def environment(**more: str) -> dict[str, str]:
    """This process' environment, with one thread and this checkout's code."""
    given = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return os.environ | given | more


def command(app: str, *arguments: object) -> list[str]:
    """The argument vector of ``featstore`` or ``distill``."""
    return [sys.executable, "-c", f"import cli; cli.{app}_main()", *map(str, arguments)]


def call(
    app: str,
    *arguments: object,
    under: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 240,
) -> Completed:
    """Run a command to its end, ``under`` another one such as strace where that is given."""
    return subprocess.run(
        [*under, *command(app, *arguments)], env=environment(**(env or {})), cwd=cwd,
        capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False,
    )  # fmt: skip


def build_arguments(corpus: Path, config: Path, store: Path, *more: object) -> list[str]:
    """``featstore build`` of the tones: two folds, one process."""
    return [
        str(part)
        for part in ("build", "--dataset", "table", "--root", corpus, "--config", config,
                     "--store", store, "--fold", "1..2", "--jobs", "1", "--device", "cpu", *more)
    ]  # fmt: skip


def run_arguments(store: Path, runs: Path, *more: object) -> list[str]:
    """``distill run`` of the tiny student for two epochs on fold 1, one thread."""
    return [
        str(part)
        for part in ("run", "--store", store, "--runs", runs, "--student", "tiny", "--fold", "1",
                     "--set", "optim.epochs=2", "--set", "optim.batch_size=8", "--jobs", "1",
                     "--threads", "1", "--device", "cpu", *more)
    ]  # fmt: skip


def document(done: Completed) -> Any:
    """The JSON document that ``--json`` printed."""
    return json.loads(done.stdout)
