"""How fast are random padded batches of audio from the store, against every other way to keep it?

All of them fill the same batches; what differs is who hands out utterance ``i``. Copied into place
shows what the form costs; whole batches are made by ``distill.data.read_batch``, as a
student is fed. Pages are in memory, one thread reads.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import stores
from benchmarks.common import Answer, Bench, Row, Times, judged, short, told
from distill.data import MicroBatchPlan, Signals, open_signals, read_batch
from featstore.core.schema import SAMPLING_RATE, TaskFailed, UserError
from featstore.core.training import Indices
from featstore.features.audio import FULL_SCALE
from featstore.store.store import Store

BATCH, BATCHES = 32, 4
"""Utterances a batch, and batches that each variant reads in a round."""

Out = npt.NDArray[np.float32]
Read = Callable[[int], npt.NDArray[Any]]
Make = Callable[[Signals, MicroBatchPlan, Indices], object]


class Handing:
    """Signals from a function that gives utterance ``i``, in int16's range times ``scale``."""

    def __init__(self, read: Read, scale: float = 1.0) -> None:
        self._read, self._scale = read, np.float32(scale)

    def read_into(self, index: int, out: Out) -> None:
        """See :class:`distill.data.Signals`."""
        out[:] = self._read(index)
        if self._scale != 1:
            out *= self._scale


def measure(bench: Bench) -> Answer:
    """The whole corpus in one large file, a part of it in other people's forms, whole batches."""
    for package in ("datasets", "lhotse"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed", 'pip install -e ".[bench]"')
    n, part = bench.pick((stores.SIZES[1], 1_000), (80, 40))
    store = stores.store(bench, n)
    ours = open_signals(store, None, check=False)
    limit = _bare_file(bench, store)
    common: dict[str, Signals] = {"store": ours, "np.memmap": limit}
    large, small = _large_files(bench, store), _small_files(bench, store, part)
    place = partial(_fill, np.ones((BATCH, int(store.lengths.max())), dtype=np.float32))
    for signals in common.values():  # pages are mapped at their first touch, once in a run's life
        for row, length in enumerate(store.lengths.tolist()):
            signals.read_into(row, np.empty(length, dtype=np.float32))
    runs = {
        "limit": _time(bench, common, store, n, place, 40),
        "large": _time(bench, {**common, **large}, store, n, place, 9),
        "small": _time(bench, {**common, **small}, store, part, place, 9),
        "whole": _time(bench, {**common, "zarr": large["zarr"], "wav": small["wav"]}, store, part,
                       read_batch, 15),
        "first pass": _checked(bench, store, limit, n),
    }  # fmt: skip
    hours = store.lengths.sum() / SAMPLING_RATE / 3600
    notes = [
        f"{n:,} utterances, {hours:.1f} h. A batch is {BATCH} random utterances, not sorted by "
        "length: float32, and in whole batches scaled to -1..1 with zeros after them. The ratio is "
        "the other's time over ours: above 1 the store is faster.",
        f"WAV, FLAC, datasets, lhotse and all whole batches are of the first {part:,} utterances. "
        "Coloured noise stands for speech.",
        "Every form was compared with the store sample by sample before it was timed.",
        f"A whole batch of ours takes {_ms(runs['whole'], BATCHES)} ms, of which reading takes "
        f"{_ms(runs['limit'], BATCHES)} ms; the rest is fresh memory, most of it padding. "
        "Memory that the system hands out already zeroed helps here and not in training, whose "
        "batches take the place of others just freed.",
    ]
    measured = {
        f"{run}: {name}, s": seconds
        for run, times in runs.items()
        for name, seconds in times.wall_s.items()
    }
    return Answer(_rows(runs), notes, measured)


def _rows(runs: Mapping[str, Times]) -> list[Row]:
    in_place = "random batches of audio from the store, copied into place"
    whole = "the same as whole padded batches, in fresh memory"
    zarr, wav = "zarr-python slices of the same store", "soundfile, one WAV an utterance"
    wanted = [
        (in_place, "limit", "np.memmap", "np.memmap (limit)", 0.90),
        (in_place, "large", "zarr", zarr, 40.0),
        (in_place, "large", "h5py", "h5py slices, one contiguous data set", None),
        (in_place, "small", "wav", wav, 5.0),
        (in_place, "small", "flac", "soundfile, one FLAC an utterance", None),
        (in_place, "small", "datasets", "Hugging Face datasets, int16 lists in Arrow", None),
        (in_place, "small", "lhotse", "lhotse, cuts of WAV recordings", None),
        (whole, "whole", "np.memmap", "np.memmap (limit)", 0.90),
        (whole, "whole", "zarr", zarr, 40.0),
        (whole, "whole", "wav", wav, 5.0),
        ("the first pass over all of it, each chunk's crc32c checked", "first pass", "np.memmap",
         "np.memmap (limit), which checks nothing", None),
    ]  # fmt: skip
    return [
        judged(what, against, runs[run].ratio(name, "store"), at_least=goal, unit="x",
               reason=_reason(runs[run], name))
        for what, run, name, against, goal in wanted
    ]  # fmt: skip


def _reason(times: Times, name: str) -> str:
    if name == "np.memmap":
        return "finding chunk and shard of an utterance takes microseconds, and it is short"
    return f"np.memmap, the limit, is {told(times.ratio(name, 'np.memmap'), 'x')} as fast as this"


def _ms(times: Times, batches: int) -> str:
    return short(1e3 * median(times.wall_s["store"]) / batches)


def _time(
    bench: Bench, variants: dict[str, Signals], store: Store, n: int, make: Make, rounds: int
) -> Times:
    """Each variant reads the same batches of the first ``n`` utterances; other ones every round."""
    _refuse_differences(variants, next(_endless(n))[0], store.lengths)
    return bench.time(
        {
            name: partial(_read_next, make, signals, _endless(n), store.lengths)
            for name, signals in variants.items()
        },
        rounds,
    )


def _fill(place: Out, signals: Signals, plan: MicroBatchPlan, lengths: Indices) -> None:
    """Copy a batch's utterances into memory that is there already."""
    for target, row in zip(place, plan.rows.tolist(), strict=False):
        signals.read_into(row, target[: lengths[row]])


def _checked(bench: Bench, store: Store, limit: Signals, n: int) -> Times:
    """All utterances once, by a reader that has not checked anything yet."""
    order = np.random.default_rng(2).permutation(n)
    parts = np.split(order, range(BATCH, n, BATCH))
    plans = [MicroBatchPlan(rows) for rows in parts]
    lengths = store.lengths

    def read(signals: Signals) -> None:
        for plan in plans:
            read_batch(signals, plan, lengths)

    return bench.time(
        {
            "store": lambda: read(open_signals(store, None, check=True)),
            "np.memmap": lambda: read(limit),
        },
        3,
    )


def _endless(n: int) -> Iterator[list[MicroBatchPlan]]:
    """The batches of one round after the other, the same for whoever asks."""
    rng = np.random.default_rng(1)
    while True:
        rows = rng.choice(n, (BATCHES, min(BATCH, n // 2)))
        yield [MicroBatchPlan(part) for part in rows]


def _read_next(
    make: Make, signals: Signals, rounds: Iterator[list[MicroBatchPlan]], lengths: Indices
) -> None:
    for plan in next(rounds):
        make(signals, plan, lengths)


def _refuse_differences(
    variants: dict[str, Signals], plan: MicroBatchPlan, lengths: Indices
) -> None:
    expected = read_batch(variants["store"], plan, lengths).signals
    for name, signals in variants.items():
        if not read_batch(signals, plan, lengths).signals.equal(expected):
            raise TaskFailed(f"{name} gives other samples than the store")


def _bare_file(bench: Bench, store: Store) -> Signals:
    """All samples end to end and nothing else, mapped: no reader of ours can be faster."""

    def fill(folder: Path) -> None:
        audio = store.audio
        with (folder / "values.int16").open("wb") as file:
            for row in range(len(audio)):
                file.write(audio.read(row).tobytes())

    place = stores.made(bench, f"flat-{len(store.lengths)}", fill)
    flat = np.memmap(place / "values.int16", dtype=np.int16, mode="r")
    offsets = store.audio.offsets.tolist()
    return Handing(lambda i: flat[offsets[i] : offsets[i + 1]])


def _large_files(bench: Bench, store: Store) -> dict[str, Signals]:
    """The same samples end to end in one HDF5 data set, and the store by zarr-python."""
    import h5py
    import zarr

    offsets = store.audio.offsets.tolist()

    def fill(folder: Path) -> None:
        audio = store.audio
        with h5py.File(folder / "audio.h5", "w") as file:
            values = file.create_dataset("values", (audio.n_rows,), np.int16)
            for row in range(len(audio)):
                values[offsets[row] : offsets[row + 1]] = audio.read(row)

    place = stores.made(bench, f"h5py-{len(store.lengths)}", fill)
    hdf5 = h5py.File(place / "audio.h5", "r")["values"]
    array: Any = zarr.open_array(str(store.path / "audio" / "values"), mode="r")
    return {
        "zarr": Handing(lambda i: array[offsets[i] : offsets[i + 1]]),
        "h5py": Handing(lambda i: hdf5[offsets[i] : offsets[i + 1]]),
    }


def _small_files(bench: Bench, store: Store, n: int) -> dict[str, Signals]:
    """The first ``n`` utterances as WAV and FLAC files, as an Arrow data set, and as cuts."""
    import datasets
    import lhotse
    import pyarrow
    import soundfile

    audio = store.audio

    def fill(folder: Path) -> None:
        for row in range(n):
            for kind in ("wav", "flac"):
                soundfile.write(folder / f"{row}.{kind}", audio.read(row), SAMPLING_RATE)
        values = np.concatenate([audio.read(row) for row in range(n)])
        lists = pyarrow.ListArray.from_arrays(
            pyarrow.array(audio.offsets[: n + 1].astype(np.int32)), pyarrow.array(values)
        )
        table = datasets.Dataset(pyarrow.table({"samples": lists}))
        shutil.rmtree(folder / "arrow", ignore_errors=True)
        table.save_to_disk(str(folder / "arrow"))

    datasets.disable_progress_bars()
    folder = stores.made(bench, f"files-{n}-of-{len(store.lengths)}", fill)
    arrow = datasets.load_from_disk(str(folder / "arrow")).with_format("numpy")
    cuts = [lhotse.Recording.from_file(folder / f"{row}.wav").to_cut() for row in range(n)]

    def decode(kind: str, row: int) -> npt.NDArray[np.int16]:
        found: npt.NDArray[np.int16] = soundfile.read(folder / f"{row}.{kind}", dtype="int16")[0]
        return found

    return {
        "wav": Handing(partial(decode, "wav")),
        "flac": Handing(partial(decode, "flac")),
        "datasets": Handing(lambda i: arrow[int(i)]["samples"]),
        "lhotse": Handing(lambda i: cuts[i].load_audio()[0], FULL_SCALE),
    }
