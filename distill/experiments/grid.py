"""Experiments as data: which students and teachers stand side by side.

The paper's are shipped beside this file; a file of one's own has the same form.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from distill.config import VARIANTS
from distill.runs.records import SweepPoint
from featstore.core.schema import UTTERANCE_ID, UserError
from featstore.core.settings import Settings, flat, load_toml, merge, resolve

_SUFFIX = ".toml"
_TAKEN = {"seed": "--seed and --seeds", "student.backbone": "students"}
"""Settings that are not a row's, and who sets them: runs of all seeds of a row are its own."""


def _check_variant(variant: str) -> str:
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant}: not one of {', '.join(VARIANTS)}")
    return variant


Variant = Annotated[str, AfterValidator(_check_variant)]


class GridRow(Settings):
    """A row: a variant of the student with settings of its own, or a teacher alone."""

    label: str = Field(min_length=1)
    variant: Variant = "full"
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings of a run, as tables: ``set.targets.shuffle = "label"``."""
    teacher: str | None = None
    """A teacher of the store on its own: nothing is trained."""

    @model_validator(mode="after")
    def _known(self) -> GridRow:
        if self.teacher is not None and (self.set or self.variant != "full"):
            raise ValueError(f"{self.label}: a teacher alone has neither variant nor settings")
        return self


class Sweep(Settings):
    """One setting through several values, a row each: a curve of a figure."""

    variant: Variant = "full"
    setting: str
    """Dotted, e.g. ``losses.teachers.prosodic.tau``."""
    values: tuple[float, ...] = Field(min_length=1)
    axis: str = ""
    """What the axis is called; the setting where not given."""

    @model_validator(mode="after")
    def _known(self) -> Sweep:
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"{self.setting}: a value is given twice")
        return self


class Cell(GridRow):
    """A row as it is run, and where it stands in a figure."""

    point: SweepPoint | None = None

    @property
    def delta(self) -> dict[str, Any]:
        """What the row changes of a run's settings, its variant's part included."""
        return merge(VARIANTS[self.variant], self.set)


class Grid(Settings):
    """An experiment: every row for every student."""

    name: str
    title: str = ""
    students: tuple[str, ...] = Field(("hubert-base",), min_length=1)
    rows: tuple[GridRow, ...] = ()
    sweeps: tuple[Sweep, ...] = ()

    @model_validator(mode="after")
    def _rows(self) -> Grid:
        labels = [cell.label for cell in self.cells()]
        if not labels:
            raise ValueError("neither rows nor sweeps")
        for cell in self.cells():
            for key, flag in _TAKEN.items():
                if any(f"{name}.".startswith(f"{key}.") for name in flat(cell.delta)):
                    raise ValueError(f"{cell.label}: {key} is not for a row to set, but for {flag}")
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two rows are called {', '.join(twice)}")
        return self

    def cells(self) -> list[Cell]:
        """The rows in order, then the sweeps' value by value."""
        cells = [Cell(**dict(row)) for row in self.rows]
        for sweep in self.sweeps:
            axis = sweep.axis or sweep.setting
            for value in sweep.values:
                delta: Any = value
                for key in reversed(sweep.setting.split(".")):
                    delta = {key: delta}
                point = SweepPoint(axis=axis, curve=sweep.variant, value=value)
                label = f"{axis} = {value:g}"
                cells.append(Cell(label=label, variant=sweep.variant, set=delta, point=point))
        return cells


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
