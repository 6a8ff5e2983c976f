"""How the runs of a folder stand, seen from any machine: ``distill status RUNS``.

A run that has begun is what :mod:`distill.runs.read` makes of its folder. The notes of the command
that trains it tell what is running or waits, and records of experiments which rows there are. Read
only, and without trust, as :mod:`featstore.jobs.status`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from distill.metrics import spread
from distill.runs.read import read_runs
from distill.runs.records import FOLDER, ExperimentRecord
from featstore.core.schema import UserError
from featstore.jobs.status import AGAIN, counts, tasks_of


def runs_status(path: Path) -> dict[str, Any]:
    """Runs by state, row by row of the experiments, and the tasks not done, as plain data.

    Raises:
        UserError: there is no such folder.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no folder of runs", "give what `distill run --runs` was given")
    read = read_runs([path])
    runs: dict[str, dict[str, Any]] = {}
    for run in read.runs:
        scores = {"wa": run.scores.wa, "ua": run.scores.ua, "seconds": run.facts.seconds}
        facts = {"run": run.place, "state": "done", "why": "", "fold": run.facts.fold}
        runs[run.place] = facts | scores
    for one in read.left_out:  # whether it is being trained, its note tells
        if one.state == "unfinished":
            why = "begun, and not finished"
            runs[one.place] = {"run": one.place, "state": "stopped", "why": why}
        elif one.state != "duplicate":
            runs[one.place] = {"run": one.place, "state": one.state, "why": one.reason}
    begun = [run for run in runs.values() if run["state"] in ("stopped", "failed")]
    tasks = tasks_of(path, ({*runs} - {run["run"] for run in begun}).__contains__)
    noted = {task["key"]: task["state"] for task in tasks}
    for place, state in noted.items():
        runs.setdefault(place, {"run": place, "why": ""})["state"] = state
    tasks += [_without_note(run) for run in begun if run["run"] not in noted]
    return {
        "runs": str(path),
        "counts": counts(run["state"] for run in runs.values()),
        "experiments": list(_experiments(read.records, runs)),
        "tasks": sorted(tasks, key=lambda task: str(task["key"])),
        "damaged": [
            f"{run['run']}: {run['why']}" for run in runs.values() if run["state"] == "damaged"
        ],
        "finished": [run for run in runs.values() if run["state"] == "done"],
    }


def _without_note(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run that was begun and has no note, as a task: Ctrl-C leaves none."""
    task: dict[str, Any] = {"key": run["run"], "state": run["state"], "message": run["why"]}
    task |= dict.fromkeys(("job", "host", "log", "note"), "")
    return task | dict.fromkeys(("done", "total", "left_s")) | {"hint": AGAIN, "age_s": 0.0}


def _experiments(
    records: Mapping[str, ExperimentRecord], runs: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Each experiment's rows, then those of no experiment; one row may be of several."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for name, run in runs.items():
        if name.startswith(f"{FOLDER}/"):  # a damaged record
            continue
        rows.setdefault(name.rpartition("/")[0], []).append(run)
    recorded: set[str] = set()
    for stem, record in records.items():
        places = {row.label: f"{row.experiment}/{row.key}" for row in record.rows if row.experiment}
        recorded |= set(places.values())
        yield {
            "name": stem,
            "title": record.title,
            "rows": [_row(label, rows.get(place, ())) for label, place in places.items()],
        }
    rest = [_row(place or "?", rows[place]) for place in sorted(set(rows) - recorded)]
    if rest:
        yield {"name": "", "title": "", "rows": rest}


def _row(label: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scored = [run for run in runs if run["state"] == "done"]
    return {
        "row": label,
        "planned": len(runs),
        **counts(run["state"] for run in runs),
        **{name: over_folds((run["fold"], run[name]) for run in scored) for name in ("wa", "ua")},
    }


def over_folds(scores: Iterable[tuple[int, float]]) -> dict[str, Any] | None:
    """Mean and deviation over folds, each fold the mean of its seeds; None without a score.

    >>> over_folds([(1, 0.5), (1, 0.7), (2, 0.4)])["mean"]
    0.5
    """
    by_fold: dict[int, list[float]] = {}
    for fold, score in scores:
        by_fold.setdefault(fold, []).append(score)
    return asdict(spread([fmean(values) for values in by_fold.values()])) if by_fold else None
