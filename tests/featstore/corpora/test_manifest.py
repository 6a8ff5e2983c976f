from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.corpora.manifest import (
    Unusable,
    decode,
    entries,
    kind_of,
    read_duration,
    read_text,
    require,
    walk,
)
from tests.featstore.corpora.layouts import write_wav

LFS = "version https://git-lfs.github.com/spec/"


def test_kind_of_every_sort(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("x")
    (root / "file").write_text("x")
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    (root / "inside").symlink_to("file")
    (root / "outside").symlink_to("../secret")
    (root / "dangling").symlink_to("nothing")
    (root / "loop").symlink_to("loop")
    (root / "parent").symlink_to("..")
    names = [path.name for path in root.iterdir()]
    kinds = {name: kind_of(root / name, root) for name in [*names, "none", "a\0b"]}
    assert kinds == {
        "file": "file",
        "folder": "folder",
        "pipe": "special",
        "inside": "file",
        "outside": "outside",
        "dangling": "dangling",
        "loop": "dangling",
        "parent": "outside",
        "none": "missing",
        "a\0b": "unreadable",
    }
    assert kind_of(root / ".." / "secret", root) == "outside"
    assert kind_of(root / "parent" / "secret", root) == "outside"
    assert kind_of(root / "file" / "x", root) == "missing"
    assert [path.name for path in entries(root, root)] == sorted(names)


def test_a_root_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert entries(tmp_path / "link", tmp_path / "link") == [tmp_path / "link" / "file"]


def test_walk_goes_so_deep_and_shallow_first(tmp_path: Path) -> None:
    for name in ("z.wav", "a/b.wav", "a/b/c.wav", "a/b/c/d.wav", ".dot/e.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    paths = [(path.relative_to(tmp_path).as_posix(), bad) for path, bad in walk(tmp_path, 2)]
    assert paths == [("z.wav", None), ("a/b.wav", None), ("a/b/c.wav", None)]


def test_text_limits(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("123456")
    assert read_text(path, tmp_path, max_bytes=6) == "123456"
    with pytest.raises(Unusable, match="6 bytes where at most 5"):
        read_text(path, tmp_path, max_bytes=5)
    path.write_text(" \n")
    with pytest.raises(Unusable, match="holds nothing"):
        read_text(path, tmp_path)


@given(st.text())
def test_utf8_text_survives_decoding(text: str) -> None:
    expected = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    assert decode(text.encode("utf-8")) == expected


@given(st.binary())
def test_any_bytes_decode(data: bytes) -> None:
    assert "\r" not in decode(data)


def test_duration_is_the_header_s(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", n_frames=4800, rate=48000, channels=2)
    assert read_duration(tmp_path / "a.wav") == 0.1


def _with_rate_2_to_the_31(path: Path) -> None:
    write_wav(path)
    data = path.read_bytes()
    path.write_bytes(data[:24] + (2**31).to_bytes(4, "little") + data[28:])


def _cut_in_its_header(path: Path) -> None:
    write_wav(path)
    path.write_bytes(path.read_bytes()[:20])


NO_AUDIO: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing": (lambda path: None, "missing", "no such file"),
    "zero bytes": (Path.touch, "empty", "zero bytes"),
    "header only": (lambda path: write_wav(path, n_frames=0), "empty", "0 samples"),
    "noise": (lambda path: path.write_bytes(b"RIFF or not"), "unreadable", "not audio"),
    "half a header": (_cut_in_its_header, "unreadable", "not audio that libsndfile reads"),
    "LFS": (lambda path: path.write_text(f"{LFS}v1\noid x\n"), "pointer", "Git LFS"),
    "folder": (Path.mkdir, "irregular", "a folder"),
    "pipe": (os.mkfifo, "irregular", "a pipe"),
    "dangling": (lambda path: path.symlink_to("nothing.wav"), "irregular", "a link to nothing"),
    "loop": (lambda path: path.symlink_to(path.name), "irregular", "or to itself"),
    "outside": (lambda path: path.symlink_to("/etc/passwd"), "irregular", "leads out"),
    "rate": (_with_rate_2_to_the_31, "unreadable", "a sampling rate of 2147483648 Hz"),
}


@pytest.mark.parametrize("name", NO_AUDIO)
def test_what_is_no_audio_is_explained(tmp_path: Path, name: str) -> None:
    make, reason, words = NO_AUDIO[name]
    make(tmp_path / "a.wav")
    is_regular = kind_of(tmp_path / "a.wav", tmp_path) == "file"
    with pytest.raises(Unusable) as caught:
        read_duration(tmp_path / "a.wav") if is_regular else require(tmp_path / "a.wav", tmp_path)
    assert caught.value.reason == reason
    assert words in caught.value.message
    assert caught.value.remedy


def test_headerless_raw_audio_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(Unusable, match="not audio"):
        read_duration(path)
