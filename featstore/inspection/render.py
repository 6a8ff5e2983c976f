"""Plain data -> what a terminal shows. Corpus text is escaped on its way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from featstore.core.schema import listed, printable

BAR = 24


def clean(value: Any) -> str:
    """Text from a corpus or a store, safe in a terminal and without markup."""
    return escape(printable(str(value)))


def table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are figures."""
    out = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(columns):
        out.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    return out


def percent(value: float | None) -> str:
    """A share as the field prints it.

    >>> percent(0.7516), percent(None)
    ('75.16', '-')
    """
    return "-" if value is None else f"{100 * value:.2f}"


def size(n_bytes: int) -> str:
    """A number of bytes for people.

    >>> size(1536)
    '1.5 KiB'
    """
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def audit(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``featstore check``."""
    spread = facts["durations"]
    yield f"[bold]{clean(facts['corpus'])}[/]: {facts['n_utterances']} usable utterances"
    if spread:
        yield (f"durations: {spread['hours']:.2f} h; mean {spread['mean']:.2f} s, median "
               f"{spread['median']:.2f}, min {spread['min']:.2f}, p95 {spread['p95']:.2f}, "
               f"max {spread['max']:.2f}")  # fmt: skip
    yield _speakers(facts)
    if facts["folds"]:
        yield _audit_folds(facts)
    if leak := facts["speaker_audit"]:
        yield (
            f"speaker audit: in {leak['n_differ']} of {leak['n']} turns ({percent(leak['share'])}"
            " %) the dialogue's name has the other speaker's letter; the turn's own letter is used"
        )
    for title, counts in (("excluded", facts["excluded"]), ("other labels", facts["other_labels"])):
        if counts:
            yield f"{title}: " + ", ".join(f"{clean(k)} {n}" for k, n in sorted(counts.items()))
    yield from _faults(facts["faults"])


def overview(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``featstore inspect STORE``."""
    corpus = facts["corpus"]
    classes = ", ".join(f"{clean(name)} {n}" for name, n in corpus["classes"].items())
    yield (
        f"[bold]{clean(facts['store'])}[/]: {clean(corpus['name'])}, {corpus['utterances']} "
        f"utterances, {corpus['hours']:.2f} h, {len(corpus['speakers'])} speakers"
    )
    yield f"classes: {classes}"
    if corpus["excluded"]:
        reasons = ", ".join(f"{clean(k)} {n}" for k, n in sorted(corpus["excluded"].items()))
        yield f"excluded: {reasons}"
    yield _folds(facts)
    for name, teacher in facts["teachers"].items():
        yield _teacher(name, teacher)
    units = table("Units", "unit", "size", "fingerprint")
    for unit in facts["units"]:
        units.add_row(clean(unit["unit"]), size(unit["bytes"]), unit["fingerprint"][:12])
    yield units
    yield (
        f"size: {size(facts['bytes'])}   fingerprint: {facts['fingerprint'][:12]}   "
        f"content: {facts['content'][:16]}"
    )
    yield "made with: " + ", ".join(f"{k} {v}" for k, v in facts["provenance"].items())


def verified(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``featstore verify STORE``."""
    for fault in facts["faults"]:
        yield f"[bold]damaged[/] {clean(fault['message'])}"
        yield f"  hint: {clean(fault['hint'])}"
    yield f"{len(facts['sound'])} unit(s) sound, {size(facts['bytes'])} read"
    if facts["content"]:
        yield f"content: {facts['content']}"


def plan(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``featstore build --dry-run``."""
    rows = table("Plan", "unit", "status", "estimate", "why")
    rows.columns[3].justify = "left"
    for step in facts["steps"]:
        estimate = size(step["bytes"]) if step["bytes"] else "-"
        rows.add_row(clean(step["unit"]), step["status"], estimate, clean(step["why"]))
    yield rows
    groups = facts["tasks"]["groups"]
    if groups:
        yield _tasks(groups)
    yield f"{facts['utterances']} utterances, {facts['folds']} folds, {facts['fits']} fit(s) to do"
    if groups:
        yield facts["tasks"]["basis"]


def _tasks(groups: Sequence[Mapping[str, Any]]) -> Table:
    rows = table("Tasks", "tasks", "count", "needs", "CPU-hours", "GPU-hours", "disk")
    total = {"count": 0, "cpu_hours": 0.0, "gpu_hours": 0.0, "bytes": 0}
    for group in groups:
        total = {name: value + group[name] for name, value in total.items()}
        rows.add_row(clean(group["tasks"]), *_cost(group, _names(group["needs"]) or "-"))
    rows.add_section()
    rows.add_row("all", *_cost(total, ""))
    return rows


def _cost(group: Mapping[str, Any], needs: str) -> tuple[str, ...]:
    hours = (f"{group[name]:.2f}" if group[name] else "-" for name in ("cpu_hours", "gpu_hours"))
    return (str(group["count"]), needs, *hours, size(group["bytes"]))


def built(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``featstore build``."""
    if facts["built"]:
        yield f"built {len(facts['built'])} unit(s): {clean(_folded(facts['built']))}"
    if facts["done_before"]:
        yield f"skipped {len(facts['done_before'])} unit(s), done before with the same fingerprint"
    if facts.get("queued"):
        yield f"queued {len(facts['queued'])} task(s); the same command with --attach waits"
    yield f"store: {clean(facts['store'])}   content: {facts['content'][:16]}"


def _folds(facts: Mapping[str, Any]) -> Table:
    rows = table("Folds", "fold", "test", "validation", "train / val / test", "teachers")
    for fold in facts["folds"]:
        n = fold["utterances"]
        counts = f"{n['training']} / {n['validation']} / {n['test']}"
        rows.add_row(
            str(fold["fold"]), _names(fold["test"]), _names(fold["validation"]) or "-", counts,
            _names(fold["teachers"]) or "none yet",
        )  # fmt: skip
    return rows


def _teacher(name: str, teacher: Mapping[str, Any]) -> Table:
    parts = teacher["cross_fit"]
    title = f"Teacher {clean(name)}: {teacher['parameters']:,} parameters"
    title += f" in {parts} parts (validation and test: of their mean)" if parts else ""
    rows = table(
        f"{title}, embeddings of {teacher['embedding_width']}",
        "fold", "unseen train UA" if parts else "train UA", "validation UA", "test UA", "test WA",
        "epochs kept" if parts else "epoch kept",
    )  # fmt: skip
    for number, fold in teacher["folds"].items():
        shares = [fold.get(role, {}).get("ua") for role in ("train", "validation", "test")]
        epochs = [part["best_epoch"] for part in fold.get("parts", [fold])]
        rows.add_row(
            number, *map(percent, shares), percent(fold["test"]["wa"]), ", ".join(map(str, epochs))
        )
    tests = [fold["test"] for fold in teacher["folds"].values()]
    rows.add_section()
    rows.add_row(
        "mean", "", "", percent(sum(t["ua"] for t in tests) / len(tests)),
        percent(sum(t["wa"] for t in tests) / len(tests)), "",
    )  # fmt: skip
    return rows


def _names(names: Sequence[str]) -> str:
    return clean(", ".join(names) if len(names) <= 4 else f"{names[0]} and {len(names) - 1} more")


def _folded(units: Sequence[str]) -> str:
    return listed(units, limit=8).replace("\n", ", ")


def _speakers(facts: Mapping[str, Any]) -> Table:
    classes = list(facts["classes"])
    rows = table("Speakers", "speaker", "gender", *map(clean, classes), "all", "minutes")
    for name, speaker in facts["speakers"].items():
        counts = [str(speaker["classes"][label]) for label in classes]
        rows.add_row(
            clean(name), clean(speaker["gender"]) or "-", *counts, str(speaker["n"]),
            f"{speaker['duration_s'] / 60:.1f}",
        )  # fmt: skip
    rows.add_section()
    rows.add_row("all", "", *map(str, facts["classes"].values()), str(facts["n_utterances"]), "")
    return rows


def _audit_folds(facts: Mapping[str, Any]) -> Table:
    rows = table(
        f"Folds: {facts['fold_settings']['scheme']}, validation "
        f"{facts['fold_settings']['validation']}",
        "fold", "test", "validation", "train / val / test", "test words also in training, %",
    )  # fmt: skip
    for fold in facts["folds"]:
        counts = f"{fold['n_train']} / {fold['n_validation']} / {fold['n_test']}"
        rows.add_row(
            str(fold["fold"]), _names(fold["test"]), _names(fold["validation"]) or "-", counts,
            percent(fold["text_overlap"]["share"]),
        )  # fmt: skip
    return rows


def _faults(faults: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Every fault with its place and remedy, the gravest first."""
    if not faults:
        yield "no fault found"
        return
    order = {"stop": 0, "exclude": 1, "warn": 2}
    yield f"[bold]{len(faults)} fault(s)[/]"
    for fault in sorted(faults, key=lambda fault: order[fault["severity"]]):
        place = fault["file"] if fault["line"] is None else f"{fault['file']}:{fault['line']}"
        yield (f"  {fault['severity']} {clean(place)}: {clean(fault['message'])}; "
               f"{clean(fault['remedy'])}")  # fmt: skip
