"""What may stand for a store on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from featstore.core import places
from featstore.core.schema import UserError
from featstore.store.remote import mirror_folder


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket//a", "s3://bucket/a"),
        ("gs://bucket/a", "gs://bucket/a"),
        ("file:///data/store", "file:///data/store"),
        ("stores/iemocap", Path("stores/iemocap")),
        ("s3:/bucket", Path("s3:/bucket")),
    ],
)
def test_places(text: str, wanted: object) -> None:
    assert places.place(text) == wanted


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("s3://me:hunter2@bucket/store", "more than bucket and prefix"),
        ("s3://me:hunt/er2@bucket/store?hunter2", "more than bucket and prefix"),
        ("s3://bucket/store?X-Amz-Signature=hunter2", "more than bucket and prefix"),
        ("az://account/store#hunter2", "more than bucket and prefix"),
        ("https://host/store", "no object storage"),
        ("s3://bucket", "names no store"),
        ("s3:///store", "names no store"),
        ("s3://bucket/../other", "a prefix that cannot be"),
        ("s3://bucket/\x1b[31m", "a prefix that cannot be"),
        ("s3://[::1/store", "not a URL"),
    ],
)
def test_urls_that_are_refused(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as refused:
        places.place(text)
    assert "hunter2" not in refused.value.message + refused.value.hint
    assert "\x1b" not in refused.value.message


def test_mirrors_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEATSTORE_CACHE", str(tmp_path))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    one = mirror_folder("s3://bucket/a")
    assert one.parent == tmp_path / "stores"
    assert mirror_folder("s3://bucket/b") != one
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert mirror_folder("s3://bucket/a") != one
