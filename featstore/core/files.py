"""Single files, read and written so that nothing is half there and nothing is believed unread."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from featstore.core.os_errors import naming
from featstore.core.schema import Corrupt, Refused
from featstore.core.settings import canonical, digest

MAX_JSON_BYTES = 4 * 1024**2
"""A record of 32,000 files has 3.5; read, the densest JSON takes thirty times its size."""
_LOADED = re.compile(
    r"((generation_|tokenizer_|preprocessor_|processor_)?config|tokenizer|special_tokens_map"
    r"|added_tokens|vocab)\.json\Z|(vocab|merges)\.txt\Z|.+\.(model|safetensors"
    r"|safetensors\.index\.json)\Z"
)
"""Files of a Hugging Face folder that a model, tokenizer or feature extractor is made of."""
_BESIDE = re.compile(r"\.(.+)\.[0-9a-f]{8}\Z", re.DOTALL)


def fsync_folder(folder: Path) -> None:
    """Make a rename or a new name in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with naming(folder):
            os.fsync(handle)
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    """Make what was written into ``path`` survive a power cut."""
    with path.open("rb+") as file, naming(path):
        os.fsync(file.fileno())


def make_folders(folder: Path) -> None:
    """Make a folder and those above it, so that they survive a power cut."""
    for above in [*reversed(folder.absolute().parents), folder.absolute()]:
        if not above.is_dir():
            above.mkdir(exist_ok=True)
            fsync_folder(above.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write beside the target, fsync, rename: a reader never sees half of it."""
    with replaced(path) as beside, naming(path):
        beside.write_bytes(content)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file beside ``path`` for the body to fill: for what is too large to be handed over whole.

    It takes the place of ``path`` when the body ends, and is gone where the body fails. It is
    locked as long as its writer lives; what a killed writer of the same file left is removed first.
    """
    remove_leftovers(path.parent, path.name)
    beside, handle = _new_beside(path)
    try:
        yield beside
        with naming(path):
            os.fsync(handle)
            beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    fsync_folder(path.parent)


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove the files that a writer had begun beside their place when it was killed.

    Args:
        folder: where they lie.
        name: the file that they were to become; any where empty.
    """
    for path in folder.iterdir():
        match = _BESIDE.match(path.name)
        if match and name in ("", match[1]):
            with suppress(OSError):  # its writer was quicker
                handle = try_lock(path)
                if handle is not None:
                    path.unlink()
                    os.close(handle)


def _new_beside(path: Path) -> tuple[Path, int]:
    while True:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with suppress(FileNotFoundError):  # taken for a leftover before it was locked
            handle = try_lock(beside, create=True)
            if handle is not None:
                return beside, handle


def write_pieces(path: Path, pieces: Iterable[bytes]) -> tuple[int, str]:
    """Write a file that nobody reads yet, such as one of a staging folder; its folder is made.

    Returns:
        Its size, and its SHA-256 in hex: what a unit's record lists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    n_bytes, digested = 0, hashlib.sha256()
    with naming(path), path.open("wb") as file:
        for piece in pieces:
            n_bytes += file.write(piece)
            digested.update(piece)
    return n_bytes, digested.hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with naming(path), path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """What tells one local model from another: ``sha256:`` and a digest of what it is loaded from.

    Configuration, tokenizer and weights count; a README beside them changes no model.
    """
    files = sorted(path for path in folder.iterdir() if _LOADED.match(path.name) and path.is_file())
    return f"sha256:{digest({path.name: sha256_of(path) for path in files})}"


def read_small(path: Path) -> bytes:
    """A JSON file from somebody else, which might be a pipe that never ends.

    Raises:
        FileNotFoundError: it is not there.
        Refused: it is no regular file, or larger than anything we write there.
    """
    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_JSON_BYTES:
        raise Refused(f"{path}: not a regular file of a usual size", "remove it, then rebuild")
    with naming(path):
        return path.read_bytes()


def strict_json(content: bytes, name: str, mend: str = "restore the file") -> dict[str, Any]:
    """A JSON object from somebody else: UTF-8, no duplicate key, no NaN.

    Raises:
        Corrupt: naming the file.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) != len(items):
            raise ValueError("a key stands twice")
        return out

    def constant(text: str) -> Any:
        raise ValueError(f"{text} is no number")

    try:
        value = json.loads(content, object_pairs_hook=pairs, parse_constant=constant)
        canonical(value)  # refuses 1e999, which reads as infinity, and half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{name}: not valid JSON ({error})", mend) from error
    if not isinstance(value, dict):
        raise Corrupt(f"{name}: not a JSON object", mend)
    return value


def try_lock(path: Path, *, create: bool = False) -> int | None:
    """Take the lock that ``path`` stands for, without waiting.

    The kernel drops it with its holder, even at SIGKILL.

    Args:
        path: the lock file.
        create: make it where it is missing.

    Returns:
        An open descriptor that holds the lock until closed, or None where another process has it
        (or has removed the file while we opened it).

    Raises:
        FileNotFoundError: ``path`` or its folder is not there.
    """
    handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_ino == path.stat().st_ino:
            return handle
    except BlockingIOError:
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None
