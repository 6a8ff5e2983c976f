"""Addresses -> answers. Every part of an address is a number or a name from a fixed list."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from featstore.core import console
from featstore.core.schema import UserError, printable
from featstore.inspection.view.guard import App, Guard, Hosts
from featstore.inspection.view.payloads import NotThereError, Payload, Payloads
from featstore.inspection.view.wav import OutsideError, span

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_NUMBER = re.compile(r"[0-9]{1,9}\Z", re.ASCII)

Answer = Callable[[Request], Response]


def make_app(payloads: Payloads, hosts: Hosts, token: str | None = None, cookie: str = "f") -> App:
    """The whole server as an ASGI application.

    Args:
        payloads: what there is to tell.
        hosts: the names that it answers to.
        token: what a browser must know; None asks for nothing.
        cookie: the name under which a browser keeps the token.
    """
    page = static_files()
    asked: dict[str, Callable[..., Payload]] = {
        "/api/corpus": payloads.corpus,
        "/api/roles": payloads.roles,
        "/api/logits/{fold}/{target}": payloads.logits,
        "/api/map/{fold}/{target}": payloads.map,
        "/api/neighbours/{fold}/{target}": payloads.neighbours,
        "/api/student/{number}": payloads.student,
        "/api/utterance/{row}": payloads.utterance,
    }
    routes = [Route("/", _careful(lambda request: _packed(request, page["index.html"])))]
    routes += [Route(path, _careful(_numbered(make))) for path, make in asked.items()]
    routes += [
        Route(f"/static/{name}", _careful(lambda request, file=file: _packed(request, file)))  # type: ignore[misc]
        for name, file in page.items()
    ]
    routes.append(Route("/audio/{row}.wav", _careful(lambda request: _audio(request, payloads))))
    served = Starlette(routes=routes)
    served.router.redirect_slashes = False  # its redirects repeat what the asker calls this host
    return Guard(served, hosts, token, cookie)


def static_files() -> dict[str, Payload]:
    """The page's own files by name, read once: no address ever becomes a path."""
    found = {}
    for item in files("featstore.inspection.view").joinpath("static").iterdir():
        kind = MEDIA_TYPES.get(f".{item.name.rpartition('.')[2]}")
        if kind is not None:
            found[item.name] = Payload(item.read_bytes(), kind)
    return found


def _careful(answer: Answer) -> Answer:
    """Turn what goes wrong into an answer that the page can show."""

    def endpoint(request: Request) -> Response:
        try:
            return answer(request)
        except NotThereError as error:
            return _told(404, str(error))
        except UserError as error:
            return _told(500, error.message, error.hint)
        except Exception as error:  # one answer fails, not the server
            console.trace(error)
            return _told(500, f"{type(error).__name__}: {error}")

    return endpoint


def _told(status: int, message: str, hint: str = "") -> Response:
    return JSONResponse({"error": printable(message), "hint": printable(hint)}, status)


def _number(text: Any) -> int:
    if not _NUMBER.match(str(text)):
        raise NotThereError("not a number")
    return int(text)


def _numbered(make: Callable[..., Payload]) -> Answer:
    return lambda request: _packed(
        request, make(**{name: _number(value) for name, value in request.path_params.items()})
    )


def _packed(request: Request, payload: Payload) -> Response:
    """A payload, with gzip where that is smaller and wanted."""
    headers = {**payload.headers, "vary": "accept-encoding"}
    codings = request.headers.get("accept-encoding", "")
    small = payload.packed if re.search(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", codings) else None
    if small is not None:
        headers["content-encoding"] = "gzip"
    return Response(small or payload.body, headers=headers, media_type=payload.media_type)


def _audio(request: Request, payloads: Payloads) -> Response:
    content = payloads.audio(_number(request.path_params["row"]))
    headers = {"accept-ranges": "bytes"}
    try:
        wanted = span(request.headers.get("range"), len(content))
    except OutsideError:
        headers["content-range"] = f"bytes */{len(content)}"
        return Response(status_code=416, headers=headers)
    if wanted is None:
        return Response(content, headers=headers, media_type="audio/wav")
    first, end = wanted
    headers["content-range"] = f"bytes {first}-{end - 1}/{len(content)}"
    return Response(content[first:end], 206, headers, media_type="audio/wav")
