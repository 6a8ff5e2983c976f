"""A remote store read in place: what is fetched, what is compared, what is fetched again."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore.core.schema import Corrupt, UserError
from featstore.store import open_store
from featstore.store.objects import Objects
from featstore.store.remote import copy, mirror_folder
from featstore.store.store import Store
from tests.featstore.store.kept_store import KEPT, contents


def flipped(content: bytes, at: int) -> bytes:
    """One bit of some bytes."""
    return content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every object that is read."""
    names: list[str] = []
    pieces = Objects.pieces
    monkeypatch.setattr(
        Objects, "pieces", lambda self, name, most: names.append(name) or pieces(self, name, most)
    )
    return names


def test_a_remote_store_reads_as_a_local_one(published: Any) -> None:
    bucket = published
    there, here = open_store(bucket.url), Store.open(KEPT)
    assert there.units() == here.units()
    assert there.content_hash() == here.content_hash()
    assert there.fingerprint() == here.fingerprint()
    assert (there.name, there.url, here.url) == ("kept", bucket.url, "")
    assert there.utterances.equals(here.utterances)
    assert there.folds == here.folds
    for row in range(len(here.utterances)):
        np.testing.assert_array_equal(there.audio.read(row), here.audio.read(row))
        np.testing.assert_array_equal(there.lld.read(row), here.lld.read(row))
    for name, output in here.fold(2).items():
        np.testing.assert_array_equal(there.fold(2)[name].logits, output.logits)
    mirrored = contents(mirror_folder(bucket.url))
    assert {name: text for name, text in mirrored.items() if not name.startswith(".")} == {
        name: text for name, text in contents(KEPT).items() if not name.startswith("folds/01")
    }


def test_only_what_is_asked_for_is_fetched(published: Any, asked: list[str]) -> None:
    store = open_store(published.url)
    store.fold(1)
    store.content_hash()
    values = {name.rpartition("/c/")[0] for name in asked if "/c/" in name}
    assert values == {
        *(f"corpus/{array}" for array in ("label", "speaker", "session")),
        "splits/role",
        *(f"folds/01/{name}/{array}" for name in ("linguistic", "prosodic")
          for array in ("logits", "embeddings")),
    }  # fmt: skip
    asked.clear()
    open_store(published.url).fold(1)
    assert [name for name in asked if not name.endswith("unit.json")] == ["zarr.json"]


def test_what_is_damaged_there_never_reaches_the_mirror(published: Any) -> None:
    name = "folds/01/prosodic/logits/c/0/0"
    published.put(name, flipped(published.objects()[name], 3))
    store = open_store(published.url)
    with pytest.raises(Corrupt) as refused:
        store.fold(1)
    assert refused.value.message == f"{published.url}/{name}: content differs"
    assert f"featstore copy STORE {published.url}" in refused.value.hint
    assert not (store.path / "folds" / "01" / "prosodic").exists()
    published.put(name, (KEPT / name).read_bytes())
    assert set(open_store(published.url).fold(1)) == {"linguistic", "prosodic"}


def test_a_unit_that_changed_is_fetched_again(
    published: Any, other_store: Path, asked: list[str]
) -> None:
    before = open_store(published.url).fold(1)["prosodic"].logits
    copy(other_store, published.url, replace=True)
    asked.clear()
    after = open_store(published.url).fold(1)["prosodic"].logits
    assert after[0, 0] == before[0, 0] + 1
    fetched = {name.rpartition("/c/")[0] for name in asked if "/c/" in name}
    assert fetched == {"folds/01/prosodic/logits", "folds/01/prosodic/embeddings"}


def test_a_mirror_that_is_damaged_is_mended(published: Any) -> None:
    store = open_store(published.url)
    wanted = store.labels.tolist()
    path = store.path / "corpus" / "label" / "c" / "0"
    path.write_bytes(path.read_bytes() + b"x")  # seen by its size
    assert open_store(published.url).labels.tolist() == wanted
    path.write_bytes(flipped((KEPT / "corpus/label/c/0").read_bytes(), 0))  # seen when it is read
    open_store(published.url).unit("corpus", deep=True)
    assert path.read_bytes() == (KEPT / "corpus/label/c/0").read_bytes()
    shutil.rmtree(store.path)
    assert open_store(published.url).labels.tolist() == wanted


def test_two_readers_fetch_a_unit_once(published: Any, asked: list[str]) -> None:
    stores = [open_store(published.url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda store: store.lld.read(0).sum(), stores))
    assert len(set(found)) == 1
    assert asked.count("lld/values/c/0/0") == 1


def test_a_unit_that_is_not_there(published: Any) -> None:
    published.delete("audio/unit.json")
    store = open_store(published.url)
    assert "audio" not in store.units()
    with pytest.raises(UserError, match=f"audio: not complete in {published.url}"):
        store.unit("audio")


def test_commands_read_a_url(published: Any, command: Any, tmp_path: Path) -> None:
    seen = command("featstore", "inspect", published.url)
    assert (seen.code, "8 utterances" in seen.out) == (0, True)
    assert not (mirror_folder(published.url) / "audio").exists()
    out = command("featstore", "export", published.url, "--to", tmp_path / "a.h5")
    assert (out.code, Store.open(KEPT).content_hash() in out.out) == (0, True)
    same = command("featstore", "diff", KEPT, published.url)
    assert (same.code, "the same content, to the byte" in same.out) == (0, True)
    again = command("featstore", "copy", KEPT, published.url)
    assert (again.code, "copied 0 unit(s), 0 B; there before: 8 unit(s)" in again.out) == (0, True)
    assert str(mirror_folder(published.url)) not in seen.out + out.out + same.out


@pytest.mark.parametrize(
    "words",
    [("featstore", "build", "--dataset", "synthetic", "--store"), ("featstore", "view")],
)
def test_commands_that_need_a_folder_say_so(words: tuple[str, ...], command: Any) -> None:
    done = command(*words, "s3://bucket/store")
    assert (done.code, "a folder of this machine is needed here" in done.err) == (2, True)
    assert not Path("s3:").exists()
