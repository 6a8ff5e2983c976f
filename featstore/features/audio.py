"""File -> signal: mono float32 at 16 kHz, checked before any work and clipped to 16 bit's range.

openSMILE casts to int16 without clipping, so +1.0 wraps to -32768 and loudness jumps from 0.59 to
2.56; every signal is therefore held as the int16 samples that it will be stored as.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.config import AudioSettings
from featstore.core.os_errors import remedy
from featstore.core.schema import SAMPLING_RATE, UserError

Signal = npt.NDArray[np.float32]
Samples = npt.NDArray[np.int16]

MAX_CHANNELS = 16
RATES_HZ = (4_000, 384_000)
MAX_FILE_BYTES = 2 * 1024**3
MAX_FILTER = 2**23
"""Taps that resampling may take: the two rates over their common divisor, multiplied. 12345 Hz
needs 8 million; 47999 Hz would need 768 million, which is 13 GB and a minute a file."""
UNKNOWN_SIZE = 0x7FFFF000
"""From here on a WAV's header gives no size: it was written into a pipe (sox, ffmpeg)."""
FULL_SCALE = 32768.0
MAX_PEAK = 64.0
"""Floats may overshoot 1.0; a file that reaches this holds integers, and would be all clipped."""
_BLOCK = 2**18


class BadAudio(UserError):
    """An audio file that cannot be used; ``reason`` is the key it is counted under."""

    def __init__(self, reason: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadAudio], tuple[str, str, str]]:
        """Errors cross from worker processes; by default only the message would."""
        return type(self), (self.reason, self.message, self.hint)


def load_signal(
    path: Path,
    start_s: float = 0.0,
    duration_s: float | None = None,
    settings: AudioSettings | None = None,
) -> Signal:
    """Read one utterance: checked, mixed down, resampled and clipped.

    Args:
        path: any file that libsndfile reads, at any rate and with up to 16 channels.
        start_s: where the utterance begins in the file, in seconds.
        duration_s: its length in seconds; to the end of the file where not given.
        settings: the limits on duration.

    Returns:
        ``[T]`` float32 at 16 kHz, in [-1, 32767/32768], every value a multiple of 1/32768.

    Raises:
        BadAudio: see :func:`read_mono`.
    """
    settings = settings or AudioSettings()
    mono, rate = read_mono(path, start_s, duration_s, settings)
    return from_samples(to_samples(resample(mono, rate, settings.sampling_rate)))


def read_mono(
    path: Path, start_s: float, duration_s: float | None, settings: AudioSettings
) -> tuple[Signal, int]:
    """The same utterance at its file's own rate, with all that can be wrong with it found.

    Returns:
        ``[T]`` float32, not clipped, and the rate in Hz.

    Raises:
        BadAudio: missing, empty, truncated, not audio, absurd header, too short, too long, NaN or
            Inf, integers where floats belong, or silent from end to end.
    """
    mono, rate = _read(path, start_s, duration_s, settings)
    if not mono.any():
        raise BadAudio("silent", f"{path}: every sample is zero", "replace or remove the file")
    return mono, rate


def resample(signal: Signal, rate_hz: int, target_hz: int) -> Signal:
    """Band-limited resampling by torchaudio; the same signal where the rates agree."""
    if rate_hz == target_hz:
        return signal
    import torch

    from featstore.core.torch_pair import load_torchaudio

    by_sinc = load_torchaudio().functional.resample
    out: Signal = by_sinc(torch.from_numpy(signal.copy()), rate_hz, target_hz).numpy()
    return out


def to_samples(signal: Signal) -> Samples:
    """Round and clip to int16.

    >>> to_samples(np.array([-2.0, 0.0, 1.0], dtype=np.float32)).tolist()
    [-32768, 0, 32767]
    """
    out: Samples = np.rint(signal * FULL_SCALE).clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    return out


def from_samples(samples: Samples) -> Signal:
    """The float32 signal of stored samples; exact, because float32 holds 24 bits."""
    return samples.astype(np.float32) / np.float32(FULL_SCALE)


def check_file(path: Path) -> None:
    """Refuse what is no regular, complete audio file, without decoding it.

    Raises:
        BadAudio: with the reason, the path and the remedy.
    """
    try:
        facts = path.stat()
    except OSError:
        raise BadAudio(
            "missing-audio", f"{path}: no such file", "restore it from the corpus' archive"
        ) from None
    if not stat.S_ISREG(facts.st_mode):
        raise BadAudio(
            "not-a-file", f"{path}: not a regular file", "put the audio file itself in its place"
        )
    if facts.st_size == 0:
        raise BadAudio("empty-audio", f"{path}: empty file (0 bytes)", "copy the corpus again")
    if facts.st_size > MAX_FILE_BYTES:
        raise BadAudio(
            "too-large",
            f"{path}: {facts.st_size} bytes, more than {MAX_FILE_BYTES}",
            "split the recording into utterances",
        )
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise BadAudio("unreadable", f"{path}: {error.strerror}", remedy(error)) from error
    if head.startswith(b"version https://git-lfs"):
        raise BadAudio(
            "lfs-pointer", f"{path}: a Git LFS pointer, not audio", "run `git lfs pull` there"
        )
    if head[:4] == b"RIFF" and len(head) >= 8:
        declared = int.from_bytes(head[4:8], "little") + 8
        is_known = 8 < declared < UNKNOWN_SIZE
        if is_known and declared > facts.st_size + 1:
            raise BadAudio(
                "truncated",
                f"{path}: truncated: its header announces {declared} bytes, it has {facts.st_size}",
                "copy the file again",
            )


def _read(
    path: Path, start_s: float, duration_s: float | None, settings: AudioSettings
) -> tuple[Signal, int]:
    """The utterance mixed down ``[T]`` and its rate, after checking the header."""
    import soundfile

    check_file(path)
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            rate, channels, total = file.samplerate, file.channels, file.frames
            _check_header(path, rate, channels)
            start = round(start_s * rate)
            count = total - start if duration_s is None else round(duration_s * rate)
            if start < 0 or count <= 0 or start + count > total + 1:
                raise BadAudio(
                    "outside-file",
                    f"{path}: asks for {count} frames from {start}, the file has {total}",
                    "mend start and end of this utterance",
                )
            _check_duration(path, count / rate, settings)
            file.seek(start)
            mono = _mixed_down(path, file, min(count, total - start))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name in .raw
        raise BadAudio(
            "unreadable", f"{path}: not readable as audio ({error})", "export it again as WAV"
        ) from error
    if len(mono) < min(count, total - start):
        raise BadAudio(
            "truncated",
            f"{path}: truncated: {len(mono)} of {count} frames decode",
            "copy the file again",
        )
    return mono, rate


def _mixed_down(path: Path, file: Any, count: int) -> Signal:
    """The next ``count`` frames, by blocks: many channels at a high rate need no more memory."""
    mono = np.empty(count, dtype=np.float32)
    done = 0
    while done < count:
        frames = file.read(min(_BLOCK, count - done), dtype="float32", always_2d=True)
        if not len(frames):
            break
        _check_values(path, frames)
        mono[done : done + len(frames)] = frames.mean(axis=1, dtype=np.float32)
        done += len(frames)
    return mono[:done]


def _check_values(path: Path, frames: npt.NDArray[np.float32]) -> None:
    peak = max(float(frames.max()), -float(frames.min()))  # NaN where any sample is NaN
    if not math.isfinite(peak):
        raise BadAudio(
            "non-finite", f"{path}: holds NaN or Inf samples", "export it again as 16-bit PCM"
        )
    if peak >= MAX_PEAK:
        raise BadAudio(
            "out-of-range",
            f"{path}: a peak of {peak:g} where samples lie within -1 and 1",
            "export it again as 16-bit PCM; integers written as floats are to be divided by 32768",
        )


def _check_header(path: Path, rate: int, channels: int) -> None:
    low, high = RATES_HZ
    if not low <= rate <= high:
        raise BadAudio(
            "sampling-rate",
            f"{path}: sampling rate of {rate} Hz, outside {low}..{high}",
            "resample the file, or mend its header",
        )
    common = math.gcd(rate, SAMPLING_RATE)
    if rate // common * (SAMPLING_RATE // common) > MAX_FILTER:
        raise BadAudio(
            "sampling-rate",
            f"{path}: {rate} Hz has no ratio to {SAMPLING_RATE} Hz that can be resampled here",
            "resample the file to 16 kHz with a tool such as sox, or mend its header",
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise BadAudio(
            "channels", f"{path}: {channels} channels, more than {MAX_CHANNELS}", "mix it down"
        )


def _check_duration(path: Path, duration_s: float, settings: AudioSettings) -> None:
    if duration_s < settings.min_duration_s:
        raise BadAudio(
            "too-short",
            f"{path}: {duration_s:.3f} s is under audio.min_duration_s = {settings.min_duration_s}",
            "remove the utterance, or lower audio.min_duration_s (not under 0.06)",
        )
    if duration_s > settings.max_duration_s:
        raise BadAudio(
            "too-long",
            f"{path}: {duration_s:.1f} s is over audio.max_duration_s = {settings.max_duration_s}",
            "split the utterance, or raise audio.max_duration_s",
        )
