"""Weights, students, runs and models from somebody who means harm: nothing is run or blown up."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.model.encoders import TINY
from featstore.core.settings import digest
from tests.reliability import forgery
from tests.reliability.attacks import BAD, finished_run
from tests.reliability.forgery import DENSE, DOCUMENTS, GIANT, HUBERT, contents, edited, pickles
from tests.reliability.harness import run_arguments
from tests.reliability.sandbox import Sandbox, Tally, shared

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(300)]

HUB = "hubert_fairseq_base_ls960.pth"


@pytest.fixture
def sandbox() -> Sandbox:
    return shared()


@pytest.fixture(scope="module")
def finished(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch; never written into."""
    return finished_run(undisturbed, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What a payload makes; it never may, though each one can."""
    yield tmp_path / "marker"
    assert not (tmp_path / "marker").exists()


def test_a_payload_is_one(tmp_path: Path) -> None:
    """Every form in use here does make its marker when it is unpickled without care."""
    for name, content in pickles(tmp_path / "marker"):
        if name.startswith("torch"):
            torch.load(io.BytesIO(content), weights_only=False)
        elif name.startswith("pickle"):
            pickle.loads(content)
        else:  # torch reads a tar no more
            continue
        (tmp_path / "marker").rmdir()


def sealed(student: Path) -> None:
    """Let the card list the weights that stand beside it."""
    weights = student / "model.safetensors"
    sha = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.stat().st_size < 2**30 else ""
    about = {"size": weights.stat().st_size, "sha256": sha or "0" * 64}
    edited(student / "student.json", lambda raw: raw.update(weights=about))


def test_students(
    sandbox: Sandbox, finished: Path, tone_corpus: Path, marker: Path, tmp_path: Path
) -> None:
    """``distill predict`` with a student whose card fits its weights."""
    tally = Tally()
    wav = next((tone_corpus / "audio").glob("*.wav"))
    tally.add("sound", sandbox("distill", "predict", finished / "student", wav), (0,))
    for number, (name, write) in enumerate(contents(marker).items()):
        student = Path(shutil.copytree(finished / "student", tmp_path / f"student{number}"))
        write(student / "model.safetensors")
        sealed(student)
        tally.add(name, sandbox("distill", "predict", student, wav), BAD)
        shutil.rmtree(student)
    tally.close("students' weights")


def arch(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Change the architecture that a card describes."""

    def edit(raw: dict[str, Any]) -> None:
        raw["backbone"] = {**raw["backbone"], **changes}

    return edit


def hf(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return arch(type="hubert", params={**HUBERT, **changes})


def tiny(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return arch(type="tiny", params={**TINY, **changes})


CARDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "another key": arch(family="os"),
    "a type that is a path": arch(type="../evil", params={}),
    "code": hf(auto_map={"AutoModel": "evil.C"}),
    "a kernel from the hub": hf(attn_implementation="somebody/kernel"),
    "giant": hf(**GIANT),
    "beyond bounds": hf(hidden_size=2**31),
    "no heads": hf(num_attention_heads=0),
    "no stride": hf(conv_stride=[0]),
    "no kernel": hf(conv_kernel=[0]),
    "sizes that are text": hf(hidden_size="16"),
    "sizes that are tables": hf(conv_dim={"a": 1}),
    "other numbers of layers": hf(conv_dim=[8, 8]),
    "tiny without sizes": arch(type="tiny", params={}),
    "tiny with others": tiny(conv_kernel=[1], layers=[1]),
    "tiny and giant": tiny(hidden_size=10**9),
    "tiny with giant bands": tiny(n_mels=65_536, frames_per_token=65_536),
    "tiny with bands of text": tiny(n_mels="40"),
    "300 teachers": lambda raw: raw.update(teachers={f"t{n}": 65_536 for n in range(300)}),
    "a teacher that is a path": lambda raw: raw.update(teachers={"../x": 8}),
    "a million classes": lambda raw: raw.update(classes=[str(n) for n in range(1_000_000)]),
    "settings of another kind": lambda raw: raw.update(settings={"head_width": "1e9"}),
    "a giant head": lambda raw: raw["settings"].update(head_width=16_384, projection_width=16_384),
}


def test_cards(
    sandbox: Sandbox, finished: Path, tone_corpus: Path, marker: Path, tmp_path: Path
) -> None:
    """``student.json`` that is no document, or describes what cannot or must not be built."""
    tally = Tally()
    wav = next((tone_corpus / "audio").glob("*.wav"))
    student = Path(shutil.copytree(finished / "student", tmp_path / "student"))
    card, whole = student / "student.json", (finished / "student/student.json").read_bytes()
    for name, content in {**DOCUMENTS, **DENSE}.items():
        card.write_bytes(content(whole))
        tally.add(name, sandbox("distill", "predict", student, wav), BAD)
    for name, edit in CARDS.items():
        card.write_bytes(whole)
        edited(card, edit)
        tally.add(name, sandbox("distill", "predict", student, wav), BAD)
    card.unlink()
    os.mkfifo(card)
    tally.add("a pipe", sandbox("distill", "predict", student, wav), BAD)
    tally.close("students' cards")


def test_checkpoints(sandbox: Sandbox, undisturbed: Path, marker: Path, tmp_path: Path) -> None:
    """A run goes on from no checkpoint whose tensors are none, be its sums ever so sound."""
    tally = Tally()
    asked = ("distill", *run_arguments(undisturbed, tmp_path / "runs"))
    tally.add("sound", sandbox(*asked, "--max-steps", 2), (0,))
    begun = next((tmp_path / "runs").glob("*/*/fold01-*"))
    kept = Path(shutil.copytree(begun, tmp_path / "kept"))
    for name in ("torch archive", "pickle 4", "length of 2^63", "overlap", "1 TiB"):
        shutil.rmtree(begun)
        shutil.copytree(kept, begun)
        for place in sorted((begun / "checkpoint").iterdir()):
            contents(marker)[name](place / "tensors.safetensors")
            reseal_checkpoint(place)
        tally.add(name, sandbox(*asked, "--max-steps", 3), (0, *BAD))
    for name in ("a key twice", "100,000 deep", "nothing", "16 MB of lists", "1 MB of lists"):
        content = {**DOCUMENTS, **DENSE}[name]
        shutil.rmtree(begun)
        shutil.copytree(kept, begun)
        for place in sorted((begun / "checkpoint").iterdir()):
            (place / "state.json").write_bytes(content((place / "state.json").read_bytes()))
        tally.add(name, sandbox(*asked, "--max-steps", 3), (0, *BAD))
    tally.close("checkpoints")


def reseal_checkpoint(place: Path) -> None:
    """Let ``state.json`` list the tensors that stand beside it, whatever its sums are called."""
    path = place / "tensors.safetensors"
    size = path.stat().st_size
    sha = hashlib.sha256(path.read_bytes()).hexdigest() if size < 2**30 else "0" * 64
    record = json.loads((place / "state.json").read_bytes())
    record["tensors"] = (
        sha if isinstance(record["tensors"], str) else _with(record["tensors"], size, sha)
    )
    record.pop("sha256")
    record["sha256"] = digest(record)
    (place / "state.json").write_text(json.dumps(record))


def _with(about: Any, size: int, sha: str) -> Any:
    return [size, sha] if isinstance(about, list) else {**about, "size": size, "sha256": sha}


def repacked(**members: bytes) -> bytes:
    """A sound torch archive, compressed, with some of its members replaced."""
    sound, packed = io.BytesIO(), io.BytesIO()
    torch.save({"x": torch.zeros(4)}, sound)
    with (
        zipfile.ZipFile(sound) as archive,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as again,
    ):
        for name in archive.namelist():
            part = name.split("/", 1)[1].replace("/", "_").replace(".", "_")
            again.writestr(name, members.get(part, archive.read(name)))
    return packed.getvalue()


def bombs() -> dict[str, bytes]:
    """Archives that are larger inside."""
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as crowd:
        for number in range(120_000):
            crowd.writestr(f"n{number}", b"")
    return {
        "700 MB of numbers": repacked(data_0=bytes(700_000_000)),
        "700 MB of pickle": repacked(data_pkl=bytes(700_000_000)),
        "120,000 files": many.getvalue(),
        "an end alone": b"PK\x03\x04" + bytes(100) + b"PK\x05\x06" + b"\xff" * 18,
    }


def test_backbones(sandbox: Sandbox, marker: Path, tmp_path: Path) -> None:
    """``--weights`` files under every suffix, and what lies in torch hub's cache."""
    tally = Tally()
    path = tmp_path / "w.safetensors"
    for name, write in contents(marker).items():
        write(path)
        tally.add(f"{name} (.safetensors)", sandbox("backbone", "hubert-base", path), BAD)
    cached = tmp_path / "torch/hub/checkpoints" / HUB
    cached.parent.mkdir(parents=True)
    env = {"TORCH_HOME": str(tmp_path / "torch")}
    for name, content in {**dict(pickles(marker)), **bombs()}.items():
        for suffix in (".pt", ".bin"):
            path = tmp_path / f"w{suffix}"
            path.write_bytes(content)
            tally.add(f"{name} ({suffix})", sandbox("backbone", "hubert-base", path), BAD)
        cached.write_bytes(content)
        tally.add(f"{name} (cache)", sandbox("backbone", "hubert-base", env=env), BAD)
    for path in (cached, tmp_path / "w.pt"):
        forgery.sparse(path, 2**40, b"PK\x05\x06" + bytes(18))
    tally.add("1 TiB (.pt)", sandbox("backbone", "hubert-base", tmp_path / "w.pt"), BAD)
    tally.add("1 TiB (cache)", sandbox("backbone", "hubert-base", env=env), BAD)
    assert sorted(path.name for path in cached.parent.iterdir()) == [HUB]  # nothing was unpacked
    tally.close("backbones' weights")


def test_runs_with_foreign_weights(
    sandbox: Sandbox, undisturbed: Path, marker: Path, tmp_path: Path
) -> None:
    """The same through ``distill run``, which names a run by its weights' sum."""
    tally = Tally()
    for number, name in enumerate(("torch archive", "pickle 4", "overlap", "1 TiB")):
        path = tmp_path / f"w{number}.safetensors"
        contents(marker)[name](path)
        more = ("--student", "hubert-base", "--weights", path)
        tally.add(name, sandbox("distill", *run_arguments(undisturbed, tmp_path / "r", *more)), BAD)
    tally.close("runs with foreign weights")
