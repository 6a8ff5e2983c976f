"""The server behind ``featstore view``: bind, tell the address, open the browser, serve."""

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
from typing import TYPE_CHECKING

from featstore.core import console
from featstore.core.schema import TaskFailed, UserError
from featstore.inspection.view.guard import App, hosts, is_local
from featstore.store.store import Store

if TYPE_CHECKING:
    import uvicorn

    from featstore.inspection.view.payloads import Payloads

PORT = 8765
"""Tried first where no port is given, so that a deep link stays good."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}\Z", re.ASCII)


def serve(
    store: Path, runs: Path | None, host: str, port: int | None, token: str | None, *, browser: bool
) -> None:
    """Serve the page of a store until Ctrl-C.

    Args:
        store: the store's folder.
        runs: run folders whose students to show, too.
        host: address to bind; one that others can reach asks for a token.
        port: None takes :data:`PORT`, or a free one.
        token: what the browser must know; made up where one is needed and none is given.
        browser: whether to open the page; never with a token.

    Raises:
        UserError: the address is taken or unknown, the token weak, or there is no such store.
    """
    try:
        from featstore.inspection.view.app import make_app
    except ModuleNotFoundError as error:
        raise UserError(
            f"featstore view needs {error.name}, which is not installed",
            "pip install starlette uvicorn",
        ) from None
    from featstore.inspection.view.payloads import Payloads

    if token is not None and not _TOKEN.match(token):
        raise UserError(
            "--token: 16 to 128 letters, digits, - and _ are needed",
            "leave it out with --host, and a good one is made up",
        )
    if token is None and not is_local(host):
        token = secrets.token_urlsafe(32)
    payloads = Payloads(Store.open(store), runs)
    payloads.corpus()  # here a damaged store is an error of the command, not of the page
    with bound(host, port) as listener:
        number = listener.getsockname()[1]
        where = address(host, number, token)
        print(where, flush=True)
        for reason in payloads.students[1]:
            console.say(f"left out: {reason}")
        console.say("Ctrl-C stops")
        app = make_app(payloads, hosts(host), token, cookie=f"featstore-{number}")
        # A token would stand in the browser's command line, for others on this machine to read.
        if browser and token is None and (sys.platform == "darwin" or _has_screen()):
            with suppress(webbrowser.Error):
                webbrowser.open(where)
        _run(app, listener)


@contextmanager
def bound(host: str, port: int | None) -> Iterator[socket.socket]:
    """A listening socket.

    Raises:
        UserError: the address is unknown, or another machine's.
        TaskFailed: it is taken.
    """
    name = "127.0.0.1" if host == "localhost" else host
    listener = socket.socket(socket.AF_INET6 if ":" in name else socket.AF_INET)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            try:
                listener.bind((name, PORT if port is None else port))
            except OSError:
                if port is not None:
                    raise
                listener.bind((name, 0))
            listener.listen(128)
        except socket.gaierror:
            raise UserError(f"--host {host}: unknown", "give an address of this machine") from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(
                    f"--host {host}: not this machine's", "give an address of this machine"
                ) from error
            raise TaskFailed(
                f"{host}:{PORT if port is None else port}: {error.strerror}",
                "--port 0 takes a free one",
            ) from error
        yield listener


@contextmanager
def served(payloads: Payloads, token: str | None = None) -> Iterator[str]:
    """The page on a free port of this machine, from a thread: for tools and tests.

    Yields:
        Its address, with the token where there is one.
    """
    import uvicorn

    from featstore.inspection.view.app import make_app

    with bound("127.0.0.1", 0) as listener:
        number = listener.getsockname()[1]
        app = make_app(payloads, hosts("127.0.0.1"), token, cookie=f"featstore-{number}")
        server = uvicorn.Server(settings(app))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield address("127.0.0.1", number, token)
        finally:
            server.should_exit = True
            thread.join()


def address(host: str, port: int, token: str | None = None) -> str:
    """What to open in the browser.

    >>> address("127.0.0.1", 8765), address("::1", 80, "secret")
    ('http://127.0.0.1:8765/', 'http://[::1]:80/?token=secret')
    """
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def _has_screen() -> bool:
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _run(app: App, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, which end a page in the usual way and are no failure."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            numbers = (signal.SIGINT, signal.SIGTERM)
            before = [signal.signal(number, self.handle_exit) for number in numbers]
            try:
                yield
            finally:
                for number, handler in zip(numbers, before, strict=True):
                    signal.signal(number, handler)

    Server(settings(app)).run(sockets=[listener])


def settings(app: App) -> uvicorn.Config:
    """How uvicorn serves: no log (an address may hold the token), no WebSocket, no header of its
    own, no trust in what a proxy says.
    """
    import uvicorn

    return uvicorn.Config(
        app,
        log_config=None, log_level="critical", access_log=False, ws="none", lifespan="off",
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
