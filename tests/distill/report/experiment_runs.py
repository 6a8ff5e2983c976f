"""Runs of experiments, and what a report makes of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from distill.report import collect, summarise, terminal
from distill.report.data import Experiment, Report, Study
from tests.distill.report.fake_runs import facts, write_record, write_run

IEMOCAP: dict[str, Any] = {
    "dataset": "iemocap", "full_release": True, "student": {"backbone": "hubert-base"},
    "teachers": {"prosodic": (0.9, 0.5, 0.4)},
}  # fmt: skip


def row(key: str, variant: str = "full", label: str = "", **more: Any) -> dict[str, Any]:
    return {"label": label or key, "experiment": "main", "key": key, "variant": variant} | more


def at(axis: str, curve: str, value: float) -> dict[str, Any]:
    return {"point": {"axis": axis, "curve": curve, "value": value}}


def run(root: Path, key: str, fold: int = 1, seed: int = 1, **over: Any) -> Path:
    hit, settings = over.pop("hit", 0.7), over.pop("settings", "")
    done = over.pop("done", True)
    record = facts(fold, seed, **{"key": key, "n_folds": 3} | over)
    return write_run(root, record, hit=hit, settings=settings, done=done)


def study_of(root: Path) -> Study:
    (study,) = summarise(collect([root])).studies
    return study


def only(root: Path, *rows: dict[str, Any]) -> Experiment:
    """The experiment of a study, once its record is written, if there are rows to write."""
    if rows:
        write_record(root, "mine", list(rows))
    (experiment,) = study_of(root).experiments
    return experiment


def printed(report: Report, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    for item in terminal(report):
        console.print(item)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]
