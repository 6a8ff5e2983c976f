"""``run.json`` of a run and ``runs/experiments/<name>-<student>.json`` of an experiment, as data.

``run.json`` holds what a run says of itself beside its settings and predictions. An experiment's
record names its rows and where the runs of each lie; it does not count folds or seeds, so that
many jobs that each train some of them write the same file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distill.metrics import from_confusion
from featstore.core.files import read_small, write_file
from featstore.core.schema import UserError, printable
from featstore.core.settings import Settings

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TeacherScores(_Facts):
    """A teacher's scores on one part of a fold, as the store recorded them."""

    wa: Fraction
    ua: Fraction
    n: int | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    """Counts, row = truth; lets the report pool a teacher over folds."""


class TeacherFacts(_Facts):
    """One teacher of the fold: how well it does where it was fitted, selected and tested."""

    train: TeacherScores | None = None
    validation: TeacherScores | None = None
    test: TeacherScores | None = None


class SplitFacts(_Facts):
    """Which speakers the fold tests, validates and trains on."""

    test: tuple[str, ...] = Field(min_length=1)
    validation: tuple[str, ...] = ()
    train: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _disjoint(self) -> SplitFacts:
        seen = sorted(set(self.test) & {*self.train, *self.validation})
        if seen:
            raise ValueError(f"test speaker {seen[0]} was also trained or validated on")
        return self


class StoreFacts(_Facts):
    """Which store the run was trained from."""

    fingerprint: str
    content: str = ""
    url: str = ""
    """Where it lies in object storage; a folder is not told."""


class ProtocolFacts(_Facts):
    """How speakers were held out."""

    scheme: str
    validation: str = "none"
    script_disjoint: bool = False
    kind: str = "all"


class StudentFacts(_Facts):
    """What was trained."""

    backbone: str
    parameters: int | None = None


class TextOverlap(_Facts):
    """How many of the fold's test utterances have their exact words in training too."""

    n_test: int = Field(ge=0)
    n_shared: int = Field(ge=0)


class RunFacts(_Facts):
    """``run.json``: what a run is about, beside its settings."""

    schema_version: Literal[1] = Field(alias="schema")
    experiment: str
    key: str
    fold: int = Field(ge=1, le=9999)
    seed: int = Field(ge=0, lt=2**63)
    variant: str
    dataset: str
    classes: tuple[str, ...] = Field(min_length=2)
    n_folds: int = Field(ge=1, le=9999)
    full_release: bool = False
    """The corpus holds every utterance of its published release."""
    store: StoreFacts
    split: SplitFacts
    protocol: ProtocolFacts
    student: StudentFacts
    teachers: dict[str, TeacherFacts] = {}
    temperatures: dict[str, Positive] = {}
    """The temperature that each teacher's logits were softened with, given or fitted."""
    label_map: dict[str, str] | None = None
    """The corpus' own labels -> the classes that they count as."""
    text_overlap: TextOverlap | None = None
    versions: dict[str, str] = {}
    processes: int = Field(1, ge=1)
    """How many trained it together; the effective batch is that of one."""
    device: str = ""
    """The kind that it was trained on: ``cpu`` or ``cuda``."""
    precision: str = ""
    """Of the backbone while it was trained: ``fp32``, ``bf16`` or ``fp16``."""
    best_epoch: int | None = None
    seconds: float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> RunFacts:
        if self.fold > self.n_folds:
            raise ValueError(f"fold {self.fold} of {self.n_folds}")
        for name, teacher in self.teachers.items():
            for part in (teacher.train, teacher.validation, teacher.test):
                if part is None or part.confusion is None:
                    continue
                counted = from_confusion(part.confusion, self.classes)
                if max(abs(counted.wa - part.wa), abs(counted.ua - part.ua)) > 1e-6:
                    raise ValueError(f"teacher {name}: WA and UA are not those of its confusion")
        return self


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
