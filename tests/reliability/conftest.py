"""One corpus of tones and one undisturbed store, made once; never written into."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.reliability.harness import CONFIG, build_arguments, call, tones


@pytest.fixture(scope="session")
def tone_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 short utterances of 4 speakers in 2 classes."""
    return tones(tmp_path_factory.mktemp("tones") / "corpus")


@pytest.fixture(scope="session")
def tone_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers that fit in a moment."""
    path = tmp_path_factory.mktemp("tones") / "fast.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def undisturbed(
    tone_corpus: Path, tone_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The store of ``build_arguments`` when nothing goes wrong."""
    store = tmp_path_factory.mktemp("tones") / "store"
    done = call("featstore", *build_arguments(tone_corpus, tone_config, store))
    assert done.returncode == 0, done.stderr
    return store


@pytest.fixture
def tone_store(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage or to build into."""
    return Path(shutil.copytree(undisturbed, tmp_path / "store"))
