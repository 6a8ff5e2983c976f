"""Augmentation of the student's audio while its targets stay cached.

The teachers spoke about the clean recording. Noise, level and channel leave unchanged who says
what and how, so their words still hold. Another speed, or a part of the utterance alone, is
another utterance, of which they have said nothing: that is refused unless asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from distill.config import AugmentSettings, Codec
from featstore.core.schema import SAMPLING_RATE
from featstore.core.training import generator
from featstore.features.audio import FULL_SCALE, Signal, resample

Augment = Callable[[int, Signal], Signal]
"""``augment(row, signal)``: an utterance's signal ``[T]``, altered."""

SHORTEST = SAMPLING_RATE // 10
"""Samples under which nothing is shortened: encoders need some frames to work on."""

_STREAM = 0x417567
"""Keeps the draws apart from those that order the epoch, which share seed and epoch."""


def augmentation(settings: AugmentSettings | None, seed: int, epoch: int) -> Augment | None:
    """What to do to the utterances of an epoch; None where that is nothing.

    An utterance's draws depend on seed, epoch and row alone: not on its batch, on the process that
    reads it, or on where a run was interrupted.
    """
    if settings is None or settings.idle:
        return None
    return partial(_augmented, settings, seed, epoch)


def _augmented(
    settings: AugmentSettings, seed: int, epoch: int, row: int, signal: Signal
) -> Signal:
    rng = generator(seed, epoch, row, _STREAM)
    if settings.time_crop is not None:
        signal = cropped(signal, settings.time_crop, rng)
    if settings.speed is not None:
        signal = played_at(signal, rng.uniform(*settings.speed))
    if settings.noise_snr_db is not None:
        signal = with_noise(signal, rng.uniform(*settings.noise_snr_db), rng)
    if settings.codecs and rng.random() < settings.codec_share:
        signal = through(settings.codecs[rng.integers(len(settings.codecs))], signal)
    if settings.gain_db is not None:
        signal = signal * np.float32(10 ** (rng.uniform(*settings.gain_db) / 20))
    return signal.clip(-1, 1 - 1 / FULL_SCALE).astype(np.float32, copy=False)


def with_noise(signal: Signal, snr_db: float, rng: np.random.Generator) -> Signal:
    """White Gaussian noise added, its expected power ``snr_db`` below the signal's mean power.

    >>> tone = np.full(100_000, 0.5, dtype=np.float32)
    >>> noise = with_noise(tone, 20.0, np.random.default_rng(0)) - tone
    >>> float(round(10 * np.log10(np.mean(tone**2) / np.mean(noise**2)), 1))
    20.0
    """
    power = float(np.mean(np.square(signal, dtype=np.float64)))
    scale = np.float32(np.sqrt(power / 10 ** (snr_db / 10)))
    return signal + scale * rng.standard_normal(len(signal), dtype=np.float32)


def through(codec: Codec, signal: Signal) -> Signal:
    """The signal as a codec hands it on, of the same length."""
    if codec != "mulaw":
        low = resample(signal, SAMPLING_RATE, SAMPLING_RATE // 2)
        low = mulaw(low) if codec == "telephone" else low
        signal = resample(low, SAMPLING_RATE // 2, SAMPLING_RATE)[: len(signal)]
    return mulaw(signal) if codec == "mulaw" else signal


def mulaw(signal: Signal) -> Signal:
    """Quantised to 255 levels on G.711's logarithmic curve (mu = 255), and expanded again.

    >>> coarse = mulaw(np.array([0.0, 0.01, 0.5, -2.0], dtype=np.float32))
    >>> [round(value, 4) for value in coarse.tolist()]
    [0.0, 0.01, 0.4953, -1.0]
    """
    mu, steps = np.float32(255), np.float32(127)
    curved = np.sign(signal) * np.log1p(mu * np.abs(signal).clip(max=1)) / np.log1p(mu)
    level = np.rint(curved * steps) / steps
    expanded: Signal = (np.sign(level) * np.expm1(np.abs(level) * np.log1p(mu)) / mu).astype(
        np.float32
    )
    return expanded


def played_at(signal: Signal, speed: float) -> Signal:
    """Played ``speed`` times as fast: tempo and pitch change, the sampling rate does not.

    >>> len(played_at(np.ones(16_000, dtype=np.float32), 1.25))
    12800
    """
    percent = round(100 * speed)
    if len(signal) * 100 // percent < SHORTEST:
        return signal
    return resample(signal, percent, 100)


def cropped(signal: Signal, share: float, rng: np.random.Generator) -> Signal:
    """A random stretch of a random length, at least ``share`` of the signal's.

    >>> kept = cropped(np.arange(10_000, dtype=np.float32), 0.5, np.random.default_rng(0))
    >>> len(kept) >= 5_000, float(kept[1] - kept[0])
    (True, 1.0)
    """
    size = max(round(len(signal) * rng.uniform(share, 1)), min(SHORTEST, len(signal)))
    start = int(rng.integers(len(signal) - size + 1))
    return signal[start : start + size]
