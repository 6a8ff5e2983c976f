"""A store in object storage, read through a mirror: a local store that grows unit by unit.

A unit is fetched whole when first asked for, and compared with its record before it is committed.
Later handles compare the record there with the mirror's: a unit that has changed is fetched again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from featstore.core.console import say
from featstore.core.files import try_lock, write_file
from featstore.core.os_errors import io_failure, require_space
from featstore.core.schema import Corrupt, UserError, printable
from featstore.core.settings import digest
from featstore.store.remote.checking import sound_units
from featstore.store.remote.contents import read_record, same, units_in
from featstore.store.remote.fetching import fetch_unit, require_root
from featstore.store.remote.objects import Objects
from featstore.store.remote.places import checked, mirror_folder
from featstore.store.store import Store
from featstore.store.unit import Unit

_WAIT_S = 0.1


@dataclass(frozen=True)
class RemoteStore(Store):
    """A handle on a remote store; ``path`` is its mirror's folder."""

    objects: Objects
    _records: dict[str, Unit] = field(default_factory=dict, compare=False, repr=False)
    _fetched: set[str] = field(default_factory=set, compare=False, repr=False)

    @staticmethod
    def at(url: str) -> RemoteStore:
        """Open a remote store.

        Raises:
            UserError: there is none, or it may not be read.
            TaskFailed: the network fails, or there is no room for the mirror.
        """
        objects = Objects.open(checked(url))
        sizes = objects.sizes()
        require_root(objects, objects.read("zarr.json", 4096) if "zarr.json" in sizes else None)
        path = mirror_folder(objects.url)
        try:
            Store.create(path)
            if not (path / ".url").exists():  # for whoever tidies the cache up
                write_file(path / ".url", f"{objects.url}\n".encode())
        except OSError as error:
            raise io_failure(error, path) from error
        store = RemoteStore(path, objects)
        store.__dict__["sizes"] = sizes
        return store

    @property
    def url(self) -> str:
        """Where it lies; without credentials, which only the environment holds."""
        return self.objects.url

    @property
    def name(self) -> str:
        """The last part of its URL."""
        return self.url.rpartition("/")[2]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each object there."""
        return self.objects.sizes()

    def units(self) -> list[str]:
        """The units whose record is there."""
        return units_in(self.sizes)

    def record(self, name: str, *, deep: bool = False) -> Unit:
        """A unit's record as it is there; none of its files is fetched."""
        if name not in self._records:
            if name not in self.units():
                raise UserError(
                    f"{printable(name)}: not complete in {self.url}",
                    f"copy it there: `featstore copy STORE {self.url}`",
                )
            self._records[name] = read_record(self.objects, name)
        return self._records[name]

    def unit(self, name: str, *, deep: bool = False) -> Unit:
        """A unit of the mirror, fetched where it is not there or another.

        Raises:
            Corrupt: an object there is not what the unit's record lists.
        """
        if name in self._fetched:
            return super().unit(name, deep=deep)
        record = self.record(name)
        with self._alone(name):
            found = self._mirrored(record, deep)
            if found is None:
                self._fetch(record)
                found = super().unit(name, deep=deep)
        self._fetched.add(name)
        return found

    def sound_units(self) -> tuple[list[Unit], list[UserError]]:
        """The units that are sound there, and all faults; the mirror has no part in it."""
        return sound_units(self)

    def content_hash(self) -> str:
        """As of the records; what they list is compared when it is fetched."""
        return digest({name: self.record(name).files for name in self.units()})

    def _mirrored(self, record: Unit, deep: bool) -> Unit | None:
        """What the mirror has of a unit; None where that is nothing, another or damaged."""
        if not os.path.lexists(self.path / record.unit):
            return None
        try:
            found = super().unit(record.unit, deep=deep)
        except Corrupt:
            return None
        return found if same(found, record) else None

    def _fetch(self, record: Unit) -> None:
        require_space(self.path, record.n_bytes)
        say(f"fetching {record.unit}, {record.n_bytes / 1024**2:.1f} MiB, from {self.url}")
        fetch_unit(self.objects, record, self.path, replace=True)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """One process fetches a unit; others wait for it, and find it there."""
        path = self.path / f".{name.replace('/', '-')}.lock"
        while (lock := try_lock(path, create=True)) is None:
            time.sleep(_WAIT_S)
        try:
            yield
        finally:
            os.close(lock)
