"""The files of a run, read without trust: each either fits together or is named as damaged.

Every function raises :class:`~featstore.schema.Corrupt` with the file and what is wrong with it.
"""

from __future__ import annotations

import io
import json
import math
import stat
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from distill.run_facts import RunFacts
from featstore.files import strict_json
from featstore.schema import Corrupt
from featstore.tables import packed

if TYPE_CHECKING:
    import pandas as pd

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


def parse_curve(content: bytes) -> tuple[tuple[int, float | None], ...]:
    """``metrics.jsonl``: each epoch with its validation UA.

    The last line of an interrupted run may be cut; it is passed over.
    """
    points: dict[int, float | None] = {}
    lines = content.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            epoch, ua = _epoch(line)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            if number == len(lines):
                break
            raise Corrupt(f"metrics.jsonl:{number} is no epoch's record") from error
        points[epoch] = ua
    return tuple(sorted(points.items()))


def _epoch(line: bytes) -> tuple[int, float | None]:
    try:
        record = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    ua = (record.get("validation") or {}).get("ua")
    value = None if ua is None else float(ua)
    return int(record["epoch"]), value if value is not None and math.isfinite(value) else None


def parse_predictions(content: bytes, facts: RunFacts) -> pd.DataFrame:
    """``predictions.parquet`` with a ``seed`` column added, once it fits the run's facts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    logits = [f"logit_{name}" for name in facts.classes]
    wanted = ["utterance_id", "fold", "role", "speaker", "truth", "prediction", *logits]
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        names = file.schema_arrow.names
        absent = [name for name in wanted if names.count(name) != 1]
        if absent:
            raise Corrupt(f"predictions.parquet lacks the column(s) {', '.join(absent)}")
        if packed(file.metadata):
            raise Corrupt("predictions.parquet is larger inside than any run's")
        if file.metadata.num_rows > MAX_ROWS:
            raise Corrupt(f"predictions.parquet has {file.metadata.num_rows} rows")
        frame: pd.DataFrame = file.read(columns=wanted).to_pandas(ignore_metadata=True)[wanted]
    except (pa.ArrowException, ValueError, OSError) as error:
        raise Corrupt("predictions.parquet is not a readable Parquet file") from error
    fault = _fault(frame, frame[logits], facts)
    if fault:
        raise Corrupt(f"predictions.parquet: {fault}")
    return frame.assign(seed=facts.seed)


def _fault(frame: pd.DataFrame, logits: pd.DataFrame, facts: RunFacts) -> str:
    """What contradicts the run's facts or the predictions themselves; empty where nothing does."""
    import numpy as np

    if frame.drop(columns=logits.columns).isna().to_numpy().any():
        return "a cell is empty"
    if set(frame["role"]) - {"test", "validation"}:
        return "a role is neither test nor validation"
    if set(frame["fold"]) - {facts.fold}:
        return f"it holds rows of other folds than {facts.fold}"
    if frame["utterance_id"].duplicated().any():
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
