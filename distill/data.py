"""What a run learns from: a fold's targets from the store, and batches of audio one thread ahead.

Targets are a few megabytes, read and verified once and kept on the training device; temperature is
applied in the losses and nowhere before. The order of batches follows from seed and epoch alone.
Augmentation alters audio in ways that leave the teachers' cached targets valid: noise, level and
channel change neither who speaks nor what is said and how.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from distill.config import AugmentSettings, Codec, LossSettings
from featstore.core.config import AudioSettings
from featstore.core.files import sha256_of
from featstore.core.schema import SAMPLING_RATE, Corrupt, Refused, UserError, listed, printable
from featstore.core.training import Indices, generator, shuffled_batches
from featstore.features.audio import FULL_SCALE, Signal, load_signal, resample
from featstore.folds import TEST, TRAIN, VALIDATION, Fold, cross_fit_fault, prove
from featstore.store.ragged import Ragged
from featstore.store.store import Store, TeacherOutputs
from featstore.store.unit import Unit

Pair = tuple[torch.Tensor, torch.Tensor]
"""A teacher's raw logits and embeddings."""

Augment = Callable[[int, Signal], Signal]
"""``augment(row, signal)``: an utterance's signal ``[T]``, altered."""

_AUGMENT_STREAM, _SHUFFLE_STREAM = 0x417567, 1_000_003
"""Random streams of their own beside those of the epochs, which share the seed."""

_SAME = "give --root the corpus that the store was built from"


# A fold's targets


@dataclass(frozen=True)
class FoldTargets:
    """One fold of a store as the trainer uses it; tensors on the training device.

    Attributes:
        fold: its number and speakers.
        classes: class names in logit order.
        labels: ``[N]`` int64.
        roles: ``[N]``, of OUT, TRAIN, VALIDATION, TEST.
        teachers: name -> raw logits ``[N, C]`` and embeddings ``[N, D]``.
        outputs: the same as the store has them, with their records.
    """

    fold: Fold
    classes: tuple[str, ...]
    labels: torch.Tensor
    roles: npt.NDArray[np.int8]
    teachers: Mapping[str, Pair]
    outputs: Mapping[str, TeacherOutputs]

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of each teacher."""
        return {name: pair[1].shape[1] for name, pair in self.teachers.items()}

    def rows(self, role: int) -> npt.NDArray[np.int64]:
        """Rows of a role, in order."""
        return np.flatnonzero(self.roles == role)

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, dict[str, Pair]]:
        """Labels ``[B]`` and each teacher's ``([B, C], [B, D])`` for some rows."""
        pairs = {name: (pair[0][rows], pair[1][rows]) for name, pair in self.teachers.items()}
        return self.labels[rows], pairs


def load_targets(
    store: Store,
    number: int,
    device: torch.device,
    *,
    matched: Collection[str] | None = None,
    cross_fit: int = 0,
    deep: bool = True,
) -> FoldTargets:
    """Read and verify what the student of a fold needs beside audio.

    Args:
        store: where from.
        number: the fold's.
        device: where the tensors are to be.
        matched: the teachers whose embeddings the student is to match; all where not given.
        cross_fit: take the targets that are cross-fitted by so many parts, under the teachers'
            plain names; 0 takes the teachers' own.
        deep: compare every file's SHA-256.

    Raises:
        UserError: the fold or its teachers are not in the store, or an embedding has no direction.
        Corrupt: a file differs from what was written, or a training target is not finite.
        Refused: a teacher saw the fold's test speaker, or the split trains on that speaker.
    """
    for unit in ("corpus", "splits"):
        store.check_parents(store.unit(unit, deep=deep))
    outputs = store.fold(number, cross_fit=cross_fit, deep=deep)
    fold = store.folds[number - 1]
    refuse_leaks(fold, outputs)
    prove(store.utterances, store.folds, store.roles)
    roles = store.roles[number - 1]
    taught = np.flatnonzero(np.isin(roles, (TRAIN, VALIDATION)))
    for name, teacher in outputs.items():
        _refuse_unusable(name, teacher, taught, matched is None or name in matched)
    teachers = {
        name: (
            torch.from_numpy(teacher.logits.copy()).to(device),
            torch.from_numpy(teacher.embeddings.copy()).to(device),
        )
        for name, teacher in sorted(outputs.items())
    }
    labels = store.labels.astype(np.int64)
    index = {name: position for position, name in enumerate(store.classes)}
    if labels.tolist() != [index.get(name) for name in store.utterances["label"].tolist()]:
        raise Corrupt(
            f"{store.path}/corpus/label: not the labels of utterances.parquet",
            "remove the unit and build it again",
        )
    truth = torch.from_numpy(labels).to(device)
    return FoldTargets(fold, store.classes, truth, roles, teachers, outputs)


def refuse_leaks(fold: Fold, outputs: Mapping[str, TeacherOutputs]) -> None:
    """Refuse a teacher that saw a speaker whom this fold tests, or that is another fold's.

    Raises:
        Refused: with teacher and speakers.
    """
    for teacher in outputs.values():
        if what := _leak(fold, teacher.unit):
            parts = teacher.unit.settings.get("cross_fit")
            flag = f" --cross-fit {parts}" if parts else ""
            raise Refused(
                f"{teacher.unit.unit}: this teacher {what}",
                f"rebuild the fold: `featstore build --fold {fold.number}{flag} --rebuild`",
            )


def _leak(fold: Fold, unit: Unit) -> str:
    """What is wrong with whom a teacher was fitted, selected and held out on; '' if nothing."""
    facts, number = unit.facts, fold.number
    fitted, selected = set(facts["fitted_on"]), set(facts["selected_on"])
    if leaked := (fitted | selected) & set(fold.test):
        return f"has seen {_names(leaked)}, whom fold {number} tests"
    for other in (facts["fold"], unit.settings["fold"]):
        if other != number:
            return f"was fitted for fold {other}, not for fold {number}"
    if set(facts["held_out"]) != set(fold.test):
        return f"holds out {_names(facts['held_out'])}, fold {number} {_names(fold.test)}"
    if strange := fitted - set(fold.train):
        return f"was fitted on {_names(strange)}, on whom fold {number} does not train"
    if strange := selected - set(fold.validation):
        return f"was selected on {_names(strange)}, on whom fold {number} does not validate"
    return cross_fit_fault(parts, fold) if (parts := facts.get("parts")) else ""


def _names(speakers: Iterable[str]) -> str:
    return ", ".join(map(printable, sorted(speakers)))


def rows_of(targets: FoldTargets) -> dict[str, npt.NDArray[np.int64]]:
    """Rows by role: train, validation, test."""
    return {
        "train": targets.rows(TRAIN),
        "validation": targets.rows(VALIDATION),
        "test": targets.rows(TEST),
    }


def _refuse_unusable(
    name: str, teacher: TeacherOutputs, rows: npt.NDArray[np.int64], matched: bool
) -> None:
    """Non-finite targets would poison the student; a zero embedding has no direction."""
    # Looking at all rows is several times as fast as copying most of them first.
    logits, embeddings = teacher.logits, teacher.embeddings
    finite = np.isfinite(logits)[rows].all(1) & np.isfinite(embeddings)[rows].all(1)
    if not finite.all():
        bad = [f"row {row}" for row in rows[~finite]]
        raise Corrupt(
            f"{name}: logits or embeddings not finite\n{listed(bad)}", "rebuild this teacher"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # of rows that are not taught
        squares = np.einsum("nd,nd->n", embeddings, embeddings)
    flat = squares[rows] == 0
    if matched and flat.any():
        bad = [f"row {row}" for row in rows[flat]]
        raise UserError(
            f"{name}: embeddings of zero length, which have no direction to match\n{listed(bad)}",
            f"leave this teacher out: --set losses.teachers.{name}.weight=0",
        )


def shuffled(
    targets: FoldTargets, among: Literal["none", "label", "any"], seed: int
) -> FoldTargets:
    """The fold with the targets of its training rows exchanged: the control for distillation.

    A student may gain from what a teacher knows of the utterance, or because soft targets of any
    kind regularise. With another utterance's targets of the same label only the second is left,
    and what the teacher knows of the label. All teachers' targets of an utterance stay together;
    labels and other roles' rows stay as they are.

    Args:
        targets: of the fold.
        among: exchange within a label, or among all training rows.
        seed: of the order; the run's own.
    """
    if among == "none":
        return targets
    train = targets.rows(TRAIN)
    labels = targets.labels.cpu().numpy()[train]
    groups = labels if among == "label" else np.zeros_like(labels)
    source = np.arange(len(targets.roles))
    source[train] = train[exchanged(groups, seed)]
    index = torch.from_numpy(source).to(targets.labels.device)
    teachers = {name: (pair[0][index], pair[1][index]) for name, pair in targets.teachers.items()}
    return replace(targets, teachers=teachers)


def exchanged(groups: npt.NDArray[np.integer], seed: int) -> Indices:
    """For each row another row of its group, every row once; itself only in a group of one.

    Args:
        groups: ``[n]``, the group of each row.
        seed: of the order.

    Returns:
        ``[n]`` indices.

    >>> exchanged(np.array([0, 1, 0, 1, 2]), seed=1).tolist()
    [2, 3, 0, 1, 4]
    """
    drawn = generator(seed, _SHUFFLE_STREAM).permutation(len(groups))
    out = np.arange(len(groups))
    for group in np.unique(groups):
        ring = drawn[groups[drawn] == group]
        out[ring] = np.roll(ring, -1)
    return out


TEMPERATURES = (0.05, 50.0)
"""Limits of a fitted temperature; a teacher that is always right, or never, has none of its own."""


def calibrated(losses: LossSettings, targets: FoldTargets) -> LossSettings:
    """The losses with each teacher's temperature fitted on the fold's validation rows.

    Raises:
        UserError: the fold has no validation rows.
    """
    rows = targets.rows(VALIDATION)
    if not len(rows):
        raise UserError(
            "targets.tau = validation: the store's folds have no validation speaker",
            "--set targets.tau=given, or build with --set folds.validation=random",
        )
    labels = targets.labels.cpu().numpy()[rows]
    terms = dict(losses.teachers)
    for name, term in losses.for_teachers(targets.teachers).items():
        tau = fit_temperature(targets.outputs[name].logits[rows], labels)
        terms[name] = term.model_copy(update={"tau": tau})
    return losses.model_copy(update={"teachers": terms})


def fit_temperature(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """The temperature with the least cross entropy (Guo et al. 2017), within :data:`TEMPERATURES`.

    Args:
        logits: ``[n, C]``, raw.
        labels: ``[n]`` class indices.

    A teacher that is right in 3 of 4 cases and always as sure, by logits 2 log 3 apart where log 3
    would do, is calibrated by 2:

    >>> sure = np.array([[2 * np.log(3), 0.0]] * 4)
    >>> round(fit_temperature(sure, np.array([0, 0, 0, 1])), 3)
    2.0
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    wide = logits.astype(np.float64)
    rows = np.arange(len(labels))

    def loss(log_tau: float) -> float:
        return -float(log_softmax(wide / np.exp(log_tau), axis=1)[rows, labels].mean())

    fitted = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(fitted.x))


# Batches of audio


class Signals(Protocol):
    """Where signals come from: the store, or the corpus where the store may not hold them."""

    def read_into(self, index: int, out: npt.NDArray[np.float32]) -> None:
        """Write utterance ``index`` into ``out`` ``[T]``, as int16 values in float32."""


@dataclass(frozen=True)
class CorpusSignals:
    """Signals from the corpus' own files, for a store built with ``--no-embed-audio``.

    Attributes:
        root: the corpus' folder.
        table: one row an utterance: ``file``, ``start_s``, ``duration_s``, and the ``sha256`` that
            the file had.
        settings: those that the store was built with.
    """

    root: Path
    table: pd.DataFrame
    settings: AudioSettings

    def read_into(self, index: int, out: npt.NDArray[np.float32]) -> None:
        """Decode the file again, as the build did."""
        row = self.table.iloc[index]
        path = self.root / row["file"]
        signal = load_signal(path, row["start_s"], row["duration_s"], self.settings)
        if len(signal) != len(out):
            raise Corrupt(f"{row['file']}: {len(signal)} samples instead of {len(out)}", _SAME)
        out[:] = signal * FULL_SCALE

    def verify(self) -> None:
        """Compare every file with the one that the store was built from.

        Raises:
            Refused: the store names a file outside the corpus' folder.
            UserError: naming every file that is missing or different.
        """
        faults = []
        for name, expected in (
            self.table[["file", "sha256"]].drop_duplicates().itertuples(index=False)
        ):
            path = self.root / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise Refused(
                    f"{printable(name)}: the store names a file outside its corpus",
                    "use a store that you trust",
                )
            if not path.is_file():
                faults.append(f"{printable(name)}: missing")
            elif sha256_of(path) != expected:
                faults.append(f"{printable(name)}: not the file that the store was built from")
        if faults:
            raise UserError(f"{self.root}: {len(faults)} file(s) differ\n{listed(faults)}", _SAME)


def open_signals(store: Store, root: Path | None, *, check: bool = True) -> Signals:
    """The store's signals, or the corpus' where the store has none and ``root`` is given.

    Args:
        store: where from.
        root: the corpus' folder; its files are compared with those that the store was built from.
        check: compare the store's signals with their checksums as they are read.

    Raises:
        UserError: there are none in the store and no ``root``, or its files are not the store's.
        Refused: the audio belongs to another corpus unit.
    """
    if store.sources["utterance_id"].tolist() != store.utterances["utterance_id"].tolist():
        raise Refused(
            f"{store.path}: audio and corpus list different utterances",
            "run the `featstore build` that made this store again",
        )
    settings = AudioSettings.model_validate(store.unit("audio").settings["audio"])
    if settings.embed_audio:
        return Ragged(store.path / "audio", check=check)
    if root is None:
        return store.audio  # says what to do
    root = root.parent if root.is_file() else root  # a table's files lie relative to its folder
    columns = {name: store.sources[name] for name in ("duration_s", "sha256")}
    signals = CorpusSignals(root, store.utterances.assign(**columns), settings)
    signals.verify()
    return signals


@dataclass(frozen=True)
class MicroBatchPlan:
    """Which utterances a micro-batch will hold, before its audio is read.

    Attributes:
        rows: of the store.
        share: its part of the optimiser step's loss: its utterances over those of the step; 0
            where another process computes the whole step.
        ends_step: whether the optimiser steps after it.
    """

    rows: Indices
    share: float = 1.0
    ends_step: bool = True


@dataclass(frozen=True)
class MicroBatch:
    """What goes through the student at once.

    Attributes:
        rows: which utterances, ``[B]``.
        signals: padded with zeros, ``[B, T]`` float32 in -1..1.
        lengths: samples of each, ``[B]`` int64; on the CPU, where the student looks at them
            without waiting for the device.
        share: see :class:`MicroBatchPlan`.
        ends_step: likewise.
    """

    rows: torch.Tensor
    signals: torch.Tensor
    lengths: torch.Tensor
    share: float
    ends_step: bool

    def to(self, device: torch.device) -> MicroBatch:
        """The same on a device, where copies overlap with computing if memory is pinned."""
        rows, signals = (x.to(device, non_blocking=True) for x in (self.rows, self.signals))
        return replace(self, rows=rows, signals=signals)


def training_steps(
    rows: Indices, lengths: Indices, batch_size: int, pool: int, seed: int, epoch: int
) -> list[Indices]:
    """The optimiser steps of an epoch: a pure function of seed and epoch, so that it resumes."""
    return shuffled_batches(rows, lengths, batch_size, generator(seed, epoch), pool)


def micro_batches(step: Indices, lengths: Indices, budget: int) -> list[Indices]:
    """Cut a step so that each part, padded, has at most ``budget`` samples (or one utterance).

    >>> lengths = np.array([5, 1, 4, 2])
    >>> [part.tolist() for part in micro_batches(np.arange(4), lengths, budget=8)]
    [[0], [2, 3], [1]]
    """
    order = step[np.argsort(-lengths[step], kind="stable")]
    parts: list[Indices] = []
    start = 0
    while start < len(order):
        take = max(1, budget // max(int(lengths[order[start]]), 1))
        parts.append(order[start : start + take])
        start += take
    return parts


def plan_steps(
    steps: Sequence[Indices],
    lengths: Indices,
    budget: int,
    own: Sequence[Indices] | None = None,
) -> list[MicroBatchPlan]:
    """The micro-batches of some optimiser steps, in order.

    Args:
        steps: the rows of each step.
        lengths: samples of every utterance of the store.
        budget: padded samples that a micro-batch may have.
        own: the rows of each step that this process computes; all where not given. Where a step
            has none, the process takes part with an utterance that counts nothing.
    """
    plans = []
    for step, mine in zip(steps, own or steps, strict=True):
        if not len(mine):
            plans.append(MicroBatchPlan(step[:1], 0.0))
            continue
        parts = micro_batches(mine, lengths, budget)
        plans += [MicroBatchPlan(part, len(part) / len(step), part is parts[-1]) for part in parts]
    return plans


def evaluation_batches(rows: Indices, lengths: Indices, budget: int) -> list[MicroBatchPlan]:
    """All rows by falling length, in parts of at most ``budget`` padded samples."""
    return [MicroBatchPlan(part) for part in micro_batches(rows, lengths, budget)]


def read_batch(
    signals: Signals,
    plan: MicroBatchPlan,
    lengths: Indices,
    *,
    pin: bool = False,
    augment: Augment | None = None,
) -> MicroBatch:
    """Read and pad one micro-batch, altered by ``augment`` where there is one."""
    sizes = lengths[plan.rows]
    batch = torch.zeros(len(sizes), int(sizes.max()), pin_memory=pin)
    for target, row, size in zip(batch.numpy(), plan.rows.tolist(), sizes.tolist(), strict=True):
        signals.read_into(row, target[:size])
        target[:size] *= np.float32(1 / FULL_SCALE)  # while in cache, and not the padding
        if augment is not None:
            target[:size] = augment(row, target[:size])
    rows, lengths_of = torch.from_numpy(plan.rows), torch.from_numpy(sizes)
    return MicroBatch(rows, batch, lengths_of, plan.share, plan.ends_step)


def stream(
    signals: Signals,
    plans: Sequence[MicroBatchPlan],
    lengths: Indices,
    *,
    pin: bool = False,
    ahead: int = 3,
    augment: Augment | None = None,
) -> Generator[MicroBatch, None, None]:
    """Read the planned micro-batches in order, by one thread that stays ``ahead`` of the caller.

    Augmentation is done in that thread, too.
    An error in the thread is raised here; leaving the loop early ends the thread.
    """
    ready: queue.Queue[MicroBatch | BaseException | None] = queue.Queue(ahead)
    stop = threading.Event()

    def put(item: MicroBatch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for plan in plans:
                if stop.is_set():
                    return
                put(read_batch(signals, plan, lengths, pin=pin, augment=augment))
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="stream", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


# Augmentation


def augmentation(settings: AugmentSettings | None, seed: int, epoch: int) -> Augment | None:
    """What to do to the utterances of an epoch; None where that is nothing.

    An utterance's draws depend on seed, epoch and row alone: not on its batch, on the process that
    reads it, or on where a run was interrupted.
    """
    if settings is None or settings.idle:
        return None

    def augment(row: int, signal: Signal) -> Signal:
        rng = generator(seed, epoch, row, _AUGMENT_STREAM)
        if settings.noise_snr_db is not None:
            signal = with_noise(signal, rng.uniform(*settings.noise_snr_db), rng)
        if settings.codecs and rng.random() < settings.codec_share:
            signal = through(settings.codecs[rng.integers(len(settings.codecs))], signal)
        if settings.gain_db is not None:
            signal = signal * np.float32(10 ** (rng.uniform(*settings.gain_db) / 20))
        return signal.clip(-1, 1 - 1 / FULL_SCALE).astype(np.float32, copy=False)

    return augment


def with_noise(signal: Signal, snr_db: float, rng: np.random.Generator) -> Signal:
    """White Gaussian noise added, its expected power ``snr_db`` below the signal's mean power.

    >>> tone = np.full(100_000, 0.5, dtype=np.float32)
    >>> noise = with_noise(tone, 20.0, np.random.default_rng(0)) - tone
    >>> float(round(10 * np.log10(np.mean(tone**2) / np.mean(noise**2)), 1))
    20.0
    """
    power = float(np.mean(np.square(signal, dtype=np.float64)))
    scale = np.float32(np.sqrt(power / 10 ** (snr_db / 10)))
    return signal + scale * rng.standard_normal(len(signal), dtype=np.float32)


def through(codec: Codec, signal: Signal) -> Signal:
    """The signal after a codec, of the same length."""
    if codec == "mulaw":
        return mulaw(signal)
    low = resample(signal, SAMPLING_RATE, SAMPLING_RATE // 2)
    low = mulaw(low) if codec == "telephone" else low
    return resample(low, SAMPLING_RATE // 2, SAMPLING_RATE)[: len(signal)]


def mulaw(signal: Signal) -> Signal:
    """Quantised to 255 levels on G.711's logarithmic curve (mu = 255), and expanded again.

    >>> coarse = mulaw(np.array([0.0, 0.01, 0.5, -2.0], dtype=np.float32))
    >>> [round(value, 4) for value in coarse.tolist()]
    [0.0, 0.01, 0.4953, -1.0]
    """
    mu, steps = np.float32(255), np.float32(127)
    curved = np.sign(signal) * np.log1p(mu * np.abs(signal).clip(max=1)) / np.log1p(mu)
    level = np.rint(curved * steps) / steps
    expanded: Signal = (np.sign(level) * np.expm1(np.abs(level) * np.log1p(mu)) / mu).astype(
        np.float32
    )
    return expanded
