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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

RATE_HZ = 22_050
"""The rate of eSpeak NG's own voices; the program refuses another."""

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: samples go to the callback, calls return when all are there
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: report missing data instead of exit(1)
_UTF8 = 1  # espeakCHARS_UTF8
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}  # espeak_PARAMETER
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


def speak(lines: Sequence[Line], seed: int) -> list[npt.NDArray[np.int16]]:
    """Speak the lines in a fresh process, in order.

    Args:
        lines: what to say and how.
        seed: of the synthesiser's noise, 0 to 2**31 - 1.

    Returns:
        One signal [samples] a line, int16 at :data:`RATE_HZ`.

    Raises:
        UserError: eSpeak NG is not installed.
        TaskFailed: it failed; the message is its own.
    """
    import numpy as np

    from featstore.core.schema import TaskFailed, printable

    path, data = library()
    job = {"library": path, "data": data, "seed": seed, "lines": [asdict(line) for line in lines]}
    # -I -S: the standard library alone, whatever PYTHONPATH and site-packages hold; starts faster
    command = [sys.executable, "-I", "-S", __file__]
    done = subprocess.run(command, input=json.dumps(job).encode(), capture_output=True, check=False)
    if done.returncode != 0:
        code = done.returncode
        errors = done.stderr.decode(errors="replace").strip().splitlines()
        why = errors[-1] if errors else f"signal {-code}" if code < 0 else f"exit code {code}"
        raise TaskFailed(f"eSpeak NG failed: {printable(why)}", f"install it again: {_HINT}")
    n_samples = np.frombuffer(done.stdout, "<i4", len(lines))
    samples = np.frombuffer(done.stdout, "<i2", offset=n_samples.nbytes).astype(np.int16)
    return np.split(samples, np.cumsum(n_samples)[:-1])


def _main() -> None:
    """Read a job from stdin; write each line's sample count (int32), then all samples (int16)."""
    job = json.loads(sys.stdin.buffer.read())
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the C library prints must not end up between the samples
    engine = ctypes.CDLL(job["library"])
    engine.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    engine.espeak_Synth.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int),
        *(ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
    ]
    rate = engine.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(job["data"]), _DONT_EXIT)
    if rate != RATE_HZ:
        raise SystemExit(f"eSpeak NG starts at {rate} Hz, not {RATE_HZ}: data in {job['data']}?")
    engine.espeak_ng_SetRandSeed(job["seed"])  # after the start, which seeds from the clock
    spoken = bytearray()

    def collect(samples: Any, n: int, _events: Any) -> int:
        if samples and n > 0:
            spoken.extend(ctypes.string_at(samples, 2 * n))
        return 0

    callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    callback = callback_type(collect)  # kept: the library holds no reference
    engine.espeak_SetSynthCallback(callback)
    signals: list[bytes] = []
    for line in job["lines"]:
        spoken.clear()
        _say(engine, **line)
        signals.append(bytes(spoken))
    counts = [len(signal) // 2 for signal in signals]
    out.write(struct.pack(f"<{len(counts)}i", *counts) + b"".join(signals))
    out.flush()


def _say(engine: Any, text: str, voice: str, **parameters: int) -> None:
    def check(code: int, what: str) -> None:
        if code != 0:
            raise SystemExit(f"error {code} from eSpeak NG ({what})")

    check(engine.espeak_SetVoiceByName(voice.encode()), f"voice {voice}")
    for name, value in parameters.items():
        check(engine.espeak_SetParameter(_PARAMETERS[name], value, 0), name)
    words = text.encode() + b"\0"
    start, by_character, to_the_end = 0, 1, 0
    place = (start, by_character, to_the_end)
    check(engine.espeak_Synth(words, len(words), *place, _UTF8, None, None), f"text {text!r}")


if __name__ == "__main__":
    _main()
