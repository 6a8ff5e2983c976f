import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distill.config import LossSettings, StudentSettings
from distill.losses import total_loss
from distill.model import student as saved
from distill.model.encoders import TINY, Architecture, build
from distill.model.student import FORMAT, Student, build_student
from distill.model.weights import load_backbone
from featstore.core.schema import FOUR_CLASSES, Corrupt, Refused, TaskFailed, UserError
from featstore.core.settings import digest, overrides, resolve

TEACHERS = {"prosodic": 5, "linguistic": 7}
LENGTHS = torch.tensor([6400, 4000, 5123, 2560])


def student(*flags, teachers=TEACHERS, seed=0):
    settings = resolve(StudentSettings, {"backbone": "tiny"}, overrides(flags))
    return build_student(settings, FOUR_CLASSES, teachers, seed=seed).eval()


@pytest.fixture
def signals():
    draw = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(len(LENGTHS), 6400, generator=draw)


@pytest.fixture(scope="module")
def hubert():
    """A small Hugging Face encoder."""
    params = {
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 24, "num_conv_pos_embeddings": 4},
        **{"num_conv_pos_embedding_groups": 2, "conv_dim": [8, 8], "conv_kernel": [10, 3]},
        **{"conv_stride": [5, 4], "feat_extract_norm": "group"},
    }
    return Architecture(type="hubert", params=params)


def run(model, signals, lengths=LENGTHS):
    with torch.no_grad():
        return model(signals, lengths)


def test_the_papers_shape(signals):
    model = student()
    out = run(model, signals)
    assert out.logits.shape == (4, len(FOUR_CLASSES))
    assert {name: e.shape for name, e in out.embeddings.items()} == {
        "linguistic": (4, 7),
        "prosodic": (4, 5),
    }
    assert list(out.embeddings) == ["linguistic", "prosodic"]  # sorted, whatever the order given
    assert out.pooled.shape == (4, model.backbone.hidden_size)
    with torch.no_grad():
        both = torch.cat([out.embeddings["linguistic"], out.embeddings["prosodic"]], dim=-1)
        torch.testing.assert_close(model.head(both), out.logits)


def test_an_mlp_points_anywhere_and_a_gelu_does_not(signals):
    """PAPER.md row 7: why the default ends in a linear layer."""
    assert run(student(), signals).embeddings["linguistic"].min() < -0.2
    assert run(student("projection=linear_gelu"), signals).embeddings["linguistic"].min() > -0.2


def test_weighted_pooling_is_the_mean_of_the_weighed_layers(signals):
    model = student("pooling=weighted")
    with torch.no_grad():
        model.pooling.weights.copy_(torch.tensor([0.0, -100.0, torch.log(torch.tensor(3.0))]))
        states, _ = model.backbone.states(signals[:1], LENGTHS[:1])
        by_hand = (0.25 * states[0] + 0.75 * states[2]).mean(dim=1)
    torch.testing.assert_close(run(model, signals).pooled[:1], by_hand, atol=1e-5, rtol=1e-5)


def test_a_student_learns(signals):
    """Four signals, four labels: a few steps of the full loss tell them apart."""
    torch.manual_seed(0)
    signals *= torch.tensor([0.05, 0.3, 1.0, 4.0])[:, None]
    model = student(seed=2).train()
    targets = {name: (torch.randn(4, 4), torch.randn(4, width)) for name, width in TEACHERS.items()}
    labels = torch.tensor([2, 0, 3, 1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    losses = []
    for _ in range(30):
        parts = total_loss(model(signals, LENGTHS), targets, labels, LossSettings(alpha=0))
        optimiser.zero_grad()
        parts.total.backward()
        optimiser.step()
        losses.append(parts.total.item())
    assert losses[-1] < 0.3 * losses[0]
    assert run(model.eval(), signals).logits.argmax(dim=-1).tolist() == labels.tolist()


def test_ablations_keep_the_network():
    """PAPER.md row 22: it depends on the store's teachers, not on their weights in the loss."""
    shapes = {name: p.shape for name, p in student().named_parameters()}
    assert {name: p.shape for name, p in student(seed=3).named_parameters()} == shapes
    assert len(student(teachers={}).projections) == 1
    assert run(student(teachers={}), torch.randn(1, 8000), torch.tensor([8000])).embeddings == {}


@pytest.mark.parametrize("name", ["keys", "a.b", "training", "0", "x" * 128])
def test_teachers_may_have_any_name(name, signals, tmp_path):
    model = student(teachers={name: 3, "b": 4})
    model.save_pretrained(tmp_path / "s")
    out = run(Student.from_pretrained(tmp_path / "s"), signals)
    assert torch.equal(out.embeddings[name], run(model, signals).embeddings[name])


def test_the_seed_decides_every_weight():
    state = torch.get_rng_state()
    first, again, other = student(seed=1), student(seed=1), student(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    twin = again.state_dict()
    assert all(torch.equal(value, twin[key]) for key, value in first.state_dict().items())
    assert not torch.equal(first.head[1].weight, other.head[1].weight)


def test_settings_reach_the_backbone():
    flags = ("dropout.hidden=0.4", "dropout.attention=0.3", "layerdrop=0.2")
    model = student(*flags).backbone.model
    layer = model.encoder.layers[0]
    rates = (layer.dropout.p, layer.attention.dropout, model.config.layerdrop)
    assert rates == (0.4, 0.3, 0.2)
    assert student().backbone.model.config.layerdrop == 0
    with pytest.raises(UserError, match=r"student\.context = window"):
        student("context=window")
    with pytest.raises(UserError, match="no state to weigh"):
        student("layerdrop=0.2", "pooling=weighted")


# --- on disk


def test_a_round_trip_is_exact(signals, tmp_path):
    model = student("pooling=attention", "dropout.hidden=0.2")
    model.save_pretrained(tmp_path / "student")
    loaded = Student.from_pretrained(tmp_path / "student")
    assert not loaded.training
    assert (loaded.classes, loaded.teachers) == (model.classes, model.teachers)
    assert loaded.settings == model.settings
    wanted, got = run(model, signals), run(loaded, signals)
    assert torch.equal(got.logits, wanted.logits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student"]
    files = sorted(path.name for path in (tmp_path / "student").iterdir())
    assert files == ["model.safetensors", "student.json"]


def test_it_needs_neither_hub_nor_original_weights(hubert, tmp_path, signals):
    torch.manual_seed(0)
    settings = StudentSettings(backbone="hf:/home/somebody/models/hubert-mine")
    model = Student(settings, build(hubert), ("a", "b"), {"t": 3}).eval()
    model.save_pretrained(tmp_path / "s")
    assert "somebody" not in (tmp_path / "s" / "student.json").read_text()
    loaded = Student.from_pretrained(tmp_path / "s")
    assert loaded.settings.backbone == "hf:hubert-mine"
    assert torch.equal(run(loaded, signals).logits, run(model, signals).logits)
    trains = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert trains == {name for name, p in model.named_parameters() if p.requires_grad}


def test_saving_again_replaces(signals, tmp_path):
    student(seed=1).save_pretrained(tmp_path / "s")
    second = student(seed=2)
    second.save_pretrained(tmp_path / "s")
    got = run(Student.from_pretrained(tmp_path / "s"), signals).logits
    assert torch.equal(got, run(second, signals).logits)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_foreign_folders_are_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("thesis", "file"):
        with pytest.raises(UserError, match="is no student"):
            student().save_pretrained(tmp_path / name)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "x"
    (tmp_path / "empty").mkdir()
    student().save_pretrained(tmp_path / "empty")


@pytest.fixture
def folder(tmp_path):
    student().save_pretrained(tmp_path / "s")
    return tmp_path / "s"


def edit(folder, **changes):
    """Change a card, its own sum with it: only what it says can give it away."""
    card = json.loads((folder / "student.json").read_text()) | changes
    card.pop("sha256")
    (folder / "student.json").write_text(json.dumps(card | {"sha256": digest(card)}))


def test_a_flipped_letter_of_a_class_name_is_noticed(folder):
    text = (folder / "student.json").read_text()
    assert text.count('"neu"') == 1
    (folder / "student.json").write_text(text.replace('"neu"', '"ney"'))
    with pytest.raises(Corrupt, match=r"student\.json: not what was written") as caught:
        Student.from_pretrained(folder)
    assert caught.value.exit_code == 3


def test_no_flipped_bit_of_a_card_goes_unnoticed(folder):
    """Where it makes another format of it, that is said; white space means nothing."""
    content = (folder / "student.json").read_bytes()
    card = json.loads(content)
    (folder / "model.safetensors").unlink()  # which is read after the card
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        (folder / "student.json").write_bytes(changed)
        with pytest.raises((Corrupt, Refused)) as caught:
            Student.from_pretrained(folder)
        if "model.safetensors: missing" in caught.value.message:
            assert json.loads(changed) == card


@pytest.mark.parametrize("position", [0, 7, 200, 100_000, -1])
def test_a_flipped_byte_is_noticed(folder, position):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[position] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(Corrupt, match=r"model\.safetensors: SHA-256") as caught:
        Student.from_pretrained(folder)
    assert caught.value.exit_code == 3


def test_truncated_or_missing_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(Corrupt, match=r"bytes, student\.json says"):
        Student.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(Corrupt, match="missing"):
        Student.from_pretrained(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ["a", "b"]},  # a narrower head than the weights'
        {"teachers": {"prosodic": 5}},
        {"teachers": {"../x": 5, "linguistic": 7}},
        {"teachers": {"linguistic": 10**12}},
        {"settings": {"backbone": "tiny", "pooling": "attention"}},
        {"settings": {"backbone": "tiny", "unknown": 1}},
        {"backbone": {"type": "tiny", "params": {}}},
        {"backbone": {"type": "tiny", "params": TINY | {"hidden_size": 64}}},
        {"backbone": {"type": "tiny", "params": TINY | {"num_hidden_layers": 10**9}}},
        {"backbone": {"type": "tiny", "params": TINY | {"n_mels": "40"}}},
        {"backbone": {"type": "tiny", "params": TINY | {"conv_dim": [1, 2]}}},
        {"backbone": {"type": "bert", "params": {}}},
        {"backbone": {"type": "hubert", "params": {"auto_map": "x"}}},
        {"backbone": {"type": "hubert", "params": {}, "code": "evil.py"}},
        {"weights": {"size": 1, "sha256": "0" * 64, "file": "/etc/passwd"}},
        {"kind": "something else"},
        {"sampling_rate": 8000},
    ],
)
def test_a_card_that_does_not_fit_is_corrupt(folder, changes):
    edit(folder, **changes)
    with pytest.raises(Corrupt, match=r"student\.json"):
        Student.from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", "[" * 100_000, " " * 2**21])
def test_a_card_that_is_none(folder, text):
    (folder / "student.json").write_text(text)
    with pytest.raises(Corrupt, match=r"student\.json"):
        Student.from_pretrained(folder)


@pytest.mark.parametrize(("number", "what"), [(FORMAT + 1, "update"), (2, "run the same")])
def test_another_format_is_refused(folder, number, what):
    edit(folder, format=number, new_key=1)
    with pytest.raises(Refused, match=f"format {number}") as caught:
        Student.from_pretrained(folder)
    assert what in caught.value.hint


def test_a_student_of_links_is_read(folder, signals, tmp_path):
    """A downloaded snapshot is made of them."""
    (tmp_path / "linked").mkdir()
    for name in ("student.json", "model.safetensors"):
        (tmp_path / "linked" / name).symlink_to(folder / name)
    got = run(Student.from_pretrained(tmp_path / "linked"), signals).logits
    assert torch.equal(got, run(Student.from_pretrained(folder), signals).logits)


@pytest.mark.parametrize("stop", ["write_file", "_replace", "save_tensors"])
def test_a_write_that_fails_leaves_the_old_student(folder, monkeypatch, stop):
    before = (folder / "student.json").read_bytes()

    def fails(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    monkeypatch.setattr(saved, stop, fails)
    with pytest.raises(TaskFailed, match=r"no space left.*[\d,]+ bytes free"):
        student(seed=2).save_pretrained(folder)
    assert (folder / "student.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_rename_that_fails_puts_the_old_student_back(folder, monkeypatch):
    before = (folder / "student.json").read_bytes()
    rename = Path.rename

    def fails(path, target):
        if path.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(TaskFailed, match="input/output error"):
        student(seed=2).save_pretrained(folder)
    assert (folder / "student.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_messages_carry_no_escapes(folder):
    edit(folder, teachers={"\x1b[31mred": 3})
    with pytest.raises(Corrupt) as caught:
        Student.from_pretrained(folder)
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("name", ["nothing", "nothing/deeper", "file/inside"])
def test_no_student_there(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="no student") as caught:
        Student.from_pretrained(tmp_path / name)
    assert caught.value.exit_code == 2


def test_loading_a_student_loads_no_teacher(folder):
    code = (
        "import sys; from pathlib import Path; from distill.model.student import Student; "
        "from distill.model.predict import predict_files; "
        "Student.from_pretrained(Path(sys.argv[1])); "
        "print([m for m in sys.modules if m.startswith(('featstore.teachers', "
        "'featstore.features.lld', 'featstore.build.run', 'featstore.corpora', "
        "'opensmile', 'sklearn'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_one_optimisation_step_of_a_full_size_hubert_base():
    backbone = load_backbone("random:hubert-base", seed=0)
    model = Student(StudentSettings(), backbone, FOUR_CLASSES, TEACHERS).train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    lengths = torch.tensor([16_000, 12_000])
    targets = {name: (torch.randn(2, 4), torch.randn(2, width)) for name, width in TEACHERS.items()}
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    out = model(0.1 * torch.randn(2, 16_000), lengths)
    total_loss(out, targets, torch.tensor([0, 1]), LossSettings()).total.backward()
    optimiser.step()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == parameter.requires_grad, name
        assert parameter.isfinite().all()
