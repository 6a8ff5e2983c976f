"""The numbers of a report a second time, from the files of its runs, in plain numpy and pandas.

Nothing here is ours, and no library of statistics is used: intervals, permutations, Holm's
correction, calibration and kappa are written out. Only the draws of the resamples are agreed upon:
``default_rng(0).integers(0, n, (9999, n))``.
"""

from __future__ import annotations

import itertools
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Cell = tuple[int, int]
Document = dict[str, Any]


class Group:
    """The finished runs of one student, by fold and seed."""

    def __init__(self, folder: Path) -> None:
        self.folders = {}
        for path in sorted(folder.glob("fold*-seed*")):
            if (path / "DONE").exists():
                fold, seed = path.name.removeprefix("fold").split("-seed")
                self.folders[int(fold), int(seed)] = path
        self.facts = {c: json.loads((p / "run.json").read_text()) for c, p in self.folders.items()}
        self.tables = {
            cell: pd.read_parquet(path / "predictions.parquet")
            for cell, path in self.folders.items()
        }
        self.tests = {cell: f[f["role"] == "test"] for cell, f in self.tables.items()}
        self.classes = next(iter(self.facts.values()))["classes"]

    def scores(self) -> dict[Cell, tuple[float, float]]:
        return {cell: wa_ua(matrix(f, self.classes)) for cell, f in self.tests.items()}

    def teachers(self) -> dict[int, pd.DataFrame]:
        """Fold -> ``teachers.parquet`` of any of its runs."""
        found = {}
        for (fold, _), path in self.folders.items():
            if (path / "teachers.parquet").exists():
                found[fold] = pd.read_parquet(path / "teachers.parquet")
        return found


def matrix(frame: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    said = frame["prediction"].to_numpy()
    true = frame["truth"].to_numpy()
    return np.array([[np.sum((true == t) & (said == p)) for p in classes] for t in classes])


def recalls(counts: np.ndarray) -> list[float | None]:
    return [row[c] / row.sum() if row.sum() else None for c, row in enumerate(counts)]


def wa_ua(counts: np.ndarray) -> tuple[float, float]:
    known = [value for value in recalls(counts) if value is not None]
    return counts.trace() / counts.sum(), sum(known) / len(known)


def spread(values: Sequence[float]) -> Document:
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "n": len(values)}


def interval(values: Sequence[float], unit: str, n: int) -> Document:
    low, high = np.percentile(values, [2.5, 97.5])
    return {"low": low, "high": high, "level": 0.95, "unit": unit, "n_units": n,
            "n_resamples": 9999}  # fmt: skip


def drawn(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, n, (9999, n))


def speaker_intervals(frames: Sequence[pd.DataFrame], classes: Sequence[str]) -> list[Any]:
    rows = pd.concat(frames)
    names = sorted(set(rows["speaker"]))
    if len(names) < 3:
        return [None, None]
    tables = np.array([matrix(rows[rows["speaker"] == name], classes) for name in names])
    found = [wa_ua(tables[choice].sum(axis=0)) for choice in drawn(len(names))]
    return [interval(values, "speaker", len(names)) for values in zip(*found, strict=True)]


def results(
    cells: Mapping[Cell, tuple[float, float]],
    frames: Sequence[pd.DataFrame],
    facts: Document,
    n: Mapping[int, int],
    seeded: bool = True,
) -> Document:
    folds = []
    for fold in sorted({fold for fold, _ in cells}):
        seeds = sorted(seed for f, seed in cells if f == fold)
        wa, ua = np.mean([cells[fold, seed] for seed in seeds], axis=0)
        folds.append(
            {"fold": fold, "seeds": seeds if seeded else [], "wa": wa, "ua": ua, "n": n[fold]}
        )
    counts = matrix(pd.concat(frames), facts["classes"])
    wa, ua = wa_ua(counts)
    intervals = speaker_intervals(frames, facts["classes"])
    done = {fold["fold"] for fold in folds}
    return {
        "folds": folds,
        "n_folds": facts["n_folds"],
        "wa": spread([fold["wa"] for fold in folds]),
        "ua": spread([fold["ua"] for fold in folds]),
        "pooled": {"confusion": counts.tolist(), "wa": wa, "ua": ua,
                   "recall": dict(zip(facts["classes"], recalls(counts), strict=True))},
        "wa_interval": intervals[0],
        "ua_interval": intervals[1],
        "missing": [fold for fold in range(1, facts["n_folds"] + 1) if fold not in done],
    }  # fmt: skip


def calibration(rows: pd.DataFrame, classes: Sequence[str]) -> Document:
    logits = rows[[f"logit_{name}" for name in classes]].to_numpy(dtype=np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    truth = np.array([list(classes).index(name) for name in rows["truth"]])
    confidence, right = p.max(axis=1), p.argmax(axis=1) == truth
    place = np.minimum((confidence * 15).astype(int), 14)
    bins, gap = [], 0.0
    for number in range(15):
        inside = place == number
        n = int(inside.sum())
        mean = confidence[inside].mean() if n else None
        accuracy = right[inside].mean() if n else None
        gap += n * abs(mean - accuracy) if n else 0
        bins.append({"low": number / 15, "high": (number + 1) / 15, "n": n, "confidence": mean,
                     "accuracy": accuracy})  # fmt: skip
    return {
        "n": len(rows), "confidence": confidence.mean(), "accuracy": right.mean(),
        "ece": gap / len(rows), "nll": -np.log(p[np.arange(len(p)), truth]).mean(), "bins": bins,
    }  # fmt: skip


def agreement(pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> Document:
    one, two, true = [], [], []
    for first, second in pairs:
        others = dict(zip(second["utterance_id"], second["prediction"], strict=True))
        for row in first.to_dict("records"):
            one.append(row["prediction"])
            two.append(others[row["utterance_id"]])
            true.append(row["truth"])
    n = len(true)
    same = sum(a == b for a, b in zip(one, two, strict=True)) / n
    chance = sum(one.count(c) * two.count(c) for c in set(true) | set(one)) / n**2
    judged = [(a == t, b == t) for a, b, t in zip(one, two, true, strict=True)]
    return {
        "n": n, "share": same, "kappa": (same - chance) / (1 - chance),
        "both_right": judged.count((True, True)) / n,
        "first_right": judged.count((True, False)) / n,
        "second_right": judged.count((False, True)) / n,
    }  # fmt: skip


def comparisons(reference: Group, others: Sequence[Group]) -> list[Document]:
    base = reference.scores()
    found = []
    for group in others:
        mine = group.scores()
        common = sorted(set(mine) & set(base))
        folds = sorted({fold for fold, _ in common})
        row: Document = {"folds": folds, "n_pairs": len(common)}
        for place, metric in enumerate(("wa", "ua")):
            row[metric] = [
                float(np.mean([mine[c][place] - base[c][place] for c in common if c[0] == fold]))
                for fold in folds
            ]
            row[f"{metric}_spread"] = spread(row[metric])
            means = np.array(row[metric])[drawn(len(folds))].mean(axis=1)
            enough = len(folds) >= 3
            row[f"{metric}_interval"] = interval(means, "fold", len(folds)) if enough else None
        found.append(row)
    for metric in ("wa", "ua"):
        p_values = [sign_p(row[metric]) for row in found]
        for row, p, p_holm in zip(found, p_values, holm(p_values), strict=True):
            row[f"{metric}_sign_flip"] = {
                "p": p, "smallest_p": 2 / 2 ** len(row["folds"]), "exact": True, "p_holm": p_holm,
                "family": len(found), "significant": p_holm <= 0.05,
            }  # fmt: skip
    return found


def sign_p(differences: Sequence[float]) -> float:
    seen = sum(differences)
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    above = sum(value >= seen - 1e-12 for value in sums) / len(sums)
    below = sum(value <= seen + 1e-12 for value in sums) / len(sums)
    return min(1.0, 2 * min(above, below))


def holm(p_values: Sequence[float]) -> list[float]:
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    out, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        out[place] = largest
    return out


def loss_terms(group: Group) -> list[Document]:
    logs = [
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in group.folders.values()
    ]

    def mean(part: str, name: str, *, last: bool) -> float | None:
        values = [
            np.mean([e[part][name] for e in (log[-1:] if last else log)])
            for log in logs
            if name in log[0][part]
        ]
        return float(np.mean(values)) if values else None

    names = sorted(logs[0][0]["train"], key=lambda name: (name != "total", name))
    pulling = list(logs[0][0]["gradients"])
    sums = {
        last: sum(mean("gradients", name, last=last) or 0 for name in pulling)
        for last in (True, False)
    }
    out = []
    for name in names:
        row: Document = {}
        for key, last in (("last", True), ("mean", False)):
            row[key] = mean("train", name, last=last)
            row[f"gradient_{key}"] = norm = mean("gradients", name, last=last)
            row[f"share_{key}"] = None if norm is None else norm / sums[last]
        out.append(row)
    return out


def student(group: Group) -> Document:
    scores, facts = group.scores(), next(iter(group.facts.values()))
    seconds = [facts["seconds"] for facts in group.facts.values()]
    frames = list(group.tests.values())
    sizes = {fold: len(frame) for (fold, _), frame in group.tests.items()}
    curves = []
    for (fold, seed), path in group.folders.items():
        log = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        points = [[line["epoch"], line["validation"]["ua"]] for line in log]
        curves.append({"fold": fold, "seed": seed, "points": points,
                       "best_epoch": group.facts[fold, seed]["best_epoch"]})  # fmt: skip
    taus: dict[str, set[float]] = {}
    for told in group.facts.values():
        for name, tau in told.get("temperatures", {}).items():
            taus.setdefault(name, set()).add(tau)
    config = tomllib.loads((next(iter(group.folders.values())) / "config.toml").read_text())
    return {
        "parameters": facts["student"]["parameters"],
        "seeds": sorted({seed for _, seed in scores}),
        "results": results(scores, frames, facts, sizes),
        "curves": curves,
        "settings": {f"losses.{k}": v for k, v in config.get("losses", {}).items()},
        "seconds": math.fsum(seconds),
        "seconds_per_run": spread(seconds),
        "published": None,
        "runs": [
            {"fold": fold, "seed": seed, "wa": wa, "ua": ua, "n": sizes[fold],
             "seconds": group.facts[fold, seed]["seconds"]}
            for (fold, seed), (wa, ua) in scores.items()
        ],
        "temperatures": {name: sorted(taus[name]) for name in sorted(taus)},
        "calibration": [calibration(pd.concat(frames), group.classes)],
        "terms": loss_terms(group),
    }  # fmt: skip


def teacher(name: str, group: Group) -> Document:
    """From ``teachers.parquet`` of a group that has all folds."""
    frames = {f: table[table["teacher"] == name] for f, table in group.teachers().items()}
    facts = next(iter(group.facts.values()))
    tests = {fold: frame[frame["role"] == "test"] for fold, frame in frames.items()}
    scored = {(fold, 0): wa_ua(matrix(frame, group.classes)) for fold, frame in tests.items()}
    sizes = {fold: len(frame) for fold, frame in tests.items()}
    whole = pd.concat(frames.values())

    def ua_of(role: str) -> Document:
        return spread(
            [
                wa_ua(matrix(frame[frame["role"] == role], group.classes))[1]
                for frame in frames.values()
            ]
        )

    return {
        "cross_fit": 0,
        "results": results(scored, list(tests.values()), facts, sizes, seeded=False),
        "train_ua": ua_of("train"),
        "validation_ua": ua_of("validation"),
        "published": None,
        "calibration": [
            calibration(whole[whole["role"] == role], group.classes)
            for role in ("train", "validation", "test")
        ],
    }


def numbers(document: Any, place: str = "") -> Iterator[tuple[str, float | None]]:
    """Every number, truth value and null of a document, with where it stands; no text."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield from numbers(value, f"{place}.{key}")
    elif isinstance(document, list | tuple):
        if document and all(isinstance(value, str) for value in document):
            return
        yield f"{place}.length", len(document)
        for index, value in enumerate(document):
            yield from numbers(value, f"{place}[{index}]")
    elif document is None or not isinstance(document, str):
        yield place, None if document is None else float(document)
