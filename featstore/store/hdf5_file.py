"""An HDF5 file from somebody else: nothing of it is followed, loaded or inflated unasked.

HDF5 follows links into other files, reads data sets from other files, loads filters as plugins and
inflates gigabytes from nothing. Hence one walk over all names first, and then data sets of a known
type, shape and size alone.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from featstore.core.schema import Corrupt, Refused, UserError, printable
from featstore.store.arrays import MAX_CHUNK_BYTES, MAX_CHUNKS

ANEW = "ask whoever made it to run `featstore export` again"
MAX_OBJECTS = 100_000
"""Groups and data sets in one file; two teachers of ten folds make 300."""
MAX_DEPTH = 8
MAX_ATTRIBUTE_BYTES = 256
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_INFLATED = 1100
"""How many bytes one of gzip's can stand for, at most (1,032), with some to spare."""


@contextmanager
def opened(path: Path) -> Iterator[CheckedFile]:
    """Open a file to read.

    Raises:
        UserError: there is no such file.
        Corrupt: it is damaged, or no HDF5 file.
        Refused: it is no regular file.
    """
    import h5py

    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path}: no such file", "write one with `featstore export STORE --to FILE.h5`"
        ) from None
    if not stat.S_ISREG(facts.st_mode):
        raise Refused(f"{path}: not a regular file", "give the exported .h5 file itself")
    with path.open("rb") as start:
        if start.read(8) != _SIGNATURE:
            raise Corrupt(f"{path}: no HDF5 file", ANEW)
    with reading(path):
        file = h5py.File(path, "r", locking=False, rdcc_nbytes=MAX_CHUNK_BYTES)
    with file:
        yield CheckedFile(path, file)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What HDF5 raises over a damaged file, as one line."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        why = printable(str(error))[:200]
        raise Corrupt(f"{path}: not a sound HDF5 file ({why})", ANEW) from error


class CheckedFile:
    """A file opened to read.

    Attributes:
        path: the file's.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        self._objects = 0

    def names(self) -> set[str]:
        """The paths of all data sets, in groups that only hard links lead to.

        Raises:
            Refused: there is anything but groups and data sets, or far too many.
        """
        with reading(self.path):
            return set(self._walk(self._file, "", 1))

    def attribute(self, name: str) -> str:
        """A short text at the root, '' where there is none."""
        import h5py

        with reading(self.path):
            key = name.encode()
            if not h5py.h5a.exists(self._file.id, key):
                return ""
            attribute = h5py.h5a.open(self._file.id, key)
            kind = attribute.get_type()
            if not _is_text(kind, MAX_ATTRIBUTE_BYTES) or attribute.shape != ():
                raise Refused(f"{self.path}: attribute {name} is no short text", ANEW)
            content = np.empty((), dtype=f"S{kind.get_size()}")
            attribute.read(content)
            return bytes(content[()]).decode("utf-8", "backslashreplace")

    def text(self, name: str, most: int) -> bytes:
        """A data set that is one text of at most so many bytes."""
        with reading(self.path):
            data = self._raw(name)
            kind = data.id.get_type()
            if not _is_text(kind, most):
                raise Refused(f"{self.path}: {told(name)} is no text of a usual size", ANEW)
            self._check_storage(data, name, (), kind.get_size())
            return bytes(data[()])

    def dataset(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
        """A data set of just this type and shape that holds as much as it claims."""
        import h5py

        with reading(self.path):
            data = self._raw(name)
            if data.id.get_type() != h5py.h5t.py_create(dtype):
                raise Refused(f"{self.path}: {told(name)} is not of type {dtype.name}", ANEW)
            self._check_storage(data, name, shape, math.prod(shape) * dtype.itemsize)
        return data

    def _walk(self, group: Any, prefix: str, depth: int) -> Iterator[str]:
        """Every data set's path. Groups that hold one another end at the allowed depth."""
        import h5py

        if depth > MAX_DEPTH or len(group) > MAX_OBJECTS:
            raise Refused(f"{self.path}: more groups than an exported store has", ANEW)
        for name in group:
            path = f"{prefix}{name}"
            try:
                link = group.get(name, getlink=True)
            except TypeError:  # a kind of link that HDF5 leaves to plugins
                link = None
            if not isinstance(link, h5py.HardLink):
                raise Refused(f"{self.path}: {told(path)} is a link to elsewhere", ANEW)
            kind = group.get(name, getclass=True)
            self._count()
            if kind is h5py.Group:
                yield from self._walk(group[name], f"{path}/", depth + 1)
            elif kind is h5py.Dataset:
                yield path
            else:
                raise Refused(f"{self.path}: {told(path)} is neither group nor data set", ANEW)

    def _count(self) -> None:
        self._objects += 1
        if self._objects > MAX_OBJECTS:
            raise Refused(f"{self.path}: over {MAX_OBJECTS:,} objects", ANEW)

    def _raw(self, name: str) -> Any:
        """A data set of which only the creation properties have been looked at, and are harmless.

        Raises:
            Refused: its values lie in other files, or pass through a filter but gzip and shuffle.
        """
        import h5py

        data = self._file[name]
        if not isinstance(data, h5py.Dataset):
            raise Refused(f"{self.path}: {told(name)} is no data set", ANEW)
        made = data.id.get_create_plist()
        layouts = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
        if made.get_layout() not in layouts or made.get_external_count():
            raise Refused(f"{self.path}: {told(name)} takes its values from other files", ANEW)
        filters = {made.get_filter(at)[0] for at in range(made.get_nfilters())}
        if filters - {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}:
            raise Refused(
                f"{self.path}: {told(name)} passes through filters {sorted(filters)}",
                "`h5repack -f NONE` rewrites it without",
            )
        return data

    def _check_storage(self, data: Any, name: str, shape: tuple[int, ...], n_bytes: int) -> None:
        """Neither more than was stored, nor chunks that no memory holds."""
        import h5py

        if data.shape != shape:
            raise Refused(f"{self.path}: {told(name)} has shape {data.shape}, not {shape}", ANEW)
        there = data.id.get_storage_size()
        made = data.id.get_create_plist()
        if made.get_layout() == h5py.h5d.CHUNKED:
            chunk = made.get_chunk()
            n_chunks = math.prod(-(-size // part) for size, part in zip(shape, chunk, strict=True))
            chunk_bytes = math.prod(chunk) * data.id.get_type().get_size()
            if chunk_bytes > MAX_CHUNK_BYTES or n_chunks > MAX_CHUNKS:
                raise Refused(
                    f"{self.path}: {told(name)} lies in {n_chunks:,} chunks of {chunk_bytes:,} "
                    "bytes",
                    ANEW,
                )
            there *= _INFLATED
        if there < n_bytes:
            raise Corrupt(f"{self.path}: {told(name)} claims {n_bytes:,} bytes, has fewer", ANEW)


def _is_text(kind: Any, most: int) -> bool:
    """Whether an HDF5 type is text of a fixed, usual size: nothing that leads to a heap."""
    import h5py

    return (
        kind.get_class() == h5py.h5t.STRING
        and not kind.is_variable_str()
        and 0 < kind.get_size() <= most
    )


def told(name: str) -> str:
    """A name in the file, for a message."""
    return repr(printable(name)[:120])
