"""A Hugging Face model's files, looked at before transformers reads them.

Its loaders take a configuration of any size, follow an index of weights to any path, and fall back
to unpickling; a folder or a hub id comes from anybody.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featstore.core.files import strict_json
from featstore.core.schema import Corrupt, Refused, UserError, printable
from featstore.core.tensors import read_header

MAX_BYTES = 16 * 1024**3
"""Of one file of weights: four times the largest encoder in float32."""
MAX_JSON_BYTES = 1024**2
WEIGHTS = "model.safetensors"

_AGAIN = "fetch the folder anew"
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\.safetensors\Z")


def model_file(source: str, name: str, local: bool) -> Path | None:
    """A file of a folder or of the hub's cache, fetched where that is allowed.

    Args:
        source: a folder or a hub id.
        name: the file's.
        local: fetch nothing.

    Returns:
        Where it lies; None where there is none.
    """
    from transformers.utils import cached_file

    path = cached_file(
        source,
        name,
        local_files_only=local,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else Path(path)


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file of a stranger's; a link to one will do, as in the hub's cache.

    Raises:
        Corrupt: it is none.
        Refused: it is no regular file, or far too large.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_JSON_BYTES:
        raise Refused(f"{path}: no regular file of a usual size", _AGAIN)
    return strict_json(path.read_bytes(), str(path))


def weight_files(source: str, local: bool) -> Iterator[Path]:
    """The files that transformers will take weights from; what an index names lies beside it.

    Nothing is said where there are none: transformers then says so itself.

    Args:
        source: a folder or a hub id.
        local: fetch nothing.

    Raises:
        Corrupt: the index is none.
        Refused: it names a pickle, or a file elsewhere.
    """
    whole = model_file(source, WEIGHTS, local)
    if whole is not None:
        yield whole
        return
    index = model_file(source, f"{WEIGHTS}.index.json", local)
    if index is None:
        return
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise Corrupt(f"{index}: names no files of weights", _AGAIN)
    for name in sorted({str(name) for name in names.values()}):
        if not _SHARD.match(name):
            raise Refused(
                f"{index}: takes weights from {printable(name)[:80]!r}",
                "it may name .safetensors files beside it and nothing else",
            )
        if (path := model_file(source, name, local)) is not None:
            yield path


def check_weights(source: str, local: bool) -> int:
    """Read the header of every file that transformers will take weights from.

    Args:
        source: a folder or a hub id.
        local: fetch nothing.

    Returns:
        How many such files there are.

    Raises:
        Corrupt: a file is no safetensors file, or an index is none.
        Refused: an index names a pickle or a file elsewhere, or a file is beyond any size.
    """
    return sum(1 for path in weight_files(source, local) if read_header(path, max_bytes=MAX_BYTES))


def refuse_giant(path: Path) -> None:
    """Make sure that a file of weights can be read, or summed, to its end.

    Raises:
        UserError: it is not there.
        Refused: it has more than :data:`MAX_BYTES`; a sparse file claims
            any size.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights", "give --weights an existing file")
    if path.stat().st_size > MAX_BYTES:
        raise Refused(f"{path}: more than {MAX_BYTES:,} bytes", "give --weights an encoder's file")
