"""What a report says, as plain values: no text, no figure, no rounding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.metrics import LEVEL, RESAMPLES, SEED, Agreement, Calibration, Spread
from distill.report.experiment_data import Experiment
from distill.report.published import Figures
from distill.report.results import (
    Comparison,
    Curve,
    FoldResult,
    LossTerm,
    Results,
    RunResult,
)
from distill.runs.read import LeftOut
from distill.runs.records import ProtocolFacts

__all__ = [
    "Comparison", "Curve", "Experiment", "FoldResult", "FoldSplit", "LossTerm", "Report", "Results",
    "RunResult", "Student", "Study", "Teacher", "plain",
]  # fmt: skip

SCHEMA = 2
"""Of ``report.json``: 2 since it has intervals, tests, calibration and experiments."""


@dataclass(frozen=True)
class FoldSplit:
    """Who is what in one fold.

    Attributes:
        fold: its number.
        store: fingerprint of the store that says so.
        test: speakers tested.
        validation: speakers that the epoch is chosen on.
        train: speakers trained on.
        n_test: test utterances.
        n_validation: validation utterances.
        n_shared_texts: test utterances whose exact words are in training too; None where the runs
            do not tell.
    """

    fold: int
    store: str
    test: tuple[str, ...]
    validation: tuple[str, ...]
    train: tuple[str, ...]
    n_test: int
    n_validation: int
    n_shared_texts: int | None


@dataclass(frozen=True)
class Student:
    """All finished runs of one experiment and key: one variant of one student.

    Attributes:
        label: its name in this report, unique within the study.
        experiment: folder that its runs lie in.
        key: hash of its settings and store.
        store: fingerprint of its store.
        variant: ``full`` or the name of an ablation.
        backbone: the speech encoder.
        parameters: trainable and frozen ones; None where a run does not tell.
        seeds: the seeds that it has runs of.
        results: its test scores.
        curves: its learning curves, a run each.
        settings: ``config.toml`` of its first run, flat: ``losses.alpha`` -> 1.0.
        seconds: training time of all its runs together; None where a run does not tell.
        seconds_per_run: spread of it over the runs; None where a run does not tell.
        published: the paper's pair for it in percent; None where there is none to compare with.
        runs: scores of each run, by fold and seed.
        temperatures: teacher -> the temperatures that its runs softened it with, ascending; more
            than one where they were fitted by fold. Empty where the runs do not tell.
        calibration: of its answers on the test speakers.
        terms: its loss terms, ``total`` first; empty where the runs log none.
    """

    label: str
    experiment: str
    key: str
    store: str
    variant: str
    backbone: str
    parameters: int | None
    seeds: tuple[int, ...]
    results: Results
    curves: tuple[Curve, ...]
    settings: Mapping[str, Any]
    seconds: float | None
    seconds_per_run: Spread | None
    published: Figures | None
    runs: tuple[RunResult, ...]
    temperatures: Mapping[str, tuple[float, ...]]
    calibration: tuple[Calibration, ...]
    terms: tuple[LossTerm, ...]


@dataclass(frozen=True)
class Teacher:
    """A teacher on its own, as recorded in a store when it was built.

    Attributes:
        label: its name in this report, unique within the study.
        name: its name in the store.
        store: fingerprint of the store.
        cross_fit: K where its training rows are spoken for by one of K parts that never saw their
            speaker, the others by the parts' mean; 0 for the teacher itself.
        keys: of the runs that tell of it.
        results: its scores on the test speakers.
        train_ua: spread of its UA on the utterances it was fitted on.
        validation_ua: spread of its UA on the validation speakers; None where there are none.
        published: the paper's pair for it in percent; None where there is none to compare with.
        calibration: of its answers at temperature 1: train, validation and test rows, each over
            all folds together; empty where the runs do not hold its logits.
        no_calibration: why there is none, or which folds it lacks; empty where it is complete.
    """

    label: str
    name: str
    store: str
    cross_fit: int
    keys: tuple[str, ...]
    results: Results
    train_ua: Spread | None
    validation_ua: Spread | None
    published: Figures | None
    calibration: tuple[Calibration, ...]
    no_calibration: str


@dataclass(frozen=True)
class Study:
    """Runs that may be set side by side: one corpus, one set of classes, one protocol.

    Attributes:
        dataset: the corpus' name.
        full_release: it holds every utterance of its published release.
        classes: class names, in logit order.
        protocol: how speakers were held out.
        n_folds: how many folds the corpus has.
        teachers: one row per teacher and store.
        students: one row per experiment and key, in the order of the paper's Table 2.
        comparisons: each student against the reference of its backbone.
        incomparable: why the paper's figures are absent; empty where they are shown.
        versions: library -> versions seen.
        notes: what a reader must know before using the numbers.
        folds: who is tested, validated and trained on, fold by fold, of every store.
        label_map: raw label -> the class that it counts as; None where the runs do not tell.
        agreements: teachers with each other and with each student, on the test speakers.
        experiments: what ``distill experiment`` was asked for, row by row.
    """

    dataset: str
    full_release: bool
    classes: tuple[str, ...]
    protocol: ProtocolFacts
    n_folds: int
    teachers: tuple[Teacher, ...]
    students: tuple[Student, ...]
    comparisons: tuple[Comparison, ...]
    incomparable: str
    versions: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    folds: tuple[FoldSplit, ...]
    label_map: Mapping[str, str] | None
    agreements: tuple[Agreement, ...]
    experiments: tuple[Experiment, ...]

    @property
    def rows(self) -> tuple[Teacher | Student, ...]:
        """Teachers first, then students."""
        return (*self.teachers, *self.students)


@dataclass(frozen=True)
class Report:
    """Everything there is to say about a set of runs."""

    studies: tuple[Study, ...]
    left_out: tuple[LeftOut, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON: every number finite or null; scores are fractions.

        Only ``published`` figures are percent, as printed.
        """
        return {
            "schema": SCHEMA,
            "scores": "fractions",
            "published": "percent",
            "std": "sample standard deviation over folds (ddof 1)",
            "interval": f"{LEVEL:.0%} percentile bootstrap, {RESAMPLES} resamples, seed {SEED}",
            "p": "two-sided sign-flip permutation over folds; p_holm: Holm over a table's rows",
            "studies": [plain(study) for study in self.studies],
            "left_out": [plain(item) for item in self.left_out],
        }


def plain(value: Any) -> Any:
    """A value as JSON has it: tables, lists, text, booleans, finite numbers and null.

    >>> plain({"recall": {"ang": float("nan"), "sad": 0.5}, "folds": (1, 2)})
    {'recall': {'ang': None, 'sad': 0.5}, 'folds': [1, 2]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {**out, "missing": list(value.missing)} if isinstance(value, Results) else out
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
