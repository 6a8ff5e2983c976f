from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stores import invented, write_store
from featstore.inspection.view.payloads import Payloads
from featstore.inspection.view.serve import served
from featstore.store.store import Store
from tests.featstore.inspection.view.view_helpers import HOSTILE, Client, run_set, student_run


@pytest.fixture(scope="session")
def view_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 invented utterances, ten folds of two teachers, a hostile transcript in row 0."""
    corpus, sums = invented(60, share=0.2)
    corpus.utterances.loc[0, "text"] = HOSTILE
    corpus.utterances.loc[1, "label_raw"] = "ang\u202e;<i>"
    place = tmp_path_factory.mktemp("view") / "store"
    write_store(place, corpus, sums, "all")
    return place


@pytest.fixture(scope="session")
def view_run(view_store: Path) -> Any:
    """A finished run of fold 1."""
    return student_run(Store.open(view_store), 1)


@pytest.fixture(scope="session")
def view_address(view_store: Path, view_run: Any) -> Iterator[str]:
    runs = run_set(view_run, fold02="not finished")
    with served(Payloads(Store.open(view_store), runs)) as address:
        yield address


@pytest.fixture
def ask(view_address: str) -> Client:
    return Client(view_address)
