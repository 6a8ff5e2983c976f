"""Finding finished runs and reading them back, each checked before a number is taken from it.

A run folder ``<experiment>/<key>/foldNN-seedS`` is read without trust: it may come from another
machine. Whatever is unfinished or does not fit together is listed with the reason, never averaged.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.metrics import Scores, from_predictions
from distill.report import files
from distill.run_facts import RunFacts
from featstore.files import strict_json
from featstore.schema import Corrupt, UserError

if TYPE_CHECKING:
    import pandas as pd

SUMMED = ("run.json", "config.toml", "predictions.parquet")
"""Files whose SHA-256 the run's ``DONE`` holds."""
RUN_FOLDER = re.compile(r"fold(\d{2,4})-seed(\d{1,10})\Z")


@dataclass(frozen=True, eq=False)  # a table has no truth value to compare by
class Run:
    """A finished run.

    Attributes:
        place: its folder, relative to the folder that was searched.
        facts: ``run.json``.
        settings: ``config.toml`` as nested tables.
        curve: (epoch, validation UA) of each epoch; the UA is None where none was measured.
        predictions: ``predictions.parquet`` with a ``seed`` column added.
    """

    place: str
    facts: RunFacts
    settings: dict[str, Any]
    curve: tuple[tuple[int, float | None], ...]
    predictions: pd.DataFrame

    @property
    def identity(self) -> tuple[str, str, int, int]:
        """Experiment, key, fold and seed: two runs that share it are the same run."""
        facts = self.facts
        return facts.experiment, facts.key, facts.fold, facts.seed

    @cached_property
    def scores(self) -> Scores:
        """Scores on the test speakers."""
        return from_predictions(self.predictions, self.facts.classes)


@dataclass(frozen=True)
class LeftOut:
    """A run folder from which no number is taken, and why."""

    place: str
    state: Literal["unfinished", "damaged", "duplicate"]
    reason: str


@dataclass(frozen=True)
class RunSet:
    """All runs found under the folders searched, sorted by place."""

    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...] = ()


def collect(paths: Sequence[Path]) -> RunSet:
    """Read every run under some folders: all runs, an experiment, a key or a single run.

    Args:
        paths: folders to search; overlapping ones are read once.

    Raises:
        UserError: where a path is missing, or no run folder is found at all.
    """
    runs: dict[tuple[str, str, int, int], Run] = {}
    left_out: list[LeftOut] = []
    found = _found(paths)
    if not found:
        where = ", ".join(map(str, paths)) or "nowhere"
        raise UserError(
            f"{where}: no run folder found (none named foldNN-seedS)",
            "train one first: distill run --store STORE --fold 1",
        )
    for folder, place in found:
        if not (folder / "DONE").exists():
            left_out.append(LeftOut(place, "unfinished", _progress(folder)))
            continue
        try:
            run = read_run(folder, place)
        except Corrupt as damage:
            left_out.append(LeftOut(place, "damaged", damage.message))
            continue
        first = runs.setdefault(run.identity, run)
        if first is not run:
            left_out.append(LeftOut(place, "duplicate", f"the same run as {first.place}"))
    return RunSet(tuple(runs.values()), tuple(left_out))


def read_run(folder: Path, place: str = "") -> Run:
    """One finished run, checked as far as the report relies on it.

    Raises:
        Corrupt: with the file and what is wrong with it.
    """
    sums = strict_json(files.read(folder / "DONE"), "DONE")
    contents = {name: files.read(folder / name) for name in SUMMED}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != sums.get(name):
            raise Corrupt(f"{name} is not the one that the run finished with")
    facts = files.parse_facts(contents["run.json"])
    named = RUN_FOLDER.match(folder.name)
    if named and (int(named[1]), int(named[2])) != (facts.fold, facts.seed):
        raise Corrupt(f"run.json tells of fold {facts.fold}, seed {facts.seed}")
    return Run(
        place=place or folder.name,
        facts=facts,
        settings=files.parse_settings(contents["config.toml"]),
        curve=files.parse_curve(files.read(folder / "metrics.jsonl")),
        predictions=files.parse_predictions(contents["predictions.parquet"], facts),
    )


def _found(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Run folders with their place, once each, in a stable order."""
    seen: dict[Path, tuple[Path, str]] = {}
    for path in paths:
        if not path.is_dir():
            state = "is not a folder" if path.exists() else "no such folder"
            raise UserError(f"{path}: {state}", "give the folder that `distill run` wrote into")
        root = path.resolve()
        for folder in _walk(root):
            inside = folder.relative_to(root).parts
            place = "/".join(inside or folder.parts[-3:])
            seen.setdefault(folder.resolve(), (folder, place))
    return sorted(seen.values(), key=lambda pair: (pair[1], str(pair[0])))


def _walk(root: Path) -> Iterator[Path]:
    """Run folders at or under a folder, behind links too; runs are not searched inside."""

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be searched ({error.strerror})") from error

    seen: set[str] = set()
    for here, folders, _files in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(here)
        if real in seen or RUN_FOLDER.match(Path(here).name):
            folders.clear()
            if real not in seen:
                yield Path(here)
        seen.add(real)
        folders.sort()


def _progress(folder: Path) -> str:
    """How far a run without ``DONE`` got."""
    try:
        epochs = len(files.parse_curve(files.read(folder / "metrics.jsonl")))
    except Corrupt:
        epochs = 0
    return f"no DONE file; {epochs} epoch(s) logged"
