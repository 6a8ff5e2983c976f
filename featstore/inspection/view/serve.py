"""The server behind ``featstore view``: bind, print the address, open the browser, serve."""

from __future__ import annotations

import errno
import os
import re
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import uvicorn

from featstore.core import console
from featstore.core.schema import TaskFailed, UserError
from featstore.inspection.view.app import make_app
from featstore.inspection.view.guard import is_local
from featstore.inspection.view.payloads import Payloads
from featstore.store import open_store

PORT = 8765
"""Tried first where no port is given, so that a deep link stays good."""
STOPS = (signal.SIGINT, signal.SIGTERM)
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}\Z", re.ASCII)


def serve(
    store: Path, runs: Any, host: str, port: int | None, token: str | None, *, browser: bool
) -> None:
    """Serve the page of a store until Ctrl-C, which ends a page in the usual way.

    Args:
        store: the store's folder.
        runs: students to show, too; see :func:`featstore.inspection.view.payloads.students`.
        host: address to bind.
        port: see :func:`bound`.
        token: see :func:`served`.
        browser: whether to open the page; never with a token, which would stand in the browser's
            command line for others on this machine to read.

    Raises:
        UserError: the address is taken or unknown, the token weak, or there is no such store.
    """
    payloads = Payloads(open_store(store), runs)
    payloads.corpus()  # here a damaged store is an error of the command, not of the page
    stops: SimpleQueue[int] = SimpleQueue()  # may be filled by a signal's handler
    with _handling(stops), served(payloads, host, port, token) as address:
        print(address, flush=True)
        for reason in payloads.left_out:
            console.say(f"left out: {reason}")
        console.say("Ctrl-C stops")
        screen = sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)
        if browser and screen and "?token=" not in address:
            with suppress(webbrowser.Error):
                webbrowser.open(address)
        stops.get()


@contextmanager
def _handling(stops: SimpleQueue[int]) -> Iterator[None]:
    """Put the signals that end a page into a queue, in place of what they would do."""
    before = {number: signal.signal(number, lambda n, _: stops.put(n)) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def served(
    payloads: Payloads, host: str = "127.0.0.1", port: int | None = 0, token: str | None = None
) -> Iterator[str]:
    """Serve the page from a thread.

    Args:
        payloads: what there is to show.
        host: address to bind; one that other machines can reach needs a token.
        port: see :func:`bound`.
        token: what a browser must hold; made up where one is needed and none is given.

    Yields:
        The page's address, with the token where there is one.

    Raises:
        UserError: the address is taken or unknown, or the token weak.
    """
    if token is not None and not _TOKEN.match(token):
        raise UserError(
            "--token: 16 to 128 letters, digits, - and _ are needed",
            "leave it out with --host, and a good one is made up",
        )
    if token is None and not is_local(host):
        token = secrets.token_urlsafe(32)
    with bound(host, port) as listener:
        number = listener.getsockname()[1]
        # No log, for an address may hold the token; no trust in what a proxy says.
        config = uvicorn.Config(
            make_app(payloads, host, token, cookie=f"featstore-{number}"),
            log_config=None, log_level="critical", access_log=False, ws="none", lifespan="off",
            server_header=False, proxy_headers=False, timeout_graceful_shutdown=2,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield address_of(host, number, token)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def bound(host: str, port: int | None) -> Iterator[socket.socket]:
    """A listening socket.

    Args:
        host: an address of this machine.
        port: its number, 0 for a free one, None for :data:`PORT` or a free one.

    Raises:
        UserError: the address is unknown, or another machine's.
        TaskFailed: it is taken.
    """
    name = "127.0.0.1" if host == "localhost" else host
    with socket.socket(socket.AF_INET6 if ":" in name else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            try:
                listener.bind((name, PORT if port is None else port))
            except OSError:
                if port is not None:
                    raise
                listener.bind((name, 0))
            listener.listen(128)
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise UserError(
                    f"--host {host}: not this machine's", "give an address of this machine"
                ) from error
            raise TaskFailed(
                f"{host}:{PORT if port is None else port}: {error.strerror}",
                "--port 0 takes a free one",
            ) from error
        yield listener


def address_of(host: str, port: int, token: str | None = None) -> str:
    """What to open in the browser.

    >>> address_of("127.0.0.1", 8765), address_of("::1", 80, "secret")
    ('http://127.0.0.1:8765/', 'http://[::1]:80/?token=secret')
    """
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
