"""Plain data -> what a terminal shows: lines with markup, and tables.

Text of a corpus or a store is escaped: in tables every cell, in lines by :func:`clean`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from featstore.core.schema import listed, printable

Facts = Mapping[str, Any]

BAR = 24
"""Width of the bar of a probability of 1."""
BLOCKS = "▁▂▃▄▅▆▇█"
QUEUED = 10
"""Queued tasks that are named; the others are counted."""


def clean(value: Any) -> str:
    """Text from a corpus or a store, safe in a terminal and without markup."""
    return escape(printable(str(value)))


def table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are figures."""
    out = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(columns):
        out.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    return out


def grid(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    left: Iterable[int] = (0,),
    total: Sequence[Any] = (),
) -> Table:
    """A table of plain values.

    Args:
        title: above it.
        columns: their names.
        rows: of values; None is a dash.
        left: which columns are text, which stands on the left.
        total: a last row below a line.
    """
    out = table(clean(title), *map(clean, columns))
    for index in left:
        out.columns[index].justify = "left"
    for row in rows:
        out.add_row(*("-" if cell is None else clean(cell) for cell in row))
    if total:
        out.add_section()
        out.add_row(*map(clean, total))
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


def span(seconds: float | None) -> str:
    """A length of time for people.

    >>> span(42.4), span(90), span(3 * 3600 + 300), span(None)
    ('42 s', '2 min', '3 h 5 min', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def counted(counts: Mapping[str, int]) -> str:
    """How many are in each state that there is.

    >>> counted({"done": 3, "running": 0, "failed": 1})
    '3 done, 1 failed'
    """
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "nothing yet"


def sparkline(values: Sequence[float | None]) -> str:
    """A curve in a line of text: the lowest value is the lowest block, nothing is a blank.

    >>> sparkline([0.0, 1.0, None, 2.0])
    '▁▅ █'
    >>> sparkline([3.0, 3.0]), sparkline([None])
    ('▁▁', ' ')
    """
    finite = [value for value in values if value is not None]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    step = (high - low) / (len(BLOCKS) - 1)
    return "".join(
        " " if value is None else BLOCKS[round((value - low) / step) if step else 0]
        for value in values
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} and {len(names) - 1} more"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{clean(name)} {n}" for name, n in counts.items())


def _several(names: Sequence[str], limit: int) -> str:
    return clean(listed(names, limit).replace("\n", ", "))


# The corpus and the build


def audit(facts: Facts) -> Iterator[Any]:
    """``featstore check``."""
    yield f"[bold]{clean(facts['corpus'])}[/]: {facts['n_utterances']} usable utterances"
    if spread := facts["durations"]:
        others = ", ".join(f"{name} {spread[name]:.2f}" for name in ("median", "min", "p95", "max"))
        yield f"durations: {spread['hours']:.2f} h; mean {spread['mean']:.2f} s, {others}"
    classes = facts["classes"]
    yield grid(
        "Speakers", ["speaker", "gender", *classes, "all", "minutes"],
        ([name, one["gender"] or None, *(one["classes"][label] for label in classes), one["n"],
          f"{one['duration_s'] / 60:.1f}"] for name, one in facts["speakers"].items()),
        total=["all", "", *classes.values(), facts["n_utterances"], ""],
    )  # fmt: skip
    if facts["folds"]:
        how = facts["fold_settings"]
        yield grid(
            f"Folds: {how['scheme']}, validation {how['validation']}",
            ["fold", "test", "validation", "train / val / test", "test words also in training, %"],
            ([one["fold"], _names(one["test"]), _names(one["validation"]) or None,
              f"{one['n_train']} / {one['n_validation']} / {one['n_test']}",
              percent(one["text_overlap"]["share"])] for one in facts["folds"]),
        )  # fmt: skip
    if leak := facts["speaker_audit"]:
        yield (
            f"speaker audit: in {leak['n_differ']} of {leak['n']} turns ({percent(leak['share'])}"
            " %) the dialogue's name has the other speaker's letter; the turn's own letter is used"
        )
    for title, counts in (("excluded", facts["excluded"]), ("other labels", facts["other_labels"])):
        if counts:
            yield f"{title}: {_counts(dict(sorted(counts.items())))}"
    faults = facts["faults"]
    yield f"[bold]{len(faults)} fault(s)[/]" if faults else "no fault found"
    order = ("stop", "exclude", "warn")
    for fault in sorted(faults, key=lambda fault: order.index(fault["severity"])):
        place = fault["file"] if fault["line"] is None else f"{fault['file']}:{fault['line']}"
        yield clean(f"  {fault['severity']} {place}: {fault['message']}; {fault['remedy']}")


def plan(facts: Facts) -> Iterator[Any]:
    """``featstore build --dry-run``."""
    yield grid(
        "Plan", ["unit", "status", "estimate", "why"],
        ([step["unit"], step["status"], size(step["bytes"]) if step["bytes"] else None,
          step["why"]] for step in facts["steps"]),
        left=(0, 3),
    )  # fmt: skip
    yield f"{facts['utterances']} utterances, {facts['folds']} folds, {facts['fits']} fit(s) to do"
    if facts["tasks"]:
        yield "tasks: " + ", ".join(f"{n} {clean(kind)}" for kind, n in facts["tasks"].items())


def built(facts: Facts) -> Iterator[Any]:
    """``featstore build``."""
    if facts["built"]:
        yield f"built {len(facts['built'])} unit(s): {_several(facts['built'], 8)}"
    if facts["done_before"]:
        yield f"skipped {len(facts['done_before'])} unit(s), done before with the same fingerprint"
    if facts.get("queued"):
        yield f"queued {len(facts['queued'])} task(s); the same command with --attach waits"
    yield f"store: {clean(facts['store'])}   content: {facts['content'][:16]}"


# The store and its teachers


def overview(facts: Facts) -> Iterator[Any]:
    """``featstore inspect STORE``."""
    corpus = facts["corpus"]
    yield (
        f"[bold]{clean(facts['store'])}[/]: {clean(corpus['name'])}, {corpus['utterances']} "
        f"utterances, {corpus['hours']:.2f} h, {len(corpus['speakers'])} speakers"
    )
    yield f"classes: {_counts(corpus['classes'])}"
    if corpus["excluded"]:
        yield f"excluded: {_counts(dict(sorted(corpus['excluded'].items())))}"
    yield grid(
        "Folds", ["fold", "test", "validation", "train / val / test", "teachers"],
        ([one["fold"], _names(one["test"]), _names(one["validation"]) or None,
          " / ".join(str(one["utterances"][role]) for role in ("training", "validation", "test")),
          _names(one["teachers"]) or "none yet"] for one in facts["folds"]),
    )  # fmt: skip
    for name, teacher in facts["teachers"].items():
        yield _teacher(name, teacher)
    yield grid(
        "Units",
        ["unit", "size", "fingerprint"],
        ([one["unit"], size(one["bytes"]), one["fingerprint"][:12]] for one in facts["units"]),
    )
    yield (
        f"size: {size(facts['bytes'])}   fingerprint: {facts['fingerprint'][:12]}   "
        f"content: {facts['content'][:16]}"
    )
    yield "made with: " + ", ".join(f"{k} {v}" for k, v in facts["provenance"].items())


def _teacher(name: str, teacher: Facts) -> Table:
    parts, folds = teacher["cross_fit"], teacher["folds"]
    title = f"Teacher {name}: {teacher['parameters']:,} parameters"
    title += f" in {parts} parts (validation and test: of their mean)" if parts else ""
    tests = [fold["test"] for fold in folds.values()]
    rows = []
    for number, fold in folds.items():
        shares = [fold.get(role, {}).get("ua") for role in ("train", "validation", "test")]
        epochs = ", ".join(str(part["best_epoch"]) for part in fold.get("parts", [fold]))
        rows.append([number, *map(percent, shares), percent(fold["test"]["wa"]), epochs])
    return grid(
        f"{title}, embeddings of {teacher['embedding_width']}",
        ["fold", "unseen train UA" if parts else "train UA", "validation UA", "test UA", "test WA",
         "epochs kept" if parts else "epoch kept"],
        rows,
        total=["mean", "", "", percent(sum(one["ua"] for one in tests) / len(tests)),
               percent(sum(one["wa"] for one in tests) / len(tests)), ""],
    )  # fmt: skip


def utterance(facts: Facts) -> Iterator[Any]:
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
    range_hz = f"{min(f0):.0f} to {max(f0):.0f} Hz, mean {lld['f0_mean_hz']:.1f}" if f0 else "none"
    yield f"F0       {sparkline(curves['f0_hz'])}  {range_hz}"
    yield f"loudness {sparkline(curves['loudness'])}  to {lld['loudness_max']:.2f}"
    for name, teacher in facts["teachers"].items():
        rows = []
        for index, label in enumerate(facts["classes"]):
            p = [probabilities[index] for probabilities in teacher["probabilities"]]
            bar = "#" * round(BAR * p[len(p) // 2])
            rows.append([label, f"{teacher['logits'][index]:+.3f}", *(f"{x:.4f}" for x in p), bar])
        yield grid(
            f"{name} predicts {teacher['prediction']}",
            ["class", "raw logit", *(f"tau {tau:g}" for tau in facts["taus"]), ""],
            rows,
            left=(0, -1),
        )
        near = ", ".join(
            f"{one['utterance_id']} ({one['label']}, {one['cosine']:.3f})"
            for one in teacher["neighbours"]
        )
        yield f"nearest by its embedding (label, cosine): {clean(near)}"


def listing(facts: Facts) -> Iterator[Any]:
    """``featstore inspect STORE`` with a filter."""
    rows = []
    for row in facts["rows"]:
        predictions = [
            f"{one['prediction']} {one['confidence']:.2f}"
            + ("" if one["prediction"] == row["label"] else " x")
            for one in row["teachers"].values()
        ]
        text = row["text"] if len(row["text"]) <= 60 else f"{row['text'][:57]}..."
        rows.append([row["utterance_id"], row["role"], row["label"], *predictions, text])
    yield grid(
        f"Fold {facts['fold']}: {len(rows)} of {facts['n_found']} found, of {facts['n']} "
        f"utterances; confidence at tau {facts['tau']:g}",
        ["utterance", "role", "truth", *facts["teachers"], "text"],
        rows,
        left=range(len(facts["teachers"]) + 4),
    )
    if any(cell.endswith(" x") for row in rows for cell in row[3:-1]):
        yield "x: not the truth"


def teachers(facts: Sequence[Facts]) -> Iterator[Any]:
    """``featstore inspect STORE --teachers``."""
    for name in dict.fromkeys(row["teacher"] for row in facts):
        mine = [row for row in facts if row["teacher"] == name]
        others = list(mine[0]["agreement"])
        yield grid(
            f"Teacher {name}",
            ["fold, role", "n", "UA", "WA", "confidence", "less accuracy", "entropy",
             *(f"agrees with {other}" for other in others)],
            ([f"{row['fold']} {row['role']}", row["n"],
              *(percent(row[key]) for key in ("ua", "wa", "confidence")),
              f"{100 * row['over_confidence']:+.2f}", f"{row['entropy']:.3f}",
              *(percent(row["agreement"].get(other)) for other in others)] for row in mine),
        )  # fmt: skip
    yield "percent; entropy in nats; confidence less accuracy: above 0 it is surer than it is right"


def fitness(facts: Sequence[Facts]) -> Iterator[Any]:
    """``featstore inspect STORE --fitness``."""
    out = table("Fit to teach?", "fold, teacher", "verdict", "why")
    out.columns[1].justify = out.columns[2].justify = "left"
    for one in facts:
        why = "\n".join(map(clean, one["reasons"])) or "-"
        out.add_row(clean(f"{one['fold']} {one['teacher']}"), one["verdict"], why)
    yield out
    counts = Counter(one["verdict"] for one in facts)
    yield ", ".join(f"{counts[name]} {name}" for name in ("fit", "doubtful", "unfit"))


# Stores as a whole


def verified(facts: Facts) -> Iterator[Any]:
    """``featstore verify STORE``."""
    for fault in facts["faults"]:
        yield f"[bold]damaged[/] {clean(fault['message'])}"
        yield f"  hint: {clean(fault['hint'])}"
    yield f"{len(facts['sound'])} unit(s) sound, {size(facts['bytes'])} read"
    if facts["content"]:
        yield f"content: {facts['content']}"


def exported(facts: Facts) -> Iterator[Any]:
    """``featstore export``."""
    parts = {
        "HDF5": lambda: f"{len(facts['units'])} unit(s)",
        "Parquet": lambda: f"{facts['rows']} rows x {len(facts['columns'])} columns",
        "NumPy": lambda: f"{len(facts['arrays'])} arrays",
    }[facts["format"]]()
    yield f"{clean(facts['file'])}: {facts['format']}, {size(facts['bytes'])}, {parts}"
    if left_out := facts.get("left_out"):
        yield f"without {' and '.join(left_out)}: no store can be made of it again"
    yield f"content: {facts['content']}"


def imported(facts: Facts) -> Iterator[Any]:
    """``featstore import``."""
    before = len(facts["there_before"])
    yield f"restored {len(facts['restored'])} unit(s), {size(facts['bytes'])}, all verified" + (
        f"; {before} stood there already" if before else ""
    )
    yield f"store: {clean(facts['store'])}   content: {facts['content']}"


def copied(facts: Facts) -> Iterator[Any]:
    """``featstore copy``."""
    sent, skipped = size(facts["sent_bytes"]), size(facts["skipped_bytes"])
    before = f"there before: {len(facts['there_before'])} unit(s), {skipped}"
    yield f"copied {len(facts['copied'])} unit(s), {sent}; {before}; all verified"
    yield f"store: {clean(facts['to'])}   content: {facts['content']}"


def differences(facts: Facts) -> Iterator[Any]:
    """``featstore diff``."""
    for side in ("a", "b"):
        store = facts[side]
        yield (f"{side.upper()}: [bold]{clean(store['store'])}[/]  fingerprint "
               f"{store['fingerprint'][:12]}  content {store['content'][:16]}")  # fmt: skip
    if not facts["one_store"]:
        yield "the same content, to the byte" if facts["same_content"] else "other content"
    n = facts["utterances"]
    if not n["common"] == n["a"] == n["b"]:
        yield (f"[bold]compared on {n['common']} common utterances[/]: A has {n['a'] - n['common']}"
               f" more, B {n['b'] - n['common']}")  # fmt: skip
    if n["relabelled"]:
        yield f"{n['relabelled']} of them have another label in B"
    reasons: dict[tuple[str, ...], list[str]] = {}  # the same lines of many folds once
    for unit in facts["units"]:
        name = unit["a"] if unit["a"] == unit["b"] else f"{unit['a']} and {unit['b']}"
        reasons.setdefault(_reasons(unit), []).append(name)
    for lines, names in reasons.items():
        if lines:
            yield f"[bold]{_several(names, 4)}[/]"
            yield from (f"  {clean(line)}" for line in lines)
    if same := sum(unit["same_content"] for unit in facts["units"]):
        yield f"{same} of {len(facts['units'])} compared unit(s) are the same, to the byte"
    for side in ("a", "b"):
        if alone := facts[f"only_{side}"]:
            yield f"only in {side.upper()}: {_several(alone, 4)}"
    if not facts["drift"]:
        yield "no teacher in both: no targets compared"
        return
    yield grid(
        "Target drift",
        ["fold", "A", "B", "logits mean", "max", "changed, %", "same in test, %", "cosine", "CKA"],
        ([row["fold"], row["teacher"], row["with"], f"{row['mean_abs_logit']:.4f}",
          f"{row['max_abs_logit']:.4f}", percent(row["changed"]),
          percent(row["agreement"]["test"]),
          *(None if row[key] is None else f"{row[key]:.4f}" for key in ("mean_cosine", "cka"))]
         for row in facts["drift"]),
    )  # fmt: skip
    yield ("logits: mean and largest absolute difference; cosine of embeddings depends on their"
           " axes, CKA does not")  # fmt: skip


def _reasons(unit: Facts) -> tuple[str, ...]:
    """Why a unit differs; nothing of one that does not."""
    lines = [f"made with {line}" for line in unit["settings"]]
    lines += [f"made from {parent}" for parent in unit["parents"]]
    if not unit["same_content"]:
        lines += [f"version of {line}" for line in unit["versions"]]
        if unit["same_fingerprint"]:
            lines.append("made from the same, yet with other content")
    return tuple(lines)


# What is running


def status(facts: Facts) -> Iterator[Any]:
    """``featstore status STORE``."""
    yield f"[bold]{clean(facts['store'])}[/]: {counted(facts['counts'])}"
    marks = {
        one["unit"]: size(one["bytes"]) if one["state"] == "done" else "damaged"
        for one in facts["units"]
    }
    if shared := {name: mark for name, mark in marks.items() if not name.startswith("folds/")}:
        yield grid("Units", ["unit", "size"], shared.items())
    if teachers := facts["teachers"]:
        yield grid(
            "Teachers", ["fold", *teachers],
            ([fold, *(marks.get(f"folds/{fold}/{name}") or one.get(fold) or None
                      for name, one in teachers.items())]
             for fold in sorted({fold for one in teachers.values() for fold in one})),
        )  # fmt: skip
    yield from tasks(facts["tasks"])
    for unit in facts["units"]:
        if unit["state"] == "damaged":
            yield f"[bold]damaged[/] {clean(unit['why'])}"


def tasks(facts: Sequence[Facts]) -> Iterator[Any]:
    """What is not done: where it runs and how far it is, and what failed and why."""
    order = ("running", "silent", "failed", "stopped", "queued")
    in_order = sorted(facts, key=lambda task: (order.index(task["state"]), task["key"]))
    queued = [task for task in in_order if task["state"] == "queued"]
    shown = [*(task for task in in_order if task["state"] != "queued"), *queued[:QUEUED]]
    if shown:
        yield grid(
            "Not done yet", ["task", "state", "where", "progress", "left", "note"],
            ([task["key"], task["state"], _place(task),
              f"{task['done']}/{task['total']}" if task["total"] else None, span(task["left_s"]),
              _note(task)] for task in shown),
            left=range(6),
        )  # fmt: skip
    if len(queued) > QUEUED:
        yield f"and {len(queued) - QUEUED} more queued"
    for task in in_order:  # whole and unwrapped, to be copied
        if task["state"] in ("failed", "silent"):
            yield f"[bold]{task['state']}[/] {clean(task['key'])}: {clean(task['message'])}"
            yield from (f"  {name}: {clean(task[name])}" for name in ("hint", "log") if task[name])


def _place(task: Facts) -> str:
    return ", ".join(filter(None, (f"job {task['job']}" if task["job"] else "", task["host"])))


def _note(task: Facts) -> str:
    if task["state"] == "queued":
        return f"for {span(task['age_s'])}"
    return str(task["note"] if task["state"] == "running" else task["message"]).split("\n")[0][:60]
