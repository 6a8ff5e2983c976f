"""Audio in batches: order decided by seed and epoch, padding kept low, one thread ahead.

The GPU waits for nothing but the student: a thread copies signals from the store's memory map into
padded batches while the previous ones are computed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from distill.data.augment import Augment
from distill.training.parallel import ALONE, Team
from featstore.core.config import AudioSettings
from featstore.core.files import sha256_of
from featstore.core.schema import Corrupt, Refused, UserError, listed, printable
from featstore.core.training import Indices, generator, shuffled_batches, sorted_batches
from featstore.features.audio import FULL_SCALE, Signal, load_signal
from featstore.store.ragged import Ragged
from featstore.store.store import Store


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
        files = self.table[["file", "sha256"]].drop_duplicates()
        outside = [
            name for name in files["file"] if Path(name).is_absolute() or ".." in Path(name).parts
        ]
        if outside:
            raise Refused(
                f"{printable(outside[0])}: the store names a file outside its corpus",
                "use a store that you trust",
            )
        faults = []
        for name, expected in files.itertuples(index=False):
            path = self.root / name
            if not path.is_file():
                faults.append(f"{printable(name)}: missing")
            elif sha256_of(path) != expected:
                faults.append(f"{printable(name)}: not the file that the store was built from")
        if faults:
            raise UserError(f"{self.root}: {len(faults)} file(s) differ\n{listed(faults)}", _SAME)


_SAME = "give --root the corpus that the store was built from"


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
class MicroBatch:
    """What goes through the student at once.

    Attributes:
        rows: which utterances, ``[B]``.
        signals: padded with zeros, ``[B, T]`` float32 in -1..1.
        lengths: samples of each, ``[B]`` int64.
        step_rows: utterances in the whole optimiser step that this is part of.
        ends_step: whether the optimiser steps after it.
    """

    rows: torch.Tensor
    signals: torch.Tensor
    lengths: torch.Tensor
    step_rows: int
    ends_step: bool

    def to(self, device: torch.device) -> MicroBatch:
        """The same on a device, where copies overlap with computing if memory is pinned.

        Lengths stay on the CPU, where the student looks at them without waiting for the device.
        """
        return MicroBatch(
            self.rows.to(device, non_blocking=True),
            self.signals.to(device, non_blocking=True),
            self.lengths,
            self.step_rows,
            self.ends_step,
        )


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


def evaluation_batches(rows: Indices, lengths: Indices, budget: int) -> Iterator[MicroBatchPlan]:
    """All rows by falling length, in parts of at most ``budget`` padded samples."""
    for step in sorted_batches(rows, lengths, max(len(rows), 1)):
        for part in micro_batches(step, lengths, budget):
            yield MicroBatchPlan(part, len(part), True)


@dataclass(frozen=True)
class MicroBatchPlan:
    """Which rows a micro-batch will have, before its audio is read."""

    rows: Indices
    step_rows: int
    ends_step: bool


def plan_steps(
    steps: Sequence[Indices], lengths: Indices, budget: int, team: Team = ALONE
) -> list[MicroBatchPlan]:
    """The micro-batches of some optimiser steps, in order.

    In a team, of this process' share of them; where that is nothing, the step is one micro-batch
    without rows, because the process has a part in its end all the same.
    """
    plans = []
    for step in steps:
        share = team.share(step, lengths)
        parts = micro_batches(share, lengths, budget) or [share]
        plans += [
            MicroBatchPlan(part, len(step), index == len(parts) - 1)
            for index, part in enumerate(parts)
        ]
    return plans


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
    if augment is not None:
        altered = _read_altered(signals, plan.rows, sizes, augment)
        sizes = np.array([len(signal) for signal in altered], dtype=np.int64)
    batch = torch.zeros(len(sizes), int(sizes.max(initial=0)), pin_memory=pin)
    view = batch.numpy()
    if augment is not None:
        for target, signal in zip(view, altered, strict=True):
            target[: len(signal)] = signal
    else:
        for target, row, size in zip(view, plan.rows.tolist(), sizes.tolist(), strict=True):
            signals.read_into(row, target[:size])
            target[:size] *= np.float32(1 / FULL_SCALE)  # while in cache, and not the padding
    return MicroBatch(
        torch.from_numpy(plan.rows), batch, torch.from_numpy(sizes), plan.step_rows, plan.ends_step
    )


def _read_altered(
    signals: Signals, rows: Indices, sizes: Indices, augment: Augment
) -> list[Signal]:
    """Signals in -1..1, each of the length that augmentation leaves it."""
    altered = []
    for row, size in zip(rows.tolist(), sizes.tolist(), strict=True):
        signal = np.zeros(size, dtype=np.float32)
        signals.read_into(row, signal)
        signal *= np.float32(1 / FULL_SCALE)
        altered.append(augment(row, signal))
    return altered


def stream(
    signals: Signals,
    plans: Sequence[MicroBatchPlan],
    lengths: Indices,
    *,
    pin: bool = False,
    ahead: int = 3,
    augment: Augment | None = None,
) -> Iterator[MicroBatch]:
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
