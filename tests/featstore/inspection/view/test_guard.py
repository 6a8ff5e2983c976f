from __future__ import annotations

from pathlib import Path

import pytest

from featstore.inspection.view.guard import guards
from featstore.inspection.view.payloads import Payloads
from featstore.inspection.view.serve import served
from featstore.store.store import Store
from tests.featstore.inspection.view.view_helpers import Client

TOKEN = "a-token_of-enough-letters"
STRANGERS = [
    "evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example",
    "127.0.0.1@evil.example", "evil.example#127.0.0.1", "10.0.0.1", "0.0.0.0", "[::2]",
    "localhost, evil.example", "127.0.0.1 evil.example", "2130706433", "[localhost]",
]  # fmt: skip
OTHER_METHODS = ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"]


class TestHost:
    @pytest.mark.parametrize("host", STRANGERS)
    @pytest.mark.parametrize("path", ["/", "/api/corpus", "/audio/0.wav", "/static/main.js", "/no"])
    def test_stranger_is_refused(self, ask: Client, host: str, path: str) -> None:
        found = ask(path, host=host)
        assert found.status == 400
        assert len(found.body) < 100
        if found.headers.get("content-type", "").startswith("text/plain; charset"):
            # else the server itself did not take it for HTTP
            assert found.headers["content-security-policy"].startswith("default-src 'none'")

    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "127.0.0.1:1", "LOCALHOST:65535", "[::1]", "[::1]:8765"]
    )
    def test_this_machine(self, ask: Client, host: str) -> None:
        assert ask("/", host=host).status == 200

    def test_an_absolute_address_of_a_stranger(self, ask: Client) -> None:
        found = ask("http://evil.example/api/corpus", host="evil.example")
        assert found.status == 400

    def test_others_reach_it_with_a_token_alone(self, view_store: Path) -> None:
        with served(Payloads(Store.open(view_store)), host="0.0.0.0") as address:
            guarded = Client(address)
            for host in ("node7:80", "10.0.0.7:8765", "[fe80::1]:80", "evil.example"):
                assert guarded("/api/corpus", host=host).status == 401
            path = "/" + address.rpartition("/")[2]
            cookie = guarded(path, host="10.0.0.7").headers["set-cookie"].split("; ")[0]
            assert guarded("/api/corpus", host="10.0.0.7", cookie=cookie).status == 200
        with pytest.raises(ValueError, match="needs a token"):
            guards("0.0.0.0", None, "c")


class TestMethods:
    @pytest.mark.parametrize("method", OTHER_METHODS)
    @pytest.mark.parametrize("path", ["/", "/api/corpus", "/audio/0.wav", "/static/main.js"])
    def test_nothing_but_reading(self, ask: Client, method: str, path: str) -> None:
        assert ask(path, method).status == 405

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
        with served(Payloads(Store.open(view_store)), token=TOKEN) as address:
            assert address.endswith(f"/?token={TOKEN}")
            yield Client(address)

    def test_without_it_nothing_is_told(self, guarded: Client) -> None:
        for path in ("/", "/api/corpus", "/audio/0.wav", "/static/main.js", "/nothing",
                     "/?token=", "/?token=wrong", f"/api/corpus?token={TOKEN}",
                     f"/?token={TOKEN}x"):  # fmt: skip
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
        assert {"HttpOnly", "SameSite=lax", "Path=/"} == set(flags)
        assert guarded("/", cookie=cookie).status == 200
        assert guarded("/api/corpus", cookie=f"other=1; {cookie}").status == 200

    def test_the_host_comes_first_and_a_post_gets_nothing(self, guarded: Client) -> None:
        assert guarded(f"/?token={TOKEN}", host="evil.example").status == 400
        assert guarded(f"/?token={TOKEN}", "POST").status == 401

    def test_compared_in_constant_time(
        self, guarded: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []

        def compare(a: bytes, b: bytes) -> bool:
            seen.append((a, b))
            return a == b

        monkeypatch.setattr("hmac.compare_digest", compare)
        assert guarded("/?token=guess").status == 401
        assert (b"guess", TOKEN.encode()) in seen
