"""A store to an S3 server and back: whole units at every moment, and nothing sent twice."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest

from featstore.core.schema import Corrupt, TaskFailed, UserError
from featstore.store import open_store
from featstore.store.objects import Objects
from featstore.store.remote import copy
from featstore.store.store import Store
from tests.featstore.store.kept_store import KEPT, contents, copied
from tests.reliability.forgery import forged

TOTAL = sum(map(len, contents(KEPT).values()))
KILLED_AT = """
import os, signal, sys
from featstore.store import objects
from featstore.store.remote import copy
calls, method = [], getattr(objects.Objects, sys.argv[3])
def counted(*arguments):
    calls.append(1)
    if len(calls) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return method(*arguments)
setattr(objects.Objects, sys.argv[3], counted)
copy(sys.argv[1], sys.argv[2])
"""


def halves(objects: dict[str, bytes]) -> list[str]:
    """Files that a record in a bucket lists and that are not there as listed."""
    bad = []
    for name in [name for name in objects if name.endswith("unit.json")]:
        unit = name.removesuffix("unit.json")
        for file, (size, sha) in json.loads(objects[name])["files"].items():
            content = objects.get(unit + file, b"")
            if (len(content), hashlib.sha256(content).hexdigest()) != (size, sha):
                bad.append(unit + file)
    return bad


@pytest.fixture
def each_put(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, Any], Any]], None]:
    """Put a function in between: it sees an object's name and content, and gives what is sent."""
    put = Objects.put

    def patch(look: Callable[[str, Any], Any]) -> None:
        monkeypatch.setattr(
            Objects, "put", lambda self, name, content: put(self, name, look(name, content))
        )

    return patch


def test_a_store_goes_up_and_comes_back_to_the_byte(bucket: Any, tmp_path: Path) -> None:
    up = copy(KEPT, bucket.url)
    assert bucket.objects() == contents(KEPT)
    down = copy(bucket.url, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(KEPT)
    assert up["content"] == down["content"] == Store.open(KEPT).content_hash()
    assert (up["sent_bytes"], up["skipped_bytes"]) == (TOTAL, 0)


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_zarr_reads_a_store_where_it_lies(published: Any) -> None:
    import numpy as np
    import zarr
    from zarr.storage import ObjectStore

    there: Any = zarr.open_group(ObjectStore(Objects.open(published.url).reader), mode="r")
    here: Any = zarr.open_group(str(KEPT), mode="r")
    names = [name for name, _ in here.members(max_depth=None) if (KEPT / name / "c").is_dir()]
    assert len(names) == 17
    for name in names:
        np.testing.assert_array_equal(there[name][...], here[name][...])
    assert there.attrs["format"] == "emodistill-store"


def test_at_every_moment_readers_see_whole_units(
    bucket: Any, other_store: Path, each_put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    delete = obstore.delete

    def deleting(*arguments: Any) -> None:
        delete(*arguments)
        assert halves(bucket.objects()) == []

    monkeypatch.setattr(obstore, "delete", deleting)

    def look(name: str, content: Any) -> Any:
        there = bucket.objects()
        assert halves(there) == []
        if "zarr.json" not in there:
            with pytest.raises(UserError, match="no store there"):
                open_store(bucket.url)
        seen.append(sum(name.endswith("unit.json") for name in there))
        return content

    each_put(look)
    copy(KEPT, bucket.url)
    assert sorted(set(seen)) == list(range(9))
    copy(other_store, bucket.url, replace=True)
    assert seen[-1] == 7
    assert halves(bucket.objects()) == []
    assert bucket.objects() == contents(other_store)


def test_a_copy_that_failed_is_resumed(bucket: Any, each_put: Any) -> None:
    left = [20]

    def look(name: str, content: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise TaskFailed("the network is gone")
        return content

    each_put(look)
    with pytest.raises(TaskFailed, match="the network is gone"):
        copy(KEPT, bucket.url)
    before = bucket.objects()
    assert before
    assert halves(before) == []
    left[0] = 10**6
    again = copy(KEPT, bucket.url)
    assert bucket.objects() == contents(KEPT)
    assert again["skipped_bytes"] == sum(map(len, before.values()))
    assert again["sent_bytes"] == TOTAL - again["skipped_bytes"]
    third = copy(KEPT, bucket.url)
    assert (third["sent_bytes"], third["copied"], len(third["there_before"])) == (0, [], 8)


@pytest.mark.reliability
@pytest.mark.parametrize("at", [1, 17, 40])
def test_a_killed_copy_is_resumed(bucket: Any, at: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(KEPT), bucket.url, "put", str(at)], check=False
    )
    assert done.returncode == -9
    assert halves(bucket.objects()) == []
    with pytest.raises(UserError, match="no store there"):
        open_store(bucket.url)
    copy(KEPT, bucket.url)
    assert bucket.objects() == contents(KEPT)


@pytest.mark.reliability
def test_a_killed_fetch_is_resumed(published: Any, tmp_path: Path) -> None:
    place = tmp_path / "back"
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, published.url, str(place), "pieces", "30"], check=False
    )
    assert done.returncode == -9
    units = Store.open(place).units()
    assert 0 < len(units) < 8
    for unit in units:
        Store.open(place).unit(unit, deep=True)
    again = copy(published.url, place)
    assert again["there_before"] == units
    assert contents(place) == contents(KEPT)


def test_what_was_damaged_on_the_way_is_sent_again(bucket: Any, each_put: Any) -> None:
    bad = {"audio/values/c/0", "folds/01/prosodic/logits/c/0/0"}

    def look(name: str, content: Any) -> Any:
        if name in bad:
            bad.remove(name)
            return b"x" * len(content.read_bytes())
        return content

    each_put(look)
    copy(KEPT, bucket.url)
    assert bad == set()
    assert bucket.objects() == contents(KEPT)


def test_a_unit_that_is_damaged_there_is_none_until_it_is_mended(
    published: Any, each_put: Any
) -> None:
    published.put("audio/values/c/0", b"x" * len(published.objects()["audio/values/c/0"]))
    published.put("audio/left-over", b"by something else")
    sent: list[str] = []

    def look(name: str, content: Any) -> Any:
        assert "audio/unit.json" not in published.objects()
        sent.append(name)
        return content

    each_put(look)
    done = copy(KEPT, published.url)
    assert sent == ["audio/values/c/0", "audio/unit.json"]
    assert (done["copied"], len(done["there_before"])) == (["audio"], 7)
    assert published.objects() == contents(KEPT)


def test_storage_that_damages_is_named(bucket: Any, each_put: Any) -> None:
    each_put(lambda name, content: b"x" * 9 if name == "lld/offsets/c/0" else content)
    with pytest.raises(TaskFailed, match=r"lld/offsets/c/0: reads back as something else"):
        copy(KEPT, bucket.url)
    assert "lld/unit.json" not in bucket.objects()
    assert "zarr.json" not in bucket.objects()


def test_another_store_is_not_overwritten(published: Any, other_store: Path) -> None:
    before = published.objects()
    with pytest.raises(UserError, match=r"not those of other\nfolds/01/prosodic") as refused:
        copy(other_store, published.url)
    assert "--replace" in refused.value.hint
    assert published.objects() == before
    copy(other_store, published.url, replace=True)
    assert published.objects() == contents(other_store)


def test_another_store_is_not_overwritten_here(
    published: Any, other_store: Path, tmp_path: Path
) -> None:
    before = contents(other_store)
    with pytest.raises(UserError, match=r"not those of the copied store\nfolds/01/prosodic"):
        copy(published.url, other_store)
    assert contents(other_store) == before
    copy(published.url, other_store, replace=True)
    assert contents(other_store) == contents(KEPT)


def test_a_prefix_in_other_use_is_left_alone(bucket: Any) -> None:
    bucket.put("thesis.pdf", b"years of work")
    for replace in (False, True):
        with pytest.raises(UserError, match=r"holds thesis\.pdf, and no store"):
            copy(KEPT, bucket.url, replace=replace)
    assert bucket.objects() == {"thesis.pdf": b"years of work"}


def test_units_that_only_the_remote_store_has_stay(published: Any, tmp_path: Path) -> None:
    part = copied(tmp_path / "part")
    shutil.rmtree(part / "folds" / "02" / "linguistic")
    done = copy(part, published.url)
    assert done["sent_bytes"] == 0
    assert published.objects() == contents(KEPT)


def test_units_made_from_others_do_not_stay(published: Any, tmp_path: Path) -> None:
    part = copied(tmp_path / "part")
    shutil.rmtree(part / "folds" / "02" / "linguistic")
    name = "folds/02/linguistic/unit.json"
    other = forged((KEPT / name).read_bytes(), lambda raw: raw["parents"].update(splits="0" * 64))
    published.put(name, other)
    with pytest.raises(UserError, match=r"not those of part\nfolds/02/linguistic"):
        copy(part, published.url)
    assert published.objects()[name] == other
    copy(part, published.url, replace=True)
    assert published.objects() == contents(part)


def test_a_damaged_store_is_not_published(bucket: Any, tmp_path: Path) -> None:
    place = copied(tmp_path / "store")
    path = place / "lld" / "values" / "c" / "0" / "0"
    path.write_bytes(path.read_bytes()[:-9] + b"something")
    with pytest.raises(Corrupt, match="lld/values"):
        copy(place, bucket.url)
    with pytest.raises(Corrupt, match="lld/values/c/0/0: content differs"):
        copy(place, tmp_path / "folder")
    assert Store.open(tmp_path / "folder").units() == ["corpus", "audio"]
    assert "zarr.json" not in bucket.objects()
    assert "lld/unit.json" not in bucket.objects()


def test_between_urls_and_between_folders(published: Any, tmp_path: Path) -> None:
    other = published.url.replace("kept", "second")
    copy(published.url, other)
    copy(other, tmp_path / "a")
    copy(tmp_path / "a", tmp_path / "b")
    copy(tmp_path / "b", (tmp_path / "c").as_uri())
    for name in "abc":
        assert contents(tmp_path / name) == contents(KEPT)
    with pytest.raises(UserError, match="same place"):
        copy(other, other)
