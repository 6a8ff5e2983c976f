"""Commands in forks of one process that has imported everything: fast, bounded, and measured.

A fork begins with the imports' memory, so what it grows by is the command's own. The system kills
nothing: the address space of a fork is bounded, and one that takes too long is killed by us.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tests.reliability.harness import ROOT, environment

MOST_MB, MOST_CPU_S = 500, 10
"""What a refusal may cost; a machine that is busy takes longer by the clock."""

_LOOK_EVERY_S = 0.004
SPARE_BYTES = 3 * 1024**3
"""How far a fork's address space may grow; threads' stacks and mapped shards take some of it."""


class Ended(NamedTuple):
    """What became of a command; code -9 where it took too long."""

    code: int
    out: str
    err: str
    grew_mb: float
    cpu_s: float


class Sandbox:
    """The process that forks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.sandbox"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
            env=environment(PYTHONPATH=str(ROOT)),
        )  # fmt: skip
        self._answer()

    def close(self) -> None:
        """End it."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(20)
        self._server.stdout.close()

    def __call__(
        self,
        app: str,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout_s: float = 40,
    ) -> Ended:
        """Run ``featstore``, ``distill`` or one of :data:`PROBES` with some arguments."""
        assert self._server.stdin is not None
        asked = {
            "app": app, "arguments": list(map(str, arguments)), "env": dict(env or {}),
            "cwd": str(cwd or self._folder), "folder": str(self._folder), "timeout_s": timeout_s,
        }  # fmt: skip
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        answer = self._answer()
        out, err = (
            (self._folder / name).read_text(encoding="utf-8", errors="replace")
            for name in ("out", "err")
        )
        return Ended(answer["code"], out, err, answer["grew_mb"], answer["cpu_s"])

    def _answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the sandbox has died"
        answer: dict[str, Any] = json.loads(line)
        return answer


@cache
def shared() -> Sandbox:
    """One for all tests of a session; it ends with Python."""
    folder = tempfile.TemporaryDirectory(prefix="sandbox-")
    running = Sandbox(Path(folder.name))

    def end() -> None:
        running.close()
        folder.cleanup()

    atexit.register(end)
    return running


class Tally:
    """Every refusal looked at, and what they cost together."""

    def __init__(self) -> None:
        self.tries, self.most_mb, self.most_cpu_s = 0, 0.0, 0.0
        self.wrong: list[str] = []
        self._began = time.monotonic()

    def add(self, what: str, ended: Ended, codes: Sequence[int] = (3, 4)) -> None:
        self.tries += 1
        self.most_mb = max(self.most_mb, ended.grew_mb)
        self.most_cpu_s = max(self.most_cpu_s, ended.cpu_s)
        told = ended.err + ended.out
        faults = [
            f"code {ended.code}" if ended.code not in codes else "",
            "a traceback" if "Traceback" in told else "",
            "no hint" if ended.code > 0 and "hint: " not in told else "",
            f"{len(told)} characters" if ended.code and len(told) > 50_000 else "",
            f"{ended.grew_mb:.0f} MB" if ended.grew_mb > MOST_MB else "",
            f"{ended.cpu_s:.1f} s" if ended.cpu_s > MOST_CPU_S else "",
        ]
        if any(faults):
            why = ", ".join(fault for fault in faults if fault)
            self.wrong.append(f"{what}: {why}: {ended.err[-200:]}{ended.out[:200]}")

    def close(self, title: str) -> None:
        print(f"{title}: {self.tries} tries, {len(self.wrong)} wrong, "
              f"at most {self.most_mb:.0f} MB and {self.most_cpu_s:.1f} s of CPU, "
              f"{time.monotonic() - self._began:.0f} s in all")  # fmt: skip
        assert not self.wrong, "\n".join(self.wrong)


class _Inline:
    """A process pool's face over plain calls, so that a run is measured with its command."""

    def __init__(
        self,
        *_: Any,
        initializer: Callable[..., None] = lambda: None,
        initargs: tuple[Any, ...] = (),
        **__: Any,
    ) -> None:
        initializer(*initargs)

    def __enter__(self) -> _Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:  # what a worker would send back
            future.set_exception(error)
        return future

    def shutdown(self, **_: Any) -> None:
        pass


def read_everything(store: str) -> None:
    """Whatever a user of the store's own interface may ask it for."""
    from featstore.store.store import Store

    opened = Store.open(store)
    opened.content_hash()
    assert len(opened.utterances) == len(opened.sources) == len(opened.labels)
    for ragged in (opened.audio, opened.lld):
        for row in range(len(ragged)):
            ragged.read(row)
    for number in range(1, len(opened.folds) + 1):
        if opened.teacher_names(number):
            opened.fold(number)
    assert opened.roles.shape == (len(opened.folds), len(opened.utterances))


def load_backbone(name: str, weights: str = "") -> None:
    """A student's encoder, as ``distill run`` loads it."""
    from distill.model.weights import load_backbone as load

    load(name, Path(weights) if weights else None)


def load_text_encoder(folder: str) -> None:
    """A teacher's encoder, as ``featstore build`` loads it."""
    from featstore.teachers.linguistic import load_encoder

    load_encoder(folder)


PROBES: dict[str, Callable[..., None]] = {
    "read": read_everything,
    "backbone": load_backbone,
    "text-encoder": load_text_encoder,
}


_IMPORTED = (
    *(
        "distill.model.predict",
        "distill.report",
        "distill.training.loop",
        "distill.experiments.launch",
        "distill.experiments.terminal",
    ),
    *(
        "featstore.build.run",
        "featstore.inspection.overview",
        "featstore.store.verify",
        "featstore.inspection.render",
    ),
    *("matplotlib.figure", "pyarrow.parquet", "transformers.models.hubert.modeling_hubert"),
    *("transformers.models.bert.modeling_bert", "transformers.models.bert.tokenization_bert"),
    *("zarr.codecs", "rich.table", "huggingface_hub.errors", "google_crc32c"),
)


def _serve() -> None:
    for name in _IMPORTED:
        import_module(name)
    from featstore.jobs import local

    local.ProcessPoolExecutor = _Inline  # type: ignore[misc,assignment]
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(_forked(json.loads(line))), flush=True)


def _forked(asked: Mapping[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        _child(asked)
    watched = os.pidfd_open(pid)
    first = most = _private_mb(pid)
    while not select.select([watched], [], [], _LOOK_EVERY_S)[0]:
        most = max(most, _private_mb(pid))
        if time.monotonic() - began > asked["timeout_s"]:
            os.kill(pid, signal.SIGKILL)
    os.close(watched)
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "grew_mb": most - first, "cpu_s": usage.ru_utime + usage.ru_stime}


def _private_mb(pid: int) -> float:
    """Memory that is the process' own: mapped files, which the system takes back, do not count."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _child(asked: Mapping[str, Any]) -> None:
    code = 70
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(Path(asked["folder"], name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
                    number)  # fmt: skip
        sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"])
        code = _run(asked["app"], asked["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(app: str, arguments: list[str]) -> int:
    import cli
    from featstore.core.schema import UserError

    sys.argv = [app, *arguments]
    try:
        if app in PROBES:
            PROBES[app](*arguments)
        else:
            getattr(cli, f"{app}_main")()
    except UserError as error:
        return cli._fail(error)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


if __name__ == "__main__":
    _serve()
