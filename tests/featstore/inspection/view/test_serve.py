from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featstore.core.schema import TaskFailed, UserError
from featstore.inspection.view import serve as module
from featstore.inspection.view.payloads import Payloads
from featstore.store.store import Store
from tests import ROOT
from tests.featstore.inspection.view.view_helpers import Client


class TestToken:
    def test_this_machine_needs_none(self, view_address: str) -> None:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", view_address)

    def test_other_machines_do(self, view_store: Path) -> None:
        payloads, tokens = Payloads(Store.open(view_store)), set()
        for _ in range(2):
            with module.served(payloads, host="0.0.0.0") as address:
                tokens.add(address.partition("/?token=")[2])
        assert len(tokens) == 2
        assert all(len(token) >= 32 for token in tokens)

    @pytest.mark.parametrize("token", ["", "short", "a" * 129, "a" * 15 + "é", "a" * 16 + "; x"])
    def test_weak(self, view_store: Path, token: str) -> None:
        with (
            pytest.raises(UserError, match="--token"),
            module.served(Payloads(Store.open(view_store)), token=token),
        ):
            pass


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
            with module.bound("localhost", None) as found:  # this port was no wish of the user's
                assert found.getsockname()[1] != taken

    def test_an_address_that_is_none(self) -> None:
        for host in ("no such host", "192.0.2.1"):
            with pytest.raises(UserError) as told, module.bound(host, 0):
                pass
            assert told.value.exit_code == 2
            assert "address of this machine" in told.value.hint


def view(store: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    call = [sys.executable, "-c", "import cli; cli.featstore_main()", "view", str(store),
            "--port", "0", *flags]  # fmt: skip
    clean = {name: value for name, value in os.environ.items() if "DISPLAY" not in name}
    return subprocess.Popen(
        call, env=clean | {"PYTHONPATH": str(ROOT)} | environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    try:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err
    finally:
        process.kill()


def browser_in(folder: Path) -> tuple[Path, str]:
    """A browser that notes which page it was sent to, and ``BROWSER`` for it."""
    script, note = folder / "browser", folder / "opened"
    script.write_text(f'#!/bin/sh\necho "$1" > {note}\n')
    script.chmod(0o755)
    return note, f"{script} %s"


@pytest.mark.parametrize("number", module.STOPS)
def test_the_command(view_store: Path, tmp_path: Path, number: signal.Signals) -> None:
    note, browser = browser_in(tmp_path)
    process = view(view_store, BROWSER=browser, DISPLAY=":0")
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    ask = Client(address)
    assert ask("/api/corpus").status == 200
    assert ask("/", host="evil.example").status == 400
    end = time.monotonic() + 60
    while not (note.exists() and note.read_text()) and time.monotonic() < end:
        time.sleep(0.05)  # the browser is a process of its own
    assert note.read_text().strip() == address
    assert ended(process, number) == (0, "", "Ctrl-C stops\n")


def test_a_token_is_in_no_browser_s_command_line(view_store: Path, tmp_path: Path) -> None:
    note, browser = browser_in(tmp_path)
    process = view(view_store, BROWSER=browser, DISPLAY=":0", FEATSTORE_TOKEN="a" * 16)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address.endswith("/?token=" + "a" * 16)
    assert Client(address)("/api/corpus").status == 401
    assert ended(process, signal.SIGINT)[0] == 0
    assert not note.exists()


def test_no_store_and_no_runs(view_store: Path, tmp_path: Path) -> None:
    for store, flags, words in (
        (tmp_path, (), "no store there"),
        (view_store, ("--runs", str(tmp_path)), "no run folder found"),
    ):
        out, err = view(store, *flags).communicate(timeout=60)
        assert out == ""
        assert words in err
