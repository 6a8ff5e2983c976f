from __future__ import annotations

import hashlib
import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from distill.runs.folder import predictions_table
from featstore.folds import TEST, VALIDATION
from featstore.store.store import Store

HOSTILE = (
    "</script><img src=x onerror=alert(1)> \u202egnorw\u202c \x1b[31m <b>bold</b> &amp; \u2028 end"
)
"""A transcript that would like to be markup, and to turn the direction of reading."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def floats(self, columns: int) -> np.ndarray:
        return np.frombuffer(self.body, "<f4").reshape(-1, columns)


class Client:
    """Plain HTTP to a page's address: a path is sent as it is written, which browsers do not."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.port = int(parts.port or 0)
        self.host = f"{parts.hostname}:{parts.port}"

    def __call__(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            sent = {"host": self.host, **{k.replace("_", "-"): v for k, v in headers.items()}}
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders()
            found = connection.getresponse()
            told = {name.lower(): value for name, value in found.getheaders()}
            return Answer(found.status, told, found.read())
        finally:
            connection.close()


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below a folder."""
    facts = {str(path): path.lstat() for path in [root, *root.rglob("*")]}
    return {name: (found.st_size, found.st_mtime_ns) for name, found in facts.items()}


def write_run(
    folder: Path, store: Store, fold: int, seed: int = 42, changes: dict[str, Any] | None = None
) -> np.ndarray:
    """A finished run as `distill run` leaves it, its logits drawn; ``[N, C]``, NaN where none."""
    role = store.roles[fold - 1]
    rows = {"test": np.flatnonzero(role == TEST), "validation": np.flatnonzero(role == VALIDATION)}
    rng = np.random.default_rng(seed)
    logits = {
        name: rng.standard_normal((len(at), 4)).astype(np.float32) for name, at in rows.items()
    }
    table = predictions_table(
        store.utterances, rows, logits, store.labels.astype(np.int64), store.classes, fold
    )
    folder.mkdir(parents=True)
    table.to_parquet(folder / "predictions.parquet", index=False)
    facts = {
        "schema": 1, "experiment": "tiny-full", "key": "abc", "fold": fold, "seed": seed,
        "variant": "full", "classes": list(store.classes), "n_folds": 10, "dataset": "table",
        "store": {"fingerprint": store.fingerprint()}, "student": {"backbone": "tiny"},
    } | (changes or {})  # fmt: skip
    (folder / "run.json").write_text(json.dumps(facts))
    content = (folder / "predictions.parquet").read_bytes()
    (folder / "DONE").write_text(
        json.dumps({"predictions.parquet": hashlib.sha256(content).hexdigest()})
    )
    out = np.full((len(role), 4), np.nan, dtype=np.float32)
    for name, at in rows.items():
        out[at] = logits[name]
    return out
