"""torchaudio's bundles through their own loading code, from torch hub's cache and from files."""

import dataclasses
import io
import pickle
import urllib.request
import zipfile

import pytest
import torch
import torchaudio
from safetensors.torch import save_file

from distill.model import bundles
from distill.model.backbones import load_backbone
from featstore.core.schema import Refused, UserError

SMALL = {
    **{"extractor_conv_layer_config": [(8, 10, 5), (8, 3, 4)], "encoder_embed_dim": 16},
    **{"encoder_pos_conv_kernel": 4, "encoder_pos_conv_groups": 2, "encoder_num_layers": 2},
    **{"encoder_num_heads": 2, "encoder_ff_interm_features": 24},
}


def shrink(monkeypatch, attribute):
    """A bundle with its true settings and a few small sizes."""
    bundle = getattr(torchaudio.pipelines, attribute)
    small = dataclasses.replace(bundle, _params={**bundle._params, **SMALL})
    monkeypatch.setattr(torchaudio.pipelines, attribute, small)
    return small


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(params=["hubert-base", "hubert-large", "wavlm-large"])
def bundle(request, hub, monkeypatch):
    """A shrunk bundle and its published layout of weights."""
    name = request.param
    small = shrink(monkeypatch, bundles.BUNDLES[name])
    factory = {"Wav2Vec2": torchaudio.models.wav2vec2_model, "WavLM": torchaudio.models.wavlm_model}
    torch.manual_seed(1)
    model = factory[small._model_type](**small._params).eval()
    return name, small, model


def published(model):
    """A state dict as fairseq's converters left it: weight norm under its old names."""
    new = "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original"
    old = {f"{new}0": "weight_g", f"{new}1": "weight_v"}
    prefix = "encoder.transformer.pos_conv_embed.conv."
    return {prefix + old[k] if k in old else k: v for k, v in model.state_dict().items()}


def same(backbone, model):
    signal = torch.randn(1, 4000)
    if backbone.architecture.normalise:
        signal = torch.nn.functional.layer_norm(signal, signal.shape)
    with torch.no_grad():
        got = backbone.eval()(signal, torch.tensor([4000]))[0]
        torch.testing.assert_close(got, model(signal)[0], atol=1e-5, rtol=1e-5)


def test_from_the_cache(bundle, hub, capsys):
    name, small, model = bundle
    torch.save(published(model), hub / small._path)
    assert bundles.cache_file(name) == hub / small._path
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
    name, small, _ = bundle
    with pytest.raises(UserError, match="not on this machine") as caught:
        load_backbone(name)
    for part in (str(hub / small._path), "--weights", "get_model()", f"random:{name}"):
        assert part in caught.value.hint


def test_a_failing_download_says_so(bundle, monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    with pytest.raises(UserError, match="no route to host"):
        load_backbone(bundle[0])


def test_random_weights_need_no_file(bundle):
    name, _, model = bundle
    backbone = load_backbone(f"random:{name}", seed=4)
    again = load_backbone(f"random:{name}", seed=4)
    assert {k: v.shape for k, v in backbone.model.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    pairs = zip(backbone.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_truncated_cache_is_named(bundle, hub, size):
    name, small, model = bundle
    torch.save(published(model), hub / small._path)
    whole = (hub / small._path).read_bytes()
    (hub / small._path).write_bytes(whole[:size])
    with pytest.raises(UserError, match="not the weights of") as caught:
        load_backbone(name)
    assert str(hub / small._path) in caught.value.message


class Harmful:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("place", ["cache", "file"])
def test_pickled_objects_are_refused(bundle, hub, tmp_path, place, capsys):
    name, small, _ = bundle
    path = hub / small._path if place == "cache" else tmp_path / "w.pt"
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
    name, small, model = bundle
    path = hub / small._path if place == "cache" else tmp_path / "w.pt"
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
    bundles.refuse_unusable(tmp_path / "w.pt")
    monkeypatch.setattr(bundles, "MAX_SIP", 64)
    with pytest.raises(UserError, match="a directory of more than 64 bytes"):
        bundles.refuse_unusable(tmp_path / "w.pt")


def test_a_terabyte_is_refused_unread(tmp_path):
    for suffix in (".pt", ".pth", ".safetensors"):
        path = tmp_path / f"w{suffix}"
        with path.open("wb") as file:
            file.truncate(2**40)
        with pytest.raises(Refused, match=path.name):
            bundles.refuse_unusable(path)


def test_weights_from_before_torch_1_6_are_refused(bundle, tmp_path):
    name, _, model = bundle
    torch.save(published(model), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(Refused, match=r"w\.pt: a bare pickle"):
        load_backbone(name, tmp_path / "w.pt")


def test_weights_of_another_model(bundle, tmp_path):
    name, _, model = bundle
    state = model.state_dict()
    foreign = {k.replace("encoder.transformer.", "encoder."): v for k, v in state.items()}
    cases = {
        "hf:": foreign,
        "torchaudio publishes": {k: v[:1] for k, v in state.items()},
        "extract": {"model": state},
    }
    for hint, content in cases.items():
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(UserError, match=r"w\.pt") as caught:
            load_backbone(name, tmp_path / "w.pt")
        assert hint in caught.value.hint


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
def test_hubert_base_at_full_size(hub):
    """The true architecture, from the true place, through the bundle's loading code."""
    source = load_backbone("random:hubert-base", seed=9)
    path = hub / "hubert_fairseq_base_ls960.pth"
    torch.save(published(source.model), path)
    loaded = load_backbone("hubert-base")
    assert sum(p.numel() for p in loaded.parameters()) == 94_370_944
    mine, theirs = source.state_dict(), loaded.state_dict()
    assert all(torch.equal(theirs[key], value) for key, value in mine.items())
    with torch.no_grad():
        hidden, n_frames = loaded.eval()(torch.randn(1, 16_000), torch.tensor([16_000]))
    assert (hidden.shape, n_frames.tolist()) == ((1, 49, 768), [49])
