"""Parts: stretches of a corpus that are decoded or extracted apart, for a unit committed whole.

::

    STORE/.parts/lld-0f3a52c19d7e4b68/003-of-008/    values, offsets, signal_sha256, unit.json

A part is staged, listed with its SHA-256 and renamed into place like a unit, by whichever process
or machine has its turn. Then one process alone reads all parts in order and commits the unit, with
the bytes that it would have written without them. The parts go when the unit is there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featstore.core.schema import Corrupt, Refused, TaskFailed, UserError
from featstore.store.ragged import Ragged
from featstore.store.staging import Staging, staged
from featstore.store.unit import Identity, Unit, read_unit

FOLDER = ".parts"


@dataclass(frozen=True)
class Part:
    """A stretch of a unit's utterances.

    Attributes:
        store: the store's folder.
        whole: the unit that it is a part of.
        rows: which of the unit's utterances.
        number: from 1.
        count: how many parts the unit has.
        versions: of what makes it; parts of other versions are not taken over.
    """

    store: Path
    whole: Identity
    rows: range
    number: int
    count: int
    versions: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its folder, e.g. ``003-of-008``."""
        return f"{self.number:03d}-of-{self.count:03d}"

    @property
    def key(self) -> str:
        """What its task is called."""
        return f"{self.whole.unit}/part-{self.name}"

    @property
    def place(self) -> Path:
        """Where it lies."""
        return self.store / FOLDER / _folder(self.whole) / self.name

    @property
    def identity(self) -> Identity:
        """What it is made from."""
        made = {"rows": [self.rows.start, self.rows.stop], "versions": dict(self.versions)}
        return Identity(self.key, made, {self.whole.unit: self.whole.fingerprint})

    def is_there(self) -> bool:
        """Whether it is committed, for this very unit."""
        with suppress(UserError, OSError):
            return read_unit(self.place, self.key).fingerprint == self.identity.fingerprint
        return False

    def writing(self) -> AbstractContextManager[Staging]:
        """Write it; one of another unit's settings or versions is swapped out."""
        return staged(self.place, self.identity, replace=True)

    def read(self) -> tuple[Unit, Ragged | None]:
        """Its record and its values, every byte compared; None where there are no values.

        Raises:
            TaskFailed: it is damaged, and is now removed.
        """
        try:
            unit = read_unit(self.place, self.key, deep=True)
            values = (unit.path / "values").is_dir()
            return unit, Ragged(unit.path, check=False) if values else None
        except (Corrupt, Refused) as error:
            shutil.rmtree(self.place, ignore_errors=True)
            raise TaskFailed(
                f"{self.key}: damaged, and removed ({error.message})",
                "run the same command again: that part alone is made anew",
            ) from error


def parted(
    store: Path,
    whole: Identity,
    durations_s: Sequence[float],
    count: int,
    versions: Mapping[str, str],
) -> list[Part]:
    """A unit's parts, about equally long; none at all where one is asked for."""
    count = min(count, len(durations_s))
    if count < 2:
        return []
    stretches = ranges(durations_s, count)
    return [
        Part(store, whole, rows, number, count, versions)
        for number, rows in enumerate(stretches, start=1)
    ]


def ranges(durations_s: Sequence[float], count: int) -> list[range]:
    """Utterances in ``count`` stretches of about the same duration, none of them empty.

    >>> ranges([1.0, 1.0, 1.0, 3.0], 2)
    [range(0, 3), range(3, 4)]
    >>> ranges([9.0, 1.0, 1.0], 3)
    [range(0, 1), range(1, 2), range(2, 3)]
    """
    n, ends = len(durations_s), np.cumsum(np.asarray(durations_s, dtype=np.float64))
    cuts = [0]
    for number in range(1, count):
        wanted = int(np.searchsorted(ends, ends[-1] * number / count, side="left")) + 1
        cuts.append(min(max(wanted, cuts[-1] + 1), n - (count - number)))
    return [range(a, b) for a, b in zip(cuts, [*cuts[1:], n], strict=True)]


def each_part(parts: Sequence[Part]) -> Iterator[tuple[Part, Unit, Ragged | None]]:
    """The parts in order, each read and compared."""
    for part in parts:
        yield (part, *part.read())


def remove_parts(store: Path, whole: Identity) -> None:
    """Remove the parts of a unit that is committed."""
    _remove(store, lambda name: name == _folder(whole))


def keep_parts(store: Path, wanted: Collection[Identity]) -> None:
    """Remove the parts of all units but those that are still to be committed."""
    names = {_folder(identity) for identity in wanted}
    _remove(store, lambda name: name not in names)


def _remove(store: Path, is_old: Callable[[str], bool]) -> None:
    folder = store / FOLDER
    if folder.is_symlink() or not folder.is_dir():
        return
    for item in folder.iterdir():
        if is_old(item.name) and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def _folder(whole: Identity) -> str:
    return f"{whole.unit}-{whole.fingerprint[:16]}"
