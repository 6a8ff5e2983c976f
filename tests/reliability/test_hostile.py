"""Stores from somebody who means harm: refused before anything is allocated, followed or run."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore.store.arrays import crc32c, write_array
from featstore.store.unit import RECORD
from tests.reliability.attacks import ALL, Case, Damage, attack, command
from tests.reliability.forgery import edited, reseal, sparse
from tests.reliability.harness import build_arguments
from tests.reliability.sandbox import Sandbox, Tally, shared

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(300)]

VALUES, LABEL = "lld/values", "corpus/label"


@pytest.fixture
def sandbox() -> Sandbox:
    return shared()


def test_a_sound_store_is_no_attack(sandbox: Sandbox, undisturbed: Path, tmp_path: Path) -> None:
    """The false alarms: also where its files are hard links, as snapshots and caches make them."""
    tally = Tally()
    linked = Path(shutil.copytree(undisturbed, tmp_path / "linked", copy_function=os.link))
    reached = tmp_path / "reached"
    reached.symlink_to(undisturbed)
    resealed = Path(shutil.copytree(undisturbed, tmp_path / "resealed"))
    for unit in ("corpus", "audio", "lld", "splits", "folds/01/linguistic"):
        reseal(resealed / unit)
    for store in (undisturbed, linked, reached, resealed):
        for entry in ALL:
            ended = sandbox(*command(entry, store, tmp_path / f"runs-{store.name}"))
            tally.add(f"{store.name} ({entry})", ended, (0,))
    tally.close("sound stores")


def meta(path: str, **changes: Any) -> Damage:
    """Change the metadata of an array."""
    return lambda store: edited(store / path / "zarr.json", lambda raw: raw.update(changes))


def grid(path: str, sizes: list[int]) -> Damage:
    """Change the sizes of an array's chunks."""

    def change(raw: dict[str, Any]) -> None:
        raw["chunk_grid"]["configuration"]["chunk_shape"] = sizes

    return lambda store: edited(store / path / "zarr.json", change)


def zarr_2(store: Path) -> None:
    """The array of a Zarr 2 store, with the codec that unpickles."""
    folder = store / LABEL
    shutil.rmtree(folder)
    folder.mkdir()
    about = {"zarr_format": 2, "shape": [24], "chunks": [24], "dtype": "|O", "order": "C",
             "fill_value": 0, "filters": [{"id": "pickle"}], "compressor": None}  # fmt: skip
    (folder / ".zarray").write_text(json.dumps(about))
    (folder / "0").write_bytes(bytes(100))


def bomb(store: Path) -> None:
    """A gzip chunk that unpacks to 700 MB of zeros."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    piece = bytes(1_000_000)
    packed = b"".join(packer.compress(piece) for _ in range(700)) + packer.flush()
    (store / LABEL / "c/0").write_bytes(packed)
    gzip = [{"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "gzip", "configuration": {"level": 1}}]  # fmt: skip
    meta(LABEL, codecs=gzip, shape=[350_000_000])(store)
    grid(LABEL, [350_000_000])(store)


def giant_chunk(store: Path) -> None:
    """1 TiB in one chunk of the LLDs, which a sparse file claims at no cost."""

    rows = 2**40 // 100
    meta(VALUES, shape=[rows, 25])(store)
    grid(VALUES, [rows, 25])(store)
    sparse(store / VALUES / "c/0/0", rows * 100 + 4)


def longer_chunk(store: Path) -> None:
    """A true chunk that was stretched to 1 TiB."""
    os.truncate(store / VALUES / "c/0/0", 2**40)


def giant_array(store: Path) -> None:
    """An array of one chunk of 8 GB."""
    meta(LABEL, shape=[2**32])(store)
    grid(LABEL, [2**32])(store)
    sparse(store / LABEL / "c/0", 2**33 + 4)


def wide_embeddings(store: Path) -> None:
    """Embeddings of 240 MB for 24 utterances, whose record tells the same width."""
    width = 2_500_000
    place = "folds/01/prosodic"
    meta(f"{place}/embeddings", shape=[24, width])(store)
    grid(f"{place}/embeddings", [24, width])(store)
    sparse(store / place / "embeddings/c/0/0", 24 * width * 4 + 4)
    edited(store / place / RECORD, lambda raw: raw["facts"].update(embedding_width=width))


def long_utterance(store: Path) -> None:
    """All of 1.3 GB of sparse but sound chunks in one utterance."""
    chunks, rows = 40, 16 * 2**20
    meta("audio/values", shape=[chunks * rows])(store)
    grid("audio/values", [rows])(store)
    crc = crc32c(bytes(2 * rows)).to_bytes(4, "little")
    shutil.rmtree(store / "audio/values/c")
    for chunk in range(chunks):
        sparse(store / f"audio/values/c/{chunk}", 2 * rows + 4, crc)
    offsets = np.zeros(25, dtype=np.int64)
    offsets[-1] = chunks * rows
    shutil.rmtree(store / "audio/offsets")
    write_array(store / "audio", "offsets", offsets, ("boundary",))


def one_chunk_many_times(store: Path) -> None:
    """31,000 chunks of the LLDs, all links to one file: odd and harmless, so it is read."""
    chunks, folder = 31_000, store / "lld"
    values = folder / "values/c"
    meta(VALUES, shape=[chunks, 25])(store)
    grid(VALUES, [1, 25])(store)
    shutil.rmtree(values)
    sparse(values / "0/0", 104, crc32c(bytes(100)).to_bytes(4, "little"))
    for chunk in range(1, chunks):
        (values / f"{chunk}").mkdir()
        os.link(values / "0/0", values / f"{chunk}/0")
    shutil.rmtree(folder / "offsets")
    write_array(folder, "offsets", np.linspace(0, chunks, 25).astype(np.int64), ("boundary",))


LLD = {"unit": "lld", "met_by": ("read", "verify")}  # a run compares its sums, and reads none
ARRAYS: dict[str, Case] = {
    "Zarr 2 with a pickle codec": Case(zarr_2),
    "object dtype": Case(meta(LABEL, data_type="object")),
    "variable-length strings": Case(meta(LABEL, data_type="string")),
    "pickle codec": Case(meta(LABEL, codecs=[{"name": "numcodecs.pickle"}])),
    "a codec from a module": Case(meta(LABEL, codecs=[{"name": "os.system"}])),
    "gzip bomb": Case(bomb),
    "shape 2^50": Case(meta(LABEL, shape=[2**50])),
    "a million dimensions": Case(meta(LABEL, shape=[1] * 1_000_000)),
    "shape 2^50 of LLDs": Case(meta(VALUES, shape=[2**50, 25]), **LLD),
    "chunks of no row": Case(grid(VALUES, [0, 25]), **LLD),
    "chunks under other names": Case(meta(LABEL, chunk_key_encoding={"name": "v2"})),
    "an extension": Case(meta(LABEL, storage_transformers=[{"name": "x"}])),
    "a chunk of 1 TiB": Case(giant_chunk, **LLD),
    "a chunk stretched to 1 TiB": Case(longer_chunk, **LLD),
    "an array of 8 GB": Case(giant_array),
    "embeddings of 240 MB": Case(wide_embeddings, unit="folds/01/prosodic"),
    "an utterance of 1.3 GB": Case(long_utterance, unit="audio"),
    "one chunk 31,000 times": Case(one_chunk_many_times, codes=(0,), **LLD),
}


def test_arrays(sandbox: Sandbox, undisturbed: Path, tmp_path: Path) -> None:
    """Dtypes, codecs and sizes that no store has, with sums that fit."""
    attack(sandbox, undisturbed, tmp_path, ARRAYS, "arrays")


def link(path: str) -> Damage:
    """Put a link to the same content in place of a file or folder."""

    def damage(store: Path) -> None:
        away = store.parent / f"away-{store.name}"
        (store / path).rename(away)
        (store / path).symlink_to(away)

    return damage


LINKS = ("corpus", "corpus/label", "corpus/label/c/0", "corpus/utterances.parquet",
         f"corpus/{RECORD}", "lld/values/c/0/0", "lld/values/c", "audio/offsets",
         "folds/01/prosodic", "folds/01", "folds", "folds/01/prosodic/logits/c",
         "zarr.json")  # fmt: skip


def test_links(sandbox: Sandbox, undisturbed: Path, tmp_path: Path) -> None:
    """A link in any place is refused, be its target ever so sound."""
    cases = {path: Case(link(path), met_by=ALL, sealed=False) for path in LINKS}
    attack(sandbox, undisturbed, tmp_path, cases, "links")


def crowd(folder: str, n: int, *, folders: bool = False) -> Damage:
    """So many names in one place, at the price of an inode or two."""

    def damage(store: Path) -> None:
        place = store / folder
        place.mkdir(parents=True, exist_ok=True)
        first = place / "n0"
        first.touch()
        for number in range(1, n):
            if folders:
                (place / f"{number:06d}").mkdir()
            else:
                if not number % 60_000:
                    first = place / f"n{number}"
                    first.touch()
                    continue
                os.link(first, place / f"n{number}")

    return damage


CROWDS: dict[str, Case] = {
    "100,000 files in a unit": Case(crowd("corpus", 100_000), met_by=("read", "verify", "run")),
    "33,000 chunks": Case(crowd("lld/values/c", 33_000), met_by=("read", "verify")),
    "10,000 files beside the units": Case(crowd("", 10_000), met_by=("verify",)),
    "10,000 files in a fold": Case(crowd("folds/01", 10_000), met_by=("verify",)),
    "2,000 teachers": Case(crowd("folds/01", 2_000, folders=True), met_by=("verify",)),
    "2,000 folds": Case(crowd("folds", 2_000, folders=True), met_by=("verify",)),
}


def test_crowds(sandbox: Sandbox, undisturbed: Path, tmp_path: Path) -> None:
    """So many files, units and folds that to list them all would be the attack."""
    cases = {name: case._replace(sealed=False) for name, case in CROWDS.items()}
    attack(sandbox, undisturbed, tmp_path, cases, "crowds")


def test_a_left_staging_folder_leads_nowhere(
    sandbox: Sandbox, undisturbed: Path, tone_corpus: Path, tone_config: Path, tmp_path: Path
) -> None:
    """What a killed writer seems to have left may be a link; the next writer's sweep removes the
    link, and nothing of what lies behind it.
    """
    tally = Tally()
    store = Path(shutil.copytree(undisturbed, tmp_path / "store"))
    locked, unlocked = tmp_path / "locked", tmp_path / "unlocked"
    for mine in (locked, unlocked):
        (mine / "thesis").mkdir(parents=True)
        (mine / "thesis/chapter1.tex").write_text("years of work")
    (locked / "lock").write_text("mine")
    for number, place in enumerate((store, store / "folds/01")):
        (place / f".staging-lld-0123456789abcde{number}").symlink_to(locked)
        (place / f".staging-audio-0123456789abcde{number}").symlink_to(unlocked)
    shutil.rmtree(store / "lld")
    ended = sandbox("featstore", *build_arguments(tone_corpus, tone_config, store))
    tally.add("build", ended, (0,))
    for mine in (locked, unlocked):
        assert (mine / "thesis/chapter1.tex").read_text() == "years of work"
    assert (locked / "lock").read_text() == "mine"
    assert not list(store.glob(".staging-*"))
    tally.close("links among what is swept")
