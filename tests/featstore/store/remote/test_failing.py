"""Networks, buckets and keys that fail: one line, soon, and never a secret."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from featstore.core.schema import TaskFailed, UserError
from featstore.store import objects, open_store
from tests.featstore.store.kept_store import KEPT


def no_secret(text: str) -> None:
    """Neither key nor secret, nor the signature made with them."""
    for secret in (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in text
    assert "Signature=" not in text
    assert "AWSAccessKeyId" not in text


@pytest.fixture
def guarded(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bucket while its server takes no key that it does not know."""
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    return bucket


def every_way(command: Any, url: str, folder: Any) -> Iterator[Any]:
    """Every command that meets a URL, tracebacks included."""
    yield command("featstore", "-v", "copy", KEPT, url, "--json")
    yield command("featstore", "-v", "copy", url, folder)
    yield command("featstore", "-v", "verify", url)
    yield command("featstore", "-v", "inspect", url, "--json")
    yield command("distill", "-v", "run", "--store", url, "--student", "tiny", "--dry-run")


def test_a_key_that_the_server_does_not_know(guarded: Any, command: Any, tmp_path: Any) -> None:
    for done in every_way(command, guarded.url, tmp_path / "back"):
        assert (done.code, done.out) == (2, "")
        assert f"error: {guarded.url}: access denied (InvalidAccessKeyId)" in done.err
        assert "hint: check AWS_ACCESS_KEY_ID" in done.err
        assert "Traceback" in done.err
        no_secret(done.err)
    assert list(tmp_path.iterdir()) == []


def test_no_such_bucket(environment: None, command: Any, tmp_path: Any) -> None:
    for done in every_way(command, "s3://no-such-bucket/store", tmp_path / "back"):
        assert (done.code, done.out) == (2, "")
        assert "error: s3://no-such-bucket/store: no such bucket" in done.err
        no_secret(done.err)


def test_no_store_there(bucket: Any, command: Any, tmp_path: Any) -> None:
    done = command("featstore", "inspect", bucket.url)
    assert (done.code, "no store there" in done.err) == (2, True)
    bucket.put("zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    for done in list(every_way(command, bucket.url, tmp_path / "back")):
        assert (done.code, "no emodistill store" in done.err) == (2, True)


def test_a_server_that_is_not_there(
    environment: None, command: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    began = time.monotonic()
    done = command("featstore", "-v", "verify", "s3://bucket/store")
    assert time.monotonic() - began < 15
    assert done.code == 1
    assert "error: s3://bucket/store: cannot be reached" in done.err
    assert "AWS_ENDPOINT_URL" in done.err
    no_secret(done.err)


def test_a_server_that_never_answers(environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "STALLED_S", 1)
    monkeypatch.setattr(objects, "RETRY_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(TaskFailed, match="s3://bucket/store: no answer in time"):
            open_store("s3://bucket/store")
        assert time.monotonic() - began < 15


def test_plain_http_is_asked_for(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(TaskFailed, match="plain HTTP is not allowed") as refused:
        open_store(bucket.url)
    assert "AWS_ALLOW_HTTP=true" in refused.value.hint


@pytest.mark.parametrize("lacking", [["AWS_ACCESS_KEY_ID"],
                                     ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]])  # fmt: skip
def test_no_credentials(
    environment: None, lacking: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in lacking:
        monkeypatch.delenv(name)
    with socket.socket() as free:  # where a cloud's machine would be told its credentials
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", address)
    began = time.monotonic()
    with pytest.raises(UserError, match="s3://bucket/store: no credentials found"):
        open_store("s3://bucket/store")
    assert time.monotonic() - began < 15


def test_a_server_that_fails(bucket: Any, monkeypatch: pytest.MonkeyPatch, command: Any) -> None:
    class Failing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(
                b"<Error><Code>SlowDown</Code><Message>AKIAWHO\x1b[31m</Message></Error>"
            )

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        done = command("featstore", "-v", "inspect", bucket.url)
        server.shutdown()
    assert done.code == 1
    assert f"error: {bucket.url}: the server answers with status 503 (SlowDown)" in done.err
    assert "AKIAWHO" not in done.err


def test_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UserError, match="obstore is not installed") as refused:
        open_store("s3://bucket/store")
    assert refused.value.hint == "pip install 'emodistill[s3]'"
