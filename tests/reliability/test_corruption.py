"""Whatever happens to a byte of a store is found, named, refused by readers, and mended."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.data import load_targets
from featstore.build.plan import Request
from featstore.core.config import BuildSettings
from featstore.core.schema import UserError
from featstore.core.settings import resolve
from featstore.corpora import load
from featstore.store.arrays import read_array, read_metadata, write_array
from featstore.store.store import Store
from featstore.store.verify import verify
from tests.reliability.harness import CONFIG, build_arguments, call

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(600)]

FLIPS = 500
CLEAN = 50


@pytest.fixture(scope="module")
def whole(tone_corpus: Path, tone_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with kept teachers, so that there is a file of every kind."""
    store = tmp_path_factory.mktemp("whole") / "store"
    arguments = build_arguments(tone_corpus, tone_config, store, "--keep-teachers")
    done = call("featstore", *arguments)
    assert done.returncode == 0, done.stderr
    return store


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "store"))


def request(corpus: Path, store: Path, **more: Any) -> Request:
    """The build that ``whole`` comes from, by the Python API."""
    import tomllib

    settings = resolve(BuildSettings, tomllib.loads(CONFIG), {"corpus": {"name": "table"}})
    manifest = load("table", corpus, settings.corpus)
    return Request(
        manifest, settings, store, folds="1..2", device="cpu", keep_teachers=True, **more
    )


def files(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


def kind(path: Path, store: Path) -> str:
    """Files of one kind are damaged as often as those of another, however many there are."""
    parts = path.relative_to(store).parts
    top = "root" if len(parts) == 1 else parts[0]
    inner = "chunk" if "c" in parts else path.name
    return f"{top}/{inner}"


def everything(place: Path) -> dict[str, Any]:
    """All that a reader can get, deep checks left out."""
    store = Store.open(place)
    out: dict[str, Any] = {
        "utterances": store.utterances.to_dict("list"),
        "sources": store.sources.to_dict("list"),
        "classes": store.classes,
        "folds": store.folds,
        "labels": store.labels.tolist(),
        "roles": store.roles.tolist(),
        "audio": [store.audio.read(row).tobytes() for row in range(len(store.audio))],
        "lld": [store.lld.read(row).tobytes() for row in range(len(store.lld))],
    }
    for number in (1, 2):
        for name, output in store.fold(number).items():
            out[f"{number} {name}"] = (output.logits.tobytes(), output.embeddings.tobytes())
    return out


def trained_on(place: Path) -> dict[str, Any]:
    """What a student of fold 1 would be fed, checked as the trainer checks it."""
    import torch

    store = Store.open(place)
    targets = load_targets(store, 1, torch.device("cpu"))
    store.unit("audio", deep=True)
    return {name: [part.tolist() for part in pair] for name, pair in targets.teachers.items()}


def refused_or_equal(read: Callable[[Path], Any], place: Path, right: Any) -> str:
    """A reader may refuse or tell the truth, and nothing else."""
    try:
        found = read(place)
    except UserError:
        return "refused"
    assert found == right
    return "equal"


def found_by_verify(place: Path) -> list[str]:
    """The messages of ``featstore verify``."""
    try:
        report = verify(Store.open(place))
        faults = report.faults
        assert (report.content == "") == bool(faults)
    except UserError as error:
        faults = (error,)
    assert all(fault.hint for fault in faults)
    return [fault.message for fault in faults]


def test_500_bit_flips_over_every_kind_of_file(whole: Path, store: Path) -> None:
    began = time.monotonic()
    rng = np.random.default_rng(3)
    right, fed = everything(store), trained_on(store)
    by_kind: dict[str, list[Path]] = {}
    for path in files(store):
        by_kind.setdefault(kind(path, store), []).append(path)
    kinds = sorted(by_kind)
    answers = {"refused": 0, "equal": 0}
    for trial in range(FLIPS):
        here = by_kind[kinds[trial % len(kinds)]]
        path = here[int(rng.integers(len(here)))]
        before = path.read_bytes()
        flipped = bytearray(before)
        flipped[int(rng.integers(len(before)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        name = path.relative_to(store).as_posix()
        told = found_by_verify(store)
        # A unit's record and a group's metadata are named by the place that they describe.
        place = path.parent.name if path.name in ("zarr.json", "unit.json") else path.name
        assert any(place in message for message in told), (name, told)
        answers[refused_or_equal(everything, store, right)] += 1
        refused_or_equal(trained_on, store, fed)
        path.write_bytes(before)
    assert not found_by_verify(store)
    print(f"bit flips: {FLIPS} tries over {len(kinds)} kinds of files, {FLIPS} detected, readers: "
          f"{answers}, {time.monotonic() - began:.0f} s")  # fmt: skip


def test_a_flipped_chunk_names_its_utterances(store: Path) -> None:
    path = store / "audio/values/c/0"
    content = bytearray(path.read_bytes())
    content[2 * int(Store.open(store).audio.offsets[5]) + 3] ^= 1
    path.write_bytes(content)
    (told,) = found_by_verify(store)
    assert "audio/values/c/0: content differs (array values)" in told
    assert "utterances: ada0, ada1, ada2" in told  # one chunk holds them all
    assert "and 16 more" in told


def test_50_clean_verifies_raise_no_alarm(whole: Path) -> None:
    began = time.monotonic()
    alarms = [told for _ in range(CLEAN) if (told := found_by_verify(whole))]
    assert alarms == []
    print(f"clean verifies: {CLEAN}, false alarms 0, {time.monotonic() - began:.0f} s")


@dataclass(frozen=True)
class Damage:
    """What is done to a store, what verify must name, and whether it touches the data."""

    do: Callable[[Path], None]
    names: str


def delete(name: str) -> Callable[[Path], None]:
    return lambda store: (store / name).unlink()


def cut(name: str) -> Callable[[Path], None]:
    return lambda store: (store / name).write_bytes((store / name).read_bytes()[:-7])


def empty(name: str) -> Callable[[Path], None]:
    return lambda store: (store / name).write_bytes(b"")


def add(name: str) -> Callable[[Path], None]:
    return lambda store: (store / name).write_text("what?")


def swap(one: str, two: str) -> Callable[[Path], None]:
    def do(store: Path) -> None:
        a, b = (store / one).read_bytes(), (store / two).read_bytes()
        assert len(a) == len(b)
        assert a != b
        (store / one).write_bytes(b)
        (store / two).write_bytes(a)

    return do


def swap_folders(one: str, two: str) -> Callable[[Path], None]:
    def do(store: Path) -> None:
        (store / one).rename(store / ".aside")
        (store / two).rename(store / one)
        (store / ".aside").rename(store / two)

    return do


def swap_rows(array: str) -> Callable[[Path], None]:
    """Two rows exchanged by a program that knows Zarr: every checksum of Zarr's fits again."""

    def do(store: Path) -> None:
        place = store / array
        values, dims = read_array(place).copy(), read_metadata(place).dims
        different = next(row for row in range(1, len(values)) if (values[row] != values[0]).any())
        values[[0, different]] = values[[different, 0]]
        shutil.rmtree(place)
        write_array(place.parent, place.name, values, dims)

    return do


def edit_json(name: str, key: str, value: Any) -> Callable[[Path], None]:
    def do(store: Path) -> None:
        raw = json.loads((store / name).read_text())
        raw[key] = value
        (store / name).write_text(json.dumps(raw))

    return do


def no_folder(name: str) -> Callable[[Path], None]:
    def do(store: Path) -> None:
        shutil.rmtree(store / name)
        (store / name).write_text("")

    return do


DAMAGE = {
    "chunk deleted": Damage(delete("lld/offsets/c/0"), "lld/offsets/c/0: missing"),
    "shard deleted": Damage(delete("audio/values/c/0"), "audio/values/c/0: missing"),
    "record deleted": Damage(delete("splits/unit.json"), "unit.json is missing"),
    "table deleted": Damage(delete("audio/sources.parquet"), "sources.parquet: missing"),
    "unit half deleted": Damage(
        lambda store: shutil.rmtree(store / "folds/01/linguistic/logits"), "2 files"
    ),
    "shard cut": Damage(cut("lld/values/c/0/0"), "lld/values/c/0/0: "),
    "table cut": Damage(cut("corpus/utterances.parquet"), "utterances.parquet: "),
    "record cut": Damage(cut("folds/02/prosodic/unit.json"), "not valid JSON"),
    "chunk emptied": Damage(empty("folds/01/prosodic/logits/c/0/0"), "0 bytes instead of"),
    "weights emptied": Damage(
        empty("weights/01/prosodic/model.safetensors"), "model.safetensors: 0 bytes"
    ),
    "metadata emptied": Damage(empty("splits/role/zarr.json"), "role/zarr.json: 0 bytes"),
    "file added to a unit": Damage(add("audio/extra"), "audio/extra: not listed"),
    "file added to an array": Damage(add("lld/values/c/1"), "lld/values/c/1: not listed"),
    "file added to the store": Damage(add("notes.txt"), "notes.txt: not part of a store"),
    "file added to a fold": Damage(add("folds/01/notes"), "folds/01/notes: not part of"),
    "two shards swapped": Damage(
        swap("folds/01/linguistic/logits/c/0/0", "folds/02/linguistic/logits/c/0/0"),
        "logits/c/0/0: content differs",
    ),
    "two arrays swapped": Damage(
        swap("corpus/label/c/0", "corpus/speaker/c/0"), "label/c/0: content differs"
    ),
    "two units swapped": Damage(
        swap_folders("folds/01/prosodic", "folds/02/prosodic"), "unit folds/02/prosodic, not"
    ),
    "two rows of logits swapped": Damage(
        swap_rows("folds/01/prosodic/logits"), "logits/c/0/0: content differs (array logits)"
    ),
    "two labels swapped": Damage(swap_rows("corpus/label"), "content differs (array label)"),
    "roles swapped": Damage(swap_rows("splits/role"), "content differs (array role)"),
    "record edited": Damage(
        edit_json("folds/01/linguistic/unit.json", "facts", {}), "not what was written"
    ),
    "unit is a file": Damage(no_folder("lld"), "no folder of a unit"),
    "group metadata edited": Damage(
        edit_json("folds/01/zarr.json", "zarr_format", 2), "folds/01/zarr.json: not what was"
    ),
    "root edited": Damage(edit_json("zarr.json", "node_type", "array"), "zarr.json"),
}  # fmt: skip
BEYOND_REPAIR = ("file added to the store", "file added to a fold")
"""What lies beside the units is the user's own: it is named, and never removed."""


@pytest.fixture
def harm(store: Path) -> Iterator[Callable[[str], Path]]:
    def do(name: str) -> Path:
        DAMAGE[name].do(store)
        return store

    return do


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_refused_and_mended(
    name: str, harm: Callable[[str], Path], whole: Path, tone_corpus: Path, build_here: Any
) -> None:
    right = everything(whole)
    place = harm(name)
    told = found_by_verify(place)
    assert any(DAMAGE[name].names in message for message in told), told
    refused_or_equal(everything, place, right)
    again = request(tone_corpus, place, repair=True)
    if name in BEYOND_REPAIR:
        with pytest.raises(UserError, match="not part of a store"):
            build_here(again)
        return
    build_here(again)
    assert not found_by_verify(place)
    assert Store.open(place).content_hash() == Store.open(whole).content_hash()
    assert everything(place) == right


def test_everything_damaged_at_once_is_mended_by_one_command(
    whole: Path, store: Path, tone_corpus: Path, tone_config: Path
) -> None:
    began = time.monotonic()
    for path in files(store):
        if path.name != "zarr.json" or path.parent != store:
            path.write_bytes(b"\0" * path.stat().st_size)
    done = call("featstore", "verify", store)
    assert done.returncode == 3
    assert "--repair" in done.stdout
    arguments = build_arguments(tone_corpus, tone_config, store, "--keep-teachers")
    refused = call("featstore", *arguments)
    assert refused.returncode == 3
    assert "--repair" in refused.stderr
    assert call("featstore", *arguments, "--repair").returncode == 0
    assert Store.open(store).content_hash() == Store.open(whole).content_hash()
    print(f"every file zeroed: repaired to the same hash, {time.monotonic() - began:.0f} s")
