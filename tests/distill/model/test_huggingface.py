"""Hugging Face encoders from folders and an offline hub: safetensors, and no foreign code."""

import json

import pytest
import torch
import transformers
from transformers import BertConfig, HubertConfig, HubertModel

from distill.model.weights import load_backbone
from featstore.core.schema import Refused, UserError

SMALL = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 9},
    **{"intermediate_size": 24, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
    **{"conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 4)},
}


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def saved(folder, model, **preprocessor):
    model.save_pretrained(folder)
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return model.eval()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "model"


FAMILIES = {
    "hubert": (transformers.HubertModel, transformers.HubertForCTC, {}),
    "wav2vec2": (transformers.Wav2Vec2Model, transformers.Wav2Vec2ForPreTraining, {}),
    "wavlm": (transformers.WavLMModel, transformers.WavLMForSequenceClassification, {}),
    "data2vec_audio": (
        transformers.Data2VecAudioModel,
        transformers.Data2VecAudioForCTC,
        {"conv_pos_kernel_size": 7, "num_conv_pos_embeddings": 2},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", [False, True])
def test_every_family_from_its_own_folder(folder, family, head):
    """Bare or below a head, as published: all weights arrive, and nothing but the encoder's."""
    bare, topped, more = FAMILIES[family]
    kind = topped if head else bare
    sizes = {"proj_codevector_dim": 8, "codevector_dim": 8, "num_codevectors_per_group": 4}
    torch.manual_seed(0)
    model = kind(kind.config_class(**SMALL | sizes | more))
    saved(folder, model, do_normalize=False)
    encoder = getattr(model, family) if head else model
    backbone = load_backbone(f"hf:{folder}").eval()
    theirs, mine = encoder.state_dict(), backbone.model.state_dict()
    assert set(theirs) - set(mine) == set()
    assert set(mine) - set(theirs) <= {"masked_spec_embed"}
    assert all(torch.equal(value, mine[key]) for key, value in theirs.items())
    assert str(folder) not in backbone.architecture.model_dump_json()
    signal = torch.randn(1, 4000)
    with torch.no_grad():
        got = backbone(signal, torch.tensor([4000]))[0]
        torch.testing.assert_close(got, encoder(signal).last_hidden_state, atol=1e-5, rtol=1e-5)


def test_nothing_of_it_draws_from_foreign_generators(folder):
    """SpecAugment and layer drop, on in the published configurations, are off in a student."""
    saved(folder, HubertModel(HubertConfig(**SMALL, layerdrop=0.9, mask_time_prob=0.9)))
    backbone = load_backbone(f"hf:{folder}")
    config = backbone.model.config
    assert (config.layerdrop, config.mask_time_prob, config.mask_feature_prob) == (0, 0, 0)


@pytest.mark.parametrize(
    ("preprocessor", "norm", "expected"),
    [
        ({}, "group", False),
        ({}, "layer", True),
        ({"do_normalize": True}, "group", True),
        ({"do_normalize": False}, "layer", False),
        ({"feature_size": 1}, "group", True),  # the key's default in transformers
    ],
)
def test_normalisation_is_the_feature_extractors(folder, preprocessor, norm, expected):
    saved(folder, HubertModel(HubertConfig(**SMALL, feat_extract_norm=norm)), **preprocessor)
    assert load_backbone(f"hf:{folder}").architecture.normalise is expected
    assert load_backbone(f"random:hf:{folder}").architecture.normalise is expected


def test_pickled_weights_are_refused(folder):
    saved(folder, HubertModel(HubertConfig(**SMALL)))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Refused, match="foreign code"):
        load_backbone(f"hf:{folder}")


def test_random_weights_need_only_the_configuration(folder):
    HubertConfig(**SMALL).save_pretrained(folder)
    first, again, other = (load_backbone(f"random:hf:{folder}", seed=s) for s in (1, 1, 2))
    state, twin = first.state_dict(), again.state_dict()
    assert all(torch.equal(value, twin[key]) for key, value in state.items())
    weight = "model.feature_projection.projection.weight"
    assert not torch.equal(state[weight], other.state_dict()[weight])
    with pytest.raises(UserError, match="not a model folder") as caught:
        load_backbone(f"hf:{folder}")
    assert "model.safetensors" in caught.value.hint


def test_a_model_of_another_kind(folder):
    BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2).save_pretrained(folder)
    with pytest.raises(UserError, match="bert model is no speech encoder"):
        load_backbone(f"hf:{folder}")


def test_batch_norm_would_make_batches_matter(folder):
    HubertConfig(**SMALL, conv_pos_batch_norm=True).save_pretrained(folder)
    with pytest.raises(UserError, match="depend on its batch"):
        load_backbone(f"random:hf:{folder}")


def test_another_sampling_rate(folder):
    saved(folder, HubertModel(HubertConfig(**SMALL)), sampling_rate=8000)
    with pytest.raises(UserError, match="8000 Hz"):
        load_backbone(f"hf:{folder}")


def test_weights_that_lack_tensors(folder):
    saved(folder, HubertModel(HubertConfig(**SMALL)))
    HubertConfig(**SMALL | {"num_hidden_layers": 3}).save_pretrained(folder)
    with pytest.raises(UserError, match=r"1\d of the encoder's tensors are missing"):
        load_backbone(f"hf:{folder}")


def test_weights_of_other_sizes(folder):
    saved(folder, HubertModel(HubertConfig(**SMALL)))
    HubertConfig(**SMALL | {"intermediate_size": 32}).save_pretrained(folder)
    with pytest.raises(UserError, match="6 of the encoder's tensors are missing or of another"):
        load_backbone(f"hf:{folder}")


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "hubert", "hidden_size": "x"}', ""])
def test_a_broken_configuration(folder, content):
    folder.mkdir()
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=str(folder)):
        load_backbone(f"hf:{folder}")


def test_code_in_a_repository_is_never_run(folder, tmp_path, capfd):
    saved(folder, HubertModel(HubertConfig(**SMALL)))
    (folder / "evil.py").write_text("print('code ran')\nclass C: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.C"}, "model_type": "evil"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError):
        load_backbone(f"hf:{folder}")
    assert "code ran" not in "".join(capfd.readouterr())


def test_unknown_types_and_code_of_ones_own_say_what_to_do(folder):
    folder.mkdir()
    config = folder / "config.json"
    for content, error, message, code in [
        ({"model_type": "evil", "auto_map": {"AutoModel": "a.B"}}, Refused, "never run", 4),
        ({"model_type": "evil"}, UserError, "evil model is no speech encoder", 2),
        ({"model_type": ["hubert"]}, UserError, "no speech encoder", 2),
        ({"hidden_size": 16}, UserError, "names no model_type", 2),
    ]:
        config.write_text(json.dumps(content))
        with pytest.raises(error, match=message) as caught:
            load_backbone(f"hf:{folder}")
        assert caught.value.exit_code == code
        assert "hubert, wav2vec2, wavlm, data2vec-audio, whisper" in caught.value.hint


IMPOSSIBLE = {
    "conv_dim": [],
    "num_attention_heads": 3,
    "hidden_act": "swoosh",
    "feat_extract_norm": "x",
    "num_hidden_layers": 10**9,
    "conv_kernel": [10, -3],
    "conv_stride": None,
    "hidden_dropout": 7,
}


@pytest.mark.parametrize(
    "wrong",
    [
        *({key: value} for key, value in IMPOSSIBLE.items()),
        {"num_attention_heads": 0},
        {"conv_stride": [5, 0]},
    ],
)
@pytest.mark.parametrize("random", ["", "random:"])
def test_impossible_sizes_are_a_users_error(folder, wrong, random):
    saved(folder, HubertModel(HubertConfig(**SMALL)))
    config = json.loads((folder / "config.json").read_text()) | wrong
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        load_backbone(f"{random}hf:{folder}")
    assert caught.value.hint


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/folder", "~x"])
def test_a_missing_folder(source):
    with pytest.raises(UserError, match="no such folder"):
        load_backbone(f"hf:{source}")


def test_offline_says_what_to_fetch_and_where_to_put_it():
    with pytest.raises(UserError, match="not on this machine") as caught:
        load_backbone("hf:some-lab/some-model")
    assert "hf download some-lab/some-model" in caught.value.hint
    assert "hf:FOLDER" in caught.value.hint


@pytest.mark.slow
def test_hubert_base_at_full_size(folder):
    """The true architecture as its owners publish it, through AutoModel.from_pretrained."""
    torch.manual_seed(0)
    model = saved(folder, HubertModel(HubertConfig()), do_normalize=True, sampling_rate=16_000)
    backbone = load_backbone(f"hf:{folder}").eval()
    assert backbone.hidden_size == 768
    assert backbone.n_states == 13
    signal = torch.randn(1, 16_000)
    with torch.no_grad():
        got, n_frames = backbone(signal, torch.tensor([16_000]))
        wanted = model(torch.nn.functional.layer_norm(signal, signal.shape)).last_hidden_state
    assert n_frames.tolist() == [49]
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_the_hubs_cache_needs_no_network(folder, tmp_path, monkeypatch):
    """An id that is in the cache is read from there, and nothing is asked of the hub."""
    model = saved(folder, HubertModel(HubertConfig(**SMALL)), do_normalize=True)
    cached = tmp_path / "hub" / "models--some-lab--some-model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    (cached / "snapshots").mkdir()
    folder.rename(cached / "snapshots" / ("a" * 40))

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", forbidden)
    backbone = load_backbone("hf:some-lab/some-model")
    assert backbone.architecture.normalise
    theirs = model.state_dict()
    mine = backbone.model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())


def forbidden(*args):
    raise AssertionError("the network was asked")
