"""Models from the hub or a folder, by somebody who means harm: nothing is run or blown up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertModel, HubertConfig, HubertModel

from tests.reliability.attacks import BAD
from tests.reliability.forgery import (
    ABSURD,
    DENSE,
    DOCUMENTS,
    GIANT,
    HUBERT,
    contents,
    edited,
    pickles,
)  # fmt: skip
from tests.reliability.sandbox import Sandbox, Tally, shared

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(300)]


@pytest.fixture
def sandbox() -> Sandbox:
    return shared()


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What a payload makes; it never may."""
    yield tmp_path / "marker"
    assert not (tmp_path / "marker").exists()


def model_folder(folder: Path, kind: str = "hubert") -> Path:
    """A sound model of a few weights."""
    if kind == "hubert":
        HubertModel(HubertConfig(**HUBERT)).save_pretrained(folder)
    else:
        config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                            intermediate_size=16, vocab_size=30)  # fmt: skip
        BertModel(config).save_pretrained(folder)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
        (folder / "vocab.txt").write_text("\n".join(words))
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


def index_of(*files: str) -> str:
    """An index that takes weights from such files."""
    return json.dumps({"metadata": {}, "weight_map": {f"w{n}": f for n, f in enumerate(files)}})


def model_cases(marker: Path) -> dict[str, Callable[[Path], object]]:
    """What is done to a model's folder."""
    evil = dict(pickles(marker))["torch archive"]
    weights, index = "model.safetensors", "model.safetensors.index.json"

    def pickled(folder: Path, name: str = "pytorch_model.bin") -> None:
        (folder / weights).rename(folder / "sound")
        (folder / name).write_bytes(evil)

    def indexed(folder: Path, *files: str) -> None:
        pickled(folder, "evil.bin")
        (folder / "sound").rename(folder.parent / "away.safetensors")
        (folder / index).write_text(index_of(*files))

    def coded(folder: Path) -> None:
        (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass C: pass\n")
        config = {"auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.C"}, "model_type": "evil"}
        edited(folder / "config.json", lambda raw: raw.update(config))

    cases: dict[str, Callable[[Path], object]] = {
        "pickle alone": pickled,
        "pickle as .pt": lambda folder: pickled(folder, "model.pt"),
        "index of a pickle": lambda folder: indexed(folder, "evil.bin"),
        "index of a file elsewhere": lambda folder: indexed(folder, "../away.safetensors"),
        "index of an absolute path": lambda folder: indexed(folder, str(folder / "evil.bin")),
        "code": coded,
    }
    for name, write in contents(marker).items():
        cases[name] = lambda folder, write=write: write(folder / weights)
    for name in ("a key twice", "100,000 deep", "NaN", "a list", "64 MB", "1 MB of lists"):
        content = {**DOCUMENTS, **DENSE}[name]
        cases[f"config: {name}"] = lambda folder, content=content: (
            folder / "config.json").write_bytes(content(b"{}"))  # fmt: skip
        cases[f"index: {name}"] = lambda folder, content=content: (
            (folder / weights).unlink(), (folder / index).write_bytes(content(b"{}")))  # fmt: skip
    return cases


CONFIGS: dict[str, dict[str, Any]] = {
    "giant": GIANT,
    "no heads": {"num_attention_heads": 0},
    "no stride": {"conv_stride": [0]},
    "lists": {"hidden_size": [16]},
    "one layer": {"conv_dim": 8},
    "a type that is a list": {"model_type": ["hubert"]},
    "a rate that is a list": {"sampling_rate": [1]},
    "kernels": {"num_conv_pos_embeddings": 0},
}


def test_models(sandbox: Sandbox, marker: Path, tmp_path: Path) -> None:
    """``hf:FOLDER`` in every state that a folder can be in."""
    tally = Tally()
    whole = model_folder(tmp_path / "whole")
    tally.add("sound", sandbox("backbone", f"hf:{whole}"), (0,))
    for number, (name, damage) in enumerate(model_cases(marker).items()):
        if name in ABSURD and number % 3:
            continue  # each header is tried as a student's weights
        folder = Path(shutil.copytree(whole, tmp_path / f"m{number}" / "model"))
        damage(folder)
        tally.add(name, sandbox("backbone", f"hf:{folder}"), BAD)
        shutil.rmtree(folder.parent)
    for name, changes in CONFIGS.items():
        folder = Path(shutil.copytree(whole, tmp_path / name))
        edited(folder / "config.json", lambda raw, changes=changes: raw.update(changes))
        codes = (0, *BAD) if name == "a rate that is a list" else BAD
        for form in ("hf:", "random:hf:"):
            tally.add(f"{name} ({form})", sandbox("backbone", f"{form}{folder}"), codes)
    tally.close("models")


def test_text_encoders(sandbox: Sandbox, marker: Path, tmp_path: Path) -> None:
    """A linguistic teacher's folder: pickles, code and headers."""
    tally = Tally()
    whole = model_folder(tmp_path / "whole", "bert")
    tally.add("sound", sandbox("text-encoder", whole), (0,))
    for number, (name, damage) in enumerate(model_cases(marker).items()):
        if name.startswith("config: ") or (name in ABSURD and number % 4):
            continue  # its configuration says nothing of weights; each header is tried elsewhere
        folder = Path(shutil.copytree(whole, tmp_path / f"m{number}" / "model"))
        damage(folder)
        tally.add(name, sandbox("text-encoder", folder), BAD)
        shutil.rmtree(folder.parent)
    tally.close("text encoders")
