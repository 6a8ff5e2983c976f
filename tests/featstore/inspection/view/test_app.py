from __future__ import annotations

import gzip
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import soundfile

from featstore.core.schema import printable
from featstore.inspection.overview import overview
from featstore.inspection.view.app import STATIC
from featstore.inspection.view.payloads import Payloads, wav
from featstore.inspection.view.serve import served
from featstore.store.store import Store
from tests.featstore.inspection.view.view_helpers import HOSTILE, Client, run_set, snapshot


@pytest.fixture(scope="module")
def store(view_store: Path) -> Store:
    return Store.open(view_store)


class TestValues:
    def test_corpus(self, ask: Client, store: Store) -> None:
        told = ask("/api/corpus").json()
        table, rows = store.utterances, told["rows"]
        assert told["classes"] == list(store.classes)
        assert rows["utterance_id"] == table["utterance_id"].tolist()
        assert rows["label"] == store.labels.tolist()
        assert [told["speakers"][i] for i in rows["speaker"]] == table["speaker"].tolist()
        assert [told["genders"][i] for i in rows["gender"]] == table["gender"].tolist()
        assert [told["kinds"][i] for i in rows["kind"]] == table["kind"].tolist()
        np.testing.assert_allclose(rows["duration_s"], store.lengths / 16_000, atol=6e-4)
        assert told["folds"] == [["linguistic", "prosodic"]] * 10
        assert told["overview"] == json.loads(json.dumps(overview(store)))
        assert told["audio"] is True

    def test_text_is_shown_not_obeyed(self, ask: Client) -> None:
        found = ask("/api/corpus")
        rows = found.json()["rows"]
        assert rows["text"][0] == printable(HOSTILE)
        assert "\\u202e" in rows["text"][0]
        assert "\u202e" not in rows["text"][0]
        assert rows["label_raw"][1] == "ang\\u202e;<i>"
        assert found.headers["content-type"] == "application/json"

    def test_roles(self, ask: Client, store: Store) -> None:
        found = np.frombuffer(ask("/api/roles").body, np.int8).reshape(10, -1)
        np.testing.assert_array_equal(found, store.roles)

    @pytest.mark.parametrize("fold", [1, 10])
    def test_logits(self, ask: Client, store: Store, fold: int) -> None:
        for index, name in enumerate(("linguistic", "prosodic")):
            found = ask(f"/api/logits/{fold}/{index}").floats(4)
            np.testing.assert_array_equal(found, store.fold(fold)[name].logits)

    def test_map(self, ask: Client, store: Store) -> None:
        found = ask("/api/map/3/1")
        points = found.floats(2)
        shares = [float(share) for share in found.headers["x-variance"].split(",")]
        data = store.fold(3)["prosodic"].embeddings.astype(np.float64)
        data -= data.mean(axis=0)
        singular = np.linalg.svd(data, compute_uv=False)
        np.testing.assert_allclose(np.linalg.norm(points, axis=0), singular[:2], rtol=1e-4)
        np.testing.assert_allclose(shares, (singular**2 / (singular**2).sum())[:2], atol=1e-5)

    def test_map_by_tsne(self, ask: Client, store: Store) -> None:
        from featstore.inspection.view.projection import neighbourly

        assert ask("/api/corpus").json()["tsne"] is True
        points = ask("/api/neighbours/3/1").floats(2)
        np.testing.assert_array_equal(points, neighbourly(store.fold(3)["prosodic"].embeddings))

    def test_student(self, ask: Client, store: Store) -> None:
        told = ask("/api/corpus").json()
        assert [(run["fold"], run["seed"]) for run in told["students"]] == [(1, 42)]
        assert told["left_out"] == ["fold02: not finished"]
        found = ask("/api/student/0").floats(4)
        spoken = ~np.isnan(found).any(axis=1)
        assert set(store.roles[0][spoken]) == {2, 3}
        assert (store.roles[0][~spoken] == 1).all()

    def test_utterance(self, ask: Client, store: Store) -> None:
        told = ask("/api/utterance/7").json()
        signal, lld = store.audio.read(7), store.lld.read(7)
        names = list(store.unit("lld").facts["names"])
        assert told["duration_s"] == len(signal) / 16_000
        assert (min(told["peaks"][0]), max(told["peaks"][1])) == (signal.min(), signal.max())
        np.testing.assert_allclose(
            told["loudness"], lld[:, names.index("Loudness_sma3")], atol=6e-5
        )
        f0 = lld[:, names.index("F0semitoneFrom27.5Hz_sma3nz")]
        assert [value is not None for value in told["f0_hz"]] == (f0 > 0).tolist()
        hertz = [value for value in told["f0_hz"] if value is not None]
        np.testing.assert_allclose(hertz, 27.5 * 2 ** (f0[f0 > 0] / 12), atol=0.06)


class TestAudio:
    def test_bytes_are_the_store_s(self, ask: Client, store: Store) -> None:
        for row in (0, 31, 59):
            found = ask(f"/audio/{row}.wav")
            assert found.headers["content-type"] == "audio/wav"
            assert found.body[44:] == store.audio.read(row).tobytes()

    def test_ranges_are_bounded(self, ask: Client) -> None:
        whole = ask("/audio/3.wav").body
        for header, wanted in {
            "bytes=0-0": whole[:1], "bytes=0-1": whole[:2], "bytes=44-": whole[44:],
            "bytes=10-99999999999": whole[10:],
        }.items():  # fmt: skip
            found = ask("/audio/3.wav", range=header)
            assert (found.status, found.body) == (206, wanted)
            assert found.headers["content-range"].endswith(f"/{len(whole)}")
        ignored = ("bytes=0-1,5-6", "lines=1-2", "bytes=5-2", "bytes=-7", "bytes=-", "bytes=0x1-2",
                   "bytes=" + "1" * 5000 + "-")  # fmt: skip
        for header in ignored:
            found = ask("/audio/3.wav", range=header)
            assert (found.status, found.body) == (200, whole)
        found = ask("/audio/3.wav", range=f"bytes={len(whole)}-")
        assert (found.status, found.body) == (416, b"")
        assert found.headers["content-range"] == f"bytes */{len(whole)}"


PARSING = (
    "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function",
    "DOMParser", "localStorage", "sessionStorage",
)  # fmt: skip
READ = (
    "/", "/api/corpus", "/api/roles", "/api/logits/1/0", "/api/map/1/0", "/api/neighbours/1/0",
    "/api/student/0",
    "/api/utterance/0", "/audio/0.wav", "/static/main.js",
)  # fmt: skip
PATHS = [
    "/audio/..%2f..%2fetc/passwd", "/audio/../../etc/passwd", "/audio/%2e%2e/%2e%2e/etc/passwd",
    "/audio/..%2f..%2fetc%2fpasswd.wav", "/audio/-1.wav", "/audio/60.wav", "/audio/0", "/audio/",
    "/audio/1e1.wav", "/audio/0x1.wav", "/audio/+1.wav", "/audio/%201.wav", "/audio/1%0a.wav",
    "/audio/%00.wav", "/audio/.wav", f"/audio/{quote('٣')}.wav", f"/audio/{'9' * 5000}.wav",
    "/audio/Ses01F00000.wav", "/audio/0.wav/", "/audio//etc/passwd.wav", "//etc/passwd",
    "/etc/passwd",
    "/static/../app.py", "/static/..%2fapp.py", "/static/", "/static", "/static/%2fetc%2fpasswd",
    "/static/index.html%00", "/api/logits/0/0", "/api/logits/11/0", "/api/logits/1/2",
    "/api/logits/1/linguistic", "/api/logits/../../x/0", "/api/map/1/9", "/api/map/-1/0",
    "/api/neighbours/1/9",
    "/api/student/1", "/api/student/..", "/api/utterance/60", "/api/utterance/a", "/api/", "/docs",
    "/openapi.json", "/favicon.ico", "/zarr.json", "/corpus/utterances.parquet",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_no_other_address(ask: Client, path: str) -> None:
    found = ask(path)
    assert 400 <= found.status < 500
    assert b"root:" not in found.body
    assert len(found.body) < 200


class TestPage:
    def test_every_file_of_the_page(self, ask: Client) -> None:
        names = {path.name: path.read_bytes() for path in STATIC.iterdir()}
        assert {"index.html", "main.js", "style.css", "icon.svg"} <= set(names)
        kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
        for name, content in names.items():
            found = ask(f"/static/{name}")
            assert (found.status, found.body) == (200, content)
            kind = kinds.get(Path(name).suffix, "text/html")
            assert (
                found.headers["content-type"].split(";")[0].replace("application/j", "text/j")
                == kind
            )
        assert ask("/").body == names["index.html"]

    def test_it_asks_nobody_else_and_parses_no_markup(self) -> None:
        for path in STATIC.iterdir():
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            for word in ("http:", "https:", '"//', "@import", "url(", "WebSocket", "sendBeacon"):
                assert word not in text, (path.name, word)
            for word in PARSING:
                assert word not in text, (path.name, word)
        page = (STATIC / "index.html").read_text()
        assert "<script>" not in page
        assert not re.search(r"\son\w+=", page)
        assert "style=" not in page

    def test_gzip_where_it_is_wanted(self, ask: Client) -> None:
        plain = ask("/api/corpus")
        small = ask("/api/corpus", accept_encoding="br, gzip")
        assert "content-encoding" not in plain.headers
        assert small.headers["content-encoding"] == "gzip"
        assert gzip.decompress(small.body) == plain.body
        assert len(small.body) < len(plain.body) / 2
        assert "content-encoding" not in ask("/audio/3.wav", accept_encoding="gzip").headers


class TestTrouble:
    @pytest.fixture
    def place(self, view_store: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(view_store, tmp_path / "store"))

    def test_damage_is_told_and_the_rest_goes_on(self, place: Path) -> None:
        chunk = next((place / "folds/02/prosodic/logits/c").rglob("0"))
        path = chunk if chunk.is_file() else next(p for p in chunk.rglob("*") if p.is_file())
        content = bytearray(path.read_bytes())
        content[5] ^= 1
        path.write_bytes(content)
        with served(Payloads(Store.open(place))) as address:
            ask = Client(address)
            found = ask("/api/logits/2/1")
            assert found.status == 500
            assert "content differs" in found.json()["error"]
            assert "--repair" in found.json()["hint"]
            assert ask("/api/logits/2/0").status == 200
            assert ask("/api/logits/1/1").status == 200

    def test_a_fold_without_teachers(self, place: Path) -> None:
        shutil.rmtree(place / "folds/04")
        with served(Payloads(Store.open(place))) as address:
            ask = Client(address)
            assert ask("/api/corpus").json()["folds"][3] == []
            assert ask("/api/logits/4/0").status == 404


def test_nothing_is_written(view_store: Path, view_run: Any) -> None:
    before = snapshot(view_store)
    with served(Payloads(Store.open(view_store), run_set(view_run))) as address:
        ask = Client(address)
        for path in READ:
            assert ask(path).status == 200
    assert snapshot(view_store) == before


def test_a_wav_reader_finds_the_samples() -> None:
    samples = np.array([0, 1, -1, 32767, -32768], dtype=np.int16)
    found, rate = soundfile.read(io.BytesIO(wav(samples)), dtype="int16")
    assert rate == 16_000
    np.testing.assert_array_equal(found, samples)
