"""A store to an S3 server and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kept_store import KEPT, contents

from featstore.remote.copying import copy


def test_a_store_goes_up_and_comes_back_to_the_byte(bucket: Any, tmp_path: Path) -> None:
    up = copy(KEPT, bucket.url)
    assert bucket.objects() == contents(KEPT)
    down = copy(bucket.url, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(KEPT)
    assert up["content"] == down["content"]
    assert up["sent_bytes"] == sum(map(len, contents(KEPT).values()))


def test_a_compressed_store_comes_back_to_the_byte(bucket: Any, tmp_path: Path) -> None:
    copy(KEPT, bucket.url, compress=True)
    assert bucket.objects().keys() == contents(KEPT).keys()
    assert bucket.objects()["audio/values/c/0"] != contents(KEPT)["audio/values/c/0"]
    copy(bucket.url, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(KEPT)
