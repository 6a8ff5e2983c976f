"""safetensors files from anybody: their header is checked before a byte is allocated for it.

The format is a length, a JSON header and raw numbers, so it can run no code; but a header may claim
any length, shape and place. Whoever renames a pickle to ``.safetensors`` is told so.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from featstore.core.files import fsync_file, strict_json
from featstore.core.schema import Corrupt, Refused, printable

if TYPE_CHECKING:
    import torch

MAX_BYTES = 32 * 1024**3
"""Twice a checkpoint of the largest encoder: a billion weights, AdamW's state and the best ones."""
MAX_HEADER_BYTES = 4 * 1024**2
"""Some 30,000 tensors; the largest encoder has 1,600."""
MAX_RANK = 8

_AGAIN = "fetch or copy the file anew"
_SIZES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_PICKLES = (b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How torch's archives and bare pickles begin. Only a file whose first bytes are no possible length
is asked for them: a header of 640 bytes begins as a pickle does."""
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


class Entry(NamedTuple):
    """One tensor as the header describes it."""

    dtype: str  # as safetensors spells it: F32, I64 ...
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Size of its numbers."""
        return math.prod(self.shape) * _SIZES[self.dtype]


def read_header(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Entry]:
    """What tensors a file holds, once its header fits its size to the byte.

    Args:
        path: the file; a link to one will do, as in the Hugging Face cache.
        max_bytes: larger files are refused unread.

    Raises:
        FileNotFoundError: it is not there.
        Corrupt: it is damaged, or something else than safetensors.
        Refused: it is a pickle, no regular file, or beyond any size of use.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > max_bytes:
        raise Refused(
            f"{path}: no regular file of at most {max_bytes:,} bytes", "give a file of weights"
        )
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8:
            raise _corrupt(path, f"{facts.st_size} bytes")
        if length > min(MAX_HEADER_BYTES, facts.st_size - 8):
            if start.startswith(_PICKLES):
                raise Refused(
                    f"{path}: a pickle, which can run foreign code, not safetensors",
                    "save its tensors as .safetensors where you trust the file",
                )
            raise _corrupt(path, f"a header of {length:,} bytes in {facts.st_size:,}")
        raw = strict_json(file.read(length), str(path))
    about = raw.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(told, str) for told in about.values()):
        raise _corrupt(path, "metadata that is no text")
    return _entries(path, raw, facts.st_size - 8 - length)


def read_tensors(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, torch.Tensor]:
    """The tensors of a file, on the CPU.

    Args:
        path: the file.
        max_bytes: larger files are refused unread.

    Raises:
        FileNotFoundError: it is not there.
        Corrupt: it is damaged, or something else than safetensors.
        Refused: it is a pickle, no regular file, or beyond any size of use.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_header(path, max_bytes=max_bytes)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _corrupt(path, str(error)) from error


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors, from any device, and make them survive a power cut.

    Raises:
        OSError: naming the file, also where safetensors has an error of its own for it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, path)
    except SafetensorError as error:
        told = _OS_ERROR.search(str(error))
        if told is None:
            raise
        number = int(told[1])
        raise OSError(number, os.strerror(number), str(path)) from error
    fsync_file(path)


def _entries(path: Path, raw: Mapping[str, Any], n_bytes: int) -> dict[str, Entry]:
    """The header's entries; their numbers must fill the file without gap or overlap."""
    entries: dict[str, Entry] = {}
    places: list[tuple[int, int]] = []
    for name, value in raw.items():
        try:
            entries[name], place = _entry(value)
        except (KeyError, TypeError, ValueError) as error:
            raise _corrupt(path, f"{printable(name)[:80]!r} is no tensor: {error}") from error
        places.append(place)
    end = 0
    for start, stop in sorted(places):
        if start != end:
            raise _corrupt(path, f"its tensors overlap or leave a gap at byte {end:,}")
        end = stop
    if end != n_bytes:
        raise _corrupt(path, f"{n_bytes:,} bytes of numbers where its header tells of {end:,}")
    return entries


def _entry(value: Mapping[str, Any]) -> tuple[Entry, tuple[int, int]]:
    """A tensor's description and where its numbers lie."""
    if set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("other keys than dtype, shape and data_offsets")
    start, stop = _counts(value["data_offsets"])
    shape = _counts(value["shape"])
    if value["dtype"] not in _SIZES or len(shape) > MAX_RANK:
        raise ValueError(f"{printable(str(value['dtype']))[:40]} of rank {len(shape)}")
    entry = Entry(value["dtype"], shape)
    if stop - start != entry.n_bytes:
        raise ValueError(f"{list(shape)} of {entry.dtype} in {stop - start:,} bytes")
    return entry, (start, stop)


def _counts(raw: Any) -> tuple[int, ...]:
    if not isinstance(raw, list) or not all(type(n) is int and 0 <= n < 2**48 for n in raw):
        raise ValueError("a size or place is no count")
    return tuple(raw)


def _corrupt(path: Path, why: str) -> Corrupt:
    return Corrupt(f"{path}: not a sound safetensors file: {why}", _AGAIN)
