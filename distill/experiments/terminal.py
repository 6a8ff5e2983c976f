"""Plain data of the trainer's commands -> what a terminal shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featstore.inspection.render import clean, counted, percent, table, tasks


def plan(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``distill run --dry-run``."""
    rows = table("Plan", "fold", "status", "folder or reason")
    rows.columns[1].justify = rows.columns[2].justify = "left"
    for run in facts["runs"]:
        rows.add_row(str(run["fold"]), run["status"], clean(run["folder"] or run["why"]))
    yield rows
    yield f"{facts['left']} run(s) to train"
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


def experiment_plan(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``distill experiment --dry-run``."""
    yield clean(f"{facts['experiment']}: {facts['title']}")
    rows = table("Rows", "row", "done", "to run", "cannot", "why")
    rows.columns[4].justify = "left"
    for row in facts["rows"]:
        runs = row["runs"]
        done, left = runs.get("done", 0), row["left"]
        rest = sum(runs.values()) - left - done
        why = clean(row["why"].split("\n")[0])
        rows.add_row(clean(row["row"]), str(done), str(left), str(rest), why)
    yield rows
    total = sum(facts["runs"].values())
    yield f"{total} run(s) in all (rows share equal ones), {facts['left']} left to train"
    for one in facts["weights"]:
        named = one["message"].startswith(f"{one['student']}: ")
        yield clean(one["message"] if named else f"{one['student']}: {one['message']}")
        if one["hint"]:
            yield clean(f"hint: {one['hint']}")


def experiment(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``distill experiment``."""
    rows = table("Test scores over folds, mean and deviation", "row", "runs", "WA", "UA")
    for row in facts["rows"]:
        scores = [_spread(row[name]) for name in ("wa", "ua")]
        rows.add_row(clean(row["row"]), f"{row['done']} of {row['runs']}", *scores)
    yield rows
    if stopped := sum(row["stopped"] for row in facts["rows"]):
        yield (
            f"stopped by --max-steps, in {stopped} run(s) of these rows: the same command without "
            "it goes on"
        )
    if facts["failed"]:
        failed = table("Failed", "run", "why")
        failed.columns[1].justify = "left"
        for one in facts["failed"]:
            failed.add_row(clean(one["run"]), clean(one["message"].split("\n")[0]))
        yield failed


def status(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``distill status RUNS``."""
    yield f"[bold]{clean(facts['runs'])}[/]: {counted(facts['counts'])}"
    for experiment in facts["experiments"]:
        title = f"{experiment['name']}: {experiment['title']}" if experiment["name"] else "Runs"
        rows = table(clean(title), "row", "done", "running", "queued", "failed", "WA", "UA")
        for row in experiment["rows"]:
            lost = row["failed"] + row["silent"] + row["damaged"]
            rows.add_row(
                clean(row["row"]), f"{row['done']} of {row['planned']}", str(row["running"]),
                str(row["queued"]), str(lost), _spread(row["wa"]), _spread(row["ua"]),
            )  # fmt: skip
        yield rows
    yield from tasks(facts["tasks"])
    for why in facts["damaged"]:
        yield f"[bold]damaged[/] {clean(why)}"


def _spread(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    if value["std"] is None:
        return percent(value["mean"])
    return f"{percent(value['mean'])} ± {percent(value['std'])}"


def predictions(rows: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """``distill predict``."""
    names = [name for name in rows[0] if name not in ("file", "label")]
    out = table("Predictions", "file", "label", *map(clean, names))
    for row in rows:
        values = [f"{row[name]:.4f}" for name in names]
        out.add_row(clean(row["file"]), clean(row["label"]), *values)
    yield out


def backbones(facts: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """``distill backbones``: a table, where files are looked for, and what is missing."""
    columns = ("name", "family", "width", "layers", "parameters", "normalised", "weights", "here")
    out = table("Backbones", *columns)
    out.columns[1].justify = out.columns[6].justify = "left"
    out.columns[0].no_wrap = True
    words = {None: "-", True: "yes", False: "no"}
    for row in facts:
        n_weights = "-" if row["parameters"] is None else f"{row['parameters'] / 1e6:.1f} M"
        sizes = ["-" if row[key] is None else str(row[key]) for key in ("width", "layers")]
        out.add_row(
            clean(row["name"]), clean(row["family"]), *sizes, n_weights, words[row["normalise"]],
            clean(row["source"]), words[row["here"]],
        )  # fmt: skip
    yield out
    places = [row["path"] for row in facts if row["path"]]
    notes = [clean(row["note"]) for row in facts if row["note"]]
    for place in places if len(facts) <= 3 else sorted({str(Path(path).parent) for path in places}):
        yield f"looked for in {clean(place)}"
    if len(notes) > 3:
        notes = [f"{len(notes)} are not here: `distill backbones NAME` says what to do about one"]
    yield from notes
    yield (
        "also hf:<id or folder> of a HuBERT, wav2vec 2.0, WavLM, data2vec-audio or Whisper model, "
        "and random:<name>: the same with weights drawn from the seed"
    )
