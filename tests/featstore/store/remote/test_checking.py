"""``featstore verify s3://...``: the bytes that lie there, not those of the mirror."""

from __future__ import annotations

from typing import Any

import pytest

from featstore.store import open_store
from featstore.store.store import Store
from featstore.store.verify import verify
from tests.featstore.store.kept_store import KEPT
from tests.reliability.forgery import forged


def told(bucket: Any) -> str:
    """What is wrong, a line a fault; refuses a verdict that does not say so too."""
    report = verify(open_store(bucket.url))
    assert bool(report.faults) is (report.content == "") is (report.exit_code > 0)
    return "\n".join(fault.message for fault in report.faults)


def test_a_sound_store(published: Any) -> None:
    report = verify(open_store(published.url))
    assert (report.faults, report.content) == ((), Store.open(KEPT).content_hash())
    assert [unit.unit for unit in report.sound] == Store.open(KEPT).units()


def test_the_mirror_has_no_part_in_it(published: Any, command: Any) -> None:
    open_store(published.url).audio.read(0)
    name = "audio/values/c/0"
    content = bytearray(published.objects()[name])
    content[1000] ^= 1
    published.put(name, bytes(content))
    assert told(published) == f"{published.url}/{name}: content differs"
    done = command("featstore", "verify", published.url)
    assert (done.code, "audio/values/c/0" in done.out + done.err) == (3, True)


@pytest.mark.slow
def test_every_object_is_looked_at(published: Any) -> None:
    bucket = published
    there = bucket.objects()
    for name, content in there.items():
        if name == "zarr.json":
            continue  # without it nothing opens
        at = len(content) // 2
        bucket.put(name, content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :])
        assert name.rpartition("/c/")[0].removesuffix("/zarr.json") in told(bucket), name
        bucket.delete(name)
        assert told(bucket), name
        bucket.put(name, content)
    assert told(bucket) == ""


def test_what_no_unit_lists(published: Any) -> None:
    published.put("lld/notes.txt", b"mine")
    published.put("elsewhere/x", b"mine")
    published.put("folds/03/linguistic/logits/c/0/0", b"half a copy")
    assert told(published).splitlines() == [
        f"{published.url}/lld/notes.txt: no unit lists it",
        f"{published.url}: 2 objects of no complete unit, e.g. elsewhere/x",
    ]


def test_a_unit_made_from_others(published: Any) -> None:
    name = "folds/01/prosodic/unit.json"
    other = forged((KEPT / name).read_bytes(), lambda raw: raw["parents"].update(splits="0" * 64))
    published.put(name, other)
    assert "folds/01/prosodic: made from another splits" in told(published)
