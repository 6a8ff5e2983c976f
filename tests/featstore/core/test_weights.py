from __future__ import annotations

import io
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.core import weights as tensors
from featstore.core.schema import Corrupt, Refused
from featstore.core.weights import (
    MAX_JSON_BYTES,
    check_tensors,
    check_weights,
    model_file,
    read_json,
    read_tensors,
    save_tensors,
    weight_files,
)

INDEX = "model.safetensors.index.json"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def file_of(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header, whatever it says."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def one(dtype: str = "F32", shape: Any = (2,), place: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": place}


@settings(max_examples=50)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=40),
    dtype=st.sampled_from(DTYPES),
)
def test_what_was_written_is_read(
    shapes: list[list[int]], dtype: torch.dtype, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Scalars, nothing at all, and every dtype that a student or its optimiser has."""
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    given_ = {f"{n}": (torch.rand(shape) * 9).to(dtype) for n, shape in enumerate(shapes)}
    save_tensors(given_, path)
    check_tensors(path)
    found = read_tensors(path)
    assert found.keys() == given_.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in given_.items())
    assert {tensor.dtype for tensor in found.values()} == {dtype}


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_length_that_looks_like_a_pickle_is_a_length(tmp_path: Path, length: int) -> None:
    """A header of 640 bytes begins with the two bytes that a pickle begins with."""
    header = json.dumps({"x": one()}).encode().ljust(length)
    (tmp_path / "x.safetensors").write_bytes(file_of(header, bytes(8)))
    assert (tmp_path / "x.safetensors").read_bytes()[0] == 0x80
    assert read_tensors(tmp_path / "x.safetensors")["x"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        file_of({}, length=2**63),
        file_of({"x": one()}, bytes(8), length=5000),
        file_of(b"[]"),
        file_of({"x": [1]}),
        file_of({"x": one(dtype="object")}, bytes(8)),
        file_of({"x": one(shape=[2.0])}, bytes(8)),
        file_of({"x": one(shape=[True], dtype="U8", place=(0, 1))}, b"1"),
        file_of({"x": one(shape=[-2])}, bytes(8)),
        file_of({"x": one(shape=[2**40, 2**40])}, bytes(8)),
        file_of({"x": one(), "y": one()}, bytes(8)),
        file_of({"x": one(place=(8, 16))}, bytes(16)),
        file_of({"x": one()}, bytes(80)),
        file_of({"x": one()}, bytes(4)),
        file_of({"__metadata__": {"a": 1}}),
    ],
)
def test_what_is_none_is_corrupt(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for read in (check_tensors, read_tensors):
        with pytest.raises(Corrupt, match="not a sound safetensors file") as caught:
            read(path)
        assert str(path) in caught.value.message
        assert caught.value.hint


def test_any_flipped_bit_of_the_header_is_refused_or_says_the_same(tmp_path: Path) -> None:
    """Nothing but our own errors comes out of a header, whatever it has become."""
    path = tmp_path / "x.safetensors"
    save_tensors({"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.int64)}, path)
    whole = path.read_bytes()
    for at in range(len(whole) - 56):
        for bit in range(8):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            try:
                tensors = read_tensors(path).values()
            except (Corrupt, Refused):
                continue
            # Another name, or another dtype of the same width, is for the file's sum to tell.
            assert sum(one.nbytes for one in tensors) == 56


def test_a_renamed_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(2)}, buffer)
    for content in (buffer.getvalue(), pickle.dumps({"x": 1}, 2), pickle.dumps({"x": 1}, 5)):
        path.write_bytes(content)
        with pytest.raises(Refused, match="a pickle, which can run foreign code"):
            read_tensors(path)


def test_a_pipe_and_a_giant_are_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "giant").open("wb") as file:
        file.truncate(2**40)
    for name in ("pipe", "giant"):
        with pytest.raises(Refused, match="no regular file of at most"):
            read_tensors(tmp_path / name)
    save_tensors({"x": torch.zeros(100)}, tmp_path / "x.safetensors")
    with pytest.raises(Refused, match="no regular file of at most 100 bytes"):
        read_tensors(tmp_path / "x.safetensors", max_bytes=100)


def test_a_link_will_do(tmp_path: Path) -> None:
    """As in the hub's cache."""
    save_tensors({"x": torch.zeros(())}, tmp_path / "blob")
    (tmp_path / "x.safetensors").symlink_to("blob")
    assert read_tensors(tmp_path / "x.safetensors")["x"].shape == ()


class TestSaving:
    def test_is_survived_by_a_power_cut(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[Path] = []
        monkeypatch.setattr(tensors, "fsync_file", synced.append)
        save_tensors({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
        assert synced == [tmp_path / "x.safetensors"]

    def test_on_a_full_disk_names_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = "Error while serializing: I/O error: No space left on device (os error 28)"

        def full(*_: Any) -> None:
            raise safetensors.SafetensorError(told)

        monkeypatch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(OSError, match="No space left") as caught:
            save_tensors({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
        assert (caught.value.errno, caught.value.filename) == (28, str(tmp_path / "x.safetensors"))

    def test_into_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            save_tensors({"x": torch.zeros(2)}, tmp_path / "gone" / "x.safetensors")
        assert caught.value.filename == str(tmp_path / "gone" / "x.safetensors")

    def test_takes_views_and_what_trains(self, tmp_path: Path) -> None:
        weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
        save_tensors({"x": weight.T}, tmp_path / "x.safetensors")
        assert read_tensors(tmp_path / "x.safetensors")["x"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose weights lie in two files."""
    place = tmp_path / "model"
    place.mkdir()
    for name in ("one.safetensors", "two.safetensors"):
        save_tensors({name: torch.zeros(2)}, place / name)
    index(place, a="one.safetensors", b="two.safetensors", c="one.safetensors")
    return place


def index(place: Path, **weight_map: Any) -> None:
    (place / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_an_index_names_each_file_once(folder: Path) -> None:
    names = [path.name for path in weight_files(str(folder), local=True)]
    assert names == ["one.safetensors", "two.safetensors"]
    assert check_weights(str(folder), local=True) == 2


def test_a_whole_file_goes_before_an_index(folder: Path) -> None:
    """As transformers has it."""
    save_tensors({"x": torch.zeros(1)}, folder / "model.safetensors")
    assert [p.name for p in weight_files(str(folder), local=True)] == ["model.safetensors"]


def test_no_weights_are_no_error(tmp_path: Path) -> None:
    assert check_weights(str(tmp_path), local=True) == 0
    assert model_file(str(tmp_path), "config.json", local=True) is None


@pytest.mark.parametrize(
    "name",
    ["evil.bin", "../one.safetensors", "/etc/passwd", ".hidden.safetensors", "a/b.safetensors",
     "x.safetensors\n", "", 7, None],
)  # fmt: skip
def test_an_index_names_safetensors_beside_it_and_nothing_else(folder: Path, name: Any) -> None:
    index(folder, a="one.safetensors", b=name)
    with pytest.raises(Refused, match="takes weights from") as caught:
        check_weights(str(folder), local=True)
    assert INDEX in caught.value.message


@pytest.mark.parametrize("content", ["", "[]", "{", '{"weight_map": [1]}', '{"weight_map": null}'])
def test_an_index_that_is_none(folder: Path, content: str) -> None:
    (folder / INDEX).write_text(content)
    with pytest.raises(Corrupt, match=INDEX):
        check_weights(str(folder), local=True)


def test_every_file_s_header_is_read(folder: Path) -> None:
    (folder / "two.safetensors").write_bytes(b"\x80\x04harm")
    with pytest.raises((Corrupt, Refused), match=r"two\.safetensors"):
        check_weights(str(folder), local=True)


class TestJson:
    def test_a_link_will_do(self, tmp_path: Path) -> None:
        (tmp_path / "blob").write_text('{"a": 1}')
        (tmp_path / "config.json").symlink_to("blob")
        assert read_json(tmp_path / "config.json") == {"a": 1}

    @pytest.mark.parametrize(
        "content", [b"", b"[]", b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a":' + b"[" * 100_000]
    )
    def test_what_is_none(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(Corrupt, match=r"config\.json"):
            read_json(tmp_path / "config.json")

    def test_a_giant_and_a_pipe_are_refused_unread(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with (tmp_path / "giant").open("wb") as file:
            file.truncate(MAX_JSON_BYTES + 1)
        for name in ("giant", "pipe"):
            with pytest.raises(Refused, match=name):
                read_json(tmp_path / name)
