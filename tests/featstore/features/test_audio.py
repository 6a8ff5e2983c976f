from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featstore.core.config import AudioSettings
from featstore.features.audio import (
    BadAudio,
    Signal,
    check_file,
    from_samples,
    load_signal,
    resample,
    to_samples,
)
from featstore.features.lld import LOUDNESS, extract, names


def sine(rate: int = 16_000, duration_s: float = 0.5, hertz: float = 440.0) -> Signal:
    t = np.arange(round(rate * duration_s)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def peak_hz(found: Signal) -> float:
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found))))
    return float(spectrum.argmax() * 16_000 / len(found))


@contextmanager
def at_most_s(seconds: int) -> Iterator[None]:
    """A read that hangs fails here, not at the suite's timeout."""

    def late(*_: Any) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class TestSamples:
    def test_full_scale_does_not_wrap(self) -> None:
        """opensmile's cast turned +1.0 into -32768."""
        assert to_samples(np.array([1.0, 2.0, -1.0, -2.0], dtype=np.float32)).tolist() == [
            32767, 32767, -32768, -32768,
        ]  # fmt: skip

    def test_loudness_of_a_full_scale_tone_is_not_that_of_wrapped_samples(self) -> None:
        """Measured once: 0.59 as it should be, 2.56 where the peaks wrap round."""
        t = np.arange(16_000) / 16_000
        tone = np.clip(1.2 * np.sin(2 * np.pi * 200 * t), -1, 1).astype(np.float32)
        right = to_samples(tone)
        wrapped = (tone * 32768).astype(np.int64).astype(np.int16)
        assert wrapped.min() == -32768
        assert (wrapped[tone == 1.0] == -32768).all()
        column = names().index(LOUDNESS)
        loud, too_loud = (float(extract(x)[:, column].mean()) for x in (right, wrapped))
        quieter = float(extract(to_samples(0.999 * tone))[:, column].mean())
        assert loud == pytest.approx(quieter, rel=0.01)
        assert too_loud > 1.5 * loud

    @given(hnp.arrays(np.int16, st.integers(1, 50)))
    def test_survive_the_way_through_float(self, samples: Any) -> None:
        np.testing.assert_array_equal(to_samples(from_samples(samples)), samples)

    def test_are_rounded_to_the_nearest(self) -> None:
        steps = np.array([0.4, 0.6, -0.4, -0.6, 1.5], dtype=np.float32) / 32768
        assert to_samples(steps).tolist() == [0, 1, 0, -1, 2]


class TestReading:
    @pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
    def test_16_bit_samples_come_back_exactly(self, tmp_path: Path, suffix: str) -> None:
        samples = to_samples(sine())
        soundfile.write(tmp_path / f"a.{suffix}", samples, 16_000)
        np.testing.assert_array_equal(to_samples(load_signal(tmp_path / f"a.{suffix}")), samples)

    def test_result_is_on_the_16_bit_grid_and_in_range(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.wav", 4 * sine(44_100), 44_100, subtype="FLOAT")
        found = load_signal(tmp_path / "a.wav")
        assert found.dtype == np.float32
        assert (found.min(), found.max()) == (-1.0, np.float32(32767 / 32768))
        np.testing.assert_array_equal(found * 32768, np.rint(found * 32768))

    @pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
    def test_tone_keeps_its_frequency_and_length(self, tmp_path: Path, rate: int) -> None:
        soundfile.write(tmp_path / "a.wav", sine(rate, 1.0, 1_000.0), rate)
        found = load_signal(tmp_path / "a.wav")
        assert len(found) == 16_000
        assert peak_hz(found) == pytest.approx(1_000.0, abs=2.0)
        assert np.abs(found[1_000:-1_000]).max() == pytest.approx(0.5, abs=0.01)

    def test_above_the_new_nyquist_nothing_is_folded_back(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.wav", sine(48_000, 1.0, 12_000.0), 48_000)
        assert np.abs(load_signal(tmp_path / "a.wav")[1_000:-1_000]).max() < 0.01

    def test_stereo_is_averaged(self, tmp_path: Path) -> None:
        left, right = sine(48_000), np.zeros_like(sine(48_000))
        soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), 48_000)
        soundfile.write(tmp_path / "one.wav", left / 2, 48_000)
        two, one = (load_signal(tmp_path / f"{name}.wav") for name in ("two", "one"))
        np.testing.assert_allclose(two, one, atol=2 / 32768)

    def test_blocks_do_not_show(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(0)
        noise = rng.integers(-9_000, 9_000, (50_000, 3)).astype(np.int16)
        for name in ("a.wav", "a.flac"):
            soundfile.write(tmp_path / name, noise, 44_100)
            whole = load_signal(tmp_path / name, 0.1)
            monkeypatch.setattr("featstore.features.audio._BLOCK", 777)
            np.testing.assert_array_equal(load_signal(tmp_path / name, 0.1), whole)
            monkeypatch.undo()

    def test_segment_is_cut_by_seconds(self, tmp_path: Path) -> None:
        samples = np.arange(16_000, dtype=np.int16)
        soundfile.write(tmp_path / "a.wav", samples, 16_000)
        found = to_samples(load_signal(tmp_path / "a.wav", 0.25, 0.5))
        np.testing.assert_array_equal(found, samples[4_000:12_000])
        to_the_end = to_samples(load_signal(tmp_path / "a.wav", 0.75))
        np.testing.assert_array_equal(to_the_end, samples[12_000:])

    def test_last_segment_may_be_rounded_up_by_one_sample(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.wav", to_samples(sine()), 16_000)
        assert len(load_signal(tmp_path / "a.wav", 0.0, 8_001 / 16_000)) == 8_000

    def test_same_rate_is_left_alone(self) -> None:
        tone = sine()
        assert resample(tone, 16_000, 16_000) is tone


def wav(folder: Path, samples: Any, rate: int = 16_000, **options: Any) -> Path:
    soundfile.write(folder / "a.wav", samples, rate, **options)
    return folder / "a.wav"


def raw(folder: Path, content: bytes) -> Path:
    (folder / "a.wav").write_bytes(content)
    return folder / "a.wav"


def patched(folder: Path, at: int, form: str, value: int) -> Path:
    """A WAV whose header says something else."""
    path = wav(folder, to_samples(sine()))
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, at, value)
    return raw(folder, bytes(content))


def odd(value: float) -> Signal:
    tone = sine()
    tone[4_000] = value
    return tone


def folder_called_wav(folder: Path) -> Path:
    (folder / "a.wav").mkdir()
    return folder / "a.wav"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.wav")
    return folder / "a.wav"


def link(folder: Path) -> Path:
    (folder / "a.wav").symlink_to(folder / "gone.wav")
    return folder / "a.wav"


def cut(folder: Path) -> Path:
    return raw(folder, wav(folder, to_samples(sine())).read_bytes()[:-2_000])


def cut_flac(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    noise = rng.integers(-20_000, 20_000, 32_000).astype(np.int16)
    soundfile.write(folder / "a.flac", noise, 16_000)
    content = (folder / "a.flac").read_bytes()
    (folder / "a.flac").write_bytes(content[: len(content) // 2])
    return folder / "a.flac"


def huge(folder: Path) -> Path:
    path = wav(folder, to_samples(sine()))
    with path.open("r+b") as file:
        file.truncate(2 * 1024**3 + 1)  # sparse: it takes no room on the disk
    return path


def headerless(folder: Path) -> Path:
    (folder / "a.raw").write_bytes(bytes(32_000))
    return folder / "a.raw"


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"

BAD: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "NaN": ("non-finite", lambda p: wav(p, odd(np.nan), subtype="FLOAT")),
    "Inf": ("non-finite", lambda p: wav(p, odd(np.inf), subtype="FLOAT")),
    "beyond float32": (
        "non-finite",
        lambda p: wav(p, sine() * np.float64(1e300), subtype="DOUBLE"),
    ),
    "integers as floats": ("out-of-range", lambda p: wav(p, sine() * 9_000.0, subtype="FLOAT")),
    "silent": ("silent", lambda p: wav(p, np.zeros(8_000, dtype=np.int16))),
    "empty": ("empty-audio", lambda p: raw(p, b"")),
    "header only": ("outside-file", lambda p: wav(p, np.zeros(0, dtype=np.int16))),
    "truncated": ("truncated", cut),
    "truncated FLAC": ("unreadable", cut_flac),
    "LFS pointer": ("lfs-pointer", lambda p: raw(p, POINTER)),
    "no audio": ("unreadable", lambda p: raw(p, b"<html>not found</html>" * 9)),
    "no header": ("unreadable", headerless),
    "folder": ("not-a-file", folder_called_wav),
    "pipe": ("not-a-file", pipe),
    "device": ("not-a-file", lambda p: Path("/dev/zero")),
    "missing": ("missing-audio", lambda p: p / "a.wav"),
    "link to nothing": ("missing-audio", link),
    "2**31 Hz": ("sampling-rate", lambda p: patched(p, 24, "<I", 2**31 - 1)),
    "1 Hz": ("sampling-rate", lambda p: patched(p, 24, "<I", 1)),
    "rate without a ratio": ("sampling-rate", lambda p: wav(p, to_samples(sine()), 47_999)),
    "17 channels": ("channels", lambda p: wav(p, np.ones((8_000, 17), dtype=np.int16))),
    "too short": ("too-short", lambda p: wav(p, to_samples(sine(duration_s=0.09)))),
    "too long": ("too-long", lambda p: wav(p, np.ones(61 * 4_000, dtype=np.int16), 4_000)),
    "too large": ("too-large", huge),
}


class TestBadAudio:
    @pytest.mark.parametrize("kind", sorted(BAD))
    def test_is_refused_by_name_with_a_remedy(self, tmp_path: Path, kind: str) -> None:
        reason, make = BAD[kind]
        path = make(tmp_path)
        with at_most_s(10), pytest.raises(BadAudio) as caught:
            load_signal(path)
        assert caught.value.reason == reason
        assert str(path) in caught.value.message
        assert caught.value.hint
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize(
        ("start_s", "duration_s"), [(0.4, 0.2), (9.0, 0.2), (-0.1, 0.2), (0.5, None), (0.2, -0.1)]
    )
    def test_segment_beyond_the_file(
        self, tmp_path: Path, start_s: float, duration_s: float | None
    ) -> None:
        path = wav(tmp_path, to_samples(sine()))
        with pytest.raises(BadAudio, match="the file has 8000") as caught:
            load_signal(path, start_s, duration_s)
        assert caught.value.reason == "outside-file"

    def test_limits_are_settings_and_count_the_segment(self, tmp_path: Path) -> None:
        path = wav(tmp_path, to_samples(sine(duration_s=1.0)))
        settings = AudioSettings(min_duration_s=0.2, max_duration_s=0.5)
        assert len(load_signal(path, 0.1, 0.4, settings)) == 6_400
        with pytest.raises(BadAudio, match=r"0\.150 s is under audio\.min_duration_s = 0\.2"):
            load_signal(path, 0.1, 0.15, settings)
        with pytest.raises(BadAudio, match=r"1\.0 s is over audio\.max_duration_s = 0\.5"):
            load_signal(path, settings=settings)

    def test_file_that_may_not_be_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = wav(tmp_path, to_samples(sine()))
        monkeypatch.setattr(
            Path, "open", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "denied"))
        )
        with pytest.raises(BadAudio, match=r"a\.wav: denied") as caught:
            check_file(path)
        assert caught.value.reason == "unreadable"

    @pytest.mark.parametrize(
        ("riff", "data"), [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000), (0, 0xFFFFFFFF)]
    )
    def test_header_of_a_stream_is_no_truncation(
        self, tmp_path: Path, riff: int, data: int
    ) -> None:
        """Who writes into a pipe does not know how long it will be: ffmpeg's and sox's sizes."""
        whole = load_signal(wav(tmp_path, to_samples(sine())))
        path = patched(tmp_path, 4, "<I", riff)
        raw = bytearray(path.read_bytes())
        struct.pack_into("<I", raw, raw.index(b"data") + 4, data)
        path.write_bytes(raw)
        np.testing.assert_array_equal(load_signal(path), whole)

    def test_odd_last_byte_is_no_truncation(self, tmp_path: Path) -> None:
        path = wav(tmp_path, to_samples(sine()))
        declared = struct.unpack_from("<I", path.read_bytes(), 4)[0]
        load_signal(patched(tmp_path, 4, "<I", declared + 1))
