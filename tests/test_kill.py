"""A build killed by SIGKILL in any phase, then resumed, is the build that nothing disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fast import FAST

from featstore.config import BuildSettings
from featstore.settings import resolve, to_toml
from featstore.store import Store
from featstore.verification import verify as verify_store

pytestmark = pytest.mark.slow

PHASES = {"audio": "", "lld": "", "linguistic": "folds/01", "prosodic": "folds/02"}
"""Unit -> the folder, below the store, in which it is staged."""


def command(corpus: Path, config: Path, store: Path) -> list[str]:
    code = "from cli import featstore_main; featstore_main()"
    options = ["--dataset", "synthetic", "--root", corpus, "--store", store, "--config", config]
    return [sys.executable, "-c", code, "build", *map(str, options), "--fold", "1..2"]


def killed_while(unit: str, arguments: list[str], store: Path) -> bool:
    """Start a build and kill it, workers and all, as soon as it stages ``unit``."""
    build = subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.DEVNULL)
    place = store / PHASES[unit]
    while build.poll() is None:
        if any(place.glob(f".staging-{unit}-*")):
            os.killpg(build.pid, signal.SIGKILL)
            build.wait()
            return not (place / unit).exists()
    return False


@pytest.mark.parametrize("unit", PHASES)
def test_resumed_build_equals_the_undisturbed_one(
    unit: str, small_corpus: Path, small_store: Path, tmp_path: Path
) -> None:
    config = tmp_path / "build.toml"
    config.write_text(to_toml(resolve(BuildSettings, FAST, {"corpus": {"name": "synthetic"}})))
    # A write may be over before the signal is there; then there was nothing to resume.
    stores = [tmp_path / f"store{attempt}" for attempt in range(5)]
    store = next(
        store for store in stores if killed_while(unit, command(small_corpus, config, store), store)
    )
    assert list(store.rglob(".staging-*"))

    resumed = subprocess.run(command(small_corpus, config, store), capture_output=True, text=True)

    assert resumed.returncode == 0, resumed.stderr
    assert not list(store.rglob(".staging-*"))
    assert not verify_store(Store.open(store)).faults
    assert Store.open(store).content_hash() == Store.open(small_store).content_hash()
