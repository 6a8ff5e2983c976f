"""What the page asks for, made once from a store and kept: JSON, or raw little-endian numbers.

Text of the corpus leaves here with control and bidi characters as escapes; the page only ever
sets it as text.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core.schema import SAMPLING_RATE, UserError, printable
from featstore.features.lld import F0, LOUDNESS
from featstore.inspection.overview import curves, overview
from featstore.inspection.view import projection
from featstore.inspection.view import runs as student_runs
from featstore.inspection.view.projection import principal
from featstore.inspection.view.wav import wav
from featstore.store.arrays import read_array
from featstore.store.store import Store, unit_name
from featstore.store.unit import steady

PEAKS = 1_000
"""Points of a drawn waveform: a screen has hardly more."""
MAX_FRAMES = 1_500
"""Points of a drawn curve: 15 s frame by frame, then means."""
WORTH_PACKING = 0.9


class NotThereError(LookupError):
    """No utterance, fold, teacher or run has that number."""


@dataclass(frozen=True)
class Payload:
    """A body, its media type, and the same with gzip where that is smaller."""

    body: bytes
    media_type: str
    headers: dict[str, str] = field(default_factory=dict)

    @cached_property
    def packed(self) -> bytes | None:
        """The body with gzip; None where little is gained."""
        small = gzip.compress(self.body, compresslevel=5, mtime=0)
        return small if len(small) < WORTH_PACKING * len(self.body) else None


@dataclass(frozen=True)
class Payloads:
    """A store's answers by what is asked for; every list is told apart by its index alone."""

    store: Store
    runs: Path | None = None
    _kept: dict[tuple[Any, ...], Payload] = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock)
    _slow: RLock = field(default_factory=RLock)

    def corpus(self) -> Payload:
        """Overview, all utterances column by column, folds with their teachers, students."""
        return self._once(("corpus",), lambda: _json(_corpus(self)))

    def roles(self) -> Payload:
        """What each utterance is to each fold: int8 ``[fold, N]``."""
        return self._once(("roles",), lambda: _numbers(self.store.roles, "|i1"))

    def logits(self, fold: int, target: int) -> Payload:
        """A teacher's raw logits: float32 ``[N, C]``; ``target`` counts the fold's from 0."""
        unit = self._unit(fold, target)
        return self._once(
            ("logits", fold, target), lambda: _numbers(_logits(self.store, unit), "<f4")
        )

    def map(self, fold: int, target: int) -> Payload:
        """A teacher's embeddings on their two principal axes: float32 ``[N, 2]``."""
        unit = self._unit(fold, target)

        def make() -> Payload:
            scores, shares = principal(self.store.outputs(unit).embeddings)
            told = {"X-Variance": ",".join(f"{share:.6f}" for share in shares)}
            return _numbers(scores, "<f4", told)

        return self._once(("map", fold, target), make)

    def neighbours(self, fold: int, target: int) -> Payload:
        """A teacher's embeddings by t-SNE: float32 ``[N, 2]``; other answers do not wait for it."""
        unit = self._unit(fold, target)
        key = ("neighbours", fold, target)
        with self._slow:
            if key not in self._kept:
                embeddings = self.store.outputs(unit).embeddings
                self._kept[key] = _numbers(projection.neighbourly(embeddings), "<f4")
            return self._kept[key]

    def student(self, number: int) -> Payload:
        """A student's raw logits: float32 ``[N, C]``, NaN where it says nothing."""
        students = self.students[0]
        if number >= len(students):
            raise NotThereError(f"run {number}: there are {len(students)}")
        run = students[number]
        return self._once(
            ("student", number), lambda: _numbers(student_runs.logits(run, self.store), "<f4")
        )

    def utterance(self, row: int) -> Payload:
        """The curves of one utterance: not kept, for it is asked for again only by chance."""
        self._check(row)
        return _json(
            {
                "duration_s": float(self.store.lengths[row]) / SAMPLING_RATE,
                "peaks": _peaks(self.store.audio.read(row)) if self.has_audio else None,
                **self._curves(row),
            }
        )

    def audio(self, row: int) -> bytes:
        """The signal of one utterance as a WAV file."""
        self._check(row)
        if not self.has_audio:
            raise NotThereError("this store holds no signals")
        return wav(self.store.audio.read(row))

    @cached_property
    def has_audio(self) -> bool:
        """Whether the signals were kept."""
        return bool(self.store.unit("audio").settings["audio"]["embed_audio"])

    @cached_property
    def students(self) -> tuple[list[student_runs.StudentRun], list[str]]:
        """The runs that were given, and why some are left out."""
        return student_runs.find(self.runs, self.store) if self.runs else ([], [])

    def _curves(self, row: int) -> dict[str, Any]:
        names = tuple(self.store.unit("lld").facts["names"])
        if F0 not in names or LOUDNESS not in names:  # another feature set
            return {"f0_hz": None, "loudness": None}
        found = curves(self.store.lld.read(row), names, MAX_FRAMES)
        return {name: _finite(values) for name, values in found.items()}

    def _check(self, row: int) -> None:
        if row >= len(self.store.utterances):
            raise NotThereError(f"utterance {row}: there are {len(self.store.utterances)}")

    def _unit(self, fold: int, target: int) -> str:
        if not 1 <= fold <= len(self.store.folds):
            raise NotThereError(f"fold {fold}: there are {len(self.store.folds)}")
        names = self.store.target_names(fold)
        if target >= len(names):
            raise NotThereError(f"fold {fold} has {len(names)} teachers, not {target + 1}")
        return unit_name(fold, names[target])

    def _once(self, key: tuple[Any, ...], make: Callable[[], Payload]) -> Payload:
        with self._lock:
            if key not in self._kept:
                made = make()
                made.packed  # noqa: B018 - here, where nobody makes it twice
                self._kept[key] = made
            return self._kept[key]


def _corpus(of: Payloads) -> dict[str, Any]:
    store, table = of.store, of.store.utterances
    if (store.labels < 0).any() or (store.labels >= len(store.classes)).any():
        raise UserError(f"{store.path}: labels outside the classes", "run `featstore verify`")
    listed: dict[str, Any] = {"speakers": "speaker", "kinds": "kind", "genders": "gender"}
    values = {name: sorted(set(table[column])) for name, column in listed.items()}
    codes = {
        column: table[column].map({value: i for i, value in enumerate(values[name])}).tolist()
        for name, column in listed.items()
    }
    seconds = (store.lengths / SAMPLING_RATE).round(3).tolist()
    students, left_out = of.students
    return {
        "overview": overview(store),
        "classes": list(store.classes),
        **values,
        "rows": {
            **{name: table[name].tolist() for name in ("utterance_id", "text", "label_raw")},
            **codes,
            "label": store.labels.tolist(),
            "duration_s": seconds,
        },
        "folds": [store.target_names(number) for number in range(1, len(store.folds) + 1)],
        "students": [run.told() for run in students],
        "left_out": left_out,
        "audio": of.has_audio,
        "tsne": projection.offered(),
    }


def _logits(store: Store, name: str) -> npt.NDArray[np.float32]:
    """The logits alone: :meth:`Store.outputs` also reads the embeddings, a hundred times as much.

    Raises:
        Corrupt: they are not what was written, or do not fit the corpus.
        Refused: they were made from another corpus than the store has.
    """

    def read() -> npt.NDArray[np.float32]:
        unit = store.unit(name)
        store.check_parents(unit)
        unit.check("logits")
        return read_array(unit.path / "logits", (len(store.utterances), len(store.classes)))

    return steady(store.path / name, read)


def _peaks(samples: npt.NDArray[np.int16]) -> list[list[int]]:
    """Lowest and highest sample of at most :data:`PEAKS` equal stretches: ``[2][n]``."""
    if not len(samples):
        return [[], []]
    starts = np.unique(np.linspace(0, len(samples), PEAKS, endpoint=False).astype(np.int64))
    return [
        np.minimum.reduceat(samples, starts).tolist(),
        np.maximum.reduceat(samples, starts).tolist(),
    ]


def _finite(values: list[float | None]) -> list[float | None]:
    """Numbers as JSON knows them: what is not finite is none."""
    return [value if value is not None and np.isfinite(value) else None for value in values]


def _shown(value: Any) -> Any:
    """The same with every text safe to show."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_shown(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value


def _json(value: Any) -> Payload:
    body = json.dumps(_shown(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Payload(body.encode(), "application/json")


def _numbers(
    values: npt.NDArray[Any], dtype: str, headers: dict[str, str] | None = None
) -> Payload:
    body = np.ascontiguousarray(values, dtype=dtype).tobytes()
    return Payload(body, "application/octet-stream", headers or {})
