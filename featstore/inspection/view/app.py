"""The page's addresses and their answers: an address holds numbers and fixed names, no path."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from featstore.core import console
from featstore.core.schema import UserError, printable
from featstore.inspection.view.guard import guards
from featstore.inspection.view.payloads import Payloads

STATIC = Path(__file__).parent / "static"
_NUMBER = re.compile(r"[0-9]{1,9}")
"""Of an address: at most nine ASCII digits."""
_RANGE = re.compile(r"bytes=([0-9]{1,12})-([0-9]{0,12})", re.ASCII)


def make_app(
    payloads: Payloads,
    host: str = "127.0.0.1",
    token: str | None = None,
    cookie: str = "featstore",
) -> Starlette:
    """The whole server as an ASGI application.

    Args:
        payloads: what there is to show.
        host: the address that the server is bound to.
        token: what a browser must hold; None where only this machine can reach the page.
        cookie: the name under which a browser keeps the token.
    """
    data: dict[str, Callable[..., Response]] = {
        "/api/corpus": payloads.corpus,
        "/api/roles": payloads.roles,
        "/api/logits/{fold}/{target}": payloads.logits,
        "/api/map/{fold}/{target}": payloads.map,
        "/api/neighbours/{fold}/{target}": payloads.neighbours,
        "/api/student/{number}": payloads.student,
        "/api/utterance/{row}": payloads.utterance,
        "/audio/{row}.wav": payloads.audio,
    }
    routes = [
        Route("/", lambda request: FileResponse(STATIC / "index.html")),
        Mount("/static", StaticFiles(directory=STATIC)),
        *(Route(path, _answer(make)) for path, make in data.items()),
    ]
    stack = [*guards(host, token, cookie), Middleware(GZipMiddleware, compresslevel=5)]
    app = Starlette(routes=routes, middleware=stack)
    app.router.redirect_slashes = False  # its redirects repeat what the browser calls this host
    return app


def _answer(make: Callable[..., Response]) -> Callable[[Request], Response]:
    """An endpoint that turns what goes wrong into an answer that the page can show."""

    def endpoint(request: Request) -> Response:
        try:
            texts = request.path_params
            if not all(_NUMBER.fullmatch(text) for text in texts.values()):
                raise LookupError("not a number")
            whole = make(**{name: int(text) for name, text in texts.items()})
            return _part(whole, request.headers.get("range", ""))
        except LookupError as error:
            return _trouble(404, str(error))
        except UserError as error:
            return _trouble(500, error.message, error.hint)
        except Exception as error:  # one answer fails, not the server
            console.trace(error)
            return _trouble(500, f"{type(error).__name__}: {error}")

    return endpoint


def _part(whole: Response, header: str) -> Response:
    """The stretch of a WAV file that a ``Range`` header asks for, so that a player can seek.

    A header that is no single range with a first byte is passed over, as RFC 9110 (14.2) allows.
    """
    if whole.media_type != "audio/wav":
        return whole
    whole.headers["accept-ranges"] = "bytes"
    match, size = _RANGE.fullmatch(header), len(whole.body)
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        return whole
    first, last = int(match[1]), min(int(match[2] or size), size - 1)
    if first >= size:
        return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
    headers = {"accept-ranges": "bytes", "content-range": f"bytes {first}-{last}/{size}"}
    return Response(whole.body[first : last + 1], 206, headers, media_type="audio/wav")


def _trouble(status: int, message: str, hint: str = "") -> Response:
    return JSONResponse({"error": printable(message), "hint": printable(hint)}, status)
