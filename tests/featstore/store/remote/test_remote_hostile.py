"""A store that somebody else put there: bounded before it is read, refused in one line."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from featstore.core.schema import Corrupt, Refused, UserError
from featstore.store import open_store
from featstore.store.remote import copy, mirror_folder
from featstore.store.store import Store
from tests.featstore.store.kept_store import KEPT
from tests.reliability.forgery import forged

VALUES = "audio/values/c/0"
pytestmark = pytest.mark.reliability


@pytest.fixture
def bounded() -> Iterator[None]:
    """Refuse a test that takes more memory than the kept store explains."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 1024**2


def record(bucket: Any, unit: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Forge a unit's record there."""
    name = f"{unit}/unit.json"
    bucket.put(name, forged(bucket.objects()[name], change))


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "folds/../../x/unit.json", "a//unit.json", "folds/\x1b[31m/unit.json"],
)
def test_names_that_climb(published: Any, name: str, command: Any, tmp_path: Path) -> None:
    published.put(name, b"{}")
    done = command("featstore", "copy", published.url, tmp_path / "a" / "back")
    assert done.code == 4
    assert "holds a name that no store has" in done.err
    assert len(done.err.splitlines()) == 2
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["x/unit.json", "folds/1/a/unit.json", "folds/01/.a/unit.json"])
def test_names_that_no_unit_has(published: Any, name: str) -> None:
    published.put(name, b"{}")
    store = open_store(published.url)
    assert store.units() == Store.open(KEPT).units()
    with pytest.raises(UserError, match="not complete"):
        store.unit(name.removesuffix("/unit.json"))


@pytest.mark.parametrize(
    "name", ["../../../escape", "/etc/passwd", "values/c/9", "values/../../corpus/x", "unit.json"]
)
def test_files_that_no_unit_has(published: Any, name: str, tmp_path: Path) -> None:
    record(published, "audio", lambda raw: raw["files"].update({name: [1, "0" * 64]}))
    before = set(tmp_path.rglob("*"))
    with pytest.raises((Refused, Corrupt), match=r"lists .* which no unit holds|not there"):
        open_store(published.url).unit("audio")
    new = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert new == {"cache"}
    assert not (mirror_folder(published.url) / "audio").exists()


def test_a_link_is_never_followed_out_of_the_mirror(published: Any, tmp_path: Path) -> None:
    store = open_store(published.url)
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.path / "folds").symlink_to(outside)
    with pytest.raises(Refused, match="a link"):
        open_store(published.url).unit("folds/01/prosodic")
    assert list(outside.iterdir()) == []


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", ["zarr.json", "corpus/unit.json", "corpus/zarr.json", VALUES,
                                  "corpus/label/zarr.json", "audio/sources.parquet"])  # fmt: skip
def test_objects_far_too_large(published: Any, name: str, tmp_path: Path) -> None:
    published.put(name, bytes(16 * 1024**2))
    with pytest.raises(Corrupt, match=f"{name}: 16,777,216 bytes, at most"):
        copy(published.url, tmp_path / "back")


@pytest.mark.usefixtures("bounded")
def test_a_record_that_claims_exabytes(published: Any) -> None:
    record(published, "audio", lambda raw: raw["files"].update({"values/c/0": [2**62, "0" * 64]}))
    with pytest.raises(UserError, match=r"bytes needed|of another size"):
        open_store(published.url).unit("audio")
