from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from featstore.inspection.view.wav import HEADER_BYTES, OutsideError, span, wav


def test_a_wav_reader_finds_the_samples() -> None:
    samples = np.array([0, 1, -1, 32767, -32768], dtype=np.int16)
    content = wav(samples)
    found, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert rate == 16_000
    np.testing.assert_array_equal(found, samples)
    assert content[HEADER_BYTES:] == samples.astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None), ("", None), ("bytes=0-", (0, 100)), ("bytes=0-0", (0, 1)),
        ("bytes=99-", (99, 100)), ("bytes=5-9", (5, 10)), ("bytes=5-999999999999", (5, 100)),
        ("bytes=-1", (99, 100)), ("bytes=-999", (0, 100)), ("bytes=9-5", None), ("bytes=-", None),
        ("bytes=0-1,5-6", None), ("rows=0-1", None), ("bytes=0x1-2", None), ("bytes=٣-", None),
        ("bytes=0-99999999999999999999", None), ("bytes=-5-", None), ("bytes=0-1\n", None),
    ],
)  # fmt: skip
def test_span(header: str | None, wanted: tuple[int, int] | None) -> None:
    assert span(header, 100) == wanted


@pytest.mark.parametrize(
    "header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=999999999999-"]
)
def test_beyond_the_end(header: str) -> None:
    with pytest.raises(OutsideError):
        span(header, 100)
