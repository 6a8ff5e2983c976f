"""Experiments as data: which students and teachers stand side by side.

The paper's are shipped beside this file; a file of one's own has the same form.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from distill.config import VARIANTS
from distill.runs.records import SweepPoint
from featstore.core.schema import UTTERANCE_ID, UserError
from featstore.core.settings import Settings, flat, load_toml, merge, resolve

_SUFFIX = ".toml"


class GridRow(Settings):
    """A row: a variant of the student with settings of its own, or a teacher alone."""

    label: str = Field(min_length=1)
    variant: str = "full"
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings of a run, as tables: ``set.targets.shuffle = "label"``."""
    teacher: str | None = None
    """A teacher of the store on its own: nothing is trained."""

    @model_validator(mode="after")
    def _known(self) -> GridRow:
        _check_variant(self.variant)
        if self.teacher is not None and (self.set or self.variant != "full"):
            raise ValueError(f"{self.label}: a teacher alone has neither variant nor settings")
        return self


class Sweep(Settings):
    """One setting through several values, a row each: a curve of a figure."""

    variant: str = "full"
    setting: str
    """Dotted, e.g. ``losses.teachers.prosodic.tau``."""
    values: tuple[float, ...] = Field(min_length=1)
    axis: str = ""
    """What the axis is called; the setting where not given."""

    @model_validator(mode="after")
    def _known(self) -> Sweep:
        _check_variant(self.variant)
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"{self.setting}: a value is given twice")
        return self


class Cell(Settings):
    """A row as it is run, and where it stands in a figure."""

    row: GridRow
    point: SweepPoint | None = None

    @property
    def delta(self) -> dict[str, Any]:
        """What the row changes of a run's settings, its variant's part included."""
        return merge(VARIANTS[self.row.variant], self.row.set)


class Grid(Settings):
    """An experiment: every row for every student."""

    name: str
    title: str = ""
    students: tuple[str, ...] = Field(("hubert-base",), min_length=1)
    rows: tuple[GridRow, ...] = ()
    sweeps: tuple[Sweep, ...] = ()

    @model_validator(mode="after")
    def _rows(self) -> Grid:
        labels = [cell.row.label for cell in self.cells()]
        if not labels:
            raise ValueError("neither rows nor sweeps")
        for cell in self.cells():
            _refuse_taken(cell)
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two rows are called {', '.join(twice)}")
        return self

    def cells(self) -> list[Cell]:
        """The rows in order, then the sweeps' value by value."""
        return [Cell(row=row) for row in self.rows] + list(self._swept())

    def _swept(self) -> Iterator[Cell]:
        for sweep in self.sweeps:
            axis = sweep.axis or sweep.setting
            for value in sweep.values:
                delta: Any = value
                for key in reversed(sweep.setting.split(".")):
                    delta = {key: delta}
                row = GridRow(label=f"{axis} = {value:g}", variant=sweep.variant, set=delta)
                yield Cell(row=row, point=SweepPoint(axis=axis, curve=sweep.variant, value=value))


def shipped() -> list[str]:
    """Names of the experiments that come with the package.

    >>> shipped()
    ['controls', 'crossfit', 'figure2', 'options', 'table1', 'table2']
    """
    files = resources.files("distill.experiments").joinpath("grids").iterdir()
    return sorted(one.name.removesuffix(_SUFFIX) for one in files if one.name.endswith(_SUFFIX))


def load_grid(name: str) -> Grid:
    """A shipped experiment by its name, or one's own by its file.

    Raises:
        UserError: there is none of that name, or the file is not an experiment; with all faults.
    """
    if name in shipped():
        path = resources.files("distill.experiments").joinpath("grids", f"{name}{_SUFFIX}")
        return resolve(Grid, tomllib.loads(path.read_text(encoding="utf-8")), {"name": name})
    if not name.endswith(_SUFFIX):
        raise UserError(
            f"experiment {name}: not known",
            f"choose one of {', '.join(shipped())}, or give a .toml file (copy one of those)",
        )
    if not Path(name).exists():
        raise UserError(f"{name}: no such file", f"give one, or one of {', '.join(shipped())}")
    table: Mapping[str, Any] = load_toml(Path(name))
    stem = str(table.get("name") or Path(name).stem)
    if not UTTERANCE_ID.match(stem):
        raise UserError(
            f"{name}: {stem!r} is no name for an experiment",
            "use letters, digits, dot, dash and underscore: name = ... or rename the file",
        )
    if stem in shipped():
        raise UserError(f"{name}: {stem} is the name of a shipped experiment", "give it another")
    try:
        return resolve(Grid, {"title": stem}, table, {"name": stem})
    except UserError as error:
        hint = "mend the file; those of distill/experiments/grids are examples"
        raise UserError(f"{name}: {error.message}", hint) from error


def _refuse_taken(cell: Cell) -> None:
    """Refuse settings that are not a row's: runs of all seeds of a row are its own."""
    for key, flag in {"seed": "--seed and --seeds", "student.backbone": "students"}.items():
        if any(f"{name}.".startswith(f"{key}.") for name in flat(cell.delta)):
            raise ValueError(f"{cell.row.label}: {key} is not for a row to set, but for {flag}")


def _check_variant(variant: str) -> None:
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant}: not one of {', '.join(VARIANTS)}")
