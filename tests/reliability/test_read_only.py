"""A store and a corpus that belong to somebody else: all that only reads them works, in silence.

The commands run as a user without a name, a home or any right to write; where the machine permits
it, store and corpus lie on a mount that nobody may write to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.reliability.at_once import run_now, tree
from tests.reliability.harness import (
    Completed,
    build_arguments,
    command,
    environment,
    run_arguments,
)

pytestmark = [pytest.mark.reliability]

NOBODY = 59_999
"""A user id that no machine gives a name to, as containers and clusters have them."""


def as_nobody() -> Sequence[str]:
    """A prefix that takes away all rights but to read whatever there is.

    The interpreter may lie in a folder that only root enters, so reading is left.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    rights = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
              "--bounding-set=-all,+dac_read_search"]  # fmt: skip
    user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *rights]
    prefix = ["setpriv", *user]
    tried = subprocess.run([*prefix, sys.executable, "-c", ""], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("this machine does not let a process keep the right to read alone")
    return prefix


def mounted(origin: Path, at: Path) -> bool:
    """Bind ``origin`` read-only to ``at``; False where mounting is not permitted."""
    at.mkdir()
    bound = subprocess.run(["mount", "--bind", origin, at], capture_output=True, check=False)
    if bound.returncode:
        return False
    remount = ["mount", "-o", "remount,ro,bind", str(at)]
    if subprocess.run(remount, capture_output=True, check=False).returncode == 0:
        return True
    subprocess.run(["umount", at], check=True)
    return False


@pytest.fixture(scope="module")
def place(tone_corpus: Path, tone_config: Path) -> Iterator[Path]:
    """A folder that anybody may enter, which pytest's own are not; with a few files to read."""
    base = Path(tempfile.mkdtemp(prefix="read-only-"))
    base.chmod(0o755)
    shutil.copy(tone_config, base / "fast.toml")
    shutil.copy(tone_corpus / "audio" / "bo1.wav", base)
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def sealed(tone_corpus: Path, undisturbed: Path, place: Path) -> Iterator[tuple[Path, Path]]:
    """Corpus and store that cannot be written: on a mount, or else by their modes alone."""
    as_nobody()
    corpus, store = place / "corpus", place / "store"
    pairs = ((tone_corpus, corpus), (undisturbed, store))
    done = [at for origin, at in pairs if mounted(origin, at)]
    try:
        if len(done) < len(pairs):
            for origin, at in pairs:
                if at not in done:
                    shutil.copytree(origin, at, dirs_exist_ok=True)
                    for path in (at, *at.rglob("*")):
                        path.chmod(0o555 if path.is_dir() else 0o444)
        yield corpus, store
    finally:
        for at in done:
            subprocess.run(["umount", at], check=True)


@pytest.fixture(scope="module")
def trained(undisturbed: Path, place: Path) -> Path:
    """A finished run of somebody else."""
    return run_now(undisturbed, place / "theirs").folder


class Desk:
    """A folder that nobody may write to, but for ``out`` and ``temporary``; a home of some kind."""

    def __init__(self, base: Path, home: str) -> None:
        self.base, self.out, self.temporary = base, base / "out", base / "temporary"
        modes = {self.out: 0o777, self.temporary: 0o1777, base / "home": 0o555}
        for folder, mode in modes.items():
            folder.mkdir()
            folder.chmod(mode)
        base.chmod(0o555)
        self.home = {"absent": "/nonexistent", "read-only": str(base / "home")}.get(home)

    def env(self) -> Mapping[str, str]:
        """No home that can be written, no name, and a folder of its own for temporary files."""
        names = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "HF_HOME")
        kinds = ("XDG_", "MPL", "TORCH")  # PyTorch sets one for its children, as it would itself
        env = {name: value for name, value in environment().items()
               if name not in names and not name.startswith(kinds)}  # fmt: skip
        return env | {"TMPDIR": str(self.temporary)} | ({"HOME": self.home} if self.home else {})

    def call(self, app: str, *arguments: object) -> Completed:
        """Run a command as nobody; whatever it writes beyond ``out`` is an error by itself."""
        return subprocess.run(
            [*as_nobody(), *command(app, *arguments)], env=self.env(), cwd=self.base,
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip

    def quietly(self, app: str, *arguments: object, said: Sequence[str] = ()) -> str:
        """The same, with success and nothing on stderr but lines that begin with ``said``."""
        done = self.call(app, *arguments)
        assert done.returncode == 0, done.stderr
        # tones teach little, and it is told
        known = ("warning: fold ", "warning: they teach", *said)
        noise = [line for line in done.stderr.splitlines() if not line.startswith(known)]
        assert noise == []
        return done.stdout


@pytest.fixture
def desk(place: Path, request: pytest.FixtureRequest) -> Desk:
    base = Path(tempfile.mkdtemp(dir=place))
    return Desk(base, getattr(request, "param", "read-only"))


@pytest.mark.timeout(300)
def test_all_that_only_reads(
    sealed: tuple[Path, Path], desk: Desk, place: Path, trained: Path, undisturbed: Path
) -> None:
    """verify, inspect, train, report, predict, and a build that has nothing to do."""
    began = time.monotonic()
    corpus, store = sealed
    before = tree(store), sorted(tree(corpus))
    desk.quietly("featstore", "verify", store)
    desk.quietly("featstore", "inspect", store)
    desk.quietly("featstore", "inspect", store, "--utterance", "bo3")
    desk.quietly("featstore", *build_arguments(corpus, place / "fast.toml", store, "--json"))
    runs = desk.out / "runs"
    desk.quietly("distill", *run_arguments(store, runs), said=["tiny-full: "])
    (run,) = (path.parent for path in runs.rglob("DONE"))
    assert tree(run)["predictions.parquet"] == tree(trained)["predictions.parquet"]
    desk.quietly("distill", "report", runs, "--out", desk.out / "report", said=["wrote "])
    assert {"report.md", "report.json", "scores.png"} <= set(tree(desk.out / "report"))
    desk.quietly("distill", "predict", run / "student", corpus / "audio" / "ada0.wav")
    assert (tree(store), sorted(tree(corpus))) == before
    assert tree(store) == tree(undisturbed)
    assert {path.name for path in desk.base.iterdir()} == {"home", "out", "temporary"}
    for folder in (desk.base / "home", desk.temporary):
        assert list(folder.iterdir()) == []
    print(f"7 commands as user {NOBODY} on a store that cannot be written: exit 0, nothing said, "
          f"{time.monotonic() - began:.1f} s")  # fmt: skip


@pytest.mark.parametrize("desk", ["unset", "absent"], indirect=True)
def test_without_a_home_to_cache_in(desk: Desk, trained: Path) -> None:
    """Fonts are listed without a word about where the list would be kept, or what it took."""
    desk.quietly("distill", "report", trained, "--out", desk.out / "report", said=["wrote "])
    assert list(desk.temporary.iterdir()) == []


def test_a_build_that_must_write_says_where_it_cannot(
    sealed: tuple[Path, Path], desk: Desk, place: Path
) -> None:
    """The control: the seal holds, and what needs to write is told so in one line."""
    corpus, store = sealed
    more = ("--set", "lld.feature_set=GeMAPSv01b", "--rebuild")
    done = desk.call("featstore", *build_arguments(corpus, place / "fast.toml", store, *more))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(store) in done.stderr
    assert "read-only file system" in done.stderr or "permission denied" in done.stderr
