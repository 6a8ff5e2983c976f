"""Weights and models of anybody: Hugging Face folders and safetensors files, looked at unread.

transformers' loaders take a configuration of any size, follow an index of weights to any path, and
fall back to unpickling. safetensors itself checks a header against its file (overlaps, gaps, sizes,
dtypes); here a file's kind and size come first, and a pickle under another name is called one.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.core.files import fsync_file, strict_json
from featstore.core.schema import Corrupt, Refused, UserError, printable

if TYPE_CHECKING:
    import torch

MAX_BYTES = 16 * 1024**3
"""Of one file of weights: four times the largest encoder in float32."""
MAX_TENSORS_BYTES = 32 * 1024**3
"""Twice a checkpoint of the largest encoder: a billion weights, AdamW's state and the best ones."""
MAX_JSON_BYTES = 1024**2
WEIGHTS = "model.safetensors"

_AGAIN = "fetch or copy it anew"
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\.safetensors\Z")
_PICKLES = (b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How torch's archives and bare pickles begin. Only a file whose first bytes are no possible length
is asked for them: a header of 640 bytes begins as a pickle does."""
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, and no report on the heads that an encoder lacks or leaves out."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


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
    paths = list(weight_files(source, local))
    for path in paths:
        check_tensors(path, MAX_BYTES)
    return len(paths)


def refuse_giant(path: Path) -> None:
    """Make sure that a file of weights can be read, or summed, to its end.

    Raises:
        UserError: it is not there.
        Refused: it has more than :data:`MAX_BYTES`; a sparse file claims any size.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights", "give --weights an existing file")
    if path.stat().st_size > MAX_BYTES:
        raise Refused(f"{path}: more than {MAX_BYTES:,} bytes", "give --weights an encoder's file")


def check_tensors(path: Path, max_bytes: int = MAX_TENSORS_BYTES) -> None:
    """Read a safetensors file's header, and nothing else.

    Args:
        path: the file; a link to one will do, as in the Hugging Face cache.
        max_bytes: larger files are refused unread.

    Raises:
        FileNotFoundError: it is not there.
        Corrupt: it is damaged, or something else than safetensors.
        Refused: it is a pickle, no regular file, or beyond any size of use.
    """
    from safetensors import SafetensorError, safe_open

    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > max_bytes:
        message = f"{path}: no regular file of at most {max_bytes:,} bytes"
        raise Refused(message, "give a file of weights")
    with path.open("rb") as file:
        start = file.read(8)
    if int.from_bytes(start, "little") > facts.st_size - 8 and start.startswith(_PICKLES):
        raise Refused(
            f"{path}: a pickle, which can run foreign code, not safetensors",
            "save its tensors as .safetensors where you trust the file",
        )
    try:
        with safe_open(path, framework="np") as tensors:
            tensors.keys()
    except SafetensorError as error:
        raise _corrupt(path, error) from error


def read_tensors(path: Path, max_bytes: int = MAX_TENSORS_BYTES) -> dict[str, torch.Tensor]:
    """The tensors of a file, on the CPU; arguments and errors as for :func:`check_tensors`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_tensors(path, max_bytes)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _corrupt(path, error) from error


def _corrupt(path: Path, error: Exception) -> Corrupt:
    why = printable(str(error))[:120]
    return Corrupt(f"{path}: not a sound safetensors file ({why})", _AGAIN)


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
        match = _OS_ERROR.search(str(error))
        if match is None:
            raise
        number = int(match[1])
        raise OSError(number, os.strerror(number), str(path)) from error
    fsync_file(path)
