"""Students' predictions from run folders, read as files from a stranger.

``distill`` writes them and has a fuller reader; this package sits below it, so it looks only for
what a page shows: which student, and its raw logits.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from featstore.core.files import read_small, strict_json
from featstore.core.schema import Corrupt, UserError, printable
from featstore.store.tables import packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from featstore.store.store import Store

RUN_FOLDER = re.compile(r"fold\d{2,4}-seed\d{1,10}\Z", re.ASCII)
PREDICTIONS = "predictions.parquet"
MAX_BYTES = 256 * 1024**2
MAX_ROWS = 2_000_000
MAX_DEPTH = 6
MAX_RUNS = 5_000

Text = Annotated[str, Field(max_length=200)]


class _Loose(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _StoreFacts(_Loose):
    fingerprint: Text


class _StudentFacts(_Loose):
    backbone: Text


class _RunFacts(_Loose):
    """What is read of ``run.json``."""

    schema_version: Literal[1] = Field(alias="schema")
    experiment: Text
    key: Text
    fold: int = Field(ge=1, le=9999)
    seed: int = Field(ge=0, lt=2**63)
    variant: Text
    classes: tuple[Text, ...] = Field(min_length=2)
    store: _StoreFacts
    student: _StudentFacts


@dataclass(frozen=True)
class StudentRun:
    """A finished run of this store.

    Attributes:
        path: its folder.
        place: the folder's name below the one that was searched.
        fold: whose test and validation speakers it predicts.
    """

    path: Path
    place: str
    fold: int
    seed: int
    experiment: str
    variant: str
    backbone: str

    def told(self) -> dict[str, Any]:
        """For the page."""
        names = ("place", "fold", "seed", "experiment", "variant", "backbone")
        return {name: getattr(self, name) for name in names}


def find(root: Path, store: Store) -> tuple[list[StudentRun], list[str]]:
    """The finished runs of this store, by place, and why each other one is left out.

    Raises:
        UserError: the folder is not there, or no run lies in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder", "give the folder that `distill run` wrote into")
    runs, left_out = [], []
    fingerprint = store.fingerprint()
    for folder in _folders(root):
        place = folder.relative_to(root).as_posix() if folder != root else folder.name
        try:
            runs.append(_finished(folder, place, store.classes, fingerprint))
        except (Corrupt, UserError) as error:
            left_out.append(printable(f"{place}: {error.message}"))
    if not runs and not left_out:
        raise UserError(
            f"{root}: no run folder found (none named foldNN-seedS)",
            "train one first: `distill run --store STORE --fold 1`",
        )
    return sorted(runs, key=lambda run: run.place), left_out


def logits(run: StudentRun, store: Store) -> npt.NDArray[np.float32]:
    """What a run says, in the store's order: ``[N, C]``, NaN where it says nothing.

    Raises:
        Corrupt: the table is not the one that the run finished with, or does not fit the store.
    """
    content = _read(run.path / PREDICTIONS)
    sums = strict_json(read_small(run.path / "DONE"), f"{run.place}/DONE")
    if hashlib.sha256(content).hexdigest() != sums.get(PREDICTIONS):
        raise Corrupt(f"{run.place}/{PREDICTIONS}: changed since the run finished", "run it again")
    frame = _table(content, store.classes, run.place)
    rows = {name: row for row, name in enumerate(store.utterances["utterance_id"])}
    index = frame["utterance_id"].map(rows)
    if index.isna().any() or index.duplicated().any():
        raise Corrupt(f"{run.place}/{PREDICTIONS}: not the store's utterances", "run it again")
    out = np.full((len(rows), len(store.classes)), np.nan, dtype=np.float32)
    out[index.to_numpy(dtype=np.int64)] = frame.iloc[:, 1:].to_numpy(dtype=np.float32)
    return out


def _folders(root: Path) -> Iterator[Path]:
    """Run folders at or below a folder, in order; links are not followed."""
    found = 0
    for here, folders, _ in os.walk(root):
        path = Path(here)
        depth = len(path.relative_to(root).parts)
        if RUN_FOLDER.match(path.name):
            folders.clear()
            found += 1
            yield path
        elif depth >= MAX_DEPTH:
            folders.clear()
        if found >= MAX_RUNS:
            return
        folders.sort()


def _finished(folder: Path, place: str, classes: tuple[str, ...], fingerprint: str) -> StudentRun:
    if not (folder / "DONE").is_file():
        raise UserError("not finished")
    try:
        content = read_small(folder / "run.json")
    except OSError as error:
        raise Corrupt(f"run.json: {error.strerror}") from error
    strict_json(content, "run.json")  # which pydantic's own parser is not
    try:
        facts = _RunFacts.model_validate_json(content)
    except ValidationError as error:
        raise Corrupt(f"run.json: {error.error_count()} fault(s)") from error
    if facts.store.fingerprint != fingerprint or facts.classes != classes:
        raise UserError("of another store")
    return StudentRun(
        folder, place, facts.fold, facts.seed, facts.experiment, facts.variant,
        facts.student.backbone,
    )  # fmt: skip


def _read(path: Path) -> bytes:
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_BYTES:
            raise Corrupt(f"{path.name}: not a regular file of a usual size")
        return path.read_bytes()
    except OSError as error:
        raise Corrupt(f"{path.name}: {error.strerror}") from error


def _table(content: bytes, classes: tuple[str, ...], place: str) -> pd.DataFrame:
    """``utterance_id`` and the logits, class by class."""
    import pyarrow
    from pyarrow import parquet

    wanted = ["utterance_id", *(f"logit_{name}" for name in classes)]
    kinds = {name: pyarrow.float32() for name in wanted[1:]} | {wanted[0]: pyarrow.string()}
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        names = file.schema_arrow.names
        if any(names.count(name) != 1 for name in wanted):
            raise Corrupt(f"{place}/{PREDICTIONS}: lacks columns")
        if packed(file.metadata) or file.metadata.num_rows > MAX_ROWS:
            raise Corrupt(f"{place}/{PREDICTIONS}: larger inside than any run's")
        table = file.read(columns=wanted, use_threads=False).select(wanted)
        schema = pyarrow.schema([(name, kinds[name]) for name in wanted])
        frame: pd.DataFrame = table.cast(schema).to_pandas(ignore_metadata=True)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise Corrupt(f"{place}/{PREDICTIONS}: no readable Parquet file") from error
    if frame.isna().to_numpy().any():
        raise Corrupt(f"{place}/{PREDICTIONS}: has gaps")
    return frame
