"""How the runs of a folder stand, seen from any machine: ``distill status RUNS``.

What is planned, beside the runs that have begun, is told by the notes of the command that planned
it and by the records of experiments. Read only, and without trust, as :mod:`featstore.jobs.status`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

from distill.metrics import from_predictions, spread
from distill.runs import read as files
from distill.runs.read import DONE, FAILED, MAX_REASON
from distill.runs.records import ExperimentRecord, read_records
from featstore.core.files import strict_json
from featstore.core.schema import Corrupt, UserError
from featstore.jobs.status import AGAIN, counts, tasks_of

RUN = re.compile(r"[^/]+/[^/]+/fold(\d{2,})-seed(\d{1,19})\Z")
"""A run's folder below all runs, which is also what its task is called."""


def runs_status(path: Path) -> dict[str, Any]:
    """Runs by state, row by row of the experiments, and the tasks not done, as plain data.

    Raises:
        UserError: there is no such folder.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no folder of runs", "give what `distill run --runs` was given")
    runs = {name: _run(path / name, name) for name in _folders(path)}
    finished = {name for name, run in runs.items() if run["state"] in ("done", "damaged")}
    tasks = tasks_of(path, finished.__contains__)
    for task in tasks:
        known = runs.setdefault(task["key"], {"run": task["key"], "why": ""})
        known["state"] = task["state"]
    noted = {task["key"] for task in tasks}
    tasks += [_unnoted(run) for name, run in runs.items() if _is_news(run) and name not in noted]
    records, broken = read_records(path)
    return {
        "runs": str(path),
        "counts": counts([*(run["state"] for run in runs.values()), *["damaged"] * len(broken)]),
        "experiments": list(_experiments(records, runs)),
        "tasks": sorted(tasks, key=lambda task: str(task["key"])),
        "damaged": [run["why"] for run in runs.values() if run["state"] == "damaged"]
        + [f"experiments/{stem}.json: {why}" for stem, why in broken.items()],
        "finished": [run for run in runs.values() if run["state"] == "done"],
    }


def _folders(runs: Path) -> list[str]:
    found = (place.relative_to(runs).as_posix() for place in runs.glob("*/*/fold*-seed*"))
    return sorted(name for name in found if RUN.match(name) and not name.startswith("."))


def _run(folder: Path, name: str) -> dict[str, Any]:
    """A run by what lies in its folder; whether somebody is at it, the notes tell."""
    if (folder / DONE).exists():
        try:
            return {"run": name, "state": "done", "why": "", **_scores(folder)}
        except (Corrupt, ValueError) as error:
            return {"run": name, "state": "damaged", "why": f"{name}: {error}"}
    try:
        lines = files.read(folder / FAILED).decode(errors="replace").splitlines()
    except Corrupt:
        return {"run": name, "state": "stopped", "why": "begun, and nobody is at it"}
    why = (lines or [""])[0].strip()[:MAX_REASON] or "without a message"
    return {"run": name, "state": "failed", "why": why}


def _scores(folder: Path) -> dict[str, Any]:
    """Test scores and seconds of a finished run.

    Raises:
        Corrupt: a file that they are taken from is not the one that it finished with.
    """
    sums = strict_json(files.read(folder / DONE), DONE)
    contents = {name: files.read(folder / name) for name in ("run.json", files.PREDICTIONS)}
    for name, content in contents.items():
        if sha256(content).hexdigest() != sums.get(name):
            raise Corrupt(f"{name} is not the one that the run finished with")
    facts = files.parse_facts(contents["run.json"])
    found = from_predictions(
        files.parse_predictions(contents[files.PREDICTIONS], facts), facts.classes
    )
    return {"wa": found.wa, "ua": found.ua, "seconds": facts.seconds}


def _is_news(run: Mapping[str, Any]) -> bool:
    return run["state"] in ("stopped", "failed")


def _unnoted(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run that no note tells of, as a task: an earlier version, or Ctrl-C, left none."""
    nothing: dict[str, Any] = dict.fromkeys(("done", "total", "left_s"))
    texts = dict.fromkeys(("job", "host", "log", "note"), "")
    told = {"message": run["why"], "hint": AGAIN, "age_s": 0.0}
    return {"key": run["run"], "state": run["state"], **texts, **told, **nothing}


def _experiments(
    records: Mapping[str, ExperimentRecord], runs: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Each experiment's rows, then those of no experiment; one row may be of several."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for name, run in runs.items():
        rows.setdefault(name.rpartition("/")[0], []).append(run)
    heard: set[str] = set()
    for stem, record in records.items():
        wanted = {row.label: f"{row.experiment}/{row.key}" for row in record.rows if row.experiment}
        heard |= set(wanted.values())
        yield {
            "name": stem,
            "title": record.title,
            "rows": [_row(label, rows.get(place, ())) for label, place in wanted.items()],
        }
    rest = [_row(place or "?", rows[place]) for place in sorted(set(rows) - heard)]
    if rest:
        yield {"name": "", "title": "", "rows": rest}


def _row(label: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scored = [run for run in runs if run["state"] == "done"]
    return {
        "row": label,
        "planned": len(runs),
        **counts(run["state"] for run in runs),
        **{name: _over_folds(scored, name) for name in ("wa", "ua")},
    }


def _over_folds(runs: Iterable[Mapping[str, Any]], name: str) -> dict[str, Any] | None:
    """Mean and deviation over folds, each fold the mean of its seeds."""
    by_fold: dict[str, list[float]] = {}
    for run in runs:
        if match := RUN.match(run["run"]):
            by_fold.setdefault(match[1], []).append(run[name])
    return asdict(spread([fmean(values) for values in by_fold.values()])) if by_fold else None
