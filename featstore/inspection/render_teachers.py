"""What teachers say and how they do -> what a terminal shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featstore.inspection.render import BAR, clean, percent, table

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None]) -> str:
    """A curve in a line of text: the lowest value is the lowest block, nothing is a blank.

    >>> sparkline([0.0, 1.0, None, 2.0])
    '▁▅ █'
    >>> sparkline([3.0, 3.0]), sparkline([None])
    ('▁▁', ' ')
    """
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    step = (high - low) / (len(BLOCKS) - 1)
    return "".join(
        " " if value is None else BLOCKS[round((value - low) / step) if step else 0]
        for value in values
    )


def utterance(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``featstore inspect STORE --utterance ID``."""
    yield (
        f"[bold]{clean(facts['utterance_id'])}[/]  {facts['duration_s']:.2f} s, "
        f"{clean(facts['speaker'])}, {clean(facts['kind'])}; fold {facts['fold']}: {facts['role']}"
    )
    yield f'text:  "{clean(facts["text"])}"'
    yield f"label: {clean(facts['label'])} (in the corpus: {clean(facts['label_raw'])})"
    lld, curves = facts["lld"], facts["curves"]
    yield f"LLDs:  {lld['frames']} frames x {lld['descriptors']}, voiced {percent(lld['voiced'])} %"
    f0 = [value for value in curves["f0_hz"] if value is not None]
    heard = f"{min(f0):.0f} to {max(f0):.0f} Hz, mean {lld['f0_mean_hz']:.1f}" if f0 else "none"
    yield f"F0       {sparkline(curves['f0_hz'])}  {heard}"
    yield f"loudness {sparkline(curves['loudness'])}  to {lld['loudness_max']:.2f}"
    for name, teacher in facts["teachers"].items():
        yield _opinion(name, teacher, facts)
        near = ", ".join(
            f"{clean(one['utterance_id'])} ({clean(one['label'])}, {one['cosine']:.3f})"
            for one in teacher["neighbours"]
        )
        yield f"nearest by its embedding (label, cosine): {near}"


def _opinion(name: str, teacher: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    taus = [f"tau {tau:g}" for tau in facts["taus"]]
    rows = table(
        f"{clean(name)} says {clean(teacher['prediction'])}", "class", "raw logit", *taus, ""
    )
    for place, label in enumerate(facts["classes"]):
        shares = [p[place] for p in teacher["probabilities"]]
        bar = "#" * round(BAR * shares[len(shares) // 2])
        rows.add_row(
            clean(label), f"{teacher['logits'][place]:+.3f}", *(f"{p:.4f}" for p in shares), bar
        )
    rows.columns[-1].justify = "left"
    return rows


def listing(facts: Mapping[str, Any]) -> Iterator[Any]:
    """``featstore inspect STORE`` with a filter."""
    names = facts["teachers"]
    rows = table(
        f"Fold {facts['fold']}: {len(facts['rows'])} of {facts['n_found']} found, of "
        f"{facts['n']} utterances; confidence at tau {facts['tau']:g}",
        "utterance", "role", "truth", *map(clean, names), "text",
    )  # fmt: skip
    for column in rows.columns:
        column.justify = "left"
    for row in facts["rows"]:
        said = [
            f"{clean(one['prediction'])} {one['confidence']:.2f}"
            + ("" if one["prediction"] == row["label"] else " x")
            for one in row["teachers"].values()
        ]
        text = row["text"] if len(row["text"]) <= 60 else f"{row['text'][:57]}..."
        rows.add_row(
            clean(row["utterance_id"]), row["role"], clean(row["label"]), *said, clean(text)
        )
    yield rows
    if any(" x" in str(cell) for column in rows.columns for cell in column.cells):
        yield "x: not the truth"


def teachers(facts: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """``featstore inspect STORE --teachers``."""
    for name in dict.fromkeys(row["teacher"] for row in facts):
        mine = [row for row in facts if row["teacher"] == name]
        others = list(mine[0]["agreement"])
        rows = table(
            f"Teacher {clean(name)}", "fold, role", "n", "UA", "WA", "confidence",
            "less accuracy", "entropy", *(f"agrees with {clean(other)}" for other in others),
        )  # fmt: skip
        for row in mine:
            shares = [percent(row["agreement"].get(other)) for other in others]
            rows.add_row(
                f"{row['fold']} {row['role']}", str(row["n"]), percent(row["ua"]),
                percent(row["wa"]), percent(row["confidence"]),
                f"{100 * row['over_confidence']:+.2f}", f"{row['entropy']:.3f}", *shares,
            )  # fmt: skip
        yield rows
    yield "percent; entropy in nats; confidence less accuracy: above 0 it is surer than it is right"


def fitness(facts: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """``featstore inspect STORE --fitness``."""
    rows = table("Fit to teach?", "fold, teacher", "verdict", "why")
    rows.columns[1].justify = rows.columns[2].justify = "left"
    for one in facts:
        why = "\n".join(map(clean, one["reasons"])) or "-"
        rows.add_row(f"{one['fold']} {clean(one['teacher'])}", one["verdict"], why)
    yield rows
    counts = Counter(one["verdict"] for one in facts)
    yield ", ".join(f"{counts[name]} {name}" for name in ("fit", "doubtful", "unfit"))
