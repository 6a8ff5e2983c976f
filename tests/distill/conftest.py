"""Two finished runs that every test of the trainer compares with; never written into."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from distill.runs.folder import Outcome
from tests.distill.small_runs import train


@pytest.fixture(scope="session")
def finished(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Outcome]:
    """Folds 1 and 2 of the small store, trained one after the other in this process."""
    runs = tmp_path_factory.mktemp("runs")
    return {fold: train(small_store, runs, fold=fold) for fold in (1, 2)}
