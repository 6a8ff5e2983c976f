"""Who may ask: this machine, by a name of its own, and elsewhere only who knows the token.

A page of a stranger can make a browser ask 127.0.0.1, by a name that it has pointed there (DNS
rebinding) too. The name in ``Host`` gives it away; the headers keep it from using any answer.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""On every answer. Nothing is kept by the browser: the corpus may be under a licence."""

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::[0-9]{1,5})?\Z")


@dataclass(frozen=True)
class Hosts:
    """The names that ``Host`` may carry; the port is free, for tunnels change it.

    Attributes:
        names: in lower case, addresses without brackets.
        any_address: whether every address will do: one cannot be pointed elsewhere.
    """

    names: frozenset[str]
    any_address: bool = False

    def allow(self, header: str) -> bool:
        """Whether a ``Host`` header names this server.

        >>> here = Hosts(LOCAL)
        >>> [here.allow(name) for name in ("localhost:80", "[::1]:80", "evil.example", "10.0.0.1")]
        [True, True, False, False]
        """
        match = _HOST.match(header.lower())
        if match is None:
            return False
        name = (match[1] or match[2]).rstrip(".")
        return name in self.names or (self.any_address and _is_address(name))


def is_local(host: str) -> bool:
    """Whether only this machine can reach what is bound to ``host``.

    >>> [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "10.0.0.7")]
    [True, True, True, False, False]
    """
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def hosts(bound_to: str) -> Hosts:
    """The names under which a server that is bound to ``bound_to`` may be asked."""
    if is_local(bound_to):
        return Hosts(LOCAL | {bound_to})
    own = {bound_to.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    return Hosts(LOCAL | own, any_address=True)


@dataclass(frozen=True)
class Guard:
    """An ASGI application in front of another, which sees what passes and nothing else."""

    app: App
    hosts: Hosts
    token: str | None = None
    cookie: str = "featstore"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse, hand out the cookie, or pass on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        send = _with_headers(send)
        named = [value for key, value in scope["headers"] if key == b"host"]
        if len(named) != 1 or not self.hosts.allow(named[0].decode("latin-1")):
            await _say(send, 403, "this server does not go by that name")
        elif scope["method"] not in ("GET", "HEAD"):
            await _say(send, 405, "read only", {"allow": "GET, HEAD"})
        elif self.token is None or self._known(_cookie(scope, self.cookie)):
            await self.app(scope, receive, send)
        elif scope["path"] == "/" and self._known(_asked(scope)):
            kept = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Lax"
            await _say(send, 303, "", {"location": "/", "set-cookie": kept})
        else:
            await _say(send, 401, "open the link that `featstore view` printed: it has the token")

    def _known(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self.token or "").encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _asked(scope: Message) -> str:
    query: dict[str, list[str]] = parse_qs(
        scope["query_string"].decode("latin-1"), max_num_fields=8
    )
    return query.get("token", [""])[0]


def _cookie(scope: Message, name: str) -> str:
    text = "; ".join(v.decode("latin-1") for key, v in scope["headers"] if key == b"cookie")
    try:
        found = SimpleCookie(text).get(name)
    except CookieError:
        return ""
    return str(found.value) if found else ""


def _with_headers(send: Send) -> Send:
    ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *ours]
        await send(message)

    return sent


async def _say(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    body = text.encode()
    told = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))}
    lines = [(k.encode(), v.encode()) for k, v in {**told, **(headers or {})}.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
