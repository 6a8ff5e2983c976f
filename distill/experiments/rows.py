"""``distill experiment``: every row of a grid, on every fold and seed asked for.

A row is a set of settings, so its runs lie where ``distill run`` would leave them and are shared:
by rows that come to the same settings, by experiments, and with runs made by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from distill.config import PRESETS, RunSettings, default_preset, refuse_unknown, run_key
from distill.experiments.grids import Cell, Grid
from distill.experiments.launch import (
    experiment_name,
    refuse_runs,
    require_encoders,
    warn_of_teachers,
)
from distill.experiments.resources import Resources
from distill.metrics import spread
from distill.runs.records import ExperimentRecord, Row, write_record
from distill.runs.request import Outcome, RunRequest, key_of
from featstore.core.schema import UserError, listed
from featstore.core.settings import choose, flat, load_toml, overrides, resolve
from featstore.folds import parse_numbers
from featstore.store import open_store
from featstore.store.store import Store

if TYPE_CHECKING:
    from distill.experiments.running import Done


@dataclass(frozen=True)
class ExperimentOrder:
    """What ``distill experiment`` is asked for.

    Attributes:
        grid: the rows.
        store: where their targets are.
        folds: which folds, e.g. ``1..10``.
        runs: where results go.
        n_seeds: how many seeds, counted up from the first.
        seed: the first; the settings' own where not given.
        students: in place of the grid's; its own where empty.
        preset: ``paper``, ``safe`` or ``tiny``; the student's own where not given.
        config: a file of settings for all rows.
        sets: ``--set`` flags for all rows.
        resources: what the runs may use.
        weights: the backbone's weights, where not in the cache.
        root: the corpus, for a store without audio.
        max_steps: stop each run after so many optimiser steps.
    """

    grid: Grid
    store: Path | str
    folds: str
    runs: Path
    n_seeds: int = 1
    seed: int | None = None
    students: tuple[str, ...] = ()
    preset: str | None = None
    config: Path | None = None
    sets: tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)
    weights: Path | None = None
    root: Path | None = None
    max_steps: int | None = None


@dataclass(frozen=True)
class Line:
    """A row of the grid for one student, or for a teacher alone.

    Attributes:
        label: the row's, and the student's where there are several.
        cell: the row.
        student: its backbone; empty for a teacher alone.
        experiment: folder of its runs; empty for a teacher alone.
        same: equal for rows that come to the same settings.
        requests: its runs, by fold and seed.
    """

    label: str
    cell: Cell
    student: str = ""
    experiment: str = ""
    same: str = ""
    requests: tuple[RunRequest, ...] = ()

    @property
    def teacher(self) -> str | None:
        """The teacher that the row is about, if it is a teacher alone."""
        return self.cell.row.teacher

    def runs(self) -> Iterator[tuple[str, RunRequest]]:
        """Each run with what tells it apart from every run that is another."""
        for run in self.requests:
            yield f"{self.experiment}/{self.same}/{run.fold}/{run.settings.seed}", run


def lines(order: ExperimentOrder, folds: Sequence[int]) -> list[Line]:
    """The rows with the runs that they need, teachers last.

    Raises:
        UserError: settings that no row can have, or that the rows vary themselves.
    """
    _refuse_varied(order)
    students = order.students or order.grid.students
    _refuse_students(students)
    if order.weights is not None and len(students) > 1:
        raise UserError(
            f"--weights is for one backbone, here are {len(students)}: {', '.join(students)}",
            "name one: --student hubert-base --weights FILE",
        )
    cells = order.grid.cells()
    trained = [cell for cell in cells if cell.row.teacher is None]
    rows = [
        _line(order, cell, student, folds, several=len(students) > 1)
        for student in students
        for cell in trained
    ]
    return rows + [Line(cell.row.label, cell) for cell in cells if cell.row.teacher is not None]


def runs_of(rows: Sequence[Line]) -> dict[str, RunRequest]:
    """All runs, each once: seed by seed and fold by fold, so that a part is a smaller whole."""
    unique: dict[str, RunRequest] = {}
    for line in rows:
        for name, run in line.runs():
            unique.setdefault(name, run)
    order = sorted(unique.items(), key=lambda item: (item[1].settings.seed, item[1].fold))
    return dict(order)


def run_experiment(order: ExperimentOrder) -> tuple[Done, list[Line]]:
    """Train what is not done yet; one failed run stops no other.

    Raises:
        UserError: the store, folds or settings are not there, or do not fit.
    """
    from distill.experiments.running import run_all  # brings torch

    store, rows = _opened(order)
    require_encoders(run.settings for run in runs_of(rows).values())
    students = "+".join(order.students or order.grid.students)
    record = ExperimentRecord(
        schema=1, name=order.grid.name, title=order.grid.title, student=students,
        store=store.fingerprint(), rows=tuple(_record(store, line) for line in rows),
    )  # fmt: skip
    write_record(order.runs, experiment_name(students, order.grid.name), record)

    return run_all(partial(_requests, order), order.resources, order.grid.name), rows


def _requests(order: ExperimentOrder) -> list[RunRequest]:
    store, rows = _opened(order)
    runs = list(runs_of(rows).values())
    folds = sorted({run.fold for run in runs})
    warn_of_teachers(store, folds, [run.settings for run in runs])
    return runs


def summary(done: Done, rows: Sequence[Line]) -> dict[str, Any]:
    """Test scores of each row over its folds that are done, as plain data; fractions."""
    unique = runs_of(rows)
    table = []
    for line in rows:
        found = [done.by_label.get(unique[name].label) for name, _ in line.runs()]
        scored = [one for one in found if one is not None and one.wa is not None]
        if line.teacher is None:
            spreads = {name: _over_folds(scored, name) for name in ("wa", "ua")}
            stopped = sum(one is not None and one.status == "stopped" for one in found)
            counts = {"runs": len(found), "done": len(scored), "stopped": stopped}
            table.append({"row": line.label, **counts, **spreads})
    failed = [
        {"run": one.request.label, "message": one.error.message, "hint": one.error.hint}
        for one in done.failed
    ]
    return {"rows": table, "failed": failed}


def _opened(order: ExperimentOrder) -> tuple[Store, list[Line]]:
    refuse_runs(order.runs)
    store = open_store(order.store)
    return store, lines(order, parse_numbers(order.folds, len(store.folds)))


def _line(
    order: ExperimentOrder, cell: Cell, student: str, folds: Sequence[int], several: bool
) -> Line:
    label = f"{cell.row.label} · {student}" if several else cell.row.label
    first = _settings(order, cell, student)
    experiment = experiment_name(student, cell.row.variant)
    requests = []
    for seed in range(first.seed, first.seed + order.n_seeds):
        settings = first.model_copy(update={"seed": seed})
        requests += [
            RunRequest(
                store=order.store, fold=fold, settings=settings, runs=order.runs,
                experiment=experiment, variant=cell.row.variant, device=order.resources.device,
                root=order.root, weights=order.weights, max_steps=order.max_steps,
                title=f"{label}, fold {fold}, seed {seed}",
            )
            for fold in folds
        ]  # fmt: skip
    same = run_key(first, store="", teachers=())
    return Line(label, cell, student, experiment, same, tuple(requests))


def _settings(order: ExperimentOrder, cell: Cell, student: str) -> RunSettings:
    preset = choose("--preset", order.preset or default_preset(student), PRESETS)
    flags: dict[str, Any] = {"student": {"backbone": student}}
    if order.seed is not None:
        flags["seed"] = order.seed
    config = load_toml(order.config) if order.config else {}
    return resolve(RunSettings, preset, config, overrides(order.sets), cell.delta, flags)


def _refuse_varied(order: ExperimentOrder) -> None:
    """A flag for all rows must not be one that a row answers itself, or another flag."""
    varied = {key for cell in order.grid.cells() for key in flat(cell.delta)}
    given = flat(overrides(order.sets))
    if "student.backbone" in given:
        raise UserError(
            f"--set student.backbone={given['student.backbone']}: the experiment has its students",
            "name others with --student",
        )
    both = sorted(
        key
        for key in given
        if any(f"{one}.".startswith(f"{key}.") or f"{key}.".startswith(f"{one}.") for one in varied)
    )
    if both:
        raise UserError(
            f"experiment {order.grid.name} varies these itself:\n{listed(both)}",
            "leave them out of --set, or write a file of your own (distill/grids has some)",
        )


def _refuse_students(students: Sequence[str]) -> None:
    """A name that is none would fail in each of its runs, one given twice is in every row twice."""
    for student in students:
        refuse_unknown(student)
    if twice := [student for student in students if students.count(student) > 1]:
        raise UserError(f"student {twice[0]}: given twice", "name each student once")


def _record(store: Store, line: Line) -> Row:
    key = next(filter(None, (_key(store, run) for run in line.requests)), "")
    return Row(
        label=line.label, teacher=line.teacher, experiment=line.experiment, key=key,
        variant="" if line.teacher else line.cell.row.variant, point=line.cell.point,
    )  # fmt: skip


def _key(store: Store, run: RunRequest) -> str:
    """The key of a row's runs; '' where this fold has no teachers to make it from."""
    try:
        return key_of(store, run.fold, run.settings, run.weights)
    except UserError:
        return ""


def _over_folds(outcomes: Sequence[Outcome], name: str) -> dict[str, Any] | None:
    """Mean and deviation over folds, each fold the mean of its seeds."""
    by_fold: dict[int, list[float]] = {}
    for outcome in outcomes:
        by_fold.setdefault(outcome.fold, []).append(getattr(outcome, name))
    means = [fmean(values) for values in by_fold.values()]
    return asdict(spread(means)) if means else None
