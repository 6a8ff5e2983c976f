"""The store as a whole: which units it has, and what they hold.

::

    STORE/zarr.json                       a Zarr group that names format and schema
    STORE/corpus/                         utterances.parquet, label, speaker, session
    STORE/audio/                          values, offsets, sources.parquet
    STORE/lld/                            values, offsets
    STORE/splits/                         role [fold, utterance]
    STORE/folds/NN/<teacher>/             logits, embeddings
    STORE/folds/NN/<teacher>-crossfit<K>/ the same, of each training utterance by one of K
                                          teachers that never saw its speaker

Any Zarr reader opens the arrays; ours adds the checks that Zarr lacks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from featstore.core.config import CROSS_FITTED, cross_fitted
from featstore.core.files import make_folders, read_small, strict_json, write_file
from featstore.core.schema import Corrupt, Refused, UserError, printable
from featstore.core.settings import digest
from featstore.folds import Fold
from featstore.store.arrays import group_json, read_array, write_group
from featstore.store.ragged import Ragged
from featstore.store.records import check_record
from featstore.store.tables import SOURCES, UTTERANCES, read_table
from featstore.store.unit import (
    NO_LINKS,
    RECORD,
    REPAIR,
    SCHEMA,
    Unit,
    folder_version,
    other_version,
    read_unit,
    steady,
)

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

SHARED_UNITS = ("corpus", "audio", "lld", "splits")
FORMAT = "emodistill-store"
_ROOT = {"format": FORMAT, "schema": SCHEMA}

TEACHER_UNIT = re.compile(r"folds/(\d\d+)/(?!zarr\.json\Z)([A-Za-z0-9][A-Za-z0-9_.-]{0,127})\Z")
"""Names of the units below the shared ones: ``folds/NN/<teacher>``."""


@dataclass(frozen=True)
class TeacherOutputs:
    """What a frozen teacher says of every utterance of the corpus.

    Attributes:
        logits: ``[N, C]`` float32, raw: no temperature, no softmax.
        embeddings: ``[N, D]`` float32.
        unit: the record: settings, scores, the speakers it was fitted on.
    """

    logits: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float32]
    unit: Unit


@dataclass(frozen=True)
class Store:
    """A handle on a store's folder; reads nothing until asked."""

    path: Path

    @staticmethod
    def open(path: Path | str) -> Store:
        """Open a store in a folder; :func:`featstore.store.open_store` also opens one at a URL.

        Raises:
            UserError: there is no store.
            Corrupt: its root is damaged.
            Refused: another version wrote it.
        """
        path = Path(path)
        try:
            content = read_small(path / "zarr.json")
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{path}: no store there", "build one with `featstore build --store PATH`"
            ) from None
        Store.check_root(content, str(path))
        return Store(path)

    @staticmethod
    def check_root(content: bytes, place: str) -> None:
        """Refuse a root's ``zarr.json`` that is not ours.

        Raises:
            UserError, Corrupt, Refused: as :meth:`open`.
        """
        if content == group_json(_ROOT):
            return
        about = strict_json(content, f"{place}/zarr.json").get("attributes")
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise UserError(f"{place}: a Zarr group, but no emodistill store", "check the path")
        if about.get("schema") != SCHEMA:
            raise other_version(place, about.get("schema"))
        raise Corrupt(f"{place}/zarr.json: changed since it was written", REPAIR)

    @staticmethod
    def create(path: Path) -> Store:
        """The store at ``path``, made where there is none.

        A root that is lost or damaged is written anew where the folder holds our units.

        Raises:
            UserError: the folder is in use for something else.
        """
        own_folder = "give --store a folder of its own"
        try:
            make_folders(path)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{path}: not a folder", own_folder) from None
        root = path / "zarr.json"
        ours = any((path / unit / RECORD).is_file() for unit in SHARED_UNITS)
        for folder in Store(path).groups() if ours else []:
            write_group(folder)
        if root.exists():
            with suppress(Corrupt) if ours else nullcontext():
                return Store.open(path)
        foreign = [item.name for item in path.iterdir() if not item.name.startswith(".")]
        if foreign and not ours:
            raise UserError(f"{path}: not empty (holds {foreign[0]}), and no store", own_folder)
        write_file(root, group_json(_ROOT))
        return Store.open(path)

    @property
    def url(self) -> str:
        """Where a remote store lies; '' for one in a folder of this machine."""
        return ""

    @property
    def name(self) -> str:
        """What it is called: its folder's name."""
        return self.path.name

    def units(self) -> list[str]:
        """What stands in a unit's place, in a fixed order; :meth:`unit` tells whether it is one."""
        names = {unit for unit in SHARED_UNITS if os.path.lexists(self.path / unit)}
        for place in self.path.glob("folds/*/*"):
            if place.is_dir() or place.is_symlink():
                names.add(place.relative_to(self.path).as_posix())
        return in_order(names)

    def groups(self) -> list[Path]:
        """The folders between the root and the teachers' units: Zarr groups, so that any reader
        walks down to the arrays.
        """
        folds = [fold for fold in self.path.glob("folds/[0-9]*") if fold.is_dir()]
        top = self.path / "folds"
        return [top, *sorted(folds)] if top.is_dir() else []

    def unit(self, name: str, *, deep: bool = False) -> Unit:
        """Open a unit strictly; see :func:`featstore.store.unit.read_unit`.

        It is opened once in the life of this handle, and again when a build has replaced it.

        Raises:
            Corrupt: also where its record is none that this program could have written.
        """
        if name not in SHARED_UNITS and not TEACHER_UNIT.match(name):
            raise Refused(f"{printable(name)!r} names no unit of a store", "restore its record")
        place = self.path / name
        version = folder_version(place)
        if not deep and name in self._units and self._units[name][0] == version:
            return self._units[name][1]
        for above in Path(name).parents[:-1]:
            if (self.path / above).is_symlink():
                raise Refused(f"{self.path / above}: a link", NO_LINKS)
        unit = steady(place, lambda: read_unit(place, name, deep=deep))
        check_record(name, unit.settings, unit.facts, f"{unit.path}/{RECORD}")
        self._units[name] = (version, unit)
        return unit

    @cached_property
    def _units(self) -> dict[str, tuple[tuple[int, int] | None, Unit]]:
        """The units that were opened, and of which version each folder then was."""
        return {}

    def record(self, name: str) -> Unit:
        """A unit of which nothing but its record is needed: of a remote store, nothing more is
        fetched. Here it is the same as :meth:`unit`.
        """
        return self.unit(name)

    def sound_units(self) -> tuple[list[Unit], list[UserError]] | None:
        """Of a store that does not lie here: its units that are sound there, and all faults.

        None for a folder, of which :mod:`featstore.store.verify` reads every byte itself.
        """
        return None

    def content_hash(self) -> str:
        """SHA-256 over every unit's file list: two stores are equal where this is equal."""
        return digest({name: self.record(name).files for name in self.units()})

    @cached_property
    def utterances(self) -> pd.DataFrame:
        """One row per utterance, in the order of every array's first dimension."""
        return self._of("corpus", lambda unit: read_table(unit, "utterances.parquet", UTTERANCES))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits' columns."""
        return tuple(self.unit("corpus").facts["classes"])

    @cached_property
    def labels(self) -> npt.NDArray[np.int16]:
        """Class index of every utterance: ``[N]``."""
        return self._of("corpus", lambda unit: _array(unit, "label"))

    @cached_property
    def audio(self) -> Ragged:
        """The signals: int16 at 16 kHz."""
        unit = self.unit("audio")
        if not unit.settings["audio"]["embed_audio"]:
            raise UserError(
                f"{self.path}: built with --no-embed-audio, so it holds no signals",
                "give --root, the corpus' folder",
            )
        return self._of("audio", _ragged)

    @cached_property
    def sources(self) -> pd.DataFrame:
        """SHA-256 of each utterance's audio file and its duration there: one row an utterance."""
        return self._of("audio", lambda unit: read_table(unit, "sources.parquet", SOURCES))

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Samples of every utterance at 16 kHz: ``[N]``."""
        return np.diff(self._of("audio", lambda unit: _array(unit, "offsets")))

    @cached_property
    def lld(self) -> Ragged:
        """The low-level descriptors: ``[frames, D]`` float32 an utterance."""
        return self._of("lld", _ragged)

    @cached_property
    def roles(self) -> npt.NDArray[np.int8]:
        """What each utterance is in each fold: ``[fold, N]``, of OUT, TRAIN, VALIDATION, TEST."""
        return self._of("splits", lambda unit: _array(unit, "role"))

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        """The folds by number, from 1; each trains on all speakers whom it does not hold out."""
        speakers = self.unit("corpus").facts["speakers"]

        def fold_of(facts: Mapping[str, Any]) -> Fold:
            test, validation = tuple(facts["test"]), tuple(facts["validation"])
            train = tuple(name for name in speakers if name not in {*test, *validation})
            return Fold(facts["number"], test, validation, train)

        return tuple(map(fold_of, self.unit("splits").facts["folds"]))

    def target_names(self, fold: int) -> list[str]:
        """All that a fold has to teach: its teachers' targets, cross-fitted ones under theirs."""
        prefix = unit_name(fold, "")
        return [name.removeprefix(prefix) for name in self.units() if name.startswith(prefix)]

    def teacher_names(self, fold: int, cross_fit: int = 0) -> list[str]:
        """The teachers that a fold has; with ``cross_fit``, those cross-fitted by so many parts."""
        names = self.target_names(fold)
        if not cross_fit:
            return [name for name in names if not CROSS_FITTED.match(name)]
        ending = cross_fitted("", cross_fit)
        return [name.removesuffix(ending) for name in names if name.endswith(ending)]

    def fold(
        self, number: int, *, cross_fit: int = 0, deep: bool = False
    ) -> Mapping[str, TeacherOutputs]:
        """The teachers of a fold, by name.

        Args:
            number: the fold's.
            cross_fit: take the targets that are cross-fitted by so many parts; 0 takes the
                teachers' own.
            deep: compare every file's SHA-256.

        Raises:
            UserError: the store has no such fold, or it has no teacher yet.
        """
        if not 1 <= number <= len(self.folds):
            raise UserError(
                f"fold {number}: the store has folds 1..{len(self.folds)}",
                "`featstore inspect` lists them",
            )
        names = self.teacher_names(number, cross_fit)
        if not names:
            flag = f" --cross-fit {cross_fit}" if cross_fit else ""
            by = f" cross-fitted by {cross_fit} parts" if cross_fit else ""
            raise UserError(
                f"fold {number}: no teacher{by} in {self.path} yet",
                f"run `featstore build --fold {number}{flag}` with the settings of this store",
            )
        return {
            name: self.outputs(unit_name(number, cross_fitted(name, cross_fit)), deep=deep)
            for name in names
        }

    def fingerprint(self) -> str:
        """What a run's key is made from: the corpus, the audio and the splits."""
        shared = ("corpus", "audio", "splits")
        return digest({name: self.record(name).content for name in shared})

    def check_parents(self, unit: Unit) -> None:
        """Refuse a unit that was made from another parent than the store has now.

        Raises:
            Refused: naming both.
        """
        for parent, content in unit.parents.items():
            if self.record(parent).content != content:
                raise Refused(
                    f"{unit.unit}: made from another {parent} than the one in "
                    f"{self.url or self.path}",
                    "run the `featstore build` that made this store with --rebuild",
                )

    def outputs(self, name: str, *, deep: bool = False) -> TeacherOutputs:
        """What one teacher says.

        Args:
            name: its unit, e.g. ``folds/01/linguistic``.
            deep: compare every file's SHA-256.

        Raises:
            UserError: it is not there.
            Corrupt: a file differs, or its arrays do not fit the corpus.
            Refused: it was made from another corpus, splits or LLDs than the store has.
        """

        def read(unit: Unit) -> TeacherOutputs:
            self.check_parents(unit)
            n = len(self.utterances)
            logits = _array(unit, "logits", (n, len(self.classes)))
            return TeacherOutputs(logits, _array(unit, "embeddings", (n, None)), unit)

        return self._of(name, read, deep=deep)

    def _of(self, name: str, read: Callable[[Unit], T], *, deep: bool = False) -> T:
        """What is read of a unit, although a rebuild may replace it meanwhile."""
        return steady(self.path / name, lambda: read(self.unit(name, deep=deep)))


def _array(unit: Unit, name: str, shape: tuple[int | None, ...] | None = None) -> npt.NDArray[Any]:
    """An array of a unit that is one chunk, compared with the record first."""
    unit.check(name)
    return read_array(unit.path / name, shape)


def _ragged(unit: Unit) -> Ragged:
    """A unit's utterances, each chunk compared with the record when it is first read."""
    unit.check("offsets")
    return Ragged(unit.path, sums={name: sha for name, (_, sha) in unit.files.items()})


def in_order(names: Collection[str]) -> list[str]:
    """The units among some names: the shared ones, then the teachers' by fold and name.

    >>> in_order({"folds/01/prosodic", "notes", "lld", "audio"})
    ['audio', 'lld', 'folds/01/prosodic']
    """
    shared = [unit for unit in SHARED_UNITS if unit in names]
    return shared + sorted(name for name in names if TEACHER_UNIT.match(name))


def unit_name(fold: int, teacher: str) -> str:
    """A teacher's unit.

    >>> unit_name(3, "linguistic")
    'folds/03/linguistic'
    """
    return f"folds/{fold:02d}/{teacher}"
