"""Checkpoints of a run: safetensors and JSON, each checked on the way back, never a pickle.

``checkpoint/NNNNNNNN/`` is written beside its place and renamed; the two newest are kept, so that
a run continues to the same bytes even when it is killed while one is being written, or when the
newest is damaged afterwards.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from featstore.core.console import say
from featstore.core.files import fsync_folder, read_small, sha256_of, strict_json, write_file
from featstore.core.os_errors import io_failure
from featstore.core.schema import Corrupt, UserError, printable
from featstore.core.settings import digest
from featstore.core.weights import check_tensors, read_tensors, save_tensors

KEEP = 2
STATE, TENSORS = "state.json", "tensors.safetensors"
_POSITION = re.compile(r"[0-9]{8,18}\Z")
Tensors = dict[str, torch.Tensor]


def save_checkpoint(
    folder: Path, position: int, tensors: Tensors, state: Mapping[str, Any]
) -> None:
    """Commit a checkpoint, then drop the older ones.

    Args:
        folder: the run's ``checkpoint`` folder.
        position: optimiser steps done; names the checkpoint and orders them.
        tensors: weights, optimiser and random state.
        state: everything else, as JSON.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True)
        fsync_folder(folder.parent)
    staging = folder / f".{position:08d}-{secrets.token_hex(4)}"
    staging.mkdir()
    save_tensors(tensors, staging / TENSORS)
    record: dict[str, Any] = {"state": dict(state), "tensors": sha256_of(staging / TENSORS)}
    record["sha256"] = digest(record)
    write_file(staging / STATE, json.dumps(record).encode())
    place = folder / f"{position:08d}"
    if place.exists():
        shutil.rmtree(place)
    staging.rename(place)
    fsync_folder(folder)
    # A newer one is damaged: it was passed over, or the run would not stand before it again.
    newer = [other for other in _found(folder) if int(other.name) > position]
    older = [other for other in _found(folder) if int(other.name) < position]
    for gone in [*newer, *older[KEEP - 1 :], *folder.glob(".*")]:
        shutil.rmtree(gone, ignore_errors=True)


def load_newest(folder: Path) -> tuple[Tensors, dict[str, Any]] | None:
    """The newest checkpoint that is whole, or None; says which newer ones are not, and why."""
    places = _found(folder)
    for place, before in zip_longest(places, places[1:]):
        try:
            return _load(place)
        except (OSError, UserError) as error:
            instead = f"taking {before.name}" if before else "none is left, so it starts anew"
            say(f"damaged checkpoint passed over, {instead}: {_why(error)}")
    return None


def _load(place: Path) -> tuple[Tensors, dict[str, Any]]:
    """One checkpoint, every byte checked before it is used."""
    record = strict_json(read_small(place / STATE), str(place / STATE))
    claimed = record.pop("sha256", None)
    if set(record) != {"state", "tensors"} or claimed != digest(record):
        raise Corrupt(f"{place / STATE}: not what was written")
    check_tensors(place / TENSORS)  # a pipe or a pickle is refused before a byte is summed
    if sha256_of(place / TENSORS) != record["tensors"]:
        raise Corrupt(f"{place / TENSORS}: not what was written")
    return read_tensors(place / TENSORS), record["state"]


def _why(error: OSError | UserError) -> str:
    if isinstance(error, UserError):
        return printable(error.message)
    return io_failure(error, Path()).message


def _found(folder: Path) -> list[Path]:
    """Checkpoints that are there, newest first."""
    if not folder.is_dir():
        return []
    places = [place for place in folder.iterdir() if _POSITION.match(place.name)]
    return sorted(places, key=lambda place: (int(place.name), place.name), reverse=True)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> Tensors:
    """An optimiser's per-parameter state, keyed ``optim.<index>.<name>``."""
    return {
        f"optim.{index}.{name}": torch.as_tensor(value)
        for index, entries in optimiser.state_dict()["state"].items()
        for name, value in entries.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what :func:`optimiser_tensors` took."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optim."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    full = optimiser.state_dict()
    full["state"] = state
    optimiser.load_state_dict(full)
