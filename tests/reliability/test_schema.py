"""Stores of other versions: read, or refused with what to do; today's is kept for tomorrow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from featstore.core.schema import Corrupt, OtherVersion, UserError
from featstore.store.store import Store
from featstore.store.unit import SCHEMA
from featstore.store.verify import verify
from tests import ROOT
from tests.reliability.forgery import reseal
from tests.reliability.harness import call, document, run_arguments

KEPT = ROOT / "tests" / "data" / f"store-v{SCHEMA}"
CONTENT = "217c92a3747d55ad1a0f94fcb01e06443b16d5f27729f654e7cb53209c90524b"
"""Of ``store-v3``, when it was made."""
BEFORE = KEPT.with_name("store-v2")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT, tmp_path / "kept"))


def root_says(store: Path, **attributes: Any) -> None:
    root = json.loads((store / "zarr.json").read_text())
    root["attributes"] |= attributes
    (store / "zarr.json").write_text(json.dumps(root))


class TestKept:
    def test_it_is_what_it_was(self) -> None:
        found = verify(Store.open(KEPT))
        assert found.faults == ()
        assert found.content == CONTENT
        assert len(found.sound) == 8

    def test_everything_in_it_can_be_read(self) -> None:
        store = Store.open(KEPT)
        assert store.classes == ("high", "low")
        assert store.labels.tolist() == [0, 1] * 4
        assert [len(store.audio.read(row)) for row in range(8)] == store.lengths.tolist()
        assert {store.lld.read(row).shape[1] for row in range(8)} == {25}
        assert len(store.folds) == 4
        for number in (1, 2):
            assert set(store.fold(number)) == {"linguistic", "prosodic"}

    @pytest.mark.reliability
    def test_the_commands_take_it(self, tmp_path: Path) -> None:
        assert call("featstore", "verify", KEPT).returncode == 0
        told = document(call("featstore", "inspect", KEPT, "--json"))
        assert told["corpus"]["utterances"] == 8
        done = call("distill", *run_arguments(KEPT, tmp_path / "runs", "--max-steps", "1"))
        assert done.returncode == 0, done.stderr
        assert "by --max-steps" in done.stdout


class TestOtherVersions:
    def test_the_store_of_the_version_before_is_refused_with_what_to_do(self) -> None:
        with pytest.raises(
            OtherVersion, match="store-v2: schema 2, this version reads 3"
        ) as caught:
            Store.open(BEFORE)
        assert caught.value.exit_code == 4
        assert caught.value.hint.startswith("build it anew by the same `featstore build`")

    @pytest.mark.reliability
    def test_the_commands_refuse_it(self, tmp_path: Path) -> None:
        for command in (("featstore", "verify", BEFORE), ("featstore", "inspect", BEFORE),
                        ("distill", *run_arguments(BEFORE, tmp_path / "runs"))):  # fmt: skip
            done = call(*command)
            assert done.returncode == 4
            assert "hint: build it anew" in done.stderr
            assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("schema", [1, SCHEMA + 1, 99])
    def test_a_store_of_another_schema(self, kept: Path, schema: int) -> None:
        root_says(kept, schema=schema)
        with pytest.raises(OtherVersion, match=f"schema {schema}, this version reads") as caught:
            Store.open(kept)
        assert caught.value.exit_code == 4
        assert "`featstore build` into another --store" in caught.value.hint

    @pytest.mark.parametrize("schema", [1, SCHEMA + 1])
    def test_a_unit_of_another_schema_is_never_repaired_away(self, kept: Path, schema: int) -> None:
        reseal(kept / "lld", lambda raw: raw.update(schema=schema))
        with pytest.raises(OtherVersion, match=f"schema {schema}"):
            Store.open(kept).unit("lld")
        assert verify(Store.open(kept)).exit_code == 4

    @pytest.mark.parametrize("schema", ["2", None, 2.5, True, [2]])
    def test_a_schema_that_is_none(self, kept: Path, schema: Any) -> None:
        root_says(kept, schema=schema)
        with pytest.raises(OtherVersion):
            Store.open(kept)
        root_says(kept, schema=SCHEMA)
        reseal(kept / "lld", lambda raw: raw.update(schema=schema))
        with pytest.raises(Corrupt):
            Store.open(kept).unit("lld")

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'{"attributes": 7}',
                    b'{"attributes": {"format": "else"}}']
    )  # fmt: skip
    def test_garbage_at_the_root(self, kept: Path, content: bytes) -> None:
        (kept / "zarr.json").write_bytes(content)
        with pytest.raises(UserError) as caught:
            Store.open(kept)
        assert caught.value.exit_code in (2, 3)
        assert caught.value.hint
