"""distill/training/checkpoint.py: whole or not there, and nothing that could run code."""

import builtins
import json
import os
import pickle

import pytest
import torch
from safetensors import safe_open

from distill.training import checkpoint
from distill.training.checkpoint import (
    load_newest,
    optimiser_tensors,
    restore_optimiser,
    save_checkpoint,
)
from tests.distill.small_runs import flip_byte


def tensors(value: float) -> checkpoint.Tensors:
    return {
        "student.w": torch.full((2, 3), value),
        "optim.0.step": torch.tensor(value),
        "rng.cpu": torch.arange(5, dtype=torch.uint8),
        "half": torch.tensor([value], dtype=torch.bfloat16),
    }


def save(folder, position, state=None):
    save_checkpoint(folder, position, tensors(float(position)), state or {"at": position})


def test_there_and_back(tmp_path):
    state = {"position": {"score": [0.1, -1e-300], "n": 3}, "none": None, "text": "ü"}
    save_checkpoint(tmp_path / "c", 7, tensors(7.0), state)
    found, told = load_newest(tmp_path / "c")
    assert told == state
    assert set(found) == set(tensors(7.0))
    for name, value in tensors(7.0).items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_views_and_graphs_are_no_obstacle(tmp_path):
    grown = torch.ones(3, 2, requires_grad=True) * 2
    save_checkpoint(tmp_path / "c", 1, {"turned": grown.T}, {})
    found, _ = load_newest(tmp_path / "c")
    assert found["turned"].tolist() == [[2, 2, 2], [2, 2, 2]]


def test_the_two_newest_are_kept(tmp_path):
    for position in (8, 9, 10, 100):
        save(tmp_path / "c", position)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["00000010", "00000100"]
    assert load_newest(tmp_path / "c")[1] == {"at": 100}


def test_the_same_position_again_replaces_it(tmp_path):
    save(tmp_path / "c", 4, {"epoch": 1})
    save(tmp_path / "c", 4, {"epoch": 2})
    assert load_newest(tmp_path / "c")[1] == {"epoch": 2}
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_nothing_saved_is_nothing_found(tmp_path, capsys):
    assert load_newest(tmp_path / "c") is None
    (tmp_path / "c").mkdir()
    assert load_newest(tmp_path / "c") is None
    assert capsys.readouterr().err == ""


def edit_state(place):
    record = json.loads((place / "state.json").read_text())
    record["state"]["at"] = 99
    (place / "state.json").write_text(json.dumps(record))


def pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "flipped bit": lambda place: flip_byte(place / "tensors.safetensors", -1),
    "flipped header": lambda place: flip_byte(place / "tensors.safetensors", 3),
    "cut tensors": lambda place: (place / "tensors.safetensors").write_bytes(b""),
    "a pipe": lambda place: pipe(place / "tensors.safetensors"),
    "no tensors": lambda place: (place / "tensors.safetensors").unlink(),
    "edited state": edit_state,
    "cut state": lambda place: (place / "state.json").write_text('{"state": {'),
    "state of nothing": lambda place: (place / "state.json").write_text("{}"),
    "no state": lambda place: (place / "state.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_one_is_passed_over_and_said(tmp_path, damage, capsys):
    save(tmp_path / "c", 1)
    save(tmp_path / "c", 2)
    damage(tmp_path / "c" / "00000002")
    found, state = load_newest(tmp_path / "c")
    assert state == {"at": 1}
    torch.testing.assert_close(found["student.w"], torch.ones(2, 3), rtol=0, atol=0)
    captured = capsys.readouterr()
    assert "damaged checkpoint passed over, taking 00000001: " in captured.err
    assert f"{tmp_path}/c/00000002/" in captured.err
    assert captured.out == ""
    damage(tmp_path / "c" / "00000001")
    assert load_newest(tmp_path / "c") is None
    assert "none is left, so it starts anew" in capsys.readouterr().err


def test_damaged_ones_never_crowd_out_what_is_saved_after_them(tmp_path):
    """Started anew behind two damaged ones, a run's own checkpoints are the ones to keep."""
    for position in (7, 9):
        save(tmp_path / "c", position)
        DAMAGE["cut tensors"](tmp_path / "c" / f"{position:08d}")
    save(tmp_path / "c", 2)
    assert load_newest(tmp_path / "c")[1] == {"at": 2}
    save(tmp_path / "c", 3)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["00000002", "00000003"]


def test_what_is_no_checkpoint_is_passed_over(tmp_path, capsys):
    save(tmp_path / "c", 1)
    for name in ("12", "\u00b2", "\u0663" * 8, "notes", ".00000009-a1b2c3d4"):
        (tmp_path / "c" / name).mkdir()
    assert load_newest(tmp_path / "c")[1] == {"at": 1}
    assert capsys.readouterr().err == ""
    (tmp_path / "c" / "00000002").write_text("a file")
    (tmp_path / "c" / "00000003").mkdir()
    os.mkfifo(tmp_path / "c" / "00000003" / "state.json")
    assert load_newest(tmp_path / "c")[1] == {"at": 1}
    assert capsys.readouterr().err.count("damaged checkpoint") == 2


@pytest.mark.parametrize("stop", ["save_tensors", "write_file", "fsync_folder"])
def test_an_interrupted_write_leaves_the_older(tmp_path, monkeypatch, stop):
    save(tmp_path / "c", 1)

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, stop, dies)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path / "c", 2)
    newest = load_newest(tmp_path / "c")[1]["at"]
    assert newest == (2 if stop == "fsync_folder" else 1)  # by then it was renamed into place
    save(tmp_path / "c", 3)
    assert load_newest(tmp_path / "c")[1] == {"at": 3}
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert not any(name.startswith(".") for name in names)


def test_no_pickle_is_written_or_read(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle")

    for module, name in ((pickle, "dump"), (pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(builtins, "eval", refuse)
    save(tmp_path / "c", 1)
    assert load_newest(tmp_path / "c") is not None
    (place,) = (tmp_path / "c").iterdir()
    assert sorted(path.name for path in place.iterdir()) == ["state.json", "tensors.safetensors"]
    json.loads((place / "state.json").read_text())
    with safe_open(place / "tensors.safetensors", "pt") as file:
        assert set(file.keys()) == set(tensors(1.0))


def test_an_optimiser_continues_as_if_nothing_had_been():
    def made():
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        idle = torch.nn.Parameter(torch.ones(1))  # never had a gradient, so has no state
        groups = [{"params": [idle]}, {"params": list(layer.parameters()), "lr": 0.3}]
        return layer, torch.optim.AdamW(groups, lr=0.1)

    def step(layer, optimiser, seed):
        layer(torch.full((1, 3), float(seed))).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    whole, optimiser = made()
    for seed in (1, 2):
        step(whole, optimiser, seed)
    kept = {name: value.clone() for name, value in optimiser_tensors(optimiser).items()}
    assert sorted({name.split(".")[1] for name in kept}) == ["1", "2"]
    weights = {name: value.clone() for name, value in whole.state_dict().items()}
    step(whole, optimiser, 3)

    other, restored = made()
    other.load_state_dict(weights)
    restore_optimiser(restored, {**kept, "student.w": torch.zeros(1)})
    step(other, restored, 3)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0)
