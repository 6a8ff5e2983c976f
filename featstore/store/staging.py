"""Staging: a unit is written beside its place and renamed into it, whole or not at all.

Whoever writes holds a lock in the staging folder; one whose lock is free was left by a writer that
was killed, and is swept away by the next.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.core.files import (
    fsync_file,
    fsync_folder,
    make_folders,
    sha256_of,
    try_lock,
    write_file,
)
from featstore.core.os_errors import io_failure
from featstore.core.schema import TaskFailed, UserError
from featstore.core.settings import digest
from featstore.store.unit import RECORD, SCHEMA, Identity, files_below, read_unit

PREFIX = ".staging-"
_WRAPPER = re.compile(r"\.staging-.+-[0-9a-f]{16}\Z")
"""Nobody else's folder is swept away."""


@contextmanager
def staged(
    place: Path, identity: Identity, *, replace: bool = False, n_bytes: int | None = None
) -> Iterator[Staging]:
    """Write a unit: the body fills ``staging.folder``, and leaving it commits.

    Args:
        place: the unit's folder, which need not exist.
        identity: what the unit is made from.
        replace: swap out the unit that stands there (atomically where the kernel can).
        n_bytes: about how large it will be, for the message of a full disk.

    Raises:
        TaskFailed: the disk is full, read-only or failing, or no reader would accept what was
            written; nothing is left of the unit.
        UserError: another writer has meanwhile put something else there.
    """
    try:
        with beside(place) as wrapper:
            staging = Staging(wrapper / "unit", {}, {})
            staging.folder.mkdir()
            yield staging
            _write_record(staging, identity)
            if _into_place(staging.folder, place, wrapper, replace):
                return
            # Another writer was first: fine where it wrote the same, whose bytes are then the same.
            if read_unit(place, identity.unit).fingerprint != identity.fingerprint:
                raise UserError(
                    f"{place}: another build has meanwhile put something else there",
                    "build with other settings into another --store",
                )
    except OSError as error:
        raise io_failure(error, place, n_bytes) from error


@dataclass
class Staging:
    """A unit being written: put files below ``folder``, outcomes into ``facts``."""

    folder: Path
    facts: dict[str, Any]
    provenance: dict[str, str]


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A folder beside ``place`` for what is to become it, locked as long as its writer lives.

    It is gone afterwards, and with it all that was not renamed out of it.
    """
    make_folders(place.parent)
    sweep(place.parent)
    lock = None
    while lock is None:
        wrapper = place.parent / f"{PREFIX}{place.name}-{secrets.token_hex(8)}"
        wrapper.mkdir()
        with suppress(FileNotFoundError):  # another writer's sweep took the empty folder
            lock = try_lock(wrapper / "lock", create=True)
    try:
        yield wrapper
    finally:
        _remove(wrapper)
        os.close(lock)


def sweep(parent: Path) -> None:
    """Remove the staging folders below ``parent`` whose writers are gone."""
    for wrapper in [path for path in parent.iterdir() if _WRAPPER.match(path.name)]:
        if wrapper.is_symlink():  # no writer of ours leaves one; what it leads to is not ours
            wrapper.unlink(missing_ok=True)
            continue
        try:
            lock = try_lock(wrapper / "lock")
        except FileNotFoundError:
            # Its writer is between mkdir and lock, or is gone and one of its threads came too late.
            try:
                wrapper.rmdir()
            except OSError:
                if not (wrapper / "lock").exists():
                    _remove(wrapper)
            continue
        if lock is not None:
            _remove(wrapper)
            os.close(lock)


def _remove(wrapper: Path) -> None:
    """Its lock goes last: killed on the way, a later sweep still finds whom to ask."""
    with suppress(OSError):
        for item in wrapper.iterdir():
            if item.name != "lock":
                shutil.rmtree(item, ignore_errors=True)
    shutil.rmtree(wrapper, ignore_errors=True)


def _write_record(staging: Staging, identity: Identity) -> None:
    """Fsync every file and folder of the staging folder, then list them in its record.

    Raises:
        TaskFailed: readers would refuse it: sizes have limits, which nothing else checks.
    """
    files = {}
    for name, size in sorted(files_below(staging.folder).items()):
        fsync_file(staging.folder / name)
        files[name] = [size, sha256_of(staging.folder / name)]
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "unit": identity.unit,
        "fingerprint": identity.fingerprint,
        "settings": identity.settings,
        "parents": identity.parents,
        "facts": staging.facts,
        "provenance": staging.provenance,
        "files": files,
    }
    record["sha256"] = digest(record)
    write_file(staging.folder / RECORD, json.dumps(record, indent=1, sort_keys=True).encode())
    try:
        read_unit(staging.folder, identity.unit).check_sizes(files)
    except UserError as error:
        raise TaskFailed(
            f"{identity.unit}: no reader would accept it ({error.message})",
            "build it from fewer utterances, speakers or folds",
        ) from error
    for base, _, _ in os.walk(staging.folder):
        fsync_folder(Path(base))


def _into_place(folder: Path, place: Path, wrapper: Path, replace: bool) -> bool:
    """Rename the unit into its place; False where something stands there and is to stay."""
    try:
        folder.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        if not replace:
            return False
        if not _exchange(folder, place):
            place.rename(wrapper / "old")
            folder.rename(place)
    fsync_folder(place.parent)
    return True


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step, so that no reader meets a gap; False where it can't be done."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_cwd, exchange = -100, 2
    return bool(renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0)
