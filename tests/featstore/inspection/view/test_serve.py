from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from featstore.core.schema import TaskFailed, UserError
from featstore.inspection.view import serve as module
from featstore.inspection.view.guard import LOCAL, Guard
from tests import ROOT
from tests.featstore.inspection.view.view_helpers import Client


@pytest.fixture
def served_app(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What :func:`serve` would have served, and where the browser was sent."""
    seen: dict[str, Any] = {"opened": []}
    monkeypatch.setattr(module, "_run", lambda app, listener: seen.update(app=app, at=listener))
    monkeypatch.setattr(module.webbrowser, "open", seen["opened"].append)
    monkeypatch.setattr(module, "_has_screen", lambda: True)
    return seen


def serve(store: Path, **options: Any) -> None:
    given = {"runs": None, "host": "127.0.0.1", "port": 0, "token": None, "browser": False}
    module.serve(store, **(given | options))


class TestServe:
    def test_this_machine_needs_no_token(
        self, view_store: Path, served_app: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        serve(view_store, browser=True)
        out, err = capsys.readouterr()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", out)
        assert err == "Ctrl-C stops\n"
        assert served_app["opened"] == [out.strip()]
        app = served_app["app"]
        assert isinstance(app, Guard)
        assert (app.token, app.hosts.names, app.hosts.any_address) == (None, LOCAL, False)

    def test_other_machines_do(
        self, view_store: Path, served_app: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        tokens = set()
        for _ in range(2):
            serve(view_store, host="0.0.0.0")
            token = served_app["app"].token
            assert len(token) >= 32
            assert capsys.readouterr().out.endswith(f"/?token={token}\n")
            tokens.add(token)
        assert len(tokens) == 2
        assert served_app["opened"] == []

    def test_given_token_holds_here_as_well(
        self, view_store: Path, served_app: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        serve(view_store, token="a" * 16)
        assert served_app["app"].token == "a" * 16
        assert capsys.readouterr().out.endswith(f"/?token={'a' * 16}\n")

    @pytest.mark.parametrize("token", ["", "short", "a" * 129, "a" * 15 + "é", "a" * 16 + "; x"])
    def test_weak_token(self, view_store: Path, token: str) -> None:
        with pytest.raises(UserError, match="--token"):
            serve(view_store, token=token)

    def test_no_store_no_runs(self, view_store: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no store there"):
            serve(tmp_path)
        with pytest.raises(UserError, match="no run folder found"):
            serve(view_store, runs=tmp_path)

    def test_without_the_libraries(self, view_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "featstore.inspection.view.app", raising=False)
        monkeypatch.setitem(sys.modules, "starlette.applications", None)
        with pytest.raises(UserError, match="needs starlette") as told:
            serve(view_store)
        assert told.value.hint == "pip install starlette uvicorn"


class TestBound:
    def test_a_taken_port(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken = other.getsockname()[1]
            with (
                pytest.raises(TaskFailed, match="in use") as told,
                module.bound("127.0.0.1", taken),
            ):
                pass
            assert "--port 0" in told.value.hint
            monkeypatch.setattr(module, "PORT", taken)
            with module.bound("localhost", None) as found:  # nobody asked for that one
                assert found.getsockname()[1] != taken

    def test_an_address_that_is_none(self) -> None:
        for host in ("no such host", "192.0.2.1"):
            with pytest.raises(UserError) as told, module.bound(host, 0):
                pass
            assert told.value.exit_code == 2
            assert "address of this machine" in told.value.hint


def test_the_command(view_store: Path) -> None:
    call = [sys.executable, "-c", "import cli; cli.featstore_main()", "view", str(view_store),
            "--port", "0", "--no-browser"]  # fmt: skip
    root = str(ROOT)
    process = subprocess.Popen(
        call, env=os.environ | {"PYTHONPATH": root}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        ask = Client(process.stdout.readline().strip())
        assert ask("/api/corpus").status == 200
        assert ask("/", host="evil.example").status == 403
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "Ctrl-C stops\n")
