"""Plain data of the trainer's commands -> what a terminal shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featstore.render import clean, percent, table


def plan(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``distill run --dry-run``."""
    rows = table("Plan", "fold", "status", "folder or reason")
    rows.columns[1].justify = rows.columns[2].justify = "left"
    for run in facts["runs"]:
        rows.add_row(str(run["fold"]), run["status"], clean(run["folder"] or run["why"]))
    yield rows
    if facts["weights"]:
        yield clean(facts["weights"])


def outcomes(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``distill run``."""
    rows = table("Runs", "fold", "status", "test WA", "test UA", "seconds", "reason")
    rows.columns[5].justify = "left"
    for run in facts["folds"]:
        seconds = f"{run['seconds']:.0f}" if run["seconds"] else "-"
        rows.add_row(
            str(run["fold"]), run["status"], percent(run["wa"]), percent(run["ua"]), seconds,
            clean(run["why"]),
        )  # fmt: skip
    for fold, error in facts["failed"].items():
        rows.add_row(str(fold), "failed", "-", "-", "-", clean(error["message"].split("\n")[0]))
    yield rows
    for run in facts["folds"]:  # whole and unwrapped, to be copied
        yield clean(run["folder"])


def predictions(rows: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """``distill predict``."""
    names = [name for name in rows[0] if name not in ("file", "label")]
    out = table("Predictions", "file", "label", *map(clean, names))
    for row in rows:
        values = [f"{row[name]:.4f}" for name in names]
        out.add_row(clean(row["file"]), clean(row["label"]), *values)
    yield out
