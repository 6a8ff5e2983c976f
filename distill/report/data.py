"""What a report says, as plain values: no text, no figure, no rounding.

The classes say what ``report.json`` holds: their attributes are its keys.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel

from distill.runs.read import LeftOut, Run

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Cell = tuple[int, int]
"""Fold and seed."""
NO_SEED = -1
"""Stands in a teacher's cells: it has no seed."""


class Record(dict[str, Any]):
    """A part of ``report.json``; its keys are attributes, too.

    >>> fold = Record(fold=1, wa=0.75)
    >>> fold.wa, fold == {"fold": 1, "wa": 0.75}
    (0.75, True)
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class FoldResult(Record):
    """Test scores of one fold.

    Attributes:
        fold: its number, from 1.
        seeds: the seeds averaged here; empty for a teacher.
        wa: mean WA over the seeds, in [0, 1].
        ua: mean UA over the seeds, in [0, 1].
        n: its test utterances.
    """


class RunResult(Record):
    """Test scores of one run.

    Attributes:
        fold: its fold.
        seed: its seed.
        wa: in [0, 1].
        ua: in [0, 1].
        n: test utterances.
        seconds: training time; None where the run does not tell.
    """


class Results(Record):
    """Test scores over folds.

    Attributes:
        folds: the folds that were measured, ascending.
        n_folds: how many the corpus has.
        wa: spread of the folds' WA.
        ua: spread of the folds' UA.
        pooled: scores over the test utterances of all folds and seeds together.
        wa_interval: of the pooled WA, test speakers resampled; None where there is none.
        ua_interval: of the pooled UA, likewise.
        no_interval: why there is none; empty where there is.
        missing: folds of the corpus that were not measured.
    """


class Curve(Record):
    """A run's validation UA.

    Attributes:
        fold: its fold.
        seed: its seed.
        points: pairs of epoch and UA; None where the epoch has none.
        best_epoch: the epoch whose weights were kept; None where the run does not tell.
    """


class LossTerm(Record):
    """A term of the loss in training, mean over the runs.

    Attributes:
        name: ``ce``, ``kl_<teacher>``, ``cos_<teacher>``; ``total`` is the weighted sum of all.
        last: its unweighted mean in each run's last epoch.
        mean: its unweighted mean over all epochs.
        gradient_last: norm of the *weighted* term's gradient with respect to the pooled output, in
            each run's last epoch; None where none was measured, as for ``total``.
        gradient_mean: the same over all epochs.
        share_last: ``gradient_last`` as a share of the sum over all terms, in [0, 1]; None where
            none was measured or that sum is 0.
        share_mean: the same over all epochs.
    """


class Comparison(Record):
    """One student minus another on the folds and seeds that both have, same test utterances.

    Attributes:
        label: the student.
        reference: the student that is subtracted.
        folds: the common folds, ascending.
        wa: WA differences of those folds, each the mean over its common seeds, in [-1, 1].
        ua: UA differences, likewise.
        wa_spread: mean and sample standard deviation of ``wa``.
        ua_spread: mean and sample standard deviation of ``ua``.
        n_pairs: pairs of runs, one for each common fold and seed.
        wa_interval: of the mean WA difference, folds resampled; None for fewer than 3.
        ua_interval: of the mean UA difference, likewise.
        wa_sign_flip: whether the mean WA difference could be chance; corrected over the rows of the
            table, which share a reference. WA and UA are corrected each on their own.
        ua_sign_flip: likewise for UA.
    """


class MissingRun(Record):
    """A run that a row of an experiment lacks.

    Attributes:
        fold: its fold.
        seed: its seed; None for a teacher, and where the experiment has no run to tell the seeds.
        state: what became of it.
        reason: more about it; empty for ``not run``.
    """


class ExperimentRow(Record):
    """A row of an experiment: a student, or a teacher on its own.

    Attributes:
        label: its name in the experiment.
        row: label of the student or teacher in the study; None where nothing of it was measured.
        teacher: the teacher's name, where it is one; empty for a student.
        variant: the student's variant; empty for a teacher.
        results: its scores; None where nothing was measured.
        seeds: seeds that it has runs of; empty for a teacher.
        n_runs: finished runs; 0 for a teacher, which needs none.
        missing: runs that it lacks of those that the experiment's rows have together, and of the
            corpus' folds.
        published: the paper's pair for it, percent; None where there is none, where the study is
            not comparable with the paper, and for a point of a sweep, which the paper only draws.
        wa_difference: mean WA over folds minus the paper's, in [-1, 1]; None without ``published``.
        ua_difference: likewise for UA.
        common_wa: spread of WA over the experiment's common folds and seeds alone; None where all
            rows have the same ones, or nothing is common.
        common_ua: of UA, likewise.
        point: where it stands in a figure; None where it does not.
    """


class SweepValue(Record):
    """A point of a curve.

    Attributes:
        value: where it stands along the axis.
        label: of the row that it is.
    """


class SweepCurve(Record):
    """A curve of a figure: rows along an axis, ascending; scores are those of the rows.

    Attributes:
        axis: what the axis is about, e.g. ``tau of the prosodic teacher``.
        name: the curve's name, e.g. the variant.
        points: its measured and missing points, ascending.
        best_wa: value of the highest mean WA among points with the same folds and seeds; None where
            they differ, fewer than two were measured, or several are the highest.
        best_ua: likewise for UA.
        best_published: the value that the paper found best; None where the study is not comparable
            with the paper, or the curve is none of its figure 2.
    """


class Experiment(Record):
    """An experiment's rows in its own order, with what was measured of each.

    Attributes:
        stem: file name of its record, without ``.json``; unique within the report.
        name: e.g. ``table2``.
        title: what it is about.
        student: the student's name in the record.
        store: fingerprint of its store.
        rows: in order, missing ones too.
        reference: label of the row that others are compared with, of the first student where there
            are several; None where no student was measured.
        comparisons: its students minus the reference, on common folds and seeds, under the labels
            of the rows; corrected over this table alone.
        curves: its figure, if it has one.
        common: (fold, seed) of the runs that every measured student row has, ascending.
        warnings: what a reader must know before comparing rows.
    """


class FoldSplit(Record):
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


class Student(Record):
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


class Teacher(Record):
    """A teacher on its own, from its answers beside the runs' predictions.

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
            all folds together.
    """


@dataclass(frozen=True, eq=False)
class Measured:
    """A row of a study with its answers.

    Attributes:
        row: its numbers.
        answers: its part of the table of answers.
        runs: its finished runs; none for a teacher.
    """

    row: Student | Teacher
    answers: pd.DataFrame
    runs: Sequence[Run] = ()

    @cached_property
    def test(self) -> pd.DataFrame:
        """Its answers on the test speakers."""
        return self.answers[self.answers["role"] == "test"]

    @cached_property
    def cells(self) -> dict[Cell, tuple[float, float]]:
        """WA and UA of each run; of each fold for a teacher."""
        if isinstance(self.row, Student):
            return {(run.fold, run.seed): (run.wa, run.ua) for run in self.row.runs}
        return {(fold.fold, NO_SEED): (fold.wa, fold.ua) for fold in self.row.results.folds}

    @cached_property
    def tested(self) -> dict[Cell, set[tuple[str, str]]]:
        """The utterances of each run, with their truth."""
        by_cell: Any = self.test.groupby(["fold", "seed"])
        return {
            cell: set(zip(rows["utterance_id"], rows["truth"], strict=True))
            for cell, rows in by_cell
        }


class Study(Record):
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

    @property
    def rows(self) -> tuple[Teacher | Student, ...]:
        """Teachers first, then students."""
        return (*self.teachers, *self.students)


@dataclass(frozen=True)
class Report:
    """Everything there is to say about a set of runs."""

    studies: tuple[Study, ...]
    left_out: tuple[LeftOut, ...]


def plain(value: Any) -> Any:
    """A value as JSON has it: tables, lists, text, booleans, finite numbers and null.

    >>> plain({"recall": {"ang": float("nan"), "sad": 0.5}, "folds": (1, 2)})
    {'recall': {'ang': None, 'sad': 0.5}, 'folds': [1, 2]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as the command line takes them.

    >>> ranges([1, 2, 3, 7, 9, 10])
    '1..3,7,9..10'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{r[0]}..{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by a key, in the order of their first one.

    >>> grouped(["ang", "hap", "amu"], lambda name: name[0])
    {'a': ['ang', 'amu'], 'h': ['hap']}
    """
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
