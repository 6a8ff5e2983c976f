"""``distill experiment``: every row of a grid, on every fold and seed asked for.

A row is a set of settings, so its runs lie where ``distill run`` would leave them and are shared:
by rows that come to the same settings, by experiments, and with runs made by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.config import refuse_unknown, run_key
from distill.experiments.grid import Cell, Grid
from distill.experiments.launch import Done
from distill.experiments.plan import (
    BEGINS,
    RunState,
    experiment_name,
    folds_of,
    require_encoders,
    run_settings,
    states,
    weights_note,
)
from distill.runs.folder import Keys, RunRequest
from distill.runs.records import ExperimentRecord, Row, write_record
from distill.runs.status import over_folds
from featstore.core.config import device_kind
from featstore.core.schema import UserError, listed
from featstore.core.settings import flat, overrides
from featstore.store import open_store
from featstore.store.store import Store


@dataclass(frozen=True)
class Experiment:
    """A grid on some folds and seeds.

    Attributes:
        grid: the rows.
        request: what all its runs share; a row decides settings, names and variant.
        folds: which folds, e.g. ``1..10``.
        n_seeds: how many seeds, counted up from the first.
        seed: the first; the settings' own where not given.
        students: in place of the grid's; its own where empty.
        preset: ``paper``, ``safe`` or ``tiny``; the student's own where not given.
        config: a file of settings for all rows.
        sets: ``--set`` flags for all rows.
    """

    grid: Grid
    request: RunRequest
    folds: str = "all"
    n_seeds: int = 1
    seed: int | None = None
    students: tuple[str, ...] = ()
    preset: str | None = None
    config: Path | None = None
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowRuns:
    """A row of the grid for one student, or for a teacher alone, which needs no run.

    Attributes:
        label: the row's, and the student's where there are several.
        cell: the row.
        student: its backbone; empty for a teacher alone.
        requests: its runs, by seed and fold; those that equal another row's are that row's.
    """

    label: str
    cell: Cell
    student: str = ""
    requests: tuple[RunRequest, ...] = ()


def rows_of(experiment: Experiment) -> list[RowRuns]:
    """The rows with the runs that they need on the store's folds, teachers last.

    Raises:
        UserError: settings that no row can have, or that the rows vary themselves; or the store or
            a fold is not there.
    """
    folds = folds_of(experiment.request, experiment.folds)
    _refuse_varied(experiment)
    students = experiment.students or experiment.grid.students
    for student in students:  # else it would fail in each of its runs
        refuse_unknown(student)
    if twice := [student for student in students if students.count(student) > 1]:
        raise UserError(f"student {twice[0]}: given twice", "name each student once")
    if experiment.request.weights is not None and len(students) > 1:
        raise UserError(
            f"--weights is for one backbone, here are {len(students)}: {', '.join(students)}",
            "name one: --student hubert-base --weights FILE",
        )
    cells = experiment.grid.cells()
    rows: list[RowRuns] = []
    runs: dict[tuple[object, ...], RunRequest] = {}
    for student in students:
        for cell in cells:
            if cell.teacher is None:
                label = f"{cell.label} · {student}" if len(students) > 1 else cell.label
                requests = tuple(
                    runs.setdefault(identity, request)
                    for identity, request in _requests(experiment, cell, student, label, folds)
                )
                rows.append(RowRuns(label, cell, student, requests))
    return rows + [RowRuns(cell.label, cell) for cell in cells if cell.teacher is not None]


def _requests(
    experiment: Experiment, cell: Cell, student: str, label: str, folds: Sequence[int]
) -> Iterator[tuple[tuple[object, ...], RunRequest]]:
    """A row's runs, each with what it shares with equal ones of other rows."""
    first = run_settings(
        student, cell.variant, experiment.preset, experiment.config, experiment.sets,
        experiment.seed, cell.set,
    )  # fmt: skip
    name = experiment_name(student, cell.variant)
    settings_key = run_key(first, "", (), device=device_kind(experiment.request.device))
    for seed in range(first.seed, first.seed + experiment.n_seeds):
        for fold in folds:
            yield (name, settings_key, fold, seed), replace(
                experiment.request, fold=fold, settings=first.model_copy(update={"seed": seed}),
                experiment=name, variant=cell.variant,
                title=f"{label}, fold {fold}, seed {seed}",
            )  # fmt: skip


def runs_of(rows: Sequence[RowRuns]) -> list[RunRequest]:
    """All runs, each once: seed by seed and fold by fold, so that a part is a smaller whole."""
    unique = {request.label: request for row in rows for request in row.requests}
    return sorted(unique.values(), key=lambda one: (one.settings.seed, one.fold))


def write_rows(experiment: Experiment, rows: Sequence[RowRuns]) -> Path:
    """Write the experiment's record: its rows, and where the runs of each lie.

    Raises:
        UserError: an encoder needs a torchaudio that cannot be loaded.
    """
    require_encoders(runs_of(rows))
    keys = Keys(open_store(experiment.request.store))
    students = "+".join(experiment.students or experiment.grid.students)
    grid = experiment.grid
    record = ExperimentRecord(
        schema=1, name=grid.name, title=grid.title, student=students,
        store=keys.store.fingerprint(), rows=tuple(_recorded(keys, row) for row in rows),
    )  # fmt: skip
    return write_record(experiment.request.runs, experiment_name(students, grid.name), record)


def _recorded(keys: Keys, row: RowRuns) -> Row:
    if row.cell.teacher is not None:
        return Row(label=row.label, teacher=row.cell.teacher, point=row.cell.point)
    key = ""
    for request in row.requests:
        with suppress(UserError):  # this fold has no teachers to make it from
            key = key or keys.folder(request).key
    return Row(
        label=row.label,
        experiment=row.requests[0].experiment,
        key=key,
        variant=row.cell.variant,
        point=row.cell.point,
    )


# What is planned, and what came of it


def plan(experiment: Experiment, rows: Sequence[RowRuns]) -> dict[str, Any]:
    """``distill experiment --dry-run`` as plain data; touches nothing.

    Raises:
        UserError: the store is not there.
    """
    store = open_store(experiment.request.store)
    folds = folds_of(experiment.request, experiment.folds)
    runs = {request.label: state for request, state in states(runs_of(rows))}
    begin = dict.fromkeys(
        row.student
        for row in rows
        if any(runs[request.label].state in BEGINS for request in row.requests)
    )
    return {
        "experiment": experiment.grid.name,
        "title": experiment.grid.title,
        "rows": [_planned(store, row, folds, runs) for row in rows],
        "runs": dict(Counter(one.state for one in runs.values())),
        "left": sum(one.state in BEGINS for one in runs.values()),
        "weights": [one for name in begin for one in _weights(name, experiment.request.weights)],
    }


def plan_exit_code(facts: Mapping[str, Any]) -> int:
    """0 where every run could begin; else 2: a teacher, a fold or weights are not there."""
    blocked = set(facts["runs"]) - {"done", *BEGINS}
    teachers = any("missing" in row["runs"] for row in facts["rows"])
    return 2 if blocked or teachers or any(one["missing"] for one in facts["weights"]) else 0


def _planned(
    store: Store, row: RowRuns, folds: Sequence[int], runs: Mapping[str, RunState]
) -> dict[str, Any]:
    if row.cell.teacher is not None:
        lacking = [fold for fold in folds if row.cell.teacher not in store.teacher_names(fold)]
        counts = Counter({"done": len(folds) - len(lacking), "missing": len(lacking)})
        why = f"not in the store for fold(s) {', '.join(map(str, lacking))}" if lacking else ""
    else:
        mine = [runs[request.label] for request in row.requests]
        counts = Counter(one.state for one in mine)
        why = next((one.why for one in mine if one.why), "")
    return {
        "row": row.label,
        "student": row.student or None,
        "runs": {state: count for state, count in counts.items() if count},
        "left": sum(counts[state] for state in BEGINS),
        "why": why,
    }


def _weights(student: str, weights: Path | None) -> Iterator[dict[str, Any]]:
    """What a student that would be trained needs first."""
    try:
        message, hint, missing = weights_note(student, weights), "", False
    except UserError as error:
        message, hint, missing = error.message, error.hint, True
    if message:
        yield {"student": student, "message": message, "hint": hint, "missing": missing}


def summary(done: Done, rows: Sequence[RowRuns]) -> dict[str, Any]:
    """Test scores of each row over its folds that are done, as plain data; fractions."""
    table = []
    for row in rows:
        if row.cell.teacher is not None:
            continue
        outcomes = [done.outcomes.get(request.label) for request in row.requests]
        scored = [one for one in outcomes if one is not None and one.wa is not None]
        table.append(
            {
                "row": row.label,
                "runs": len(outcomes),
                "done": len(scored),
                "stopped": sum(one is not None and one.status == "stopped" for one in outcomes),
                "wa": over_folds((one.fold, one.wa or 0.0) for one in scored),
                "ua": over_folds((one.fold, one.ua or 0.0) for one in scored),
            }
        )
    failed = [
        {"run": label, "message": error.message, "hint": error.hint}
        for label, (_, error) in done.failed.items()
    ]
    return {"rows": table, "failed": failed}


def _refuse_varied(experiment: Experiment) -> None:
    """A flag for all rows must not be one that a row answers itself, or another flag."""
    varied = {key for cell in experiment.grid.cells() for key in flat(cell.delta)}
    flags = flat(overrides(experiment.sets))
    if "student.backbone" in flags:
        raise UserError(
            f"--set student.backbone={flags['student.backbone']}: the experiment has its students",
            "name others with --student",
        )
    both = sorted(
        key
        for key in flags
        if any(f"{one}.".startswith(f"{key}.") or f"{key}.".startswith(f"{one}.") for one in varied)
    )
    if both:
        raise UserError(
            f"experiment {experiment.grid.name} varies these itself:\n{listed(both)}",
            "leave them out of --set, or write a grid of your own (see distill/experiments/grids)",
        )
