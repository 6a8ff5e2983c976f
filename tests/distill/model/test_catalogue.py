"""What `distill backbones` says, and what a dry run knows of missing weights."""

import io
import json

import pytest
import torch
import torchaudio
from rich.console import Console
from transformers import BertConfig, HubertConfig, HubertModel, WhisperConfig

from distill.config import BACKBONES
from distill.experiments.terminal import backbones as render
from distill.model.weights import URL, cache_file, catalogue, check_weights, load_backbone
from featstore.core.schema import Corrupt, Refused, UserError
from tests.distill.model.test_bundles import published
from tests.distill.model.test_huggingface import SMALL
from tests.distill.model.test_whisper import SIZES as WHISPER


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """No network, and caches of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    asked = []

    def unreachable(*args, **_):
        asked.append(args)
        raise OSError("no network")

    for name in ("socket.socket.connect", "socket.getaddrinfo"):
        monkeypatch.setattr(name, unreachable)
    yield
    assert not asked  # whoever met the error may have kept it to himself


@pytest.fixture
def online(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def in_cache(tmp_path, name, config):
    place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    config.save_pretrained(place / "snapshots" / ("a" * 40))
    return place / "snapshots" / ("a" * 40)


def test_every_name_has_a_row_and_nothing_is_loaded():
    found = {row["name"]: row for row in catalogue()}
    assert list(found) == list(BACKBONES)
    base, large = found["hubert-base"], found["hubert-large"]
    assert (base["width"], base["layers"], base["parameters"]) == (768, 12, 94_371_712)
    assert (large["width"], large["layers"], large["normalise"]) == (1024, 24, True)
    assert base["normalise"] is False
    assert found["wavlm-base"]["family"] == "WavLM"
    assert base["path"] == str(cache_file("hubert-base"))
    assert [name for name, row in found.items() if row["here"]] == ["tiny"]
    assert URL in base["note"]
    tiny = sum(p.numel() for p in load_backbone("tiny").parameters())
    assert found["tiny"]["parameters"] == tiny
    assert base["licence"] == "MIT"
    assert "licence" not in found["tiny"]


def test_weights_in_the_cache_are_here():
    shape = torchaudio.models.wav2vec2_model(**torchaudio.pipelines.HUBERT_BASE._params)
    del shape.encoder.transformer.layers[1:]  # the file is looked at, not loaded
    torch.save(published(shape), cache_file("hubert-base"))
    (row,) = catalogue(["hubert-base"])
    assert (row["here"], row["note"]) == (True, "")
    assert check_weights("hubert-base") == ""


def test_speech_encoders_in_hugging_faces_cache_are_listed(tmp_path):
    in_cache(tmp_path, "lab/hubert", HubertConfig(**SMALL))
    whole = in_cache(tmp_path, "lab/whisper", WhisperConfig(**WHISPER))
    in_cache(tmp_path, "lab/bert", BertConfig())
    (in_cache(tmp_path, "lab/broken", BertConfig()) / "config.json").write_text("{")
    found = {row["name"]: row for row in catalogue()}
    assert [name for name in found if name.startswith("hf:")] == ["hf:lab/hubert", "hf:lab/whisper"]
    whisper = found["hf:lab/whisper"]
    assert (whisper["family"], whisper["width"], whisper["layers"]) == ("Whisper encoder", 32, 2)
    assert str(whole).startswith(whisper["path"])
    assert not whisper["here"]
    assert "model.safetensors" in whisper["note"]


@pytest.mark.parametrize("save_weights", [True, False])
def test_a_folder_is_here_with_its_weights(tmp_path, save_weights):
    model = HubertModel(HubertConfig(**SMALL))
    (model if save_weights else model.config).save_pretrained(tmp_path / "m")
    (row,) = catalogue([f"hf:{tmp_path / 'm'}"])
    assert (row["family"], row["width"], row["layers"]) == ("HuBERT", 16, 2)
    assert row["parameters"] == sum(p.numel() for p in model.parameters())
    assert row["here"] is save_weights
    assert row["path"] == str(tmp_path / "m")
    assert check_weights(f"random:hf:{tmp_path / 'm'}") == ""


def test_an_unknown_name_is_an_error():
    with pytest.raises(UserError, match="did you mean hubert-base"):
        catalogue(["hubert-bsae"])
    with pytest.raises(UserError, match="no such backbone"):
        catalogue(["hf:"])


def test_a_model_nowhere_to_be_found_has_no_sizes():
    (row,) = catalogue(["hf:some-lab/some-model"])
    assert (row["width"], row["parameters"], row["here"]) == (None, None, False)
    assert "hf download some-lab/some-model" in row["note"]


def test_it_is_json_and_a_table(tmp_path):
    in_cache(tmp_path, "lab/hubert", HubertConfig(**SMALL))
    found = json.loads(json.dumps(catalogue()))
    console = Console(width=200, record=True, file=io.StringIO())
    for part in render(found):
        console.print(part)
    text = console.export_text()
    rows = "94.4 M", "hf:lab/hubert", "wav2vec2-large-lv60k", "HuBERT on log-mel"
    for part in (*rows, f"looked for in {tmp_path / 'hub'}", "10 are not here"):
        assert part in text
    (_, *words) = render(catalogue(["hubert-base"]))  # one that is asked for is explained
    assert any(URL in word for word in words)
    assert words[0] == f"looked for in {cache_file('hubert-base')}"


# --- before a run


@pytest.mark.parametrize("name", ["tiny", "random:hubert-large", "random:tiny"])
def test_what_needs_no_weights_misses_none(name):
    assert check_weights(name) == ""


@pytest.mark.parametrize("name", ["hubert-base", "hf:some-lab/some-model"])
def test_offline_missing_weights_are_an_error(name):
    with pytest.raises(UserError, match="not on this machine") as caught:
        check_weights(name)
    assert caught.value.hint


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("name", ["hubert-base", "hf:some-lab/some-model"])
def test_online_they_would_be_fetched(name):
    assert "would be" in check_weights(name)


@pytest.mark.usefixtures("online")
def test_looking_asks_nobody(tmp_path):
    """A model in the cache without a feature extractor's settings, say."""
    in_cache(tmp_path, "lab/hubert", HubertConfig(**SMALL))
    assert "would be fetched" in check_weights("hf:lab/hubert")
    assert check_weights("random:hf:lab/hubert") == ""
    assert catalogue(["hf:lab/hubert"])[0]["layers"] == 2


def test_unusable_weights_are_noticed(tmp_path):
    for name, content, error in [
        ("w.safetensors", b"\xff" * 100, Corrupt),
        ("w.pt", b"\x80\x02 a bare pickle", Refused),
        ("w.onnx", b"x", UserError),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error):
            check_weights("hubert-base", tmp_path / name)


def test_a_damaged_folder_is_noticed(tmp_path):
    folder = tmp_path / "m"
    HubertModel(HubertConfig(**SMALL)).save_pretrained(folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1])
    with pytest.raises(Corrupt):
        check_weights(f"hf:{folder}")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Refused, match="foreign code"):
        check_weights(f"hf:{folder}")
