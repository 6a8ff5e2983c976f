"""Where a run lives and what it leaves: ``runs/<experiment>/<key>/foldNN-seedS/``.

``config.toml``, ``run.json``, ``metrics.jsonl``, ``predictions.parquet``, ``teachers.parquet``,
``student/`` and, last, ``DONE``; while it runs also ``checkpoint/``, and ``FAILED`` where it came
to nothing. Every file is written beside its place and renamed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from distill.runs.read import DONE, FAILED, PREDICTIONS, SUMMED, TEACHERS, Run, read_run
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

Floats = npt.NDArray[np.float32]
Rows = Mapping[str, npt.NDArray[np.int64]]

CHECKPOINT, STUDENT = "checkpoint", "student"


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

    @property
    def done(self) -> bool:
        """Whether it has finished, see :meth:`finished`."""
        return self.finished() is not None

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

    @property
    def failure(self) -> str:
        """Why it failed when it was last begun; '' where it did not."""
        try:
            return printable(read_small(self.path / FAILED).decode(errors="replace"))
        except (OSError, UserError):
            return ""

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Leave the reason in ``FAILED`` where the run fails; it is gone when the next one begins.

        To be entered while the run is :meth:`held`.
        """
        note = self.path / FAILED
        note.unlink(missing_ok=True)
        try:
            yield
        except Exception as error:
            told = error.message if isinstance(error, UserError) else f"{type(error).__name__}: "
            told += "" if isinstance(error, UserError) else str(error)
            with suppress(OSError):  # a full disk, say: the error itself is told anyway
                write_file(note, printable(" ".join(told.split()))[:2000].encode())
            raise

    def tidy(self) -> None:
        """Remove what only a run in progress needs, left by a process killed after ``DONE``."""
        if any((self.path / name).exists() for name in (CHECKPOINT, ".lock")):
            with suppress(UserError, OSError), self.held():  # its process may be at it, too
                shutil.rmtree(self.path / CHECKPOINT, ignore_errors=True)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        write_file(self.path / name, json.dumps(value, indent=1, sort_keys=True).encode())

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        write_file(self.path / name, text.encode())

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """``metrics.jsonl``: one line an epoch, the whole of it each time."""
        lines = [json.dumps(entry, sort_keys=True) for entry in history]
        self.write_text("metrics.jsonl", "\n".join(lines) + "\n")

    def write_predictions(self, table: pd.DataFrame) -> None:
        """``predictions.parquet``: the artefact that every reported number is computed from."""
        self._write_table(PREDICTIONS, table)

    def write_teachers(self, table: pd.DataFrame) -> None:
        """``teachers.parquet``: the same of the fold's teachers, for those about them."""
        self._write_table(TEACHERS, table)

    def _write_table(self, name: str, table: pd.DataFrame) -> None:
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        write_file(self.path / name, buffer.getvalue())

    def finish(self) -> None:
        """Mark the run as finished, with the SHA-256 of what it leaves."""
        files = [name for name in SUMMED if (self.path / name).is_file()]
        sums = {name: sha256_of(self.path / name) for name in files}
        self.write_json(DONE, sums | {"sha256": digest(sums)})


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
        said = {role: logits[index] for role, index in present.items()}
        part = predictions_table(utterances, present, said, labels, classes, fold)
        part.insert(1, "teacher", name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
