"""eSpeak NG by ctypes, each batch of lines in a fresh interpreter.

The synthesiser keeps state between utterances (its noise generator, its filters' memories), so its
samples repeat only in a fresh process, in the same order, with its random seed set. :func:`speak`
therefore runs *this file* as a program, which needs the standard library alone and starts in
hundredths of a second; :func:`_main` is that program. A crash of the C library ends that process
only. Source of the calls: eSpeak NG's ``speak_lib.h`` and ``espeak_ng.h``.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

RATE_HZ = 22_050
"""The rate of eSpeak NG's own voices; the program refuses another."""

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: samples go to the callback, calls return when all are there
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: report missing data instead of exit(1)
_UTF8 = 1  # espeakCHARS_UTF8
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}  # espeak_PARAMETER
_COUNT = struct.Struct("<i")
_HINT = 'pip install "emodistill[demo]"'


@dataclass(frozen=True)
class Line:
    """One utterance to speak.

    Attributes:
        text: what to say.
        voice: language and variant, e.g. ``en-us+f3``.
        rate: words a minute, 80 to 450.
        pitch: base pitch, 0 to 99; 50 is the voice's own.
        range: pitch range, 0 to 99; 0 is monotone.
        volume: 0 to 200; loud voices clip above about 100.
    """

    text: str
    voice: str
    rate: int
    pitch: int
    range: int
    volume: int


def library() -> tuple[str, str]:
    """Where the eSpeak NG library and its data lie.

    Raises:
        UserError: they are not installed.
    """
    from featstore.core.schema import UserError

    try:
        import espeakng_loader
    except ImportError:
        raise UserError("eSpeak NG, which speaks the corpus, is not installed", _HINT) from None
    try:
        return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
    except RuntimeError as error:
        raise UserError(f"eSpeak NG's data is missing: {error}", f"{_HINT} again") from error


def speak(lines: Sequence[Line], seed: int) -> Iterator[npt.NDArray[np.int16]]:
    """Speak the lines in a fresh process, in order.

    Args:
        lines: what to say and how.
        seed: of the synthesiser's noise, 0 to 2**31 - 1.

    Yields:
        One signal [samples] a line, int16 at :data:`RATE_HZ`.

    Raises:
        UserError: eSpeak NG is not installed.
        TaskFailed: it failed; the message is its own.
    """
    import numpy as np

    path, data = library()
    job = {"library": path, "data": data, "seed": seed, "lines": [asdict(line) for line in lines]}
    # -I -S: the standard library alone, whatever PYTHONPATH and site-packages hold; starts faster
    command = [sys.executable, "-I", "-S", __file__]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        try:
            assert process.stdin is not None  # both are pipes, which the types do not tell
            assert process.stdout is not None
            _send(process.stdin, json.dumps(job).encode())
            for _ in lines:
                samples = _receive(process.stdout)
                if samples is None:
                    break
                yield np.frombuffer(samples, dtype="<i2").astype(np.int16)
            else:
                return
            raise _failure(process.wait(), errors)
        finally:
            process.kill()  # no more is wanted, also where the caller stops early


def _send(pipe: IO[bytes], content: bytes) -> None:
    with suppress(BrokenPipeError), pipe:  # it died at once; its exit code and stderr tell why
        pipe.write(content)


def _receive(pipe: IO[bytes]) -> bytes | None:
    """One framed signal, or None where the other side ended before it was whole."""
    head = pipe.read(_COUNT.size)
    if len(head) < _COUNT.size:
        return None
    n_bytes = 2 * _COUNT.unpack(head)[0]
    samples = pipe.read(n_bytes)
    return samples if len(samples) == n_bytes else None


def _failure(code: int, errors: IO[bytes]) -> Exception:
    from featstore.core.schema import TaskFailed, printable

    errors.seek(0)
    said = errors.read().decode(errors="replace").strip().splitlines()
    why = said[-1] if said else f"signal {-code}" if code < 0 else f"exit code {code}"
    return TaskFailed(f"eSpeak NG failed: {printable(why)}", f"install it again: {_HINT}")


def _main() -> None:
    """Read a job from stdin; write each line's sample count (int32) and samples (int16)."""
    job = json.loads(sys.stdin.buffer.read())
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the C library prints must not end up between the samples
    engine = _Engine(job["library"], job["data"], job["seed"])
    for line in job["lines"]:
        samples = engine.say(**line)
        out.write(_COUNT.pack(len(samples) // 2) + samples)
        out.flush()


class _Engine:
    """The library, loaded and seeded; one a process."""

    def __init__(self, library: str, data: str, seed: int) -> None:
        self._lib = ctypes.CDLL(library)
        self._lib.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._lib.espeak_Synth.argtypes = [
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int),
            *(ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
        ]
        rate = self._lib.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _DONT_EXIT)
        if rate != RATE_HZ:
            raise SystemExit(f"eSpeak NG starts at {rate} Hz, not {RATE_HZ}: data in {data}?")
        self._lib.espeak_ng_SetRandSeed(seed)  # after the start, which seeds from the clock
        self._samples = bytearray()
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = callback(self._collect)  # kept: the library holds no reference
        self._lib.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, **parameters: int) -> bytes:
        """One line's samples as little-endian int16."""
        self._samples.clear()
        self._check(self._lib.espeak_SetVoiceByName(voice.encode()), f"voice {voice}")
        for name, value in parameters.items():
            self._check(self._lib.espeak_SetParameter(_PARAMETERS[name], value, 0), name)
        words = text.encode() + b"\0"
        start, by_character, to_the_end = 0, 1, 0
        self._check(
            self._lib.espeak_Synth(
                words, len(words), start, by_character, to_the_end, _UTF8, None, None
            ),
            f"text {text!r}",
        )
        return bytes(self._samples)

    def _collect(self, samples: Any, n: int, _events: Any) -> int:
        if samples and n > 0:
            self._samples += ctypes.string_at(samples, 2 * n)
        return 0

    def _check(self, code: int, what: str) -> None:
        if code != 0:
            raise SystemExit(f"error {code} from eSpeak NG ({what})")


if __name__ == "__main__":
    _main()
