"""What the page shows, made from a store: JSON, or raw little-endian numbers.

Text of the corpus leaves here with control and bidi characters as escapes; the page only ever
sets it as text.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from starlette.responses import JSONResponse, Response

from featstore.core.schema import SAMPLING_RATE, UserError, printable
from featstore.features.lld import F0, LOUDNESS
from featstore.inspection.overview import curves, overview
from featstore.inspection.view import projection
from featstore.store.store import Store, unit_name

PEAKS = 1_000
"""Points of a drawn waveform: a screen has hardly more."""
MAX_FRAMES = 1_500
"""Points of a drawn curve: 15 s frame by frame, then means."""


class Student(NamedTuple):
    """A finished run on the page."""

    facts: dict[str, Any]
    logits: npt.NDArray[np.float32]
    """``[N, C]``, raw, in the store's order; NaN where it predicts nothing."""


class Payloads:
    """A store's answers; folds count from 1, teachers, runs and utterances from 0.

    Each method raises a LookupError where there is no such fold, teacher, run or utterance.
    """

    def __init__(self, store: Store, runs: Any = None) -> None:
        """Read the corpus' facts once.

        Args:
            store: what to show.
            runs: students' runs (:func:`students`), if any.
        """
        self.store = store
        self.students, self.left_out = students(runs, store)
        self._placed = cache(self._project)  # t-SNE takes half a minute

    def corpus(self) -> Response:
        """Overview, all utterances column by column, folds with their teachers, students."""
        return JSONResponse(self._corpus)

    def roles(self) -> Response:
        """What each utterance is to each fold: int8 ``[fold, N]``."""
        return _numbers(self.store.roles, "|i1")

    def logits(self, fold: int, target: int) -> Response:
        """A teacher's raw logits: float32 ``[N, C]``."""
        return _numbers(self.store.outputs(self._unit(fold, target)).logits, "<f4")

    def map(self, fold: int, target: int) -> Response:
        """A teacher's embeddings on their two principal axes: float32 ``[N, 2]``."""
        scores, shares = self._placed(projection.principal, fold, target)
        answer = _numbers(scores, "<f4")
        answer.headers["X-Variance"] = ",".join(f"{share:.6f}" for share in shares)
        return answer

    def neighbours(self, fold: int, target: int) -> Response:
        """A teacher's embeddings by t-SNE: float32 ``[N, 2]``."""
        return _numbers(self._placed(projection.neighbourly, fold, target), "<f4")

    def student(self, number: int) -> Response:
        """A student's raw logits: float32 ``[N, C]``, NaN where it says nothing."""
        _check(number, self.students, "run")
        return _numbers(self.students[number].logits, "<f4")

    def utterance(self, row: int) -> Response:
        """Waveform, F0 and loudness of one utterance."""
        _check(row, self.store.lengths, "utterance")
        names = tuple(self.store.unit("lld").facts["names"])
        lines: dict[str, Any] = {"f0_hz": None, "loudness": None}
        if F0 in names and LOUDNESS in names:  # else another feature set
            lines = curves(self.store.lld.read(row), names, MAX_FRAMES)
        peaks = _peaks(self.store.audio.read(row)) if self.has_audio else None
        duration_s = float(self.store.lengths[row]) / SAMPLING_RATE
        return JSONResponse({"duration_s": duration_s, "peaks": peaks, **lines})

    def audio(self, row: int) -> Response:
        """The signal of one utterance as a WAV file."""
        _check(row, self.store.lengths, "utterance")
        if not self.has_audio:
            raise LookupError("this store holds no signals")
        return Response(wav(self.store.audio.read(row)), media_type="audio/wav")

    @cached_property
    def has_audio(self) -> bool:
        """Whether the signals were kept."""
        return bool(self.store.unit("audio").settings["audio"]["embed_audio"])

    @cached_property
    def _corpus(self) -> dict[str, Any]:
        store, table = self.store, self.store.utterances
        if (store.labels < 0).any() or (store.labels >= len(store.classes)).any():
            raise UserError(f"{store.path}: labels outside the classes", "run `featstore verify`")
        coded = {name: table[name].astype("category").cat for name in ("speaker", "kind", "gender")}
        texts = ("utterance_id", "text", "label_raw")
        facts: dict[str, Any] = _printable({
            "overview": overview(store),
            "classes": list(store.classes),
            **{f"{name}s": column.categories.tolist() for name, column in coded.items()},
            "rows": {
                **{name: table[name].tolist() for name in texts},
                **{name: column.codes.tolist() for name, column in coded.items()},
                "label": store.labels.tolist(),
                "duration_s": (store.lengths / SAMPLING_RATE).round(3).tolist(),
            },
            "folds": [store.target_names(number) for number in range(1, len(store.folds) + 1)],
            "students": [student.facts for student in self.students],
            "left_out": self.left_out,
            "audio": self.has_audio,
            "tsne": find_spec("sklearn") is not None,
        })  # fmt: skip
        return facts

    def _project(self, project: Callable[[Any], Any], fold: int, target: int) -> Any:
        """A fold's teacher on a map."""
        return project(self.store.outputs(self._unit(fold, target)).embeddings)

    def _unit(self, fold: int, target: int) -> str:
        """The unit of a fold's teacher."""
        _check(fold - 1, self.store.folds, "fold")
        names = self.store.target_names(fold)
        _check(target, names, f"fold {fold}, teacher")
        return unit_name(fold, names[target])


def students(runs: Any, store: Store) -> tuple[list[Student], list[str]]:
    """The runs of this store, and why each other folder is left out.

    Args:
        runs: a :class:`distill.runs.read.RunSet`, read and checked there; None for none.
        store: whose utterances the page shows.
    """
    if runs is None:
        return [], []
    left_out = [f"{one.place}: {one.reason or one.state}" for one in runs.left_out]
    shown = []
    for run in sorted(runs.runs, key=lambda run: str(run.place)):
        names = ("fold", "seed", "experiment", "variant")
        facts = {"place": run.place, "backbone": run.facts.student.backbone}
        facts |= {name: getattr(run.facts, name) for name in names}
        try:
            shown.append(Student(facts, _logits(run, store)))
        except UserError as error:
            left_out.append(f"{run.place}: {error.message}")
    return shown, [printable(line) for line in left_out]


def _logits(run: Any, store: Store) -> npt.NDArray[np.float32]:
    """A run's logits in the store's order."""
    if (run.facts.store.fingerprint, run.facts.classes) != (store.fingerprint(), store.classes):
        raise UserError("of another store")
    ids = pd.Index(store.utterances["utterance_id"])
    rows = ids.get_indexer(run.predictions["utterance_id"])
    if (rows < 0).any() or len(np.unique(rows)) < len(rows):
        raise UserError("predictions of other utterances than the store's")
    out = np.full((len(ids), len(store.classes)), np.nan, dtype=np.float32)
    out[rows] = run.predictions[[f"logit_{name}" for name in store.classes]].to_numpy(np.float32)
    return out


def wav(samples: npt.NDArray[np.int16]) -> bytes:
    """A signal as a mono WAV file of 16 bits and 16 kHz."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, SAMPLING_RATE, len(samples), "NONE", "not compressed"))
        out.writeframes(samples.astype("<i2", copy=False).tobytes())
    return file.getvalue()


def _check(index: int, things: Any, name: str) -> None:
    """Refuse an index that is outside."""
    if not 0 <= index < len(things):
        raise LookupError(f"no such {name}: there are {len(things)}")


def _peaks(samples: npt.NDArray[np.int16]) -> list[list[int]]:
    """Lowest and highest sample of at most :data:`PEAKS` equal stretches: ``[2][n]``."""
    starts = np.unique(np.linspace(0, len(samples), PEAKS, endpoint=False).astype(np.int64))
    return [
        np.minimum.reduceat(samples, starts).tolist(),
        np.maximum.reduceat(samples, starts).tolist(),
    ]


def _printable(value: Any) -> Any:
    """The same with every text safe to show."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return value


def _numbers(values: npt.NDArray[Any], dtype: str) -> Response:
    body = np.ascontiguousarray(values, dtype=dtype).tobytes()
    return Response(body, media_type="application/octet-stream")
