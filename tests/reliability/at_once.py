"""Tones scrambled, built and trained on within the test's own process, in a second each."""

from __future__ import annotations

import csv
import hashlib
import shutil
import tomllib
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import soundfile
import torch

from distill.config import PRESETS, VARIANTS, RunSettings
from distill.runs.folder import Outcome, RunRequest
from distill.training.loop import run_fold
from featstore.build.plan import Request, make_plan
from featstore.build.run import build
from featstore.build.units import fit_teacher, fold_data, source_sums
from featstore.core.config import BuildSettings
from featstore.core.files import sha256_of
from featstore.core.settings import Settings, overrides, resolve
from featstore.corpora import load
from featstore.store.arrays import read_array, read_metadata, write_array
from featstore.store.store import Store
from featstore.teachers import prepare
from featstore.teachers.finetune import finetune
from tests.reliability.harness import CONFIG, LABELS, SPEAKERS

FOLDS = (1, 2, 3, 4)
"""The tones have four speakers, each tested once."""


def scramble(corpus: Path, to: Path, speaker: str, *, only: str = "") -> Path:
    """The corpus with somebody else in a speaker's place: noise, nonsense, other labels.

    Two of his utterances are gone and the others have other lengths, so that his rows, and those of
    who comes after him, also lie elsewhere. ``only`` is "label" or "audio", where that is enough.
    """
    shutil.copytree(corpus, to)
    with (to / "table.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    rng = np.random.default_rng(SPEAKERS.index(speaker))
    kept = [row for row in rows if row[2] != speaker]
    mine = [row for row in rows if row[2] == speaker]
    for n, row in enumerate(mine if only else mine[2:]):
        if only != "audio" and (only or n):
            row[3] = LABELS[1 - LABELS.index(row[3])]
        if not only:
            row[4] = " ".join(["zyzzyva", "xylem", "quartz"][: n % 3 + 1]) + f" {n}"
        if only != "label":
            noise = rng.integers(-30_000, 30_000, int(rng.integers(3_000, 20_000)))
            soundfile.write(to / row[1], noise.astype(np.int16), 16_000)
        kept.append(row)
    with (to / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *kept])
    return to


def request_of(corpus: Path, store: Path, *sets: str, **fields: Any) -> Request:
    """What ``featstore build --dataset table`` of the tones asks for."""
    layers = tomllib.loads(CONFIG), {"corpus": {"name": "table"}}, overrides(sets)
    settings = resolve(BuildSettings, *layers)
    manifest = load("table", corpus, settings.corpus)
    return Request(manifest, settings, store, **{"jobs": 1, "device": "cpu"} | fields)


def build_now(request: Request) -> Store:
    """Build it; the teachers are fitted by plain calls, one after the other."""
    shared = request.settings.model_copy(update={"teachers": {}})
    build(replace(request, settings=shared))
    for job in make_plan(request, source_sums(request.manifest)).jobs:
        fit_teacher(job)
    return Store.open(request.store)


def teachers_of(request: Request, folder: Path) -> dict[str, str]:
    """SHA-256 of all that a store's teachers have learnt, by unit: fitted again from its shared
    units, their weights, and the training rows as tokenizer or normaliser hand them over.
    """
    place = folder / "without-teachers"
    shutil.copytree(request.store, place, ignore=shutil.ignore_patterns("folds"))
    learnt = {}
    for job in make_plan(replace(request, store=place), source_sums(request.manifest)).jobs:
        data, optim = fold_data(job), job.settings.optim
        teacher = prepare(data, job.settings)
        finetune(teacher, data, optim, job.settings.seed, torch.device("cpu"))
        batch = teacher.collate(data.train_rows, None)
        every = {**teacher.model.state_dict(), **{f"batch.{k}": v for k, v in batch.items()}}
        digest = hashlib.sha256()
        for name, values in sorted(every.items()):
            digest.update(name.encode() + values.contiguous().numpy().tobytes())
        learnt[job.unit] = digest.hexdigest()
    return learnt


def run_settings(*sets: str, variant: str = "full") -> RunSettings:
    """Those of the harness' ``run_arguments``, with more ``--set`` flags."""
    given = ["student.backbone=tiny", "optim.epochs=2", "optim.batch_size=8", *sets]
    return resolve(RunSettings, PRESETS["tiny"], VARIANTS[variant], overrides(given))


def run_now(store: Path, runs: Path, *sets: str, fold: int = 1, variant: str = "full") -> Outcome:
    """Train the tiny student on one fold, on one thread."""
    settings = run_settings(*sets, variant=variant)
    request = RunRequest(
        store, fold, settings, runs, experiment=f"tones-{variant}", variant=variant, device="cpu",
        threads=1,
    )  # fmt: skip
    return run_fold(request)


def tree(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """SHA-256 of every file below, by name; those of some names are left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in files
        if path.name not in without
    }


def rewrite(unit: Path, name: str, change: Callable[[Any], None]) -> None:
    """Change an array's values in place, with its checksum."""
    values, dims = read_array(unit / name).copy(), read_metadata(unit / name).dims
    change(values)
    shutil.rmtree(unit / name)
    write_array(unit, name, values, dims)


def models_in(annotation: Any) -> list[type[Settings]]:
    """The settings models that an annotation is about: itself, or what a union or dict holds."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    inside = get_args(annotation)
    return [model for part in inside for model in models_in(part)]


def keys_of(model: type[Settings], prefix: str = "") -> Iterator[str]:
    """Every key of a settings model, dotted; a table of models by name is left to the caller."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        inner = models_in(annotation)
        if not inner:
            yield f"{prefix}{name}"
        elif annotation in (inner[0], inner[0] | None):
            yield from keys_of(inner[0], f"{prefix}{name}.")
        else:
            assert isinstance(annotation, types.GenericAlias), f"{prefix}{name}: of a new kind"
            yield f"{prefix}{name}.*"
