"""torchaudio's bundles: their weights in Hugging Face's classes, from a cache or a file."""

import io
import pickle
import urllib.request
import zipfile

import pytest
import torch
import torchaudio
from safetensors.torch import save_file

from distill.model import weights
from distill.model.encoders import build
from distill.model.weights import BUNDLES, architecture, cache_file, load_backbone, refuse_unusable
from featstore.core.schema import Refused, UserError

SMALL = {
    **{"extractor_conv_layer_config": [(8, 10, 5), (8, 3, 4)], "encoder_embed_dim": 16},
    **{"encoder_pos_conv_kernel": 4, "encoder_pos_conv_groups": 2, "encoder_num_layers": 2},
    **{"encoder_num_heads": 2, "encoder_ff_interm_features": 24},
}
OURS = {
    **{"conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 4], "hidden_size": 16},
    **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "intermediate_size": 24},
}
FACTORIES = {"Wav2Vec2": torchaudio.models.wav2vec2_model, "WavLM": torchaudio.models.wavlm_model}


def pipeline(name):
    """torchaudio's own description of a bundle."""
    return getattr(torchaudio.pipelines, name.upper().replace("-", "_"))


def theirs(name, **sizes):
    """torchaudio's model of a bundle's settings, untrained, every weight of some weight."""
    torch.manual_seed(1)
    model = FACTORIES[pipeline(name)._model_type](**pipeline(name)._params | sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(params=["hubert-base", "hubert-large", "wavlm-base", "wavlm-large"])
def bundle(request, hub, monkeypatch):
    """A shrunk bundle, its place in the cache, and torchaudio's model."""
    name = request.param
    file, params = BUNDLES[name]
    monkeypatch.setitem(weights.BUNDLES, name, (file, params | OURS))
    return name, hub / file, theirs(name, **SMALL)


def published(model):
    """A state dict as fairseq's converters left it: weight norm under its old names."""
    new = "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original"
    old = {f"{new}0": "weight_g", f"{new}1": "weight_v"}
    prefix = "encoder.transformer.pos_conv_embed.conv."
    return {prefix + old[k] if k in old else k: v for k, v in model.state_dict().items()}


def same(backbone, model):
    """torchaudio's forward on a whole utterance, and ours inside a padded batch."""
    signal = torch.randn(1, 4000)
    padded = torch.cat([torch.nn.functional.pad(signal, (0, 900)), torch.randn(1, 4900)])
    if backbone.architecture.normalise:
        signal = torch.nn.functional.layer_norm(signal, signal.shape)
    with torch.no_grad():
        got, n_frames = backbone.eval()(padded, torch.tensor([4000, 4900]))
        wanted = model(signal)[0]
    torch.testing.assert_close(got[:1, : n_frames[0]], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", BUNDLES)
def test_every_bundle_is_described_as_torchaudio_describes_it(name):
    """Sizes, rates, normalisation, file and licence; with them the shape of every tensor."""
    bundle, params = pipeline(name), pipeline(name)._params
    shape = architecture(name)
    assert (BUNDLES[name][0], shape.normalise) == (bundle._path, bundle._normalize_waveform)
    encoder = build(shape, empty=True)
    with torch.device("meta"):
        model = FACTORIES[bundle._model_type](**params)
    ours = {key: value.shape for key, value in encoder.model.state_dict().items()}
    del ours["masked_spec_embed"]
    renamed = weights.encoder_weights(model.state_dict(), shape.type)
    assert {key: value.shape for key, value in renamed.items()} == ours
    assert encoder.min_samples == 400
    config = encoder.model.config
    assert config.do_stable_layer_norm == params["encoder_layer_norm_first"]
    assert config.num_attention_heads == params["encoder_num_heads"]
    assert config.feat_proj_dropout == params["encoder_projection_dropout"]
    assert config.attention_dropout == params["encoder_attention_dropout"]
    assert config.activation_dropout == params["encoder_ff_interm_dropout"]
    assert config.hidden_dropout == params["encoder_dropout"]
    if bundle._model_type == "WavLM":
        assert config.num_buckets == params["encoder_num_buckets"]
        assert config.max_bucket_distance == params["encoder_max_distance"]
    assert "under MIT License" in " ".join(bundle.__doc__.split())


def test_the_last_state_of_large_models_is_after_the_final_norm(bundle):
    """Hugging Face's meaning; torchaudio's extract_features ends before that norm."""
    name, cached, model = bundle
    torch.save(published(model), cached)
    backbone, signal = load_backbone(name).eval(), torch.randn(1, 4000)
    with torch.no_grad():
        states, _ = backbone.states(signal, torch.tensor([4000]))
        if backbone.architecture.normalise:
            signal = torch.nn.functional.layer_norm(signal, signal.shape)
        layers = model.extract_features(signal)[0]
        if name.endswith("large"):
            assert (states[-1] - layers[-1]).abs().max() > 1e-2
            layers[-1] = model.encoder.transformer.layer_norm(layers[-1])
    torch.testing.assert_close(states[1:], layers, atol=1e-5, rtol=1e-5)


def test_from_the_cache(bundle, hub, capsys):
    name, cached, model = bundle
    torch.save(published(model), cached)
    assert cache_file(name) == cached
    same(load_backbone(name), model)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_from_a_file(bundle, tmp_path, suffix):
    name, _, model = bundle
    path = tmp_path / f"mine{suffix}"
    state = {**published(model), "aux.bias": torch.zeros(3)}  # a recogniser's head is left out
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    same(load_backbone(name, path), model)


def test_missing_weights_say_where_to_put_them(bundle, hub):
    name, cached, _ = bundle
    with pytest.raises(UserError, match="not on this machine") as caught:
        load_backbone(name)
    for part in (str(cached), "--weights", weights.URL, f"random:{name}"):
        assert part in caught.value.hint


def test_a_failing_download_says_so(bundle, monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    with pytest.raises(UserError, match="no route to host"):
        load_backbone(bundle[0])


def test_random_weights_need_no_file(bundle):
    name, *_ = bundle
    backbone = load_backbone(f"random:{name}", seed=4)
    again = load_backbone(f"random:{name}", seed=4)
    pairs = zip(backbone.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_truncated_cache_is_named(bundle, hub, size):
    name, cached, model = bundle
    torch.save(published(model), cached)
    whole = (cached).read_bytes()
    (cached).write_bytes(whole[:size])
    with pytest.raises(UserError, match="not the weights of") as caught:
        load_backbone(name)
    assert str(cached) in caught.value.message


class Harmful:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("place", ["cache", "file"])
def test_pickled_objects_are_refused(bundle, hub, tmp_path, place, capsys):
    name, cached, _ = bundle
    path = cached if place == "cache" else tmp_path / "w.pt"
    torch.save({"x": Harmful()}, path)
    with pytest.raises(Refused, match="foreign code"):
        load_backbone(name, None if place == "cache" else path)
    path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(Refused):
        load_backbone(name, None if place == "cache" else path)
    assert "code ran" not in capsys.readouterr().out


def packed(path, kind, **members):
    """A torch archive again, with its members compressed or more of them."""
    sound = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    with zipfile.ZipFile(path, "w", kind) as again:
        for name in sound.namelist():
            again.writestr(name, sound.read(name))
        for name, content in members.items():
            again.writestr(name, content)


@pytest.mark.parametrize("place", ["cache", "file"])
def test_an_archive_that_is_larger_inside_is_refused(bundle, hub, tmp_path, place):
    """And nothing is unpacked into the cache, as torch hub's own loader would."""
    name, cached, model = bundle
    path = cached if place == "cache" else tmp_path / "w.pt"
    torch.save(published(model), path)
    packed(path, zipfile.ZIP_STORED)
    load_backbone(name, None if place == "cache" else path)
    packed(path, zipfile.ZIP_DEFLATED)
    with pytest.raises(Refused, match="a compressed archive of"):
        load_backbone(name, None if place == "cache" else path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.pth", bytes(10_000_000))
    with pytest.raises(Refused, match="a compressed archive of 10,000,000 bytes"):
        load_backbone(name, None if place == "cache" else path)
    assert [item.name for item in path.parent.iterdir() if item.is_file()] == [path.name]


def test_an_archive_of_very_many_files_is_not_listed(tmp_path, monkeypatch):
    torch.save({"x": torch.zeros(2)}, tmp_path / "w.pt")
    refuse_unusable(tmp_path / "w.pt")
    monkeypatch.setattr(weights, "MAX_DIRECTORY", 64)
    with pytest.raises(UserError, match="a directory of more than 64 bytes"):
        refuse_unusable(tmp_path / "w.pt")


def test_a_terabyte_is_refused_unread(tmp_path):
    for suffix in (".pt", ".pth", ".safetensors"):
        path = tmp_path / f"w{suffix}"
        with path.open("wb") as file:
            file.truncate(2**40)
        with pytest.raises(Refused, match=path.name):
            refuse_unusable(path)


def test_weights_from_before_torch_1_6_are_refused(bundle, tmp_path):
    name, _, model = bundle
    torch.save(published(model), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(Refused, match=r"w\.pt: a bare pickle"):
        load_backbone(name, tmp_path / "w.pt")


def test_weights_of_another_model(bundle, tmp_path):
    name, _, model = bundle
    state = model.state_dict()
    cases = {
        "torchaudio publishes": {k: v[:1] for k, v in state.items()},
        "file that torchaudio": {**state, "more": torch.zeros(1)},
        "the file": {k: v.sum() for k, v in state.items()},
        "extract": {"model": state},
    }
    for hint, content in cases.items():
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(UserError, match=r"w\.pt") as caught:
            load_backbone(name, tmp_path / "w.pt")
        assert hint in caught.value.hint


@pytest.mark.filterwarnings("ignore:.*sparse")
def test_tensors_of_another_layout(bundle, tmp_path):
    name, _, model = bundle
    state = {key: v.to_sparse() if v.ndim == 2 else v for key, v in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match="sparse, nested or quantized") as caught:
        load_backbone(name, tmp_path / "w.pt")
    assert caught.value.hint == "save them as plain ones"


def test_a_state_dict_by_hugging_faces_names_will_do(bundle, tmp_path):
    """The same weights, as our own encoder holds them."""
    name, cached, model = bundle
    torch.save(published(model), cached)
    save_file(load_backbone(name).model.state_dict(), tmp_path / "w.safetensors")
    same(load_backbone(name, tmp_path / "w.safetensors"), model)


@pytest.mark.parametrize(("file", "message"), [("w.pt", "no such"), ("w.onnx", "expected .safe")])
def test_unusable_files(hub, tmp_path, file, message):
    if file.endswith("onnx"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        load_backbone("hubert-base", tmp_path / file)


@pytest.mark.parametrize("name", ["tiny", "random:hubert-base", "hf:somewhere"])
def test_weights_only_go_with_a_bundle(name, tmp_path):
    with pytest.raises(UserError, match="takes no file of weights"):
        load_backbone(name, tmp_path / "w.pt")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hubert-base", "hubert-large", "wavlm-base"])
def test_at_full_size(hub, name):
    """The true architecture, from the true place, against torchaudio's own forward."""
    model = FACTORIES[pipeline(name)._model_type](**pipeline(name)._params).eval()
    torch.save(published(model), hub / BUNDLES[name][0])
    backbone = load_backbone(name).eval()
    n_weights = sum(p.numel() for p in model.parameters()) + backbone.hidden_size
    assert sum(p.numel() for p in backbone.parameters()) == n_weights
    signal = torch.randn(1, 16_000)
    with torch.no_grad():
        hidden, n_frames = backbone(signal, torch.tensor([16_000]))
        if backbone.architecture.normalise:
            signal = torch.nn.functional.layer_norm(signal, signal.shape)
        wanted = model(signal)[0]
    assert n_frames.tolist() == [49]
    torch.testing.assert_close(hidden, wanted, atol=1e-4, rtol=1e-4)
