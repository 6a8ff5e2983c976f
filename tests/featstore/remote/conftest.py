"""An S3 server on loopback, real HTTP in between, and an empty bucket for each test."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kept_store import KEPT

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


@pytest.fixture
def environment(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials, the server's address and a cache of the test's own."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "FEATSTORE_CACHE": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(environment: None) -> Bucket:
    """An empty bucket."""
    name = f"bucket-{next(_NUMBERS)}"
    made = Bucket(name)
    made._backend.create_bucket(name, "us-east-1")
    return made


@pytest.fixture
def published(bucket: Bucket) -> Bucket:
    """The kept store in a bucket."""
    from featstore.remote.copying import copy

    copy(KEPT, bucket.url)
    return bucket
