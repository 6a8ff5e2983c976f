"""What an experiment is made of, kept beside its runs: ``runs/experiments/<name>-<student>.json``.

A record names the rows and where the runs of each lie; it does not count folds or seeds, so that
many jobs that each train some of them write the same file. The report reads what was measured from
the runs alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from featstore.core.files import read_small, write_file
from featstore.core.schema import UserError, printable
from featstore.core.settings import Settings

FOLDER = "experiments"
"""Where records lie, below the folder of all runs."""


class SweepPoint(Settings):
    """Where a row stands in a figure: one curve a ``curve``, ``value`` along the axis."""

    axis: str
    """What the axis is about, e.g. ``tau of the prosodic teacher``."""
    curve: str
    value: float


class Row(Settings):
    """A row of an experiment: a student, or a teacher on its own."""

    label: str = Field(min_length=1)
    teacher: str | None = None
    """The teacher's name in the store, where the row is a teacher alone; it needs no run."""
    experiment: str = ""
    """Folder of the student's runs below ``runs``."""
    key: str = ""
    """The runs' key: they lie in ``runs/<experiment>/<key>/foldNN-seedS``."""
    variant: str = ""
    point: SweepPoint | None = None


class ExperimentRecord(Settings):
    """``runs/experiments/<name>-<student>.json``."""

    schema_version: Literal[1] = Field(1, alias="schema")
    name: str
    title: str
    student: str
    store: str
    """Fingerprint of the store's corpus, audio and splits, as in a run's ``run.json``."""
    rows: tuple[Row, ...] = Field(min_length=1)


def write_record(runs: Path, stem: str, record: ExperimentRecord) -> Path:
    """Write a record, in one step; the same rows give the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    path = runs / FOLDER / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = json.dumps(record.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True)
    write_file(path, document.encode())
    return path


def read_records(runs: Path) -> tuple[dict[str, ExperimentRecord], dict[str, str]]:
    """All records below a folder of runs, by file stem, in order of their names.

    Returns:
        The records, and why each file that lies among them is none: one damaged file hides no
        other.
    """
    records: dict[str, ExperimentRecord] = {}
    damaged: dict[str, str] = {}
    for path in sorted((runs / FOLDER).glob("*.json")):
        try:
            records[path.stem] = ExperimentRecord.model_validate_json(read_small(path))
        except (ValidationError, ValueError, OSError, UserError) as error:
            why = _why(error).replace(f"{runs}{os.sep}", "")
            damaged[path.stem] = f"not the record of an experiment ({why})"
    return records, damaged


def _why(error: Exception) -> str:
    """What a record lacks, in a line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        text = ": ".join(filter(None, (place, first["msg"])))
    else:
        text = error.message if isinstance(error, UserError) else str(error)
    return printable(" ".join(text.split()))[:200]
