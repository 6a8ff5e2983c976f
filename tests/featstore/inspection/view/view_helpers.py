from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
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


def student_run(
    store: Store, fold: int, seed: int = 42, changes: Mapping[str, Any] | None = None
) -> Any:
    """A finished run as ``distill.runs.read.collect`` gives it, its logits drawn."""
    role = store.roles[fold - 1]
    rows = {"test": np.flatnonzero(role == TEST), "validation": np.flatnonzero(role == VALIDATION)}
    rng = np.random.default_rng(seed)
    logits = {
        name: rng.standard_normal((len(at), 4)).astype(np.float32) for name, at in rows.items()
    }
    table = predictions_table(
        store.utterances, rows, logits, store.labels.astype(np.int64), store.classes, fold
    )
    facts = {
        "fold": fold, "seed": seed, "experiment": "tiny-full", "variant": "full",
        "classes": store.classes, "store": SimpleNamespace(fingerprint=store.fingerprint()),
        "student": SimpleNamespace(backbone="tiny"),
    } | dict(changes or {})  # fmt: skip
    place = f"{facts['experiment']}/abc/fold{fold:02d}-seed{seed}"
    return SimpleNamespace(place=place, facts=SimpleNamespace(**facts), predictions=table)


def run_set(*runs: Any, **left_out: str) -> Any:
    """Runs, and folders that are left out with the reason."""
    others = [SimpleNamespace(place=k, state="damaged", reason=v) for k, v in left_out.items()]
    return SimpleNamespace(runs=runs, left_out=others)
