"""Checkpoints of a run: safetensors and JSON, each checked on the way back, never a pickle.

``checkpoint/NNNNNNNN/`` is written beside its place and renamed; the two newest are kept, so that
a run continues to the same bytes even when it is killed while one is being written.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from featstore.console import say
from featstore.files import fsync_folder, read_small, sha256_of, strict_json, write_file
from featstore.schema import UserError
from featstore.settings import digest

KEEP = 2
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
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".{position:08d}-{secrets.token_hex(4)}"
    staging.mkdir()
    weights = staging / "tensors.safetensors"
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, weights)
    with weights.open("rb+") as file:
        os.fsync(file.fileno())
    record: dict[str, Any] = {"state": dict(state), "tensors": sha256_of(weights)}
    record["sha256"] = digest(record)
    write_file(staging / "state.json", json.dumps(record).encode())
    place = folder / f"{position:08d}"
    if place.exists():
        shutil.rmtree(place)
    staging.rename(place)
    fsync_folder(folder)
    for old in _positions(folder)[KEEP:]:
        shutil.rmtree(folder / f"{old:08d}", ignore_errors=True)
    for left in folder.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)


def load_newest(folder: Path) -> tuple[Tensors, dict[str, Any]] | None:
    """The newest checkpoint that is whole, or None; says so where a newer one was damaged."""
    for position in _positions(folder):
        place = folder / f"{position:08d}"
        try:
            record = strict_json(read_small(place / "state.json"), str(place / "state.json"))
            claimed = record.pop("sha256", None)
            sound = claimed == digest(record) and record["tensors"] == sha256_of(
                place / "tensors.safetensors"
            )
        except (OSError, UserError, KeyError):
            sound = False
        if sound:
            return load_file(place / "tensors.safetensors"), record["state"]
        say(f"{place}: damaged checkpoint passed over; taking the one before")
    return None


def _positions(folder: Path) -> list[int]:
    """Checkpoints that are there, newest first."""
    if not folder.is_dir():
        return []
    return sorted((int(p.name) for p in folder.iterdir() if p.name.isdigit()), reverse=True)


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
