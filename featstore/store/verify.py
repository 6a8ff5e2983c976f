"""Every byte of a store read and compared with what was written, and with what must follow of it.

Sums prove that a unit is what was written. Beyond them the units must fit each other (as many rows,
the same folds) and nothing may lie between them, so that a store from somebody else is either
usable or named.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from featstore.core.config import cross_fitted
from featstore.core.os_errors import io_failure
from featstore.core.schema import Corrupt, Refused, TaskFailed, UserError, listed, printable
from featstore.folds import cross_fit_fault, prove
from featstore.store.arrays import is_group, read_array
from featstore.store.ragged import Ragged
from featstore.store.store import Store
from featstore.store.unit import NO_LINKS, REPAIR, Unit

MAX_FAULTS = 100
_REMOVE = "remove it: nothing reads it, and a store holds only what it lists"


@dataclass(frozen=True)
class Verification:
    """What reading every byte found.

    Attributes:
        sound: the units that are what was written.
        faults: what is wrong, one entry a unit or stray file.
        content: the store's content hash, '' where anything is wrong.
    """

    sound: tuple[Unit, ...]
    faults: tuple[UserError, ...]
    content: str

    @property
    def exit_code(self) -> int:
        """0 where all is sound, else the gravest fault's."""
        return max((fault.exit_code for fault in self.faults), default=0)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "sound": [unit.unit for unit in self.sound],
            "bytes": sum(unit.n_bytes for unit in self.sound),
            "faults": [{"message": f.message, "hint": f.hint} for f in self.faults],
            "content": self.content,
        }


def verify(store: Store) -> Verification:
    """Read every byte of every unit and compare it with its record and its parents.

    Of a remote store the bytes are those that lie there, not its mirror's.
    """
    if (elsewhere := store.sound_units()) is not None:
        there, wrong = elsewhere
        return Verification(tuple(there), tuple(wrong), "" if wrong else store.content_hash())
    sound: list[Unit] = []
    names = store.units()
    between = _between(store, names)  # a million files put there shall not have a line each
    faults = list(islice(between, MAX_FAULTS))
    if next(between, None) is not None:
        faults.append(Corrupt("and more such files", _REMOVE))
    if not names:
        faults.append(TaskFailed(f"{store.path}: no unit is complete", "run `featstore build`"))
    for name in names:
        if len(faults) > 2 * MAX_FAULTS:
            faults.append(Corrupt("and more, which were not looked at", REPAIR))
            break
        try:
            unit = _deep(store, name)
            store.check_parents(unit)
            _check_fit(store, unit, names)
            sound.append(unit)
        except UserError as error:
            faults.append(_bare(error))
        except OSError as error:
            faults.append(io_failure(error, store.path / name))
    return Verification(tuple(sound), tuple(faults), "" if faults else store.content_hash())


def _deep(store: Store, name: str) -> Unit:
    """The unit; where its values are damaged, whose they are."""
    try:
        return store.unit(name, deep=True)
    except Corrupt as error:
        hurt = _hurt_utterances(store, name) if name in ("audio", "lld") else []
        if not hurt:
            raise
        raise Corrupt(f"{error.message}\nutterances: {', '.join(hurt)}", error.hint) from error


def _hurt_utterances(store: Store, name: str, limit: int = 8) -> list[str]:
    """Utterances with a chunk whose checksum fails, as far as the rest can be read."""
    hurt: list[str] = []
    with suppress(UserError, OSError):
        values = Ragged(store.path / name)
        for row, utterance in enumerate(store.utterances["utterance_id"][: len(values)]):
            try:
                values.read(row)
            except Corrupt:
                hurt.append(printable(utterance))
    more = [f"and {len(hurt) - limit} more"] if len(hurt) > limit else []
    return hurt[:limit] + more


def _bare(error: UserError) -> UserError:
    """The fault alone: its traceback would keep alive whatever had been read by then."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _between(store: Store, names: Collection[str]) -> Iterator[UserError]:
    """What lies between the units and is no group as we write it, or belongs to none.

    An empty folder without metadata is only where a build was interrupted. Names with a dot in
    front are passed over (staging folders, and what file systems leave).
    """
    again = "the same `featstore build` writes it again"
    groups, units = {store.path}, set(names)
    for folder in store.groups():
        name = folder.relative_to(store.path).as_posix()
        if folder.is_symlink():
            yield Refused(f"{name}: a link", NO_LINKS)
            continue
        groups.add(folder)
        holds_units = any(unit.startswith(f"{name}/") for unit in names)
        if not is_group(folder) and ((folder / "zarr.json").exists() or holds_units):
            yield Corrupt(f"{name}/zarr.json: not what was written", again)
    for path in [path for folder in sorted(groups) for path in sorted(folder.iterdir())]:
        name = path.relative_to(store.path).as_posix()
        ours = path in groups or name in units or path.name == "zarr.json"
        if not ours and not path.name.startswith("."):
            yield Corrupt(f"{printable(name)}: not part of a store", _REMOVE)


def _check_fit(store: Store, unit: Unit, names: Collection[str]) -> None:
    """What a unit's sums cannot tell: whether it fits the others.

    Raises:
        Corrupt: naming the array.
    """
    top = unit.unit.partition("/")[0]
    others = {"corpus"} | ({"splits"} if top == "folds" else set())
    if (check := _FITS.get(top)) and others <= set(names):  # else it is still being built
        faults = [fault for fault, holds in check(store, unit) if not holds]
        if faults:
            raise Corrupt(listed(f"{unit.unit}: {fault}" for fault in faults), REPAIR)


Checks = Iterator[tuple[str, bool]]


def _corpus(store: Store, unit: Unit) -> Checks:
    n = len(store.utterances)
    ids = store.utterances["utterance_id"]
    yield "utterance ids stand twice", ids.is_unique
    for name, names in (("label", "classes"), ("speaker", "speakers"), ("session", "sessions")):
        codes = read_array(unit.path / name)
        yield f"{name}: {codes.shape} for {n} utterances", codes.shape == (n,)
        values = unit.facts[names]
        in_range = bool(((codes >= 0) & (codes < len(values))).all())
        yield f"{name}: codes beyond the {len(values)} {names}", in_range
        if in_range and codes.shape == (n,):
            same = [values[code] for code in codes] == list(store.utterances[name])
            yield f"{name}: not those of utterances.parquet", same


def _audio(store: Store, unit: Unit) -> Checks:
    n = len(store.utterances)
    yield f"offsets: {len(store.lengths)} utterances, corpus has {n}", len(store.lengths) == n
    same = list(store.sources["utterance_id"]) == list(store.utterances["utterance_id"])
    yield "sources.parquet: not the corpus' utterances", same
    if unit.settings["audio"]["embed_audio"]:
        whole = Ragged(unit.path)
        is_signal = whole.dtype == np.int16 and whole.row_shape == ()
        yield f"values: {whole.dtype} {whole.row_shape}", is_signal


def _lld(store: Store, unit: Unit) -> Checks:
    lld, names = Ragged(unit.path), unit.facts["names"]
    n = len(store.utterances)
    yield f"offsets: {len(lld)} utterances, corpus has {n}", len(lld) == n
    yield f"values: {lld.row_shape} for {len(names)} names", lld.row_shape == (len(names),)
    yield f"values: {lld.dtype}", lld.dtype == np.float32
    sums = read_array(unit.path / "signal_sha256")
    yield f"signal_sha256: {sums.shape}", sums.shape == (n, 32)


def _splits(store: Store, unit: Unit) -> Checks:
    shape = (len(unit.facts["folds"]), len(store.utterances))
    yield f"role: {store.roles.shape} instead of {shape}", store.roles.shape == shape
    numbers = [fold.number for fold in store.folds]
    yield f"folds numbered {numbers[:8]}", numbers == list(range(1, len(numbers) + 1))
    if store.roles.shape == shape:
        prove(store.utterances, store.folds, store.roles)


def _teacher(store: Store, unit: Unit) -> Checks:
    number, n_folds = unit.facts["fold"], len(store.folds)
    here = number == int(unit.unit.split("/")[1]) <= n_folds
    yield f"fitted for fold {number} of {n_folds}", here
    if here and (parts := unit.facts.get("parts")):
        named = unit.unit.endswith(cross_fitted("", len(parts)))
        yield f"{len(parts)} parts", named and unit.settings["cross_fit"] == len(parts)
        fault = cross_fit_fault(parts, store.folds[number - 1])
        yield fault, not fault
    output = store.outputs(unit.unit)
    for part, values in (("logits", output.logits), ("embeddings", output.embeddings)):
        yield f"{part}: not finite", bool(np.isfinite(values).all())


_FITS: dict[str, Callable[[Store, Unit], Checks]] = {
    "corpus": _corpus,
    "audio": _audio,
    "lld": _lld,
    "splits": _splits,
    "folds": _teacher,
}
