"""The files of a run, read without trust: each either fits together or is named as damaged.

Every function raises :class:`~featstore.core.schema.Corrupt` with the file and its fault.
"""

from __future__ import annotations

import io
import json
import math
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from distill.runs.run_facts import RunFacts
from featstore.core.files import strict_json
from featstore.core.schema import Corrupt
from featstore.store.tables import packed

if TYPE_CHECKING:
    import pandas as pd

PREDICTIONS, TEACHERS = "predictions.parquet", "teachers.parquet"
MAX_BYTES = {
    "": 1 << 20, ".json": 1 << 20, ".jsonl": 256 << 20, ".toml": 4 << 20, ".parquet": 1 << 30
}  # fmt: skip
"""Larger files are refused unread: a run's own are a few hundred KB."""
MAX_ROWS = 5_000_000


def read(path: Path) -> bytes:
    """A regular file of a run, whole.

    Raises:
        Corrupt: where it is missing, something else than a file, unreadable or absurdly large.
    """
    limit = MAX_BYTES[path.suffix]
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Corrupt(f"{path.name} is not a regular file")
        if status.st_size > limit:
            raise Corrupt(f"{path.name} has {status.st_size} bytes, more than {limit}")
        return path.read_bytes()
    except FileNotFoundError:
        raise Corrupt(f"{path.name} is missing") from None
    except OSError as error:
        raise Corrupt(f"{path.name} cannot be read ({error.strerror})") from error


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
    known = {str(name): float(x) for name, x in values.items() if x is not None}
    return {name: value for name, value in known.items() if math.isfinite(value)}


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

    wanted = ["utterance_id", "fold", "role", "speaker", "truth", "prediction", *more]
    wanted += logit_columns(facts.classes)
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        names = file.schema_arrow.names
        absent = [column for column in wanted if names.count(column) != 1]
        if absent:
            raise Corrupt(f"{name} lacks the column(s) {', '.join(absent)}")
        if packed(file.metadata):
            raise Corrupt(f"{name} is larger inside than any run's")
        if file.metadata.num_rows > MAX_ROWS:
            raise Corrupt(f"{name} has {file.metadata.num_rows} rows")
        frame: pd.DataFrame = file.read(columns=wanted).to_pandas(ignore_metadata=True)[wanted]
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
