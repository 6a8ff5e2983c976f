from __future__ import annotations

import pytest

from featstore.inspection.view import guard
from featstore.inspection.view.payloads import Payloads
from featstore.inspection.view.serve import served
from featstore.store.store import Store
from tests.featstore.inspection.view.view_helpers import Client

TOKEN = "a-token_of-enough-letters"
STRANGERS = [
    "evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example",
    "127.0.0.1@evil.example", "evil.example#127.0.0.1", "10.0.0.1", "0.0.0.0", "[::2]", "",
    "localhost:",
    "localhost:99999999", "localhost, evil.example", "127.0.0.1 evil.example", "2130706433",
    "[localhost]",
]  # fmt: skip
OTHER_METHODS = ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"]


class TestHosts:
    @pytest.mark.parametrize("host", STRANGERS)
    def test_strangers(self, host: str) -> None:
        assert not guard.hosts("127.0.0.1").allow(host)

    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "127.0.0.1:1", "LOCALHOST:65535", "localhost.", "[::1]", "[::1]:8765"]
    )
    def test_this_machine(self, host: str) -> None:
        assert guard.hosts("127.0.0.1").allow(host)
        assert guard.hosts("0.0.0.0").allow(host)

    def test_beyond_this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("socket.gethostname", lambda: "Node7")
        monkeypatch.setattr("socket.getfqdn", lambda: "node7.cluster.example")
        found = guard.hosts("0.0.0.0")
        for host in ("node7:80", "node7.cluster.example", "10.0.0.7:8765", "[fe80::1]:80"):
            assert found.allow(host)  # an address cannot be pointed elsewhere, a name can
        for host in ("evil.example", "node8", "10.0.0.7.evil.example"):
            assert not found.allow(host)


class TestHost:
    @pytest.mark.parametrize("host", [host for host in STRANGERS if host])
    @pytest.mark.parametrize("path", ["/", "/api/corpus", "/audio/0.wav", "/static/main.js", "/no"])
    def test_stranger_is_refused(self, ask: Client, host: str, path: str) -> None:
        found = ask(path, host=host)
        assert 400 <= found.status < 500
        assert len(found.body) < 100
        if found.status == 403:  # else the server itself did not take it for HTTP
            assert found.headers["content-security-policy"].startswith("default-src 'none'")

    def test_evil_is_403(self, ask: Client) -> None:
        assert ask("/", host="evil.example").status == 403
        assert ask("http://evil.example/api/corpus", host="evil.example").status == 403


class TestMethods:
    @pytest.mark.parametrize("method", OTHER_METHODS)
    @pytest.mark.parametrize("path", ["/", "/api/corpus", "/audio/0.wav", "/nothing"])
    def test_nothing_but_reading(self, ask: Client, method: str, path: str) -> None:
        found = ask(path, method)
        assert found.status == 405
        assert found.headers["allow"] == "GET, HEAD"

    def test_head(self, ask: Client) -> None:
        found = ask("/audio/0.wav", "HEAD")
        assert (found.status, found.body) == (200, b"")
        assert int(found.headers["content-length"]) == len(ask("/audio/0.wav").body)


@pytest.mark.parametrize(
    "path", ["/", "/api/corpus", "/audio/0.wav", "/audio/9999.wav", "/static/main.js", "/nothing"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_headers_are_on_every_answer(ask: Client, path: str, method: str) -> None:
    told = ask(path, method).headers
    rules = dict(rule.split(" ", 1) for rule in told["content-security-policy"].split("; "))
    assert rules == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'",
        "img-src": "'self' data:", "media-src": "'self'", "connect-src": "'self'",
        "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    assert told["x-content-type-options"] == "nosniff"
    assert told["referrer-policy"] == "no-referrer"
    assert told["cross-origin-resource-policy"] == "same-origin"
    assert told["cache-control"] == "no-store"
    assert not [name for name in told if name.startswith("access-control")]
    assert "server" not in told


class TestToken:
    @pytest.fixture
    def guarded(self, view_store):
        with served(Payloads(Store.open(view_store)), TOKEN) as address:
            assert address.endswith(f"/?token={TOKEN}")
            yield Client(address)

    def test_without_it_nothing_is_told(self, guarded: Client) -> None:
        for path in ("/", "/api/corpus", "/audio/0.wav", "/static/main.js", "/nothing",
                     "/?token=", "/?token=wrong", f"/api/corpus?token={TOKEN}",
                     f"/?token={TOKEN}x", f"/?token=x&token={TOKEN}"):  # fmt: skip
            found = guarded(path)
            assert found.status == 401, path
            assert b"featstore view" in found.body
            assert "set-cookie" not in found.headers
        own = f"featstore-{guarded.port}"
        for cookie in ("", "x", f"featstore={TOKEN}", f"{own}=wrong", f"{own}=ü", "a=b; =;;",
                       f"featstore-1={TOKEN}"):  # fmt: skip
            sent = cookie.encode().decode("latin-1")
            assert guarded("/api/corpus", cookie=sent).status == 401, cookie

    def test_the_link_gives_a_cookie(self, guarded: Client) -> None:
        found = guarded(f"/?token={TOKEN}")
        assert (found.status, found.headers["location"]) == (303, "/")
        cookie, *flags = found.headers["set-cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} == set(flags)
        assert guarded("/", cookie=cookie).status == 200
        assert guarded("/api/corpus", cookie=f"other=1; {cookie}").status == 200

    def test_host_and_method_come_first(self, guarded: Client) -> None:
        assert guarded(f"/?token={TOKEN}", host="evil.example").status == 403
        assert guarded(f"/?token={TOKEN}", "POST").status == 405

    def test_compared_in_constant_time(
        self, guarded: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []

        def compare(a: bytes, b: bytes) -> bool:
            seen.append((a, b))
            return a == b

        monkeypatch.setattr(guard.hmac, "compare_digest", compare)
        assert guarded("/?token=guess").status == 401
        assert (b"guess", TOKEN.encode()) in seen
