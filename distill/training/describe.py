"""What a run tells about itself in ``run.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.config import RunSettings, model_folder
from distill.data.targets import FoldTargets
from distill.data.temperature import taus
from distill.model.student import Student
from distill.runs.records import RunFacts
from featstore.core.training import count_parameters
from featstore.store.provenance import versions
from featstore.store.store import Store


def run_facts(
    store: Store,
    targets: FoldTargets,
    student: Student,
    settings: RunSettings,
    key: str,
    experiment: str,
    variant: str,
    processes: int = 1,
    **outcome: Any,
) -> RunFacts:
    """The facts of a run that the report relies on.

    Args:
        store: what it is trained from.
        targets: its fold.
        student: what is trained.
        settings: of the run, its temperatures those in use.
        key: see :func:`distill.config.run_key`.
        experiment: the folder's name.
        variant: the row of Table 2.
        processes: that train it together.
        outcome: once it is finished, ``best_epoch`` and ``seconds``.
    """
    corpus, folds = store.unit("corpus"), store.unit("splits").settings["folds"]
    fold = targets.fold
    teachers = {name: output.unit.facts["scores"] for name, output in targets.outputs.items()}
    facts: dict[str, Any] = {
        "schema": 1,
        "experiment": experiment,
        "key": key,
        "fold": fold.number,
        "seed": settings.seed,
        "variant": variant,
        "dataset": corpus.facts["name"],
        "full_release": corpus.facts["full_release"],
        "classes": targets.classes,
        "n_folds": len(store.folds),
        "store": {"fingerprint": store.fingerprint(), "url": store.url},
        "split": {"test": fold.test, "validation": fold.validation, "train": fold.train},
        "protocol": {
            **{name: folds[name] for name in ("scheme", "validation", "script_disjoint")},
            "kind": corpus.settings["corpus"]["kind"],
        },
        "student": {
            "backbone": _shown(settings.student.backbone),
            "parameters": count_parameters(student),
        },
        "teachers": teachers,
        "temperatures": taus(settings.losses, targets.teachers),
        "label_map": _label_map(store),
        "text_overlap": _text_overlap(store, fold.number),
        "versions": versions(),
        "processes": processes,
    }
    return RunFacts.model_validate(facts | outcome)


def _label_map(store: Store) -> dict[str, str]:
    """The corpus' own labels -> classes, of the utterances that the store holds."""
    raw = store.utterances["label_raw"].tolist()
    classes = [store.classes[label] for label in store.labels.tolist()]
    return dict(sorted(set(zip(raw, classes, strict=True))))


def _text_overlap(store: Store, fold: int) -> dict[str, Any] | None:
    """How many of a fold's test utterances have their words in training, as the store recorded."""
    records = store.unit("splits").facts["text_overlap"]
    return next((record for record in records if record["fold"] == fold), None)


def _shown(backbone: str) -> str:
    """A local model folder by its last name: a report does not tell where a run was made."""
    folder = model_folder(backbone)
    return backbone.removesuffix(folder) + Path(folder).name if folder else backbone
