from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from featstore.core.schema import Corrupt, Refused
from featstore.core.weights import (
    MAX_JSON_BYTES,
    check_weights,
    model_file,
    read_json,
    save_tensors,
    weight_files,
)

INDEX = "model.safetensors.index.json"


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
