"""A SLURM of two nodes, and a corpus whose store is built without it to compare with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from featstore.core.config import BuildSettings
from featstore.core.settings import to_toml
from tests import ROOT
from tests.slurm import cluster

FOLDER = ROOT


@pytest.fixture(scope="session")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Both nodes up, one CPU each."""
    if why := cluster.missing():
        pytest.skip(why)
    pytest.importorskip("submitit")
    with ExitStack() as stack:
        try:
            stack.enter_context(cluster.running(tmp_path_factory.mktemp("slurm")))
        except (subprocess.SubprocessError, TimeoutError) as error:
            words = str(getattr(error, "stderr", "") or "").strip()
            pytest.skip(f"SLURM does not start on this machine: {error} {words}")
        yield


@pytest.fixture(scope="session")
def request_of(small_request: Any) -> Callable[..., Any]:
    """``request_of(store, folds)``: the prosodic teacher alone, fitted in a moment."""
    prosodic = small_request.settings.teachers["prosodic"]
    settings = small_request.settings.model_copy(update={"teachers": {"prosodic": prosodic}})

    def of(store: Path, folds: str) -> Any:
        return replace(small_request, settings=settings, store=store, folds=folds)

    return of


@pytest.fixture(scope="session")
def local_store(request_of: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All ten folds, built on this machine; never written into."""
    from featstore.build.run import build

    place = tmp_path_factory.mktemp("local") / "store"
    build(request_of(place, "all"))
    return place


@dataclass(frozen=True)
class Lab:
    """The command against the two nodes.

    Attributes:
        arguments: of the build, but for store and folds.
        log: a line for each start of a job.
    """

    arguments: tuple[str, ...]
    log: Path

    def command(self, store: Path, *more: str) -> list[str]:
        run = "from cli import featstore_main; featstore_main()"
        place = ("--store", str(store), "--executor", "slurm")
        return [sys.executable, "-c", run, "build", *self.arguments, *place, *more]

    def build(self, store: Path, *more: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(store, *more), env=environment(), capture_output=True, text=True,
            timeout=280, check=False,
        )  # fmt: skip

    def started(self) -> list[str]:
        """Every start of a job and the node that it was on."""
        return self.log.read_text().splitlines()


@pytest.fixture
def lab(two_nodes: None, request_of: Callable[..., Any], small_corpus: Path, tmp_path: Path) -> Lab:
    """The command, its settings and the cluster's."""
    log = tmp_path / "started.log"
    settings: BuildSettings = request_of(tmp_path, "all").settings
    (tmp_path / "build.toml").write_text(to_toml(settings))
    (tmp_path / "cluster.toml").write_text(
        "partition = 'lab'\nmemory_gb = 1\nhours = 0.2\npoll_s = 0.3\n"
        f"setup = ['echo $SLURMD_NODENAME $SLURM_JOB_ID >> {log}']\n"
    )
    return Lab(
        ("--dataset", "synthetic", "--root", str(small_corpus), "--device", "cpu",
         "--config", str(tmp_path / "build.toml"), "--slurm", str(tmp_path / "cluster.toml")),
        log,
    )  # fmt: skip


@pytest.fixture
def without_teachers(local_store: Path, tmp_path: Path) -> Path:
    """The local store before any teacher was fitted."""
    store = Path(shutil.copytree(local_store, tmp_path / "store"))
    shutil.rmtree(store / "folds")
    return store


def environment() -> dict[str, str]:
    """Of a command, and through sbatch of its jobs: they find this very package."""
    paths = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths}
