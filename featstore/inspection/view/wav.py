"""A signal as a WAV file in memory, whole or a stretch of it."""

from __future__ import annotations

import re
import struct

import numpy as np
import numpy.typing as npt

from featstore.core.schema import SAMPLING_RATE

HEADER_BYTES = 44
_RANGE = re.compile(r"bytes=([0-9]{0,12})-([0-9]{0,12})\Z", re.ASCII)


class OutsideError(ValueError):
    """A range that begins where the file has ended."""


def wav(samples: npt.NDArray[np.int16]) -> bytes:
    """A mono WAV file of 16 bits and 16 kHz: the 44 bytes of its header, then the samples.

    >>> wav(np.zeros(8, dtype=np.int16))[:4]
    b'RIFF'
    """
    body = samples.astype("<i2", copy=False).tobytes()
    rate, width = SAMPLING_RATE, 2
    layout = struct.pack("<IHHIIHH", 16, 1, 1, rate, rate * width, width, 8 * width)
    head = b"RIFF" + struct.pack("<I", HEADER_BYTES - 8 + len(body)) + b"WAVEfmt " + layout
    return head + b"data" + struct.pack("<I", len(body)) + body


def span(header: str | None, size: int) -> tuple[int, int] | None:
    """Which bytes a ``Range`` header asks for: ``(first, end)``; None for all of them.

    A header that is no single range of bytes is passed over, as RFC 9110 (14.2) allows.

    >>> span("bytes=0-99", 1000), span("bytes=-10", 1000), span("bytes=990-5000", 1000)
    ((0, 100), (990, 1000), (990, 1000))

    Raises:
        OutsideError: nothing of the file lies within it.
    """
    match = _RANGE.match(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        begin, end = max(size - int(last), 0), size
    else:
        begin, end = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < begin:
            return None
    if begin >= end:
        raise OutsideError(f"bytes {begin} to {end} of {size}")
    return begin, end
