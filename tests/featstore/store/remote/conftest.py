"""An S3 server on loopback, real HTTP in between, and an empty bucket for each test."""

from __future__ import annotations

import itertools
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import cli
from featstore.core import console
from tests.featstore.store.kept_store import KEPT, copied
from tests.reliability.forgery import rewritten

SECRET = "a-secret-that-nothing-may-print"
KEY = "AKIAKEYTHATNOTHINGPRINTS"
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Where the server listens."""
    moto_server = pytest.importorskip("moto.server")
    pytest.importorskip("obstore")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@dataclass(frozen=True)
class Bucket:
    """A bucket as its server has it, beside what our code does with it."""

    name: str

    @property
    def url(self) -> str:
        """A prefix for a store."""
        return f"s3://{self.name}/stores/kept"

    @property
    def _backend(self) -> Any:
        from moto.s3.models import s3_backends

        return s3_backends["123456789012"]["aws"]

    def objects(self, prefix: str = "stores/kept/") -> dict[str, bytes]:
        """What lies below a prefix."""
        keys = self._backend.buckets[self.name].keys
        return {
            name.removeprefix(prefix): keys[name].value
            for name in sorted(keys)
            if name.startswith(prefix)
        }

    def put(self, name: str, content: bytes, prefix: str = "stores/kept/") -> None:
        """Write an object past our code."""
        self._backend.put_object(self.name, f"{prefix}{name}", content)

    def delete(self, name: str, prefix: str = "stores/kept/") -> None:
        """Remove one."""
        self._backend.delete_object(self.name, f"{prefix}{name}")


def settings(endpoint: str) -> dict[str, str]:
    """Credentials and the server's address."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@pytest.fixture
def environment(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our settings, and a cache of the test's own."""
    for name, value in settings(endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FEATSTORE_CACHE", str(tmp_path / "cache"))


def new_bucket() -> Bucket:
    """An empty bucket."""
    made = Bucket(f"bucket-{next(_NUMBERS)}")
    made._backend.create_bucket(made.name, "us-east-1")
    return made


@pytest.fixture
def bucket(environment: None) -> Bucket:
    """An empty bucket."""
    return new_bucket()


@pytest.fixture(scope="session")
def copies(endpoint: str) -> dict[str, bytes]:
    """The objects of the kept store as it is published."""
    from featstore.store.remote import copy

    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings(endpoint).items():
            patch.setenv(name, value)
        made = new_bucket()
        copy(KEPT, made.url)
    return made.objects()


@pytest.fixture
def published(bucket: Bucket, copies: dict[str, bytes]) -> Bucket:
    """The kept store in a bucket."""
    for name, content in copies.items():
        bucket.put(name, content)
    return bucket


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """``command("featstore", "verify", URL)`` in this process: exit code, stdout and stderr."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]

    def run(*arguments: Any) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            {"featstore": cli.featstore_main, "distill": cli.distill_main}[arguments[0]]()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    yield run
    for number, handler in handlers:
        signal.signal(number, handler)
    console.set_verbose(False)


@pytest.fixture
def other_store(tmp_path: Path) -> Path:
    """The kept store, but for one value of one teacher, with a record that fits."""
    place = copied(tmp_path / "other")

    def one_more(values: Any) -> Any:
        values[0, 0] += 1
        return values

    rewritten(place / "folds/01/prosodic", "logits", one_more)
    return place
