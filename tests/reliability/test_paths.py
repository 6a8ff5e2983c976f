"""Nothing beyond corpus, store, run, report and caches is written; nothing but code is read there.

Each command runs under strace with a home, a folder for temporary files and a working directory of
its own, so that whatever is left there is seen, and anything that it looks for there is absent.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.reliability.harness import ROOT, build_arguments, command, environment, run_arguments
from tests.reliability.tracing import OPENING, Call, calls, strace

pytestmark = [pytest.mark.reliability]

SHARED_MEMORY = r"/dev/shm/sem\.(mp-)?\w+"
"""The semaphores of a process pool: names of a few bytes, gone when the pool is."""
FONTS = r"HOME/\.(cache|config)(/matplotlib(/fontlist-v[\w.]+\.json(\.matplotlib-lock)?)?)?"
"""matplotlib's list of this machine's fonts: a cache of its own, shared by all that draw."""
PROBE = r"TMPDIR/[a-z0-9_]{8}"
"""Python's own trial of a folder for temporary files, which some libraries have it look for while
they are imported: a file that is removed at once."""
NULL = r"/dev/null"
OPTIONAL = (PROBE, NULL)
"""Allowances that not every installation makes use of."""
WRITTEN: Mapping[str, Sequence[str]] = {
    "build": ("STORE(/.*)?", SHARED_MEMORY, *OPTIONAL),
    "run": ("RUNS(/.*)?", SHARED_MEMORY, *OPTIONAL),
    "report": ("REPORT(/.*)?", FONTS, *OPTIONAL),
    "predict": OPTIONAL,
    "verify": (NULL,),
    "inspect": (NULL,),
}
"""All that each command may create, change or remove, as whole paths."""
READ: Mapping[str, Sequence[str]] = {
    "build": ("CORPUS", "CONFIG", "STORE"),
    "run": ("STORE", "RUNS"),
    "report": ("RUNS", "REPORT", "HOME/.cache/matplotlib", "HOME/.config/matplotlib"),
    "predict": ("RUNS", "CORPUS"),
    "verify": ("STORE",),
    "inspect": ("STORE",),
}
"""Where each command's data lies: of the places below, it opens none but these."""
SYSTEM = (
    "/bin", "/lib", "/lib64", "/usr", "/proc", "/sys", "/dev/null", "/dev/urandom", "/dev/shm",
    "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/fonts",
    "/etc/os-release", "/etc/ssl", "/var/cache/fontconfig",
)  # fmt: skip
"""Where an operating system keeps programs and what they look up at their start."""


@dataclass(frozen=True)
class Traced:
    """The commands' calls, and what the words of the tables above stand for."""

    calls: Mapping[str, Sequence[Call]]
    places: Mapping[str, Path]

    def pattern(self, allowed: Sequence[str]) -> re.Pattern[str]:
        """One expression for whole paths, its words replaced by places."""
        parts = []
        for part in allowed:
            for word, place in self.places.items():
                part = re.sub(rf"^{word}\b", lambda _, p=place: re.escape(str(p)), part)
            parts.append(part)
        return re.compile("|".join(f"(?:{part})" for part in parts))

    def roots(self, words: Sequence[str]) -> tuple[str, ...]:
        """Places and paths below them, as prefixes."""
        return tuple(
            str(self.places[word.partition("/")[0]] / word.partition("/")[2]) for word in words
        )


@pytest.fixture(scope="module")
def traced(
    tone_corpus: Path, tone_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Traced:
    """Every command once, one after the other."""
    base = tmp_path_factory.mktemp("traced")
    names = ("HOME", "TMPDIR", "CWD", "STORE", "RUNS", "REPORT")
    places = {name: base / name.lower() for name in names}
    places |= {"CORPUS": tone_corpus, "CONFIG": tone_config}
    for name in ("HOME", "TMPDIR", "CWD"):
        places[name].mkdir()
    kinds = ("XDG_", "MPL", "TORCH")  # which would lead to other places than a user's
    env = {name: value for name, value in environment().items() if not name.startswith(kinds)}
    env |= {name: str(places[name]) for name in ("HOME", "TMPDIR")}
    store, runs = places["STORE"], places["RUNS"]
    build = build_arguments(tone_corpus, tone_config, store, "--jobs", "2", "--fold", "1")
    lines: dict[str, tuple[str, Sequence[object]]] = {
        "build": ("featstore", build),
        "run": ("distill", run_arguments(store, runs)),
        "report": ("distill", ["report", runs, "--out", places["REPORT"]]),
        "predict": ("distill", ["predict", "STUDENT", *sorted(tone_corpus.glob("audio/ada*"))]),
        "verify": ("featstore", ["verify", store]),
        "inspect": ("featstore", ["inspect", store, "--utterance", "ada0"]),
    }
    found = {}
    for name, (app, arguments) in lines.items():
        student = next(runs.glob("*/*/*/student"), None)
        given = [student if part == "STUDENT" else part for part in arguments]
        done = subprocess.run(
            [*strace(base / f"{name}-log"), *command(app, *given)], env=env, cwd=places["CWD"],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[name] = list(calls(base / f"{name}-log", places["CWD"]))
        assert len(found[name]) > 1000, "strace saw next to nothing"
    return Traced(found, places)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", WRITTEN)
def test_writes_nowhere_but_where_it_is_told_to(name: str, traced: Traced) -> None:
    allowed = traced.pattern(WRITTEN[name])
    writes = [call for call in traced.calls[name] if call.writes]
    stray = [call.text for call in writes for path in call.paths if not allowed.fullmatch(path)]
    assert stray == []
    paths = {path for call in writes for path in call.paths}
    print(f"{name}: {len(writes)} calls that write, {len(paths)} paths, none elsewhere")


def test_what_is_allowed_is_needed(traced: Traced) -> None:
    """An exception that no command makes use of any more is to be struck off the table."""
    unused = []
    for name, allowed in WRITTEN.items():
        paths = {path for call in traced.calls[name] if call.writes for path in call.paths}
        for part in allowed:
            if part not in OPTIONAL and not any(
                traced.pattern([part]).fullmatch(path) for path in paths
            ):
                unused.append(f"{name}: {part}")
    assert unused == []


def test_leaves_nothing_in_the_folder_of_temporary_files(traced: Traced) -> None:
    for place in ("TMPDIR", "CWD"):
        assert list(traced.places[place].iterdir()) == []


@pytest.mark.parametrize("name", READ)
def test_reads_nothing_but_its_data_and_programs(name: str, traced: Traced) -> None:
    """Of what it opens: not another corpus, nor a setting that happens to lie somewhere."""
    python = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
    programs = {os.path.realpath(path) for path in python} | python | {str(ROOT)}
    allowed = (*programs, *SYSTEM, *traced.roots(READ[name]))
    opened = {
        path
        for call in traced.calls[name]
        if call.name in OPENING and not call.writes
        for path in call.paths
    }
    folders = {str(above) for place in traced.places.values() for above in (place, place.parent)}
    stray = {path for path in opened if not inside(path, allowed)}
    assert stray - folders == set()  # a folder is opened to be fsynced, and to look for modules
    data = [path for path in opened if inside(path, traced.roots(READ[name]))]
    assert data
    print(f"{name}: {len(opened)} files opened, {len(data)} of them data, none elsewhere")


def inside(path: str, roots: Sequence[str]) -> bool:
    normal = os.path.normpath(path)
    return any(normal == root or normal.startswith(f"{root.rstrip('/')}/") for root in roots)


@pytest.mark.parametrize("name", WRITTEN)
def test_speaks_to_no_other_machine(name: str, traced: Traced) -> None:
    """Nor tries to; pipes and pairs of sockets between its own processes have no address."""
    assert [call.text for call in traced.calls[name] if call.addressed] == []


def test_a_command_that_does_so_is_seen(tmp_path: Path) -> None:
    """The control: what is forbidden above is found where it happens, however it is done."""
    began = time.monotonic()
    code = (
        "import os, socket\n"
        "open('here', 'w').close(); os.mkdir('folder'); os.rename('here', 'there')\n"
        "os.open('folder', os.O_RDONLY); fd = os.open('.', os.O_RDONLY)\n"
        "os.mkdir('nested', dir_fd=fd); os.symlink('/x', 'l\\u00e9nk'); os.unlink('there')\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))\n"
    )
    log = tmp_path / "log"
    prefix = strace(log)
    subprocess.run([*prefix, sys.executable, "-c", code], cwd=tmp_path, check=True)
    found = list(calls(log, tmp_path))
    writes = {path for call in found if call.writes for path in call.paths}
    assert writes >= {str(tmp_path / name) for name in ("here", "there", "folder", "nested")}
    assert any(path.endswith("/x") or "nk" in path for path in writes)
    assert [call.name for call in found if call.addressed] == ["connect"]
    print(f"control: {len(writes)} written paths and a connection seen, "
          f"{time.monotonic() - began:.1f} s")  # fmt: skip
