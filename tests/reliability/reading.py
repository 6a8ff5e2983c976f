"""What a reader gets of a store, part by part, as bytes that can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featstore.core.schema import UserError
from featstore.store.store import Store
from featstore.store.verify import verify

TOLD = ("not complete", "no store there", "no teacher in")
"""What a message says of a part that is not there yet; its hint names the command."""


def _rows(ragged: Any) -> str:
    return _sum(*(ragged.read(row) for row in range(len(ragged))))


def _sum(*values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(repr((value.dtype, value.shape)).encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _fold(number: int) -> Callable[[Store], Any]:
    return lambda store: {
        name: _sum(teacher.logits, teacher.embeddings)
        for name, teacher in store.fold(number).items()
    }


def _unit(name: str) -> Callable[[Store], Any]:
    return lambda store: dict(store.unit(name, deep=True).files)


PARTS: Mapping[str, Callable[[Store], Any]] = {
    **{
        name: _unit(name)
        for name in (
            "audio", "corpus", "lld", "splits", "folds/01/linguistic", "folds/01/prosodic",
            "folds/02/linguistic", "folds/02/prosodic",
        )
    },
    "utterances": lambda store: store.utterances.to_dict("list"),
    "labels": lambda store: _sum(store.labels),
    "roles": lambda store: _sum(store.roles),
    "signals": lambda store: _rows(store.audio),
    "descriptors": lambda store: _rows(store.lld),
    "fold 1": _fold(1),
    "fold 2": _fold(2),
}  # fmt: skip


@dataclass
class Seen:
    """How many parts were whole, and of how many a reader was told that they are not there."""

    whole: int = 0
    told: int = 0


def everything(path: Path) -> dict[str, Any]:
    """All parts of a whole store."""
    store = Store.open(path)
    return {name: part(store) for name, part in PARTS.items()}


def look(path: Path, *wholes: Mapping[str, Any]) -> Seen:
    """Read what is there: every part is that of a whole store, or its reader is told it is not.

    Args:
        path: the store's folder, in whatever state.
        wholes: :func:`everything` of the stores that it may equal, part by part.
    """
    seen = Seen()
    for name, part in PARTS.items():
        try:
            found = part(Store.open(path))
        except UserError as error:
            tells_what_to_build(error, name)
            seen.told += 1
            continue
        if name.startswith("fold "):  # one teacher may be there and the other not
            assert found
            for teacher, said in found.items():
                assert any(whole[name][teacher] == said for whole in wholes), (name, teacher)
        else:
            assert any(whole[name] == found for whole in wholes), name
        seen.whole += 1
    return seen


def tells_what_to_build(error: UserError, name: str) -> None:
    """Damage is another class of error: a build that was killed leaves none."""
    assert type(error) is UserError, f"{name}: {error.message}"
    assert any(words in error.message for words in TOLD), f"{name}: {error.message}"
    assert "featstore build" in error.hint, f"{name}: {error.hint}"


def as_if_nothing_had_been(store: Path, like: Path) -> None:
    """The store has the other's bytes, verifies, and has nothing else beside them."""
    assert Store.open(store).content_hash() == Store.open(like).content_hash()
    assert not verify(Store.open(store)).faults
    assert not [str(path) for path in store.rglob(".*")]
