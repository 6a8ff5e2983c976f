"""Run folders as the trainer leaves them, with predictions drawn at a chosen hit rate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from distill.runs.folder import RunFolder

CLASSES = ("ang", "hap", "neu", "sad")
SPEAKERS = [f"Ses0{session}{letter}" for session in range(1, 6) for letter in "FM"]


TEACHER_HITS = {"linguistic": (0.95, 0.7, 0.7), "prosodic": (0.8, 0.6, 0.55)}
"""How often each is right about the speakers that it was fitted, selected and tested on."""


def facts(fold: int, seed: int, **over: object) -> dict[str, object]:
    """``run.json``, but that ``teachers`` are how often each is right; :func:`write_run` draws."""
    test, partner = SPEAKERS[fold - 1], SPEAKERS[fold - 1 ^ 1]
    record: dict[str, object] = {
        "schema": 1, "experiment": "main", "key": "a1b2c3d4e5f6", "fold": fold, "seed": seed,
        "variant": "full", "dataset": "synthetic", "classes": list(CLASSES), "n_folds": 10,
        "full_release": False,
        "store": {"fingerprint": "5f" * 32, "content": "00" * 32},
        "split": {
            "test": [test], "validation": [partner],
            "train": [s for s in SPEAKERS if s not in (test, partner)],
        },
        "teachers": TEACHER_HITS,
        "protocol": {
            "scheme": "speaker", "validation": "partner", "script_disjoint": False, "kind": "all"
        },
        "versions": {"torch": "2.11.0", "transformers": "5.23.0"},
        "student": {"backbone": "tiny", "parameters": 512_004},
        "best_epoch": 6 + fold % 4, "seconds": 88.5,
    }  # fmt: skip
    return record | over


def predictions(
    record: dict[str, object], hit: float, truth: list[str] | None = None
) -> pd.DataFrame:
    """80 test and 40 validation rows; the logits agree with the predictions."""
    fold, classes = int(record["fold"]), list(record["classes"])
    rng = np.random.default_rng([fold, int(record["seed"]), int(1000 * hit)])
    frames = []
    for role, n in (("test", 80), ("validation", 40)):
        speaker = (record["split"][role] or [None])[0]
        if speaker is None:
            continue
        drawn = np.random.default_rng([fold, n]).integers(0, len(classes), n)
        if truth is not None and role == "test":
            drawn = np.array([classes.index(name) for name in truth])
        values = rng.normal(0, 1, (len(drawn), len(classes))).astype(np.float32)
        rates = hit + 0.08 * np.linspace(-1, 1, len(classes)) + 0.03 * np.sin(fold)
        sure = rng.random(len(drawn)) < rates[drawn]
        values[sure, drawn[sure]] += 6
        frame = pd.DataFrame({
            "utterance_id": [f"{speaker}_{role}_{i:03d}" for i in range(len(drawn))],
            "fold": fold, "role": role, "speaker": speaker,
            "truth": [classes[i] for i in drawn],
            "prediction": [classes[i] for i in values.argmax(axis=1)],
        })  # fmt: skip
        for column, name in enumerate(classes):
            frame[f"logit_{name}"] = values[:, column]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def taught(
    record: dict[str, object], tested: pd.DataFrame
) -> tuple[dict[str, object], pd.DataFrame]:
    """The record with the scores that a store has of its teachers, and their answers.

    Test and validation utterances are those of ``tested``; each training speaker has ten.
    """
    classes, split = list(record["classes"]), record["split"]
    known = tested[["utterance_id", "fold", "role", "speaker", "truth"]]
    drawn = np.random.default_rng(int(record["fold"])).integers(0, len(classes), (8, 10))
    train = [
        (f"{speaker}_{i}", record["fold"], "train", speaker, classes[c])
        for speaker, row in zip(split["train"], drawn, strict=False)
        for i, c in enumerate(row)
    ]
    rows = pd.concat([known, pd.DataFrame(train, columns=known.columns)], ignore_index=True)
    parts, scores = [], {}
    for name, hits in record["teachers"].items():  # type: ignore[attr-defined]
        rng = np.random.default_rng([int(record["fold"]), len(name), int(100 * sum(hits))])
        truth = rows["truth"].map(classes.index).to_numpy()
        rates = rows["role"].map(dict(zip(("train", "validation", "test"), hits, strict=True)))
        values = rng.normal(0, 1, (len(rows), len(classes))).astype(np.float32)
        sure = rng.random(len(rows)) < rates.to_numpy()
        values[sure, truth[sure]] += 4
        said = values.argmax(axis=1)
        logits = {f"logit_{label}": values[:, c] for c, label in enumerate(classes)}
        answers = [classes[c] for c in said]
        parts.append(rows.assign(prediction=answers, teacher=name, **logits))
        scores[name] = {
            role: counted(truth[where], said[where], len(classes))
            for role in ("train", "validation", "test")
            if (where := (rows["role"] == role).to_numpy()).any()
        }
    return record | {"teachers": scores}, pd.concat(parts, ignore_index=True)


def counted(truth: np.ndarray, said: np.ndarray, n_classes: int) -> dict[str, object]:
    """Scores as a store records them."""
    matrix = np.zeros((n_classes, n_classes), dtype=int)
    np.add.at(matrix, (truth, said), 1)
    present = matrix.sum(axis=1) > 0
    recall = matrix.diagonal()[present] / matrix.sum(axis=1)[present]
    wa = float(np.mean(truth == said))
    return {"wa": wa, "ua": float(recall.mean()), "confusion": matrix.tolist()}


def write_record(root: Path, name: str, rows: list[dict[str, object]], **over: object) -> Path:
    """An experiment's record over runs of :func:`facts`' store."""
    record = {"schema": 1, "name": name, "title": f"about {name}", "student": "tiny",
              "store": "5f" * 32, "rows": rows} | over  # fmt: skip
    path = root / "experiments" / f"{name}-tiny.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def write_run(
    root: Path, record: dict[str, object], *, hit: float = 0.7, settings: str = "",
    frame: pd.DataFrame | None = None, done: bool = True, epochs: int = 10,
    teachers: pd.DataFrame | None = None,
) -> Path:  # fmt: skip
    name = f"fold{int(record['fold']):02d}-seed{record['seed']}"
    folder = root / str(record["experiment"]) / str(record["key"]) / name
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(
        f'seed = {record["seed"]}\nvariant = "{record["variant"]}"\n{settings}\n'
    )
    rng = np.random.default_rng([int(record["fold"]), int(record["seed"])])
    with (folder / "metrics.jsonl").open("w") as file:
        for epoch in range(1, epochs + 1):
            ua = float(hit - 0.4 * np.exp(-epoch / 3) + rng.normal(0, 0.02))
            terms = {"ce": 1 / epoch, "kl_prosodic": 0.5 + 1 / epoch}
            line = {
                "epoch": epoch, "validation": {"wa": ua, "ua": ua},
                "train": terms | {"total": 2 * terms["ce"] + terms["kl_prosodic"]},
                "gradients": {"ce": 0.3 / epoch, "kl_prosodic": 0.1},
            }  # fmt: skip
            file.write(json.dumps(line) + "\n")
    frame = predictions(record, hit) if frame is None else frame
    if teachers is None and any(isinstance(t, tuple) for t in record["teachers"].values()):  # type: ignore[attr-defined]
        record, teachers = taught(record, frame)
    (folder / "run.json").write_text(json.dumps(record))
    frame.to_parquet(folder / "predictions.parquet", index=False)
    if teachers is not None:
        teachers.to_parquet(folder / "teachers.parquet", index=False)
    (folder / "student").mkdir()
    (folder / "student" / "model.safetensors").write_bytes(b"weights")
    (folder / "student" / "student.json").write_text('{"weights": {"size": 7}}')
    if done:
        RunFolder(folder).finish()
    return folder


def write_study(root: Path, **over: object) -> Path:
    """A full and a CE-only student: ten folds and three folds; the rest of Table 2 on demand."""
    for fold in range(1, 11):
        settings = "[losses]\nalpha = 1.0\nbeta = 10.0\n"
        write_run(root, facts(fold, 42, **over), hit=0.72, settings=settings)
    for fold in range(1, 4):
        record = facts(fold, 42, variant="ce-only", key="0f9e8d7c6b5a", **over)
        settings = "[losses]\nalpha = 0.0\nbeta = 0.0\n"
        write_run(root, record, hit=0.62, settings=settings)
    return root
