"""A study that has everything a report can show: experiments, loss terms, teachers' logits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.report.published import load
from distill.runs.folder import RunFolder
from distill.runs.records import ExperimentRecord, Row, SweepPoint, write_record
from tests.distill.report.fake_runs import facts, write_run

TABLE2 = {
    "full": 0.74, "no-logits": 0.70, "no-embeddings": 0.73, "no-prosodic": 0.73,
    "no-linguistic": 0.58, "ce-only": 0.64,
}  # fmt: skip
SWEPT = {"no-linguistic": (0.1, 0.5, 2.0, 4.0), "no-prosodic": (0.5, 2.0, 4.0, 10.0)}
TERMS = ("ce", "kl_linguistic", "kl_prosodic", "cos_linguistic", "cos_prosodic")
LABELS = {"anger": "ang", "happiness": "hap", "excited": "hap", "neutral": "neu", "sadness": "sad"}


def key_of(text: str) -> str:
    """Twelve hexadecimal digits, as runs have them."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def add_run(root: Path, fold: int, variant: str, key: str, hit: float, **over: object) -> Path:
    """A finished run with its loss terms and its teachers' logits."""
    more = {"temperatures": {"linguistic": 5.0, "prosodic": 0.5}, "label_map": LABELS,
            "text_overlap": {"n_test": 80, "n_shared": 31}}  # fmt: skip
    record = facts(fold, 42, variant=variant, key=key, **(more | over))
    alpha = 0.0 if variant in ("ce-only", "no-logits") else 1.0
    settings = f"[losses]\nalpha = {alpha}\nbeta = 10.0\n"
    folder = write_run(root, record, hit=hit, settings=settings, done=False, epochs=12)
    lines = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        epoch = json.loads(line)
        terms = {name: (place + 1) / epoch["epoch"] for place, name in enumerate(TERMS)}
        pulls = {name: value * 0.5**place for place, (name, value) in enumerate(terms.items())}
        lines.append(json.dumps(epoch | {"train": terms | {"total": 9.0}, "gradients": pulls}))
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    RunFolder(folder).finish()
    return folder


def write_full(
    root: Path,
    folds: Sequence[int] = range(1, 11),
    variants: Sequence[str] = tuple(TABLE2),
    swept: Mapping[str, Sequence[float]] = SWEPT,
    **over: object,
) -> Path:
    """Table 2 and figure 2 as ``distill experiment`` leaves them, some of their runs missing."""
    write_table2(root, folds, variants, **over)
    write_figure2(root, folds[:2], swept, **over)
    return root


def write_table2(root: Path, folds: Sequence[int], variants: Sequence[str], **over: object) -> None:
    """One run a fold; the last two of the student without distillation are missing."""
    rows = []
    for asked in load().table2:
        if asked.teacher:
            rows.append(Row(label=asked.printed, teacher=asked.teacher))
        elif asked.variant in variants:
            key = key_of(asked.variant)
            rows.append(Row(label=asked.printed, experiment="main", key=key, variant=asked.variant))
            for fold in folds if asked.variant != "ce-only" else folds[:-2]:
                add_run(root, fold, asked.variant, key, TABLE2[asked.variant], **over)
    _record(root, "table2", "Table 2: ablations", rows)
    key = key_of("ce-only")
    write_run(root, facts(folds[-1], 42, variant="ce-only", key=key, **over), done=False)


def write_figure2(
    root: Path, folds: Sequence[int], swept: Mapping[str, Sequence[float]], **over: object
) -> None:
    """One run a fold and temperature; the last temperature of each curve is missing."""
    rows = []
    for variant, values in swept.items():
        teacher = "prosodic" if variant == "no-linguistic" else "linguistic"
        for place, tau in enumerate(values):
            key = key_of(f"{variant} tau {tau}")
            point = SweepPoint(axis=f"tau of the {teacher} teacher", curve=variant, value=tau)
            label = f"{variant}, tau {tau:g}"
            rows.append(Row(label=label, experiment="sweep", key=key, variant=variant, point=point))
            for fold in folds if tau != max(values) else ():
                hit = TABLE2[variant] + 0.02 * place
                add_run(root, fold, variant, key, hit, experiment="sweep", **over)
    _record(root, "figure2", "Figure 2: temperatures", rows)


def _record(root: Path, name: str, title: str, rows: Sequence[Row]) -> None:
    record = ExperimentRecord(
        schema=1, name=name, title=title, student="tiny", store="5f" * 32, rows=tuple(rows)
    )
    write_record(root, f"{name}-tiny", record)
