from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featstore.core.files import read_small, strict_json
from featstore.core.schema import Corrupt, OtherVersion, Refused
from featstore.core.settings import digest
from featstore.store import unit as units
from featstore.store.unit import RECORD, SCHEMA, read_unit
from tests.featstore.store.kept_store import commit


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return commit(tmp_path / "lld")


def record(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / RECORD).read_bytes())
    return found


def reseal(place: Path, **changes: Any) -> None:
    """Another record with a checksum that fits it: what someone writes who means harm."""
    raw = {**record(place), **changes}
    raw.pop("sha256")
    (place / RECORD).write_text(json.dumps({**raw, "sha256": digest(raw)}))


class TestDamage:
    """Every kind of damage is refused, with the file named, and never read as zeros."""

    @pytest.mark.parametrize(
        ("damage", "deep", "names"),
        [
            (lambda p: (p / "values" / "c").unlink(), False, "lld/values/c: missing"),
            (lambda p: (p / "extra").touch(), False, "lld/extra: not listed"),
            (lambda p: (p / "values" / "c").write_bytes(b"fram"), False,
             "lld/values/c: 4 bytes instead of 6"),
            (lambda p: (p / "values" / "c").write_bytes(b"fr\0mes"), True,
             "lld/values/c: content differs"),
            (lambda p: (p / RECORD).unlink(), False, "unit.json is missing"),
            (lambda p: (p / RECORD).write_bytes(b""), False, "unit.json: not valid JSON"),
            (lambda p: (p / RECORD).write_bytes(b"[]"), False, "unit.json: not a JSON object"),
        ],
    )  # fmt: skip
    def test_is_corrupt(
        self, place: Path, damage: Callable[[Path], None], deep: bool, names: str
    ) -> None:
        damage(place)
        with pytest.raises(Corrupt) as caught:
            read_unit(place, "lld", deep=deep)
        assert caught.value.exit_code == 3
        assert names in caught.value.message
        assert caught.value.hint

    def test_lists_every_file(self, place: Path) -> None:
        (place / "values" / "c").unlink()
        (place / "extra").touch()
        (place / "offsets").write_bytes(b"123")
        with pytest.raises(Corrupt, match="3 files are not what was written") as caught:
            read_unit(place, "lld")
        assert all(name in caught.value.message for name in ("values/c", "extra", "offsets"))

    @pytest.mark.parametrize("target", ["values/c", RECORD])
    def test_refuses_a_link_in_place_of_a_file(self, place: Path, target: str) -> None:
        away = place.parent / "elsewhere"
        (place / target).rename(away)
        (place / target).symlink_to(away)
        with pytest.raises(Refused, match=target) as caught:
            read_unit(place, "lld")
        assert caught.value.exit_code == 4

    def test_refuses_a_link_in_place_of_a_folder(self, place: Path) -> None:
        (place / "values").rename(place.parent / "elsewhere")
        (place / "values").symlink_to(place.parent / "elsewhere")
        with pytest.raises(Refused, match="values: not a regular file"):
            read_unit(place, "lld")

    def test_refuses_a_link_in_place_of_the_unit(self, place: Path) -> None:
        place.rename(place.parent / "elsewhere")
        place.symlink_to(place.parent / "elsewhere")
        with pytest.raises(Refused, match="a link"):
            read_unit(place, "lld")

    def test_refuses_a_pipe_without_waiting_for_it(self, place: Path) -> None:
        (place / RECORD).unlink()
        os.mkfifo(place / RECORD)
        with pytest.raises(Refused, match="not a regular file"):
            read_unit(place, "lld")

    def test_refuses_another_name(self, place: Path) -> None:
        place.rename(place.parent / "audio")
        with pytest.raises(Refused, match="this is the unit lld, not audio"):
            read_unit(place.parent / "audio", "audio")

    @pytest.mark.parametrize("schema", [SCHEMA + 1, SCHEMA - 1, 0])
    def test_refuses_another_schema(self, place: Path, schema: int) -> None:
        reseal(place, schema=schema)
        with pytest.raises(OtherVersion, match=f"schema {schema}") as caught:
            read_unit(place, "lld")
        assert "version that wrote it" in caught.value.hint

    def test_refuses_settings_that_another_fingerprint_hides(self, place: Path) -> None:
        reseal(place, settings={"lld": {"feature_set": "GeMAPSv01b"}})
        with pytest.raises(Refused, match="fingerprint does not fit"):
            read_unit(place, "lld")


class TestRecord:
    def test_no_byte_of_it_may_change(self, place: Path) -> None:
        path = place / RECORD
        whole = path.read_bytes()
        rng = random.Random(0)
        for at in range(len(whole)):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            with pytest.raises((Corrupt, Refused), match=RECORD):
                read_unit(place, "lld", deep=True)

    def test_no_byte_of_it_may_be_missing(self, place: Path) -> None:
        whole = (place / RECORD).read_bytes()
        for n in range(0, len(whole), 7):
            (place / RECORD).write_bytes(whole[:n])
            with pytest.raises(Corrupt, match=RECORD):
                read_unit(place, "lld")

    def test_key_that_stands_twice_is_refused(self, place: Path) -> None:
        text = (place / RECORD).read_text()
        (place / RECORD).write_text(text.replace("{", '{"unit": "audio",', 1))
        with pytest.raises(Corrupt, match="a key stands twice"):
            read_unit(place, "lld")

    @pytest.mark.parametrize(
        "changes",
        [
            {"files": []},
            {"files": {"offsets": 2}},
            {"files": {"offsets": ["2", "x"]}},
            {"files": {"offsets": [2, "x", 1]}},
            {"facts": None},
            {"parents": ["audio"]},
            {"unit": 3},
            {"settings": "none"},
            {"more": 1},
        ],
    )
    def test_of_another_form_is_refused_though_its_checksum_fits(
        self, place: Path, changes: dict[str, Any]
    ) -> None:
        reseal(place, **changes)
        with pytest.raises(Corrupt, match=RECORD):
            read_unit(place, "lld")

    @pytest.mark.parametrize("value", ["1e999", "-1e999", "NaN", "Infinity", '"\\ud800"'])
    def test_value_that_has_no_canonical_form_is_refused(self, place: Path, value: str) -> None:
        text = (place / RECORD).read_text()
        assert "1.5" in text
        (place / RECORD).write_text(text.replace("1.5", value))
        with pytest.raises(Corrupt, match="not valid JSON"):
            read_unit(place, "lld")

    @pytest.mark.parametrize(
        "content", [b"\xff\xfe{}", b'{"a": "\xc3"}', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"]
    )
    def test_strict_json_turns_every_failure_into_corrupt(self, content: bytes) -> None:
        with pytest.raises(Corrupt, match=r"x\.json: not valid JSON"):
            strict_json(content, "x.json")

    def test_huge_record_is_not_read(self, place: Path) -> None:
        with (place / RECORD).open("r+b") as file:
            file.truncate(2**40)  # sparse: it takes no room on the disk
        with pytest.raises(Refused, match="usual size"):
            read_small(place / RECORD)


def test_files_are_limited_and_the_folders_around_them_are_not_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk of an array of two dimensions lies in a folder of its own."""
    monkeypatch.setattr(units, "MAX_FILES", 10)
    for number in range(10):
        (tmp_path / "c" / str(number)).mkdir(parents=True)
        (tmp_path / "c" / str(number) / "0").touch()
    assert len(units.files_below(tmp_path)) == 10
    (tmp_path / "c" / "x").touch()
    with pytest.raises(Refused, match="over 10 files"):
        units.files_below(tmp_path)
