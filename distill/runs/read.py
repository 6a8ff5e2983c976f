"""Finding finished runs and reading them back, each checked before a number is taken from it.

A run folder ``<experiment>/<key>/foldNN-seedS`` is read without trust: it may come from another
machine. Whatever is unfinished or does not fit together is listed with the reason, never averaged.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.metrics import Scores, from_predictions
from distill.runs import parse as files
from distill.runs.experiment_record import FOLDER as RECORDS
from distill.runs.experiment_record import ExperimentRecord, read_records
from distill.runs.run_facts import RunFacts, SplitFacts
from featstore.core.files import strict_json
from featstore.core.schema import Corrupt, UserError

if TYPE_CHECKING:
    import pandas as pd

SUMMED = ("run.json", "config.toml", files.PREDICTIONS)
"""Files whose SHA-256 the run's ``DONE`` holds, whatever version wrote it."""
LATER = ("metrics.jsonl", files.TEACHERS)
"""Files that are held against their SHA-256 where ``DONE`` has it; older runs lack the last."""
DONE, FAILED = "DONE", "FAILED"
MAX_REASON = 300
RUN_FOLDER = re.compile(r"fold(\d{2,4})-seed(\d{1,19})\Z")


State = Literal["unfinished", "failed", "damaged", "duplicate"]
Tables = dict[tuple[str, int, tuple[str, ...], SplitFacts], "pd.DataFrame"]
"""Teachers' tables by the file's SHA-256 and what it was checked against."""


@dataclass(frozen=True, eq=False)  # a table has no truth value to compare by
class Run:
    """A finished run.

    Attributes:
        place: its folder, relative to the folder that was searched.
        facts: ``run.json``.
        settings: ``config.toml`` as nested tables.
        epochs: ``metrics.jsonl``.
        predictions: ``predictions.parquet`` with a ``seed`` column added.
        teachers: ``teachers.parquet``; None where the run has none.
    """

    place: str
    facts: RunFacts
    settings: dict[str, Any]
    epochs: tuple[files.Epoch, ...]
    predictions: pd.DataFrame
    teachers: pd.DataFrame | None = None

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
    """A run folder (or an experiment's record) from which no number is taken, and why.

    Attributes:
        place: the folder, relative to the one that was searched.
        state: what became of it; ``failed``: its last start ended with an error.
        reason: more about it.
        experiment: the experiment's folder that it lies in; empty for a record.
        key: the key's folder that it lies in; empty for a record.
        fold: by the folder's name; 0 for a record.
        seed: by the folder's name; 0 for a record.
    """

    place: str
    state: State
    reason: str
    experiment: str = ""
    key: str = ""
    fold: int = 0
    seed: int = 0


@dataclass(frozen=True)
class RunSet:
    """All runs found under the folders searched, sorted by place."""

    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...] = ()
    records: Mapping[str, ExperimentRecord] = field(default_factory=dict)
    """Experiments whose runs are among these, by the name of their file."""


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
    tables: Tables = {}
    for folder, place in found:
        if not (folder / DONE).exists():
            left_out.append(_left_out(folder, place, *_progress(folder)))
            continue
        try:
            run = read_run(folder, place, tables)
        except Corrupt as damage:
            left_out.append(_left_out(folder, place, "damaged", damage.message))
            continue
        first = runs.setdefault(run.identity, run)
        if first is not run:
            left_out.append(_left_out(folder, place, "duplicate", f"the same run as {first.place}"))
    records, damaged = _records(paths, [folder for folder, _ in found])
    return RunSet(tuple(runs.values()), (*left_out, *damaged), records)


def read_run(folder: Path, place: str = "", tables: Tables | None = None) -> Run:
    """One finished run, checked as far as the report relies on it.

    Args:
        folder: the run's.
        place: what to call it.
        tables: teachers' tables read before; runs of one fold and store have the same.

    Raises:
        Corrupt: with the file and what is wrong with it.
    """
    sums = strict_json(files.read(folder / DONE), DONE)
    later = [name for name in LATER if name in sums]
    contents = {name: files.read(folder / name) for name in (*SUMMED, *later)}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != sums.get(name):
            raise Corrupt(f"{name} is not the one that the run finished with")
    facts = files.parse_facts(contents["run.json"])
    named = RUN_FOLDER.match(folder.name)
    if named and (int(named[1]), int(named[2])) != (facts.fold, facts.seed):
        raise Corrupt(f"run.json tells of fold {facts.fold}, seed {facts.seed}")
    log = contents.get("metrics.jsonl") or files.read(folder / "metrics.jsonl")
    return Run(
        place=place or folder.name,
        facts=facts,
        settings=files.parse_settings(contents["config.toml"]),
        epochs=files.parse_log(log),
        predictions=files.parse_predictions(contents[files.PREDICTIONS], facts),
        teachers=_teachers(contents.get(files.TEACHERS), facts, {} if tables is None else tables),
    )


def _teachers(content: bytes | None, facts: RunFacts, tables: Tables) -> pd.DataFrame | None:
    if content is None:
        return None
    key = (hashlib.sha256(content).hexdigest(), facts.fold, facts.classes, facts.split)
    if key not in tables:
        tables[key] = files.parse_teachers(content, facts)
    return tables[key]


def _records(
    paths: Sequence[Path], folders: Sequence[Path]
) -> tuple[dict[str, ExperimentRecord], list[LeftOut]]:
    """Records in the folders of runs that were searched whole, and those that are damaged."""
    searched = [path.resolve() for path in paths]
    above = {folder.parents[2] for folder in folders if len(folder.parents) > 2}
    inside = {root for root in above if any(root.is_relative_to(path) for path in searched)}
    records: dict[str, ExperimentRecord] = {}
    damaged: list[LeftOut] = []
    for root in sorted({*searched, *inside}):
        found, broken = read_records(root)
        damaged += [
            LeftOut(f"{RECORDS}/{stem}.json", "damaged", why) for stem, why in broken.items()
        ]
        for stem, record in found.items():
            if record not in records.values():
                taken = sum(name.split(" ", 1)[0] == stem for name in records)
                records[f"{stem} ({taken + 1})" if taken else stem] = record
    return records, damaged


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
        if isinstance(error, FileNotFoundError):  # gone since its parent was listed
            return
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


def _left_out(folder: Path, place: str, state: State, reason: str) -> LeftOut:
    experiment, key, name = ("", "", *folder.parts)[-3:]
    fold, seed = map(int, RUN_FOLDER.match(name).groups())  # type: ignore[union-attr]
    return LeftOut(place, state, reason, experiment, key, fold, seed)


def _progress(folder: Path) -> tuple[State, str]:
    """What became of a run without ``DONE``, and how far it got."""
    try:
        epochs = len(files.parse_log(files.read(folder / "metrics.jsonl")))
    except Corrupt:
        epochs = 0
    try:
        lines = files.read(folder / FAILED).decode(errors="replace").splitlines()
    except Corrupt:
        return "unfinished", f"no DONE file; {epochs} epoch(s) logged"
    return "failed", (lines or [""])[0].strip()[:MAX_REASON] or "without a message"
