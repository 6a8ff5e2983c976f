"""Class probabilities from audio files alone: no teacher, no transcript, no LLDs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from distill.model.student import Student
from featstore.core.config import AudioSettings
from featstore.core.schema import SAMPLING_RATE, UserError, listed, printable
from featstore.features.audio import BadAudio, Signal, load_signal

if TYPE_CHECKING:
    import pandas as pd

MIN_DURATION_S = 0.06
MAX_DURATION_S = 60.0
"""What an utterance lasts at least and, unless the caller says otherwise, at most."""
_WINDOW = 8
"""Batches' worth of audio that is held at once, to be sorted by length before it is cut."""


def predict_files(
    student: Student,
    paths: Sequence[Path],
    device: torch.device | str = "cpu",
    batch_s: float = 60.0,
    max_duration_s: float = MAX_DURATION_S,
) -> pd.DataFrame:
    """What a student hears in each file.

    Args:
        student: moved to ``device`` and left there, in eval mode.
        paths: audio files; each gives the same row alone and in any company.
        device: where the arithmetic runs.
        batch_s: seconds of padded audio per batch, which bounds memory. A longer file is a batch
            of its own.
        max_duration_s: longer files are refused, up to 600 s: an encoder's attention takes memory
            by the square of it, and a student has learnt from utterances.

    Returns:
        One row per path, in order: ``file`` (as given), ``label`` (the most probable class), then
        one float64 column of probabilities per class, in the order of the logits.

    Raises:
        UserError: naming every file that is missing, not audio, too short or too long.
    """
    import pandas as pd

    try:  # the shortest that any store may allow, and the longest that the caller does
        limits = AudioSettings(min_duration_s=MIN_DURATION_S, max_duration_s=max_duration_s)
    except ValidationError as error:
        raise UserError(
            f"--max-duration-s {max_duration_s:g}: not a limit in seconds", "above 0, up to 600"
        ) from error
    student = student.to(device).eval()
    probabilities = np.full((len(paths), len(student.classes)), np.nan)
    for rows, signals in _batches(student, paths, batch_s, limits):
        probabilities[rows] = predict_signals(student, signals, device)
    best = [student.classes[index] for index in probabilities.argmax(axis=1)] if paths else []
    names = pd.Series(map(str, paths), dtype=object)  # Arrow's text cannot hold every file's name
    head = pd.DataFrame({"file": names, "label": pd.Series(best, dtype="str")})
    return pd.concat([head, pd.DataFrame(probabilities, columns=[*student.classes])], axis=1)


def predict_signals(
    student: Student, signals: Sequence[Signal], device: torch.device | str = "cpu"
) -> npt.NDArray[np.float64]:
    """Class probabilities [B, C] float64 of signals: float32, mono, 16 kHz, in one batch."""
    lengths = torch.tensor([len(signal) for signal in signals])
    padded: Tensor = pad_sequence([torch.from_numpy(s) for s in signals], batch_first=True)
    with torch.inference_mode():
        logits = student(padded.to(device), lengths).logits
    probabilities: npt.NDArray[np.float64] = logits.double().softmax(dim=-1).cpu().numpy()
    return probabilities


def _batches(
    student: Student, paths: Sequence[Path], batch_s: float, limits: AudioSettings
) -> Iterator[tuple[list[int], list[Signal]]]:
    """Indices and signals of batches; files of like length together, so little is padding.

    After the first fault nothing more is yielded, but every file is looked at.
    """
    budget = int(batch_s * SAMPLING_RATE)
    faults: list[UserError] = []
    window: list[tuple[int, Signal]] = []
    for index, path in enumerate(paths):
        try:
            window.append((index, _signal(path, student.backbone.min_samples, limits)))
        except UserError as error:
            faults.append(error)
        if faults:
            window = []
        elif sum(len(held) for _, held in window) > _WINDOW * budget:
            yield from _cut(window, budget)
            window = []
    if len(faults) > 1:
        lines = listed(fault.message for fault in faults)
        raise UserError(f"{len(faults)} files cannot be used:\n{lines}", faults[0].hint)
    if faults:
        raise faults[0]
    yield from _cut(window, budget)


def _cut(window: list[tuple[int, Signal]], budget: int) -> Iterator[tuple[list[int], list[Signal]]]:
    """Batches of at most ``budget`` padded samples, or one signal, the longest ones first."""
    waiting = sorted(window, key=lambda item: -len(item[1]))
    while waiting:
        count = max(1, budget // len(waiting[0][1]))
        batch, waiting = waiting[:count], waiting[count:]
        yield [index for index, _ in batch], [signal for _, signal in batch]


def _signal(path: Path, least: int, limits: AudioSettings) -> Signal:
    """A file's signal; what is too short or too long is told by this command's own limits."""
    try:
        signal = load_signal(path, settings=limits)
    except BadAudio as fault:  # a clip comes from no corpus, and no store's settings are at hand
        name = printable(str(path))
        longer = "split it into utterances, or give --max-duration-s a higher limit (up to 600)"
        message, hint = {
            "too-short": (
                f"{name}: shorter than {limits.min_duration_s:g} s",
                "leave the file out",
            ),
            "too-long": (f"{name}: longer than {limits.max_duration_s:g} s", longer),
            "missing-audio": (fault.message, "check the path"),
            "empty-audio": (fault.message, "record or copy it again"),
        }.get(fault.reason, (fault.message, fault.hint))
        raise UserError(message, hint) from fault
    if len(signal) < least:
        seconds, needed = len(signal) / SAMPLING_RATE, least / SAMPLING_RATE
        raise UserError(
            f"{printable(str(path))}: {seconds:.3f} s of audio, this student needs {needed:.3f} s",
            "leave the file out",
        )
    return signal
