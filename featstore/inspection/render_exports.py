"""Plain data -> what a terminal shows, for export, import and diff."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featstore.core.schema import listed
from featstore.inspection.render import clean, percent, size, table


def exported(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``featstore export``."""
    held = {
        "HDF5": lambda: f"{len(facts['units'])} unit(s)",
        "Parquet": lambda: f"{facts['rows']} rows x {len(facts['columns'])} columns",
        "NumPy": lambda: f"{len(facts['arrays'])} arrays",
    }[facts["format"]]()
    yield f"{clean(facts['file'])}: {facts['format']}, {size(facts['bytes'])}, {held}"
    if left_out := facts.get("left_out"):
        yield f"without {' and '.join(left_out)}: no store can be made of it again"
    yield f"content: {facts['content']}"


def imported(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``featstore import``."""
    before = len(facts["there_before"])
    yield f"restored {len(facts['restored'])} unit(s), {size(facts['bytes'])}, all verified" + (
        f"; {before} stood there already" if before else ""
    )
    yield f"store: {clean(facts['store'])}   content: {facts['content']}"


def copied(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``featstore copy``."""
    copied, before = len(facts["copied"]), len(facts["there_before"])
    sent, skipped = size(facts["sent_bytes"]), size(facts["skipped_bytes"])
    there_before = f"there before: {before} unit(s), {skipped}"
    yield f"copied {copied} unit(s), {sent}; {there_before}; all verified"
    yield f"store: {clean(facts['to'])}   content: {facts['content']}"


def differences(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``featstore diff``."""
    a, b, n = facts["a"], facts["b"], facts["utterances"]
    for side, store in (("A", a), ("B", b)):
        yield (f"{side}: [bold]{clean(store['store'])}[/]  fingerprint {store['fingerprint'][:12]}"
               f"  content {store['content'][:16]}")  # fmt: skip
    if not facts["one_store"]:
        yield "the same content, to the byte" if facts["same_content"] else "other content"
    if not n["common"] == n["a"] == n["b"]:
        yield (f"[bold]compared on {n['common']} common utterances[/]: A has {n['a'] - n['common']}"
               f" more, B {n['b'] - n['common']}")  # fmt: skip
    if n["relabelled"]:
        yield f"{n['relabelled']} of them have another label in B"
    yield from _units(facts["units"])
    for side in ("a", "b"):
        if alone := facts[f"only_{side}"]:
            yield f"only in {side.upper()}: {_names(alone)}"
    if facts["drift"]:
        yield _drift(facts["drift"])
        yield ("logits: mean and largest absolute difference; cosine of embeddings depends on their"
               " axes, CKA does not")  # fmt: skip
    else:
        yield "no teacher in both: no targets compared"


def _units(units: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What each differing pair was made from; the same lines of many folds once."""
    told: dict[tuple[str, ...], list[str]] = {}
    for unit in units:
        if lines := _lines(unit):
            name = unit["a"] if unit["a"] == unit["b"] else f"{unit['a']} and {unit['b']}"
            told.setdefault(lines, []).append(name)
    for lines, names in told.items():
        yield f"[bold]{_names(names)}[/]"
        yield from (f"  {clean(line)}" for line in lines)
    if same := sum(unit["same_content"] for unit in units):
        yield f"{same} of {len(units)} compared unit(s) are the same, to the byte"


def _lines(unit: Mapping[str, Any]) -> tuple[str, ...]:
    """Why a unit differs; nothing of one that does not."""
    lines = [f"made with {line}" for line in unit["settings"]]
    lines += [f"made from {parent}" for parent in unit["parents"]]
    if unit["same_content"]:
        return tuple(lines)
    lines += [f"version of {line}" for line in unit["versions"]]
    if unit["same_fingerprint"]:
        lines.append("made from the same, yet with other content")
    return tuple(lines)


def _names(names: Sequence[str]) -> str:
    return clean(listed(names, 4).replace("\n", ", "))


def _drift(rows: Sequence[Mapping[str, Any]]) -> Any:
    out = table(
        "Target drift",
        "fold", "A", "B", "logits mean", "max", "changed, %", "same in test, %", "cosine", "CKA",
    )  # fmt: skip
    for row in rows:
        out.add_row(
            str(row["fold"]), clean(row["teacher"]), clean(row["with"]),
            f"{row['mean_abs_logit']:.4f}", f"{row['max_abs_logit']:.4f}", percent(row["changed"]),
            percent(row["agreement"]["test"]), _figure(row["mean_cosine"]), _figure(row["cka"]),
        )  # fmt: skip
    return out


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
