"""Fixtures of the whole suite: one small corpus and one small store, made once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from tests import STANDIN
from tests.fast import FAST
from tests.inline import InlineExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")

# The first call of a property test may import torch: no time limit of its own. The same examples on
# every machine, so that a failure is a change's and not a draw's.
hypothesis.settings.register_profile("emodistill", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("emodistill")

_LLDS: dict[tuple[str, bytes], Any] = {}


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Leave the environment as it was: joining a team, for one, sets a launcher's variables."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def standin() -> Path:
    """The stand-in corpus: real speech in IEMOCAP's layout, where this machine has it."""
    if not STANDIN.is_dir():
        pytest.skip("the stand-in corpus is not beside this checkout")
    return STANDIN / "iemocap_standin"


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic corpus with 80 utterances, 8 a speaker; never written into."""
    from featstore.corpora.synthetic import generate

    root = tmp_path_factory.mktemp("corpus") / "synthetic"
    generate(root, utterances=80, seed=1, jobs=2)
    return root


@pytest.fixture(scope="session")
def small_request(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The build that :func:`small_store` comes from; ``dataclasses.replace`` its store."""
    from featstore.build.plan import Request
    from featstore.core.config import BuildSettings
    from featstore.core.settings import resolve
    from featstore.corpora import load

    settings = resolve(BuildSettings, FAST, {"corpus": {"name": "synthetic"}})
    manifest = load("synthetic", small_corpus, settings.corpus)
    place = tmp_path_factory.mktemp("store") / "store"
    return Request(manifest, settings, place, folds="1..2", jobs=2, device="cpu")


@pytest.fixture(scope="session")
def small_store(small_request: Any) -> Path:
    """A store with both teachers of folds 1 and 2; never written into (copy it to damage it)."""
    from featstore.build.run import build

    build(small_request)
    return Path(small_request.store)


@pytest.fixture(scope="session")
def cross_store(small_request: Any, small_store: Path, tmp_path_factory: Any) -> Path:
    """The small store, and beside its teachers of fold 1 targets that are cross-fitted by two
    parts; never written into.
    """
    from featstore.build.run import build

    place = tmp_path_factory.mktemp("cross") / "store"
    shutil.copytree(small_store, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featstore.jobs.local.ProcessPoolExecutor", InlineExecutor)
        build(replace(small_request, store=place, folds="1", jobs=1, cross_fit=2))
    return place


@pytest.fixture
def store_copy(small_store: Path, tmp_path: Path) -> Path:
    """The small store, to damage or to build into."""
    return Path(shutil.copytree(small_store, tmp_path / "store"))


@pytest.fixture
def corpus_copy(small_corpus: Path, tmp_path: Path) -> Path:
    """The small corpus, to damage."""
    return Path(shutil.copytree(small_corpus, tmp_path / "corpus"))


@pytest.fixture
def build_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """:func:`featstore.build.run.build` in this process, each signal's LLDs extracted once.

    That the same samples give the same LLDs, in other processes too, is for test_lld.py to show.
    """
    from featstore.build.run import build
    from featstore.features import lld

    extract = lld.extract

    def remembered(samples: Any, feature_set: str = "eGeMAPSv02") -> Any:
        key = (feature_set, np.asarray(samples).tobytes())
        if key not in _LLDS:
            _LLDS[key] = extract(samples, feature_set)
        return _LLDS[key].copy()

    monkeypatch.setattr("featstore.jobs.local.ProcessPoolExecutor", InlineExecutor)
    monkeypatch.setattr(lld, "extract", remembered)
    return lambda request: build(replace(request, jobs=1))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """One torch thread, whatever a test before has set."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
