"""Who may read the page: this machine, by a name of its own, and elsewhere whoever has the token.

A stranger's page can make a browser ask 127.0.0.1, also by a name that it has pointed there (DNS
rebinding). ``Host`` gives that name away. Where other machines can reach the page, a browser has to
hold the token as a cookie, which it sends to no other name.
"""

from __future__ import annotations

import hmac
import ipaddress

from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

LOCAL = ("127.0.0.1", "localhost", "[::1]")
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


def is_local(host: str) -> bool:
    """Whether only this machine can reach what is bound to ``host``.

    >>> [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "10.0.0.7")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guards(host: str, token: str | None, cookie: str) -> list[Middleware]:
    """What stands before the page, outermost first.

    Args:
        host: the address that the server is bound to.
        token: what a browser must hold; only a page for this machine alone may do without.
        cookie: the name under which a browser keeps it.

    Raises:
        ValueError: other machines can reach the page, and there is no token.
    """
    if token is None and not is_local(host):
        raise ValueError(f"{host}: a page that others can reach needs a token")
    names = [*LOCAL, host] if is_local(host) else ["*"]
    stack = [
        Middleware(BaseHTTPMiddleware, dispatch=_add_headers),
        Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False),
    ]

    if token is None:
        return stack

    async def check_token(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if _same(request.cookies.get(cookie, ""), token):
            return await call_next(request)
        link = request.method == "GET" and request.url.path == "/"
        if link and _same(request.query_params.get("token", ""), token):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(cookie, token, httponly=True, samesite="lax")
            return answer
        hint = "open the link that `featstore view` printed: it has the token"
        return PlainTextResponse(hint, 401)

    return [*stack, Middleware(BaseHTTPMiddleware, dispatch=check_token)]


async def _add_headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
    answer = await call_next(request)
    answer.headers.update(HEADERS)
    return answer


def _same(text: str, token: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(text.encode(errors="replace"), token.encode())
