"""Corpora and stores to measure on: noise for speech, but lengths, layout and units as in earnest.

Every unit is written through featstore's own staging and arrays under the identity that
``featstore build`` plans for it, so that a build takes such a store for finished.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import Bench
from featstore.build.plan import Plan, Request, make_plan
from featstore.build.units import (
    AUDIO_ROWS,
    LLD_ROWS,
    SUMS,
    TeacherJob,
    write_corpus,
    write_splits,
)
from featstore.core.config import BuildSettings
from featstore.core.schema import FOUR_CLASSES, SAMPLING_RATE, Manifest
from featstore.store.arrays import RaggedWriter, write_array, write_group
from featstore.store.provenance import versions
from featstore.store.staging import staged
from featstore.store.store import Store
from featstore.store.unit import SCHEMA

SIZES = (500, 5_531, 55_310)
"""Utterances: a tenth, IEMOCAP's four classes, ten times that."""

MEDIAN_S, SIGMA, SHORTEST_S, LONGEST_S = 3.62, 0.68, 0.6, 34.14
"""Log-normal lengths, sigma as in the synthetic corpus' ``durations="iemocap"``: 7 h in 5,531."""

N_LLDS, WIDTHS = 25, {"linguistic": 768, "prosodic": 512}
"""Of the paper's teachers: BERT-base and the ResNet."""

_CHANCE = {"wa": 0.25, "ua": 0.25, "n": 4, "confusion": [[1, 0, 0, 0]] * 4}

Samples = npt.NDArray[np.int16]


def made(bench: Bench, name: str, fill: Callable[[Path], None]) -> Path:
    """A folder of the cache, filled where it is not there yet; half a one never stays."""
    place = bench.cache / f"{name}-schema{SCHEMA}"
    if not place.exists():
        part = place.with_name(f"{place.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        fill(part)
        part.rename(place)
    return place


def lengths_s(n: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """IEMOCAP-like lengths in seconds, ``[n]``.

    >>> round(float(lengths_s(5531).sum()) / 3600, 1)
    7.0
    """
    drawn = np.random.default_rng(seed).lognormal(np.log(MEDIAN_S), SIGMA, n)
    return drawn.clip(SHORTEST_S, LONGEST_S).round(2)


class Noise:
    """Coloured noise in place of speech: a stretch of one long signal, so that it costs nothing.

    Its spectrum falls as speech's does, which lets FLAC find something to compress.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        white = rng.standard_normal(2 * round(LONGEST_S * SAMPLING_RATE))
        frequencies = np.fft.rfftfreq(len(white), 1 / SAMPLING_RATE)
        shaped = np.fft.irfft(np.fft.rfft(white) / (1 + frequencies / 500.0), len(white))
        self._pool: Samples = (shaped * (3000 / shaped.std())).clip(-32768, 32767).astype(np.int16)
        self._rng = rng

    def signal(self, n_samples: int) -> Samples:
        """Some ``[n_samples]`` int16."""
        start = int(self._rng.integers(0, len(self._pool) - n_samples))
        return self._pool[start : start + n_samples]


def settings(name: str = "table", preset: str = "paper") -> BuildSettings:
    """What ``featstore build --dataset table`` asks for."""
    from featstore.core.config import PRESETS
    from featstore.core.settings import resolve

    return resolve(BuildSettings, PRESETS[preset], {"corpus": {"name": name}})


def manifest(n: int, durations_s: npt.NDArray[np.float64], seed: int = 0) -> Manifest:
    """A corpus that exists as a table alone: ten speakers in five sessions, four classes."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    rows = [_row(i, rng) for i in range(n)]
    table = pd.DataFrame(rows).assign(start_s=0.0, duration_s=durations_s, kind="unknown")
    table["label_raw"] = table["label"]
    table = table.sort_values("utterance_id", ignore_index=True)
    return Manifest("table", Path(), table, FOUR_CLASSES)


def _row(i: int, rng: np.random.Generator) -> dict[str, str]:
    session, gender = i % 10 // 2 + 1, "FM"[i % 2]
    words = (f"word{word}" for word in rng.integers(0, 500, int(rng.integers(3, 25))))
    return {
        "utterance_id": f"Ses{session:02d}{gender}{i:05d}",
        "file": f"audio/Ses{session:02d}{gender}{i:05d}.wav",
        "speaker": f"Ses{session:02d}{gender}",
        "session": f"Ses{session:02d}",
        "gender": {"F": "female", "M": "male"}[gender],
        "text": " ".join(words),
        "label": FOUR_CLASSES[i // 10 % 4],
    }


def write_table(root: Path, durations_s: npt.NDArray[np.float64], seed: int = 0) -> None:
    """A corpus on disk for ``--dataset table``: one table and a WAV file an utterance."""
    import soundfile

    noise, rng = Noise(seed), np.random.default_rng(seed)
    (root / "audio").mkdir()
    columns = ("utterance_id", "file", "speaker", "session", "gender", "label", "text")
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for i, seconds in enumerate(durations_s.tolist()):
            row = _row(i, rng)
            writer.writerow(row)
            signal = noise.signal(round(seconds * SAMPLING_RATE))
            soundfile.write(root / row["file"], signal, SAMPLING_RATE)


def invented(n: int, share: float = 1.0) -> tuple[Manifest, dict[str, str]]:
    """A corpus without files, its utterances ``share`` of IEMOCAP's lengths, and sums of theirs."""
    corpus = manifest(n, lengths_s(n) * share)
    return corpus, {name: f"{i:064x}" for i, name in enumerate(corpus.utterances["file"])}


def store(bench: Bench, n: int, folds: str = "all", share: float = 1.0) -> Store:
    """A store of :func:`invented` utterances with two teachers a fold."""

    def fill(path: Path) -> None:
        write_store(path / "store", *invented(n, share), folds)

    name = f"store-{n}-{folds}" + (f"-{share:g}" if share != 1 else "")
    return Store.open(made(bench, name, fill) / "store")


def table_store(bench: Bench, n: int, seconds: float = 0.3, folds: str = "all") -> Path:
    """A table corpus of ``n`` short files in ``corpus/`` and its finished store in ``store/``."""
    from featstore.build.units import source_sums
    from featstore.corpora import load

    def fill(path: Path) -> None:
        (path / "corpus").mkdir()
        write_table(path / "corpus", np.full(n, seconds))
        found = load("table", path / "corpus", settings().corpus)
        write_store(path / "store", found, source_sums(found), folds)

    return made(bench, f"table-{n}-{seconds:g}s-{folds}", fill)


def write_store(
    path: Path, corpus: Manifest, sums: dict[str, str], folds: str, seed: int = 0
) -> None:
    """Every unit that a build of this corpus plans, its numbers drawn from ``seed``."""
    rng = np.random.default_rng(seed)
    wanted = settings(corpus.name)
    plan = make_plan(Request(corpus, wanted, path, folds), sums)
    made_here = Store.create(path)
    table = plan.manifest.utterances
    durations_s = table["duration_s"].to_numpy()
    _write_audio(made_here, plan, sums, Noise(seed))
    write_corpus(path, plan.step("corpus"), corpus, wanted)
    write_splits(path, plan.step("splits"), table, plan.folds, plan.roles)
    _write_llds(made_here, plan, np.maximum(100 * durations_s - 4, 1).astype(np.int64), rng)
    for job in plan.jobs:
        _write_teacher(made_here, job, len(table), rng)


def _write_audio(to: Store, plan: Plan, sums: dict[str, str], noise: Noise) -> None:
    columns = ["utterance_id", "file", "duration_s"]
    table = plan.manifest.utterances
    sources = table[columns].assign(sha256=[sums[name] for name in table["file"]])
    n_samples = (table["duration_s"] * SAMPLING_RATE).round().astype(int).tolist()
    with staged(to.path / "audio", plan.step("audio").identity) as staging:
        total = _write_ragged(
            staging.folder, "int16", (), AUDIO_ROWS, "sample", map(noise.signal, n_samples)
        )
        sources[["utterance_id", "sha256", "duration_s"]].to_parquet(
            staging.folder / "sources.parquet", index=False
        )
        staging.facts.update(n_samples=total, n_utterances=len(sources), excluded=[])
        staging.provenance.update(versions())


def _write_llds(
    to: Store, plan: Plan, n_frames: npt.NDArray[np.int64], rng: np.random.Generator
) -> None:
    from featstore.features import lld

    n = len(n_frames)
    pool = rng.standard_normal((2 * int(n_frames.max()), N_LLDS), dtype=np.float32)
    values = (pool[int(rng.integers(0, size)) :][:size] for size in n_frames.tolist())
    with staged(to.path / "lld", plan.step("lld").identity) as staging:
        total = _write_ragged(
            staging.folder, "float32", (N_LLDS,), LLD_ROWS, "frame", values, ("descriptor",)
        )
        sums = rng.integers(-128, 128, (n, 32)).astype(np.int8)
        write_array(staging.folder, SUMS, sums, ("utterance", "byte"))
        names = list(lld.names())
        staging.facts.update(names=names, n_frames=total, hop_ms=lld.HOP_MS, n_utterances=n)
        staging.provenance.update(versions())


def _write_ragged(
    folder: Path,
    dtype: str,
    row_shape: tuple[int, ...],
    chunk_rows: int,
    dim: str,
    values: Iterable[npt.NDArray[Any]],
    columns: tuple[str, ...] = (),
) -> int:
    """Utterances end to end; how many rows in all."""
    write_group(folder)
    writer = RaggedWriter(folder, dtype, row_shape, chunk_rows, dim, columns)
    for part in values:
        writer.append(part)
    return writer.close()


def _write_teacher(to: Store, job: TeacherJob, n: int, rng: np.random.Generator) -> None:
    """Random logits and embeddings under a fold's teacher's identity."""
    for above in reversed(Path(job.unit).parents[:-1]):
        write_group(to.path / above)
    width, draw = WIDTHS[job.settings.kind], rng.standard_normal
    with staged(to.path / job.unit, job.step.identity) as staging:
        write_group(staging.folder)
        logits = 3 * draw((n, len(FOUR_CLASSES)), dtype=np.float32)
        write_array(staging.folder, "logits", logits, ("utterance", "class"))
        embeddings = draw((n, width), dtype=np.float32)
        write_array(staging.folder, "embeddings", embeddings, ("utterance", "embedding"))
        staging.facts.update(
            fold=job.fold.number, kind=job.settings.kind, fitted_on=list(job.fold.train),
            selected_on=list(job.fold.validation), held_out=list(job.fold.test),
            temperature=None, parameters=0, embedding_width=width, scores={"test": _CHANCE},
            best_epoch=1, history=[],
        )  # fmt: skip
        staging.provenance.update(versions(), **job.provenance)
