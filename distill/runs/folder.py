"""A run: what is asked for, where it lives, and what it leaves there.

It lies in ``runs/<experiment>/<key>/foldNN-seedS/``: ``config.toml``, ``run.json``,
``metrics.jsonl``, ``predictions.parquet``, ``teachers.parquet``, ``student/`` and, last, ``DONE``;
while it runs also ``checkpoint/``, and ``FAILED`` where it came to nothing. Every file is written
beside its place and renamed. :mod:`distill.runs.read` reads it back.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from distill.config import LossSettings, RunSettings, StudentSettings, portable, run_key
from distill.runs.read import DONE, FAILED, SUMMED, Run, read_run
from featstore.core.config import cross_fitted, device_kind
from featstore.core.files import (
    make_folders,
    read_small,
    remove_leftovers,
    sha256_of,
    try_lock,
    write_file,
)
from featstore.core.schema import Corrupt, UserError, printable
from featstore.core.settings import digest
from featstore.core.weights import refuse_giant
from featstore.jobs.task import Tell, attended
from featstore.store.store import Store

Floats = npt.NDArray[np.float32]
Rows = Mapping[str, npt.NDArray[np.int64]]

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class RunRequest:
    """What to train, and where; only ``settings`` and the store decide the numbers."""

    store: Path | str
    fold: int = 0
    settings: RunSettings = field(default_factory=RunSettings)
    runs: Path = Path("runs")
    experiment: str = ""
    variant: str = "full"
    device: str = "auto"
    threads: int | None = None
    root: Path | None = None
    weights: Path | None = None
    max_steps: int | None = None
    tensorboard: bool = False
    title: str = ""

    @property
    def label(self) -> str:
        """What it is called in messages; unique among the runs of one command."""
        return self.title or f"fold {self.fold}"


@dataclass(frozen=True)
class Outcome:
    """What became of a run; scores are of the test speaker, seconds what its training took."""

    fold: int
    status: Literal["done", "skipped", "stopped"]
    folder: Path
    why: str = ""
    wa: float | None = None
    ua: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class RunFolder:
    """A run's folder."""

    path: Path

    @staticmethod
    def of(runs: Path, experiment: str, key: str, fold: int, seed: int) -> RunFolder:
        """The folder of a run, which need not exist."""
        return RunFolder(runs / experiment / key / f"fold{fold:02d}-seed{seed}")

    @property
    def key(self) -> str:
        """Names the runs that differ in nothing but fold and seed."""
        return self.path.parent.name

    @property
    def task(self) -> str:
        """What the run is called among the tasks of all runs.

        >>> RunFolder.of(Path("runs"), "tiny-full", "0a1b", 3, 42).task
        'tiny-full/0a1b/fold03-seed42'
        """
        return "/".join(self.path.parts[-3:])

    def finished(self) -> Run | None:
        """The run as it finished, checked; None where it has not finished.

        Raises:
            Corrupt: it has finished, but a file is gone or was changed.
        """
        if not (self.path / DONE).exists():
            return None
        try:
            return read_run(self.path)
        except Corrupt as damage:
            again = f"remove {self.path} and run it again"
            raise Corrupt(f"{self.path}/{damage.message}", again) from damage

    def outcome(self, why: str = "") -> Outcome | None:
        """What came of the run, checked; None where it has not finished.

        Args:
            why: it was skipped, if it was.

        Raises:
            Corrupt: as :meth:`finished`.
        """
        if (run := self.finished()) is None:
            return None
        status: Literal["done", "skipped"] = "skipped" if why else "done"
        scores, seconds = run.scores, run.facts.seconds or 0.0
        return Outcome(run.facts.fold, status, self.path, why, scores.wa, scores.ua, seconds)

    @property
    def failure(self) -> str:
        """Why it failed when it was last begun; '' where it did not."""
        try:
            return printable(read_small(self.path / FAILED).decode(errors="replace"))
        except (OSError, UserError):
            return ""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from working on the same run.

        Raises:
            UserError: one is at it already.
        """
        make_folders(self.path)
        lock = None
        with suppress(FileNotFoundError):  # its holder is just taking it away
            lock = try_lock(self.path / ".lock", create=True)
        if lock is None:
            raise UserError(
                f"{self.path}: another process is training this run", "wait for it, or stop it"
            )
        try:
            remove_leftovers(self.path)
            yield
        finally:
            (self.path / ".lock").unlink(missing_ok=True)
            os.close(lock)

    @contextmanager
    def attended(self, runs: Path) -> Iterator[Tell]:
        """Note how far the run is (:func:`featstore.jobs.task.attended`) while it is :meth:`held`.

        The reason stays in ``FAILED`` where it fails, and is gone when it is begun again.

        Args:
            runs: the folder of all runs, where the notes are.
        """
        note = self.path / FAILED
        note.unlink(missing_ok=True)
        try:
            with attended(runs, self.task) as tell:
                yield tell
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            why = error.message if isinstance(error, UserError) else why
            with suppress(OSError):  # a full disk, say: the error itself is told anyway
                write_file(note, printable(" ".join(why.split()))[:2000].encode())
            raise

    def tidy(self) -> None:
        """Remove what only a run in progress needs, left by a process killed after ``DONE``."""
        if any((self.path / name).exists() for name in (CHECKPOINT, ".lock")):
            with suppress(UserError, OSError), self.held():  # its process may be at it, too
                shutil.rmtree(self.path / CHECKPOINT, ignore_errors=True)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        self.write_text(name, json.dumps(value, indent=1, sort_keys=True))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        write_file(self.path / name, text.encode())

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """``metrics.jsonl``: one line an epoch, the whole of it each time."""
        lines = [json.dumps(entry, sort_keys=True) for entry in history]
        self.write_text("metrics.jsonl", "\n".join(lines) + "\n")

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """``predictions.parquet``, which every reported number comes from, or the teachers'."""
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        write_file(self.path / name, buffer.getvalue())

    def finish(self) -> None:
        """Mark the run as finished, with the SHA-256 of what it leaves."""
        files = [name for name in SUMMED if (self.path / name).is_file()]
        sums = {name: sha256_of(self.path / name) for name in files}
        self.write_json(DONE, sums | {"sha256": digest(sums)})


def epoch_note(entry: Mapping[str, Any]) -> str:
    """An epoch's line of ``metrics.jsonl`` in a few words.

    >>> epoch_note({"train": {"total": 1.5}, "validation": {"wa": 0.5, "ua": 0.25}})
    'loss 1.500 val WA 50.0 UA 25.0'
    """
    text = f"loss {entry['train']['total']:.3f}"
    if scores := entry.get("validation"):
        text += f" val WA {100 * scores['wa']:.1f} UA {100 * scores['ua']:.1f}"
    return text


class Keys:
    """The keys of many runs of one store: what they share is read once."""

    def __init__(self, store: Store) -> None:
        self.store, self._fingerprint = store, store.fingerprint()
        self._teachers = cache(self._fold_teachers)
        self._weights = cache(_weights_digest)
        self._student = cache(_portable_student)

    def folder(self, request: RunRequest) -> RunFolder:
        """Where a run lies; its key is the same for every fold of a store.

        Raises:
            UserError: the store lacks the fold, or there is no such file of weights.
        """
        settings = request.settings
        teachers = self._teachers(request.fold, settings.targets.cross_fit)
        weights = self._weights(request.weights) if request.weights is not None else None
        settings = settings.model_copy(update={"student": self._student(settings.student)})
        kind = device_kind(request.device)
        key = run_key(settings, self._fingerprint, teachers, weights, kind)
        return RunFolder.of(request.runs, request.experiment, key, request.fold, settings.seed)

    def _fold_teachers(self, fold: int, cross_fit: int) -> list[dict[str, Any]]:
        """What tells a fold's teachers from others."""
        return [
            {
                "name": name,
                "teacher": output.unit.settings["teacher"],
                "parents": dict(output.unit.parents),
            }
            for name, output in sorted(self.store.fold(fold, cross_fit=cross_fit).items())
        ]


def _weights_digest(weights: Path) -> str:
    refuse_giant(weights)
    return sha256_of(weights)


def _portable_student(student: StudentSettings) -> StudentSettings:
    return portable(RunSettings(student=student)).student


def require_teachers(store: Store, fold: int, losses: LossSettings, cross_fit: int = 0) -> None:
    """Refuse to train without a teacher that the losses count on or that other folds have.

    A killed build leaves such folds; a student of one teacher would pass for one of both. So would
    one whose targets are cross-fitted for some of the store's teachers only.

    Raises:
        UserError: with what to build, or how to do without on purpose.
    """
    names = set(store.teacher_names(fold, cross_fit))
    elsewhere = {
        name
        for n in range(1, len(store.folds) + 1)
        for parts in {0, cross_fit}
        for name in store.teacher_names(n, parts)
    }
    flag = f" --cross-fit {cross_fit}" if cross_fit else ""
    for name in sorted((losses.teaching | elsewhere) - names):
        without = f"; to do without: --set losses.teachers.{name}.weight=0"
        raise UserError(
            f"fold {fold}: {store.url or store.path} has no teacher "
            f"{cross_fitted(name, cross_fit)} for it",
            f"finish the build: `featstore build --fold {fold}{flag}`"
            + ("" if name in elsewhere else without),
        )


def predictions_table(
    utterances: pd.DataFrame,
    rows: Rows,
    logits: Mapping[str, Floats],
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    fold: int,
) -> pd.DataFrame:
    """Truth, prediction and raw logits of some utterances, role by role.

    Args:
        utterances: the store's table.
        rows: role (``test``, ``validation``) -> rows.
        logits: role -> ``[rows, C]``.
        labels: class index of every utterance of the store.
        classes: class names in logit order.
        fold: the fold's number.

    Returns:
        ``utterance_id``, ``speaker``, ``fold``, ``role``, ``truth``, ``prediction`` and a column
        ``logit_<class>`` for each class.
    """
    parts = []
    for role, index in rows.items():
        part = utterances.iloc[index][["utterance_id", "speaker"]].reset_index(drop=True)
        part["fold"] = np.int16(fold)
        part["role"] = role
        part["truth"] = [classes[label] for label in labels[index]]
        part["prediction"] = [classes[best] for best in logits[role].argmax(1)]
        for column, name in enumerate(classes):
            part[f"logit_{name}"] = logits[role][:, column]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def teachers_table(
    utterances: pd.DataFrame,
    rows: Rows,
    teachers: Mapping[str, Floats],
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    fold: int,
) -> pd.DataFrame:
    """The same of every teacher, its training utterances included, with a column ``teacher``.

    Args:
        utterances: the store's table.
        rows: role (``train``, ``validation``, ``test``) -> rows.
        teachers: name -> raw logits ``[N, C]`` of all utterances of the store.
        labels: class index of every utterance of the store.
        classes: class names in logit order.
        fold: the fold's number.
    """
    present = {role: index for role, index in rows.items() if len(index)}
    parts = []
    for name, logits in sorted(teachers.items()):
        by_role = {role: logits[index] for role, index in present.items()}
        part = predictions_table(utterances, present, by_role, labels, classes, fold)
        part.insert(1, "teacher", name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
