"""A unit in object storage: its record, and the bytes of its files in the plain layout.

Nothing is believed: the record must be one that this program could have written, the names only
those that a unit may hold, and every size is known before a byte of it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from featstore.core.files import MAX_JSON_BYTES, strict_json
from featstore.core.schema import Corrupt, OtherVersion, Refused, UserError
from featstore.store.array_files import META, encoded, parts
from featstore.store.arrays import Metadata, group_json, parse_metadata
from featstore.store.records import check_record
from featstore.store.remote.objects import Objects, again
from featstore.store.remote.packing import (
    MAX_META_BYTES,
    MAX_PACKED_META_BYTES,
    most_bytes,
    packs,
    plain_metadata,
    unpacked,
)
from featstore.store.store import SHARED_UNITS, TEACHER_UNIT
from featstore.store.unit import RECORD, Unit, parse_record

THREADS = 4
"""Objects read or written at once."""

Files = Iterator[tuple[str, Iterator[bytes]]]
"""Files by name below the unit, each piece by piece; to be read in order."""
T = TypeVar("T")


def units_in(names: Iterable[str]) -> list[str]:
    """The units whose record is among some objects, parents first.

    >>> units_in(["folds/01/prosodic/unit.json", "../unit.json", "audio/unit.json"])
    ['audio', 'folds/01/prosodic']
    """
    found = {name.removesuffix(f"/{RECORD}") for name in names if name.endswith(f"/{RECORD}")}
    shared = [unit for unit in SHARED_UNITS if unit in found]
    return shared + sorted(unit for unit in found if TEACHER_UNIT.match(unit))


def read_record(objects: Objects, name: str) -> Unit:
    """What a unit's record there says; its ``path`` is the unit's name.

    Raises:
        Corrupt: it is not what was written.
        Refused: another version wrote it.
    """
    with _told(objects):
        content = objects.read(f"{name}/{RECORD}", MAX_JSON_BYTES)
        unit = parse_record(content, Path(name), name)
        check_record(name, unit.settings, unit.facts, f"{name}/{RECORD}")
    return unit


def same(a: Unit, b: Unit) -> bool:
    """Whether two records are of the same content, made from the same."""
    return (a.unit, a.fingerprint, a.files, a.facts) == (b.unit, b.fingerprint, b.files, b.facts)


@dataclass(frozen=True)
class Contents:
    """The files of a unit that lies in object storage.

    Attributes:
        unit: its record.
        tasks: each gives some of the files; they may be read side by side.
        packed: the arrays that lie there compressed.
    """

    unit: Unit
    tasks: tuple[Callable[[], Files], ...]
    packed: frozenset[str]


def contents(objects: Objects, unit: Unit) -> Contents:
    """Where a unit's files come from, compressed arrays decoded.

    Raises:
        Corrupt: an array's metadata is not what was written.
        Refused: the unit lists what no unit of its kind holds.
    """
    texts: dict[str, bytes] = {}
    packed: set[str] = set()

    def metadata(array: str) -> Metadata:
        name = f"{array}/{META}"
        text = objects.read(f"{unit.unit}/{name}", MAX_PACKED_META_BYTES)
        if not _is(unit, name, text):
            text = plain_metadata(text, f"{unit.unit}/{name}")
            packed.add(array)
        if not _is(unit, name, text):
            raise Corrupt(f"{unit.unit}/{name}: content differs", "")
        texts[name] = text
        meta = parse_metadata(strict_json(text, f"{unit.unit}/{name}"), f"{unit.unit}/{name}")
        if array in packed and not packs(meta):
            raise Refused(f"{unit.unit}/{name}: compressed, and too large for that", "")
        return meta

    with _told(objects):
        arrays, others = parts(unit, metadata)
        if META in others and not unit.unit.startswith("weights/"):
            texts[META] = objects.read(f"{unit.unit}/{META}", MAX_META_BYTES)
            if texts[META] != group_json():
                raise Corrupt(f"{unit.unit}/{META}: not a group's of ours", "")
    tasks: list[Callable[[], Files]] = [lambda: ((name, iter((t,))) for name, t in texts.items())]
    plain = [name for name in others if name not in texts]
    for array, meta in arrays.items():
        if array in packed:
            tasks.append(_decoding(objects, unit, array, meta))
        else:
            plain += [f"{array}/{name}" for name, _ in meta.files()]
    tasks += [_reading(objects, unit, name) for name in plain]
    return Contents(unit, tuple(tasks), frozenset(packed))


def faults_of(objects: Objects, unit: Unit) -> list[str]:
    """Files of a unit there that are not what its record lists; every byte is read."""

    def look(task: Callable[[], Files]) -> list[str]:
        return [name for name, pieces in task() if not _same_content(unit, name, pieces)]

    return [name for some in side_by_side(look, contents(objects, unit).tasks) for name in some]


def side_by_side(
    do: Callable[[Callable[[], Files]], T], tasks: Sequence[Callable[[], Files]]
) -> list[T]:
    """Some tasks at once; the first failure ends them."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = [pool.submit(do, task) for task in tasks]
        try:
            return [one.result() for one in waiting]
        except BaseException:
            for one in waiting:
                one.cancel()
            raise


def differs(objects: Objects, unit: Unit, name: str) -> Corrupt:
    """What is to be said of an object that is not what its record lists."""
    return Corrupt(f"{objects.url}/{unit.unit}/{name}: content differs", again(objects.url))


def _reading(objects: Objects, unit: Unit, name: str) -> Callable[[], Files]:
    size = unit.files[name][0]
    return lambda: iter(((name, objects.pieces(f"{unit.unit}/{name}", size)),))


def _decoding(objects: Objects, unit: Unit, array: str, meta: Metadata) -> Callable[[], Files]:
    place = f"{unit.unit}/{array}"
    sizes = dict(meta.files())

    def fetch(name: str) -> bytes:
        return objects.read(f"{place}/{name}", most_bytes(sizes[name]))

    def files() -> Files:
        for name, pieces in encoded(meta, unpacked(meta, fetch, place)):
            yield f"{array}/{name}", _all_told(objects, pieces)

    return files


def _all_told(objects: Objects, pieces: Iterator[bytes]) -> Iterator[bytes]:
    with _told(objects):
        yield from pieces


def _is(unit: Unit, name: str, content: bytes) -> bool:
    return unit.files[name] == (len(content), hashlib.sha256(content).hexdigest())


def _same_content(unit: Unit, name: str, pieces: Iterator[bytes]) -> bool:
    n_bytes, found = 0, hashlib.sha256()
    try:
        for piece in pieces:
            n_bytes += len(piece)
            found.update(piece)
    except Corrupt:
        return False
    return unit.files[name] == (n_bytes, found.hexdigest())


@contextmanager
def _told(objects: Objects) -> Iterator[None]:
    """Name the URL and what mends an object there, in place of a folder and a build."""
    try:
        yield
    except OtherVersion as error:
        raise OtherVersion(_named(objects, error), error.hint) from None
    except (Corrupt, Refused) as error:
        raise type(error)(_named(objects, error), again(objects.url)) from None


def _named(objects: Objects, error: UserError) -> str:
    at_hand = error.message.startswith(objects.url)
    return error.message if at_hand else f"{objects.url}/{error.message}"
