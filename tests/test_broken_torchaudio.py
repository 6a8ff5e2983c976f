"""A torchaudio that cannot be loaded stops what needs it, with the pair that fits, and no more."""

from __future__ import annotations

import signal
import subprocess
import tomllib
import urllib.request
from pathlib import Path

import pytest
import soundfile

from featstore.core import torch_pair
from tests.broken import ROOT, SAYS, without_torchaudio
from tests.reliability.harness import CONFIG, build_arguments, command, tones

STORE = ROOT / "tests" / "data" / "store-v3"


def call(env: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    app, *arguments = words
    return subprocess.run(
        command(str(app), *arguments), env=env, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return without_torchaudio(tmp_path / "broken")


@pytest.mark.parametrize(
    "words",
    [
        ("featstore", "check", "--dataset", "table", "--root", "{corpus}"),
        ("featstore", "inspect", STORE),
        ("featstore", "verify", STORE),
        ("featstore", "export", STORE, "--to", "{tmp}/store.h5"),
        ("featstore", "export", STORE, "--to", "{tmp}/targets.parquet"),
        ("featstore", "status", STORE),
        ("featstore", "--version"),
        ("distill", "--version"),
    ],
)
def test_what_does_not_need_it_works(
    words: tuple[object, ...], tmp_path: Path, env: dict[str, str]
) -> None:
    places = {"corpus": tmp_path / "corpus", "tmp": tmp_path}
    tones(tmp_path / "corpus", per_speaker=2)
    done = call(env, *(str(word).format_map(places) for word in words))
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr


def test_the_page_works(env: dict[str, str]) -> None:
    arguments = command("featstore", "view", STORE, "--port", "0", "--no-browser")
    page = subprocess.Popen(
        arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert page.stdout is not None
        with urllib.request.urlopen(page.stdout.readline().strip(), timeout=60) as answer:
            assert answer.status == 200
        page.send_signal(signal.SIGINT)
        _, stderr = page.communicate(timeout=60)
    finally:
        page.kill()
    assert (page.returncode, stderr) == (0, "Ctrl-C stops\n")


def test_a_build_that_resamples_ends_in_one_error(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "fast.toml").write_text(CONFIG)
    corpus = tones(tmp_path / "corpus", per_speaker=2)
    for path in (corpus / "audio").iterdir():
        samples, _ = soundfile.read(path)
        soundfile.write(path, samples[::2], 8000)
    done = call(
        env, "featstore", *build_arguments(corpus, tmp_path / "fast.toml", tmp_path / "store")
    )
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    assert SAYS in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--store", STORE, "--student", "tiny", "--fold", "1,2", "--runs", "{tmp}/runs"),
        ("experiment", "table2", "--store", STORE, "--student", "tiny", "--runs", "{tmp}/runs"),
    ],
)
def test_students_end_in_one_error(
    words: tuple[object, ...], tmp_path: Path, env: dict[str, str]
) -> None:
    done = call(env, "distill", *(str(word).format(tmp=tmp_path) for word in words))
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: torchaudio 2.")
    assert SAYS in error
    assert all(name in hint for name in torch_pair.PAIR)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("versions", "message", "hint"),
    [
        (
            {"torch": "2.11.0", "torchaudio": "2.11.1"},
            "torchaudio 2.11.1 does not fit torch 2.11.0",
            'or, to keep torch 2.11.0: python -m pip install "torchaudio==2.11.0"',
        ),
        (
            {"torch": "2.13.0", "torchaudio": "2.11.0"},
            "torchaudio 2.11.0 does not fit torch 2.13.0",
            'python -m pip install "torch>=2.13,<2.16" "torchaudio>=2.11.1,<2.12"',
        ),
        (
            {"torch": "2.13.0+cpu", "torchaudio": "2.11.1"},
            "builds for different hardware",
            'python -m pip install --force-reinstall --no-deps "torchaudio==2.11.1" --index-url',
        ),
        (
            {"torch": "2.13.0", "torchaudio": "2.11.1"},
            f"torchaudio 2.11.1 cannot be loaded beside torch 2.13.0: {SAYS}",
            "python -m pip install --force-reinstall",
        ),
    ],
)
def test_both_versions_and_the_pair_are_named(
    versions: dict[str, str], message: str, hint: str, tmp_path: Path
) -> None:
    env = without_torchaudio(tmp_path / "broken", **versions)
    done = call(env, "distill", "backbones", "hubert-base")
    error, remedy = done.stderr.splitlines()
    assert done.returncode == 2
    assert message in error
    assert remedy.startswith("hint: python -m pip install")
    assert hint in remedy


def test_the_pair_is_the_projects_own() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(torch_pair.PAIR) <= set(project["dependencies"])


def test_another_library_that_cannot_be_loaded_is_no_full_disk(tmp_path: Path) -> None:
    env = without_torchaudio(tmp_path / "broken")
    (tmp_path / "broken" / "soundfile.py").write_text("raise OSError('libsndfile.so: gone')\n")
    corpus = tones(tmp_path / "corpus", per_speaker=2)
    done = call(env, "featstore", "check", "--dataset", "table", "--root", corpus)
    assert done.returncode == 1
    assert "error: libsndfile.so: gone\nhint: an installed package" in done.stderr
    assert "space" not in done.stderr
