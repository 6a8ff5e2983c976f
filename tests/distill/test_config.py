"""distill/config.py: what a run is made from, and the key that names it."""

import tomllib
from pathlib import Path

import pytest

from distill.config import PRESETS, VARIANTS, RunSettings, default_preset, portable, run_key
from featstore.core.schema import UserError
from featstore.core.settings import resolve, to_toml
from tests.distill.small_runs import settings_of

TEACHERS = [{"name": "prosodic", "teacher": {"kind": "prosodic"}, "parents": {"lld": "aa"}}]


def key(settings: RunSettings, **over: object) -> str:
    return run_key(settings, **{"store": "5f", "teachers": TEACHERS} | over)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "first" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_preset_takes_every_variant(preset, variant):
    settings = resolve(RunSettings, PRESETS[preset], VARIANTS[variant])
    assert resolve(RunSettings, tomllib.loads(to_toml(settings))) == settings


def test_the_papers_settings_are_the_defaults():
    settings = resolve(RunSettings, PRESETS["paper"], VARIANTS["full"])
    losses, optim = settings.losses, settings.optim
    assert (losses.alpha, losses.beta, losses.gamma) == (1, 10, 2)
    assert {name: term.tau for name, term in losses.teachers.items()} == {
        "linguistic": 5, "prosodic": 0.5,
    }  # fmt: skip
    assert (optim.lr, optim.encoder_lr, optim.batch_size, optim.epochs) == (1e-4, None, 128, 30)
    assert (optim.weight_decay, optim.clip_norm, settings.seed) == (0.01, 1, 42)
    assert settings.student.backbone == "hubert-base"


@pytest.mark.parametrize(
    ("variant", "alpha", "beta", "weights"),
    [
        ("full", 1, 10, {"linguistic": 1, "prosodic": 1}),
        ("no-logits", 0, 10, {"linguistic": 1, "prosodic": 1}),
        ("no-embeddings", 1, 0, {"linguistic": 1, "prosodic": 1}),
        ("no-prosodic", 1, 10, {"linguistic": 1, "prosodic": 0}),
        ("no-linguistic", 1, 10, {"linguistic": 0, "prosodic": 1}),
        ("ce-only", 0, 0, {"linguistic": 1, "prosodic": 1}),
    ],
)
def test_a_variant_is_a_row_of_table_2(variant, alpha, beta, weights):
    losses = resolve(RunSettings, VARIANTS[variant]).losses
    assert (losses.alpha, losses.beta, losses.gamma) == (alpha, beta, 2)
    assert {name: term.weight for name, term in losses.teachers.items()} == weights


def test_only_the_tiny_student_starts_from_its_own_preset():
    names = ("tiny", "hubert-base", "hf:tiny", "random:hubert-base")
    assert [default_preset(name) for name in names] == ["tiny", "paper", "paper", "paper"]


def test_the_seed_is_in_the_folder_and_not_in_the_key():
    assert key(settings_of("seed=1")) == key(settings_of("seed=2"))


@pytest.mark.parametrize(
    "flag",
    [
        "losses.teachers.linguistic.tau=4",
        "losses.alpha=2",
        "losses.beta=1",
        "losses.gamma=1",
        "losses.kl=student_teacher",
        "optim.lr=0.01",
        "optim.encoder_lr=0.01",
        "student.pooling=attention",
        "student.backbone=hubert-base",
        "stream.pool=2",
        "precision=bf16",
    ],
)
def test_what_changes_the_numbers_changes_the_key(flag):
    assert key(settings_of(flag)) != key(settings_of())


@pytest.mark.parametrize(
    "flag", ["stream.max_batch_s=20", "student.gradient_checkpointing=true", "precision=fp32"]
)
def test_what_alters_no_result_is_not_in_the_key(flag):
    assert key(settings_of(flag)) == key(settings_of())


def test_runs_in_another_precision_or_on_another_kind_of_device_are_other_runs():
    on_gpu = key(settings_of(), device="cuda")
    assert on_gpu == key(settings_of("precision=bf16"), device="cuda")
    others = [key(settings_of()), key(settings_of("precision=fp32"), device="cuda")]
    assert len({on_gpu, *others}) == 3
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        key(settings_of("precision=fp16"))


def test_the_key_tells_stores_and_teachers_and_weights_apart():
    settings = settings_of()
    other = [{**TEACHERS[0], "parents": {"lld": "bb"}}]
    keys = [
        key(settings),
        key(settings, store="60"),
        key(settings, teachers=other),
        key(settings, teachers=[]),
        key(settings, weights="1"),
        key(settings, weights="2"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(k) == 12 and set(k) <= set("0123456789abcdef") for k in keys)


@pytest.mark.parametrize("prefix", ["hf:", "random:hf:"])
def test_a_model_folder_counts_by_content_and_never_by_path(model, tmp_path, prefix):
    there = settings_of(f"student.backbone='{prefix}{model}'")
    moved = model.rename(tmp_path / "second")
    elsewhere = settings_of(f"student.backbone='{prefix}{moved}'")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        relative = key(settings_of(f"student.backbone='{prefix}second'"))
    moved_key = key(elsewhere)
    assert relative == moved_key
    (moved / "model.safetensors").write_bytes(b"others")
    assert key(elsewhere) != moved_key
    (moved / "model.safetensors").write_bytes(b"weights")
    moved.rename(model)
    assert key(there) == moved_key

    recorded = portable(there).student.backbone
    assert recorded.startswith(f"{prefix}sha256:")
    assert str(tmp_path) not in to_toml(portable(there))
    assert there.student.backbone == f"{prefix}{model}"  # what is loaded stays the path


def test_the_hubs_ids_and_own_names_stay_as_they_are():
    for name in ("tiny", "hubert-large", "hf:facebook/wav2vec2-base", "random:hubert-base"):
        settings = settings_of(f"student.backbone='{name}'")
        assert portable(settings) is settings


def test_an_unknown_key_gets_a_suggestion():
    with pytest.raises(UserError) as caught:
        settings_of("losses.alhpa=1", "optim.lr=-1", "losses.teachers.prosodic.tua=1")
    message = caught.value.message
    assert "losses.alhpa: unknown key; did you mean alpha?" in message
    assert "losses.teachers.prosodic.tua: unknown key; did you mean tau?" in message
    assert "optim.lr" in message
    assert caught.value.exit_code == 2
