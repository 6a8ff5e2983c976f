"""Runs that take a second, and stores forged so that all their sums fit together again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill.config import PRESETS, VARIANTS, RunSettings
from distill.runs.folder import Keys, Outcome, RunFolder, RunRequest
from distill.training.loop import run_fold
from featstore.core.files import sha256_of
from featstore.core.settings import digest, overrides, resolve
from featstore.store.arrays import read_array, read_metadata, write_array
from featstore.store.store import Store
from featstore.store.unit import RECORD, Identity

EPOCHS = 2
STEPS = 4
"""Optimiser steps an epoch: 64 training utterances in batches of 16."""


def settings_of(*sets: str, variant: str = "full") -> RunSettings:
    """The tiny student for two epochs, with ``--set`` flags."""
    flags = overrides(["student.backbone=tiny", f"optim.epochs={EPOCHS}", *sets])
    return resolve(RunSettings, PRESETS["tiny"], VARIANTS[variant], flags)


def request(store: Path, runs: Path, *sets: str, **over: Any) -> RunRequest:
    """Fold 1 of a store, on one thread."""
    fields: dict[str, Any] = {"fold": 1, "experiment": "test", "variant": "full", "threads": 1}
    fields |= {"store": store, "runs": runs, "settings": settings_of(*sets), "device": "cpu"}
    return RunRequest(**fields | over)


def train(store: Path, runs: Path, *sets: str, **over: Any) -> Outcome:
    """Run it."""
    return run_fold(request(store, runs, *sets, **over))


def small_hubert(folder: Path) -> Path:
    """A folder that describes a HuBERT of a few thousand weights; ``random:hf:`` draws them."""
    from transformers import HubertConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
    parts = {"num_attention_heads": 2, "num_conv_pos_embedding_groups": 2}
    convolutions = {"conv_dim": (8, 8, 8), "conv_kernel": (10, 8, 4), "conv_stride": (10, 8, 4)}
    config = HubertConfig(num_conv_pos_embeddings=4, **sizes, **parts, **convolutions)
    config.save_pretrained(folder)
    return folder


def folder_of(order: RunRequest) -> RunFolder:
    """Where it leaves what it makes."""
    return Keys(Store.open(order.store)).folder(order)


def results(folder: Path) -> dict[str, str]:
    """SHA-256 of what a run is judged by: predictions and weights."""
    names = ("predictions.parquet", "student/model.safetensors", "student/student.json")
    return {name: sha256_of(folder / name) for name in names}


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def history(folder: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl`` without its clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def same(outcome: Outcome, other: Outcome) -> None:
    """Two runs that differ in nothing but their clocks."""
    assert results(outcome.folder) == results(other.folder)
    assert history(outcome.folder) == history(other.folder)
    assert (outcome.wa, outcome.ua) == (other.wa, other.ua)


def copied(store: Path, to: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(store, to))


@contextmanager
def forged(unit: Path) -> Iterator[dict[str, Any]]:
    """Change a unit's files and record inside; on the way out all its sums are right again."""
    record = json.loads((unit / RECORD).read_text())
    yield record
    files = sorted(path for path in unit.rglob("*") if path.is_file() and path.name != RECORD)
    record["files"] = {
        path.relative_to(unit).as_posix(): [path.stat().st_size, sha256_of(path)] for path in files
    }
    identity = Identity(record["unit"], record["settings"], record["parents"])
    record["fingerprint"] = identity.fingerprint
    record.pop("sha256", None)
    record["sha256"] = digest(record)
    (unit / RECORD).write_text(json.dumps(record))


def rewrite(unit: Path, name: str, change: Callable[[Any], None]) -> None:
    """Change an array's values in place, with its checksum."""
    values, dims = read_array(unit / name).copy(), read_metadata(unit / name).dims
    change(values)
    shutil.rmtree(unit / name)
    write_array(unit, name, values, dims)


def flip_byte(path: Path, at: int = 5) -> None:
    """One bit, as a disk would."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def without_validation(store: Path) -> None:
    """Forge folds that validate on nobody, as ``folds.validation = none`` makes them."""
    from featstore.folds import TRAIN, VALIDATION

    def join(role: Any) -> None:
        role[role == VALIDATION] = TRAIN

    with forged(store / "splits") as record:
        rewrite(store / "splits", "role", join)
        record["settings"]["folds"]["validation"] = "none"
        for fold in record["facts"]["folds"]:
            fold["validation"] = []
    splits = Store.open(store).unit("splits").fingerprint
    for unit in sorted(path.parent for path in (store / "folds").glob(f"*/*/{RECORD}")):
        with forged(unit) as record:
            record["parents"]["splits"] = splits
            record["facts"]["selected_on"] = []
