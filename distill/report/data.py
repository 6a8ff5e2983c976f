"""What a report says, as plain values: no text, no figure, no rounding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill import metrics
from distill.metrics import Scores, Spread
from distill.published import Figures
from distill.report.runs import LeftOut
from distill.run_facts import ProtocolFacts


@dataclass(frozen=True)
class FoldResult:
    """Test scores of one fold.

    Attributes:
        fold: its number, from 1.
        seeds: the seeds averaged here; empty for a teacher.
        wa: mean WA over the seeds, in [0, 1].
        ua: mean UA over the seeds, in [0, 1].
    """

    fold: int
    seeds: tuple[int, ...]
    wa: float
    ua: float


@dataclass(frozen=True)
class Results:
    """Test scores over folds.

    Attributes:
        folds: the folds that were measured, ascending.
        n_folds: how many the corpus has.
        wa: spread of the folds' WA.
        ua: spread of the folds' UA.
        pooled: scores over the test utterances of all folds and seeds together; None where only
            the two numbers of each fold are known.
    """

    folds: tuple[FoldResult, ...]
    n_folds: int
    wa: Spread
    ua: Spread
    pooled: Scores | None

    @classmethod
    def over(
        cls, folds: tuple[FoldResult, ...], n_folds: int, pooled: Scores | None = None
    ) -> Results:
        """Folds with their spread, each counted once whatever its size."""
        wa = metrics.spread([fold.wa for fold in folds])
        ua = metrics.spread([fold.ua for fold in folds])
        return cls(folds, n_folds, wa, ua, pooled)

    @property
    def missing(self) -> tuple[int, ...]:
        """Folds of the corpus that were not measured."""
        done = {result.fold for result in self.folds}
        return tuple(fold for fold in range(1, self.n_folds + 1) if fold not in done)


@dataclass(frozen=True)
class Curve:
    """A run's validation UA, epoch by epoch, and the epoch whose weights were kept."""

    fold: int
    seed: int
    points: tuple[tuple[int, float | None], ...]
    best_epoch: int | None


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
        published: the paper's pair for it in percent; None where there is none to compare with.
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
    published: Figures | None


@dataclass(frozen=True)
class Teacher:
    """A teacher on its own, as recorded in a store when it was built.

    Attributes:
        label: its name in this report, unique within the study.
        name: its name in the store.
        store: fingerprint of the store.
        results: its scores on the test speakers.
        train_ua: spread of its UA on the utterances it was fitted on.
        validation_ua: spread of its UA on the validation speakers; None where there are none.
        published: the paper's pair for it in percent; None where there is none to compare with.
    """

    label: str
    name: str
    store: str
    results: Results
    train_ua: Spread | None
    validation_ua: Spread | None
    published: Figures | None


@dataclass(frozen=True)
class Comparison:
    """One student minus another on the folds and seeds that both have, same test utterances.

    Attributes:
        label: the student.
        reference: the student that is subtracted.
        folds: the common folds, ascending.
        wa: WA differences of those folds, each the mean over its common seeds, in [-1, 1].
        ua: UA differences, likewise.
        wa_spread: mean and sample standard deviation of ``wa``.
        ua_spread: mean and sample standard deviation of ``ua``.
    """

    label: str
    reference: str
    folds: tuple[int, ...]
    wa: tuple[float, ...]
    ua: tuple[float, ...]
    wa_spread: Spread
    ua_spread: Spread


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
            "schema": 1,
            "scores": "fractions",
            "published": "percent",
            "std": "sample standard deviation over folds (ddof 1)",
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
