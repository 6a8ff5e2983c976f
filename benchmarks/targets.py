"""How long does opening a fold's targets take, against ``np.load`` of the same numbers?

Opening means all that a run does before its first step: two teachers' logits and embeddings,
labels and roles, every file compared with its SHA-256, and the fold proved free of leaks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks import stores
from benchmarks.common import Answer, Bench, Row, judged, told
from distill.data import load_targets
from featstore.core.files import sha256_of
from featstore.store.store import Store

CPU = torch.device("cpu")


def measure(bench: Bench) -> Answer:
    """Fold 1 of the store, with and without SHA-256, and its numbers as bare ``.npy`` files."""
    n = bench.pick(stores.SIZES[1], 80)
    place = stores.store(bench, n).path
    plain = stores.made(bench, f"npy-{n}", lambda folder: _write(load(place), folder))
    files = [path for unit in ("01/linguistic", "01/prosodic") for path in _values(place, unit)]
    times = bench.time(
        {
            "store": lambda: load(place),
            "store, sizes only": lambda: load(place, deep=False),
            "np.load": lambda: [torch.from_numpy(np.load(path)) for path in plain.iterdir()],
            "SHA-256 alone": lambda: [sha256_of(path) for path in files],
        },
        rounds=15,
    )
    size_mb = sum(path.stat().st_size for path in plain.iterdir()) / 1e6
    sums = told(times.ratio("SHA-256 alone", "np.load"), "x")
    reason = (
        f"SHA-256 alone, one pass over the same {size_mb:.0f} MB, takes {sums} np.load's time, "
        "and it is the one pass there is; reading, records, table and leak proof come on top; a "
        "run pays it once"
    )
    rows: list[Row] = [
        judged("opening a fold's targets", "np.load", times.ratio("store", "np.load"),
               at_most=2, unit="x", reason=reason),
        judged("the same, comparing only what it reads with its SHA-256", "np.load",
               times.ratio("store, sizes only", "np.load"), unit="x"),
        Row("the same in milliseconds", "", told([1e3 * s for s in times.wall_s["store"]], " ms")),
    ]  # fmt: skip
    notes = [f"{n:,} utterances, two teachers of 768 and 512 values: {size_mb:.0f} MB, in memory."]
    return Answer(rows, notes, {f"{name}, s": s for name, s in times.wall_s.items()})


def load(place: Path, *, deep: bool = True) -> dict[str, np.ndarray]:
    """The targets as a run opens them, by a handle that remembers nothing."""
    targets = load_targets(Store.open(place), 1, CPU, deep=deep)
    arrays = {"labels": targets.labels.numpy(), "roles": targets.roles}
    for name, (logits, embeddings) in targets.teachers.items():
        arrays |= {f"{name}-logits": logits.numpy(), f"{name}-embeddings": embeddings.numpy()}
    return arrays


def _write(arrays: dict[str, np.ndarray], folder: Path) -> None:
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


def _values(place: Path, unit: str) -> list[Path]:
    return [path for path in (place / "folds" / unit).rglob("c/*/*") if path.is_file()]
