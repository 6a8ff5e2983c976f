"""Reading runs back, each checked before a number is taken from it.

A run folder ``<experiment>/<key>/foldNN-seedS`` is read without trust: it may come from another
machine. Whatever is unfinished or does not fit together is listed with the reason, never averaged.
Every function that reads a file raises :class:`~featstore.core.schema.Corrupt` with its fault.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from distill.metrics import Scores, from_predictions
from distill.runs.records import FOLDER, ExperimentRecord, RunFacts, SplitFacts, read_records
from featstore.core.files import strict_json
from featstore.core.schema import Corrupt, UserError
from featstore.core.settings import digest
from featstore.store.tables import packed

if TYPE_CHECKING:
    import pandas as pd

DONE, FAILED = "DONE", "FAILED"
PREDICTIONS, TEACHERS = "predictions.parquet", "teachers.parquet"
CARD, WEIGHTS = "student/student.json", "student/model.safetensors"
SUMMED = ("run.json", "config.toml", "metrics.jsonl", PREDICTIONS, TEACHERS, CARD)
"""Files whose SHA-256 ``DONE`` holds, beside its own; the student's card holds its weights'."""
RUN_FOLDER = re.compile(r"fold(\d{2,4})-seed(\d{1,19})\Z", re.ASCII)

MAX_BYTES = {
    "": 1 << 20, ".json": 1 << 20, ".jsonl": 256 << 20, ".toml": 4 << 20, ".parquet": 1 << 30
}  # fmt: skip
"""Larger files are refused unread: a run's own are a few hundred KB."""
MAX_ROWS = 5_000_000
MAX_REASON = 300


def read(folder: Path, name: str) -> bytes:
    """A regular file of a run, whole.

    Raises:
        Corrupt: where it is missing, something else than a file, unreadable or absurdly large.
    """
    path = folder / name
    limit = MAX_BYTES[path.suffix]
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Corrupt(f"{name} is not a regular file")
        if status.st_size > limit:
            raise Corrupt(f"{name} has {status.st_size} bytes, more than {limit}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise Corrupt(f"{name} is missing") from None
    except OSError as error:
        raise Corrupt(f"{name} cannot be read ({error.strerror})") from error


def read_mark(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that a run finished with, by name, as its ``DONE`` lists them.

    A run of a store without teachers leaves no ``teachers.parquet``.

    Raises:
        Corrupt: ``DONE`` is not what a finished run writes.
    """
    sums = strict_json(read(folder, DONE), DONE)
    if sums.pop("sha256", None) != digest(sums) or {*sums} | {TEACHERS} != {*SUMMED}:
        raise Corrupt(f"{DONE} is not what a finished run writes")
    return sums


def parse_facts(content: bytes) -> RunFacts:
    """``run.json``, checked against :class:`RunFacts`."""
    strict_json(content, "run.json")  # which pydantic's own parser is not
    try:
        return RunFacts.model_validate_json(content)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}"
            for item in error.errors(include_input=False)
        ]
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise Corrupt(f"run.json: {'; '.join(faults[:3])}{more}") from error


def parse_settings(content: bytes) -> dict[str, Any]:
    """``config.toml`` as nested tables."""
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Corrupt("config.toml is not readable TOML") from error


@dataclass(frozen=True)
class Epoch:
    """A line of ``metrics.jsonl``; numbers that are not finite are left out.

    Attributes:
        number: the epoch's.
        ua: on the validation speakers; None where there is none.
        terms: loss term -> its unweighted mean; ``total`` is the weighted sum of all.
        gradients: loss term -> mean norm of its weighted gradient at the pooled output.
    """

    number: int
    ua: float | None
    terms: Mapping[str, float]
    gradients: Mapping[str, float]


def parse_log(content: bytes) -> tuple[Epoch, ...]:
    """``metrics.jsonl``, by epoch.

    The last line of an interrupted run may be cut; it is passed over.
    """
    epochs: dict[int, Epoch] = {}
    lines = content.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            epoch = _epoch(line)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            if number == len(lines):
                break
            raise Corrupt(f"metrics.jsonl:{number} is no epoch's record") from error
        epochs[epoch.number] = epoch
    return tuple(epochs[number] for number in sorted(epochs))


def _epoch(line: bytes) -> Epoch:
    try:
        record = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return Epoch(
        number=int(record["epoch"]),
        ua=_finite(record.get("validation") or {}).get("ua"),
        terms=_finite(record.get("train") or {}),
        gradients=_finite(record.get("gradients") or {}),
    )


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    numbers = {str(name): float(x) for name, x in values.items() if x is not None}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def parse_predictions(content: bytes, facts: RunFacts) -> pd.DataFrame:
    """``predictions.parquet`` with a ``seed`` column added, once it fits the run's facts."""
    frame = _table(content, PREDICTIONS, [], facts)
    fault = _fault(frame, facts, ("test", "validation"), ["utterance_id"])
    if fault:
        raise Corrupt(f"{PREDICTIONS}: {fault}")
    return frame.assign(seed=facts.seed)


def parse_teachers(content: bytes, facts: RunFacts) -> pd.DataFrame:
    """``teachers.parquet``: each teacher's raw logits of the fold, once it fits the facts."""
    frame = _table(content, TEACHERS, ["teacher"], facts)
    roles = ("test", "validation", "train")
    fault = _fault(frame, facts, roles, ["teacher", "utterance_id"])
    for role in roles[1:]:
        foreign = set(frame.loc[frame["role"] == role, "speaker"]) & set(facts.split.test)
        fault = fault or (f"test speaker {min(foreign)} is in role {role}" if foreign else "")
    if fault:
        raise Corrupt(f"{TEACHERS}: {fault}")
    return frame


def _table(content: bytes, name: str, more: list[str], facts: RunFacts) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["utterance_id", "fold", "role", "speaker", "truth", "prediction", *more]
    columns += logit_columns(facts.classes)
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        names = file.schema_arrow.names
        absent = [column for column in columns if names.count(column) != 1]
        if absent:
            raise Corrupt(f"{name} lacks the column(s) {', '.join(absent)}")
        if packed(file.metadata):
            raise Corrupt(f"{name} is larger inside than any run's")
        if file.metadata.num_rows > MAX_ROWS:
            raise Corrupt(f"{name} has {file.metadata.num_rows} rows")
        frame: pd.DataFrame = file.read(columns=columns).to_pandas(ignore_metadata=True)[columns]
    except (pa.ArrowException, ValueError, OSError) as error:
        raise Corrupt(f"{name} is not a readable Parquet file") from error
    return frame


def logit_columns(classes: Sequence[str]) -> list[str]:
    """Where a table has its logits, in the order of the classes.

    >>> logit_columns(["ang", "sad"])
    ['logit_ang', 'logit_sad']
    """
    return [f"logit_{name}" for name in classes]


def _fault(frame: pd.DataFrame, facts: RunFacts, roles: Sequence[str], unique: list[str]) -> str:
    """What contradicts the run's facts or the predictions themselves; empty where nothing does."""
    import numpy as np

    logits = frame[logit_columns(facts.classes)]
    if frame.drop(columns=logits.columns).isna().to_numpy().any():
        return "a cell is empty"
    if set(frame["role"]) - set(roles):
        return f"a role is none of {', '.join(roles)}"
    if set(frame["fold"]) - {facts.fold}:
        return f"it holds rows of other folds than {facts.fold}"
    if frame.duplicated(unique).any():
        return "an utterance stands in it twice"
    foreign = set(frame["truth"]) | set(frame["prediction"])
    if foreign - set(facts.classes):
        return f"{sorted(map(str, foreign - set(facts.classes)))[0]!r} is none of the classes"
    speakers = set(frame.loc[frame["role"] == "test", "speaker"])
    if speakers != set(facts.split.test):
        return f"it tests {sorted(speakers)}, run.json says {sorted(facts.split.test)}"
    if not all(kind.kind == "f" for kind in logits.dtypes):
        return "a logit column is not floating point"
    values = logits.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        return "a logit is not finite"
    column = frame["prediction"].map({name: i for i, name in enumerate(facts.classes)})
    chosen = values[np.arange(len(values)), column.to_numpy(dtype=np.int64)]
    wrong = int((chosen < values.max(axis=1)).sum()) if len(values) else 0
    return f"{wrong} prediction(s) are not the largest logit" if wrong else ""


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
    epochs: tuple[Epoch, ...]
    predictions: pd.DataFrame
    teachers: pd.DataFrame | None = None

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
    runs = read_runs(paths)
    if not (runs.runs or any(one.fold for one in runs.left_out)):
        where = ", ".join(map(str, paths)) or "nowhere"
        raise UserError(
            f"{where}: no run folder found (none named foldNN-seedS)",
            "train one first: distill run --store STORE --fold 1",
        )
    return runs


def read_runs(paths: Sequence[Path]) -> RunSet:
    """As :func:`collect`; there need not be any run yet.

    Raises:
        UserError: where a path is missing.
    """
    runs: dict[tuple[str, str, int, int], Run] = {}
    left_out: list[LeftOut] = []
    folders = _folders(paths)
    tables: Tables = {}
    for folder, place in folders:
        if not (folder / DONE).exists():
            left_out.append(_left_out(folder, place, *_progress(folder)))
            continue
        try:
            run = read_run(folder, place, tables)
        except Corrupt as damage:
            left_out.append(_left_out(folder, place, "damaged", damage.message))
            continue
        facts = run.facts
        same = facts.experiment, facts.key, facts.fold, facts.seed
        first = runs.setdefault(same, run)
        if first is not run:
            left_out.append(_left_out(folder, place, "duplicate", f"the same run as {first.place}"))
    records, damaged = _records(paths, [folder for folder, _ in folders])
    return RunSet(tuple(runs.values()), (*left_out, *damaged), records)


def read_run(folder: Path, place: str = "", tables: Tables | None = None) -> Run:
    """A finished run, every file checked: what is resumed, shown and reported rests on this alone.

    Of the student's weights only the size is looked at; who loads them computes their SHA-256.

    Args:
        folder: the run's.
        place: what to call it.
        tables: teachers' tables read before; runs of one fold and store have the same.

    Raises:
        Corrupt: with the file and what is wrong with it.
    """
    sums = read_mark(folder)
    contents = {name: read(folder, name) for name in sums}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != sums[name]:
            raise Corrupt(f"{name} is not the one that the run finished with")
    facts = parse_facts(contents["run.json"])
    named = RUN_FOLDER.match(folder.name)
    if named and (int(named[1]), int(named[2])) != (facts.fold, facts.seed):
        raise Corrupt(f"run.json is of fold {facts.fold}, seed {facts.seed}")
    _check_weights(folder, contents[CARD])
    return Run(
        place=place or folder.name,
        facts=facts,
        settings=parse_settings(contents["config.toml"]),
        epochs=parse_log(contents["metrics.jsonl"]),
        predictions=parse_predictions(contents[PREDICTIONS], facts),
        teachers=_teachers(contents.get(TEACHERS), facts, {} if tables is None else tables),
    )


def _check_weights(folder: Path, card: bytes) -> None:
    try:
        size = int(strict_json(card, CARD)["weights"]["size"])
    except (KeyError, TypeError, ValueError):
        raise Corrupt(f"{CARD} is not a student's card") from None
    weights = folder / WEIGHTS
    if not weights.is_file() or weights.stat().st_size != size:
        raise Corrupt(f"{WEIGHTS} is not the {size:,} bytes that the run finished with")


def _teachers(content: bytes | None, facts: RunFacts, tables: Tables) -> pd.DataFrame | None:
    if content is None:
        return None
    key = (hashlib.sha256(content).hexdigest(), facts.fold, facts.classes, facts.split)
    if key not in tables:
        tables[key] = parse_teachers(content, facts)
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
        here, broken = read_records(root)
        damaged += [
            LeftOut(f"{FOLDER}/{stem}.json", "damaged", why) for stem, why in broken.items()
        ]
        for stem, record in here.items():
            if record not in records.values():
                taken = sum(name.split(" ", 1)[0] == stem for name in records)
                records[f"{stem} ({taken + 1})" if taken else stem] = record
    return records, damaged


def _folders(paths: Sequence[Path]) -> list[tuple[Path, str]]:
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
        epochs = len(parse_log(read(folder, "metrics.jsonl")))
    except Corrupt:
        epochs = 0
    try:
        lines = read(folder, FAILED).decode(errors="replace").splitlines()
    except Corrupt:
        return "unfinished", f"no DONE file; {epochs} epoch(s) logged"
    return "failed", (lines or [""])[0].strip()[:MAX_REASON] or "without a message"
