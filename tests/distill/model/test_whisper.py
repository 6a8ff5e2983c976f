"""Whisper's encoder against Hugging Face's own, with its silence and without."""

import json

import pytest
import torch
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)

from distill.config import StudentSettings
from distill.model.encoders import Architecture, build
from distill.model.masking import masked_mean
from distill.model.student import Student
from distill.model.weights import load_backbone
from featstore.core.schema import UserError

SIZES = {
    **{"num_mel_bins": 20, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4},
    **{"encoder_ffn_dim": 48, "max_source_positions": 50},
}
DECODER = {
    **{"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 8, "vocab_size": 20},
    **{"pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 2},
    **{"suppress_tokens": None, "begin_suppress_tokens": None, "classifier_proj_size": 8},
}
WINDOW = 16_000  # of these 50 positions; the published models have 1,500
LENGTHS = [16_000, 11_111, 7_999, 40_000, 320]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def encoder():
    torch.manual_seed(3)
    built = build(Architecture(type="whisper", params=SIZES))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return built.eval()


def noise(n_samples, seed=0):
    draw = torch.Generator().manual_seed(seed)
    loudness = torch.rand(n_samples // 800 + 1, generator=draw).repeat_interleave(800)[:n_samples]
    return 0.3 * loudness * torch.randn(n_samples, generator=draw)


def by_its_owners(encoder, signal):
    """Hugging Face's feature extractor and encoder layers on a window of silence-filled speech."""
    extractor = WhisperFeatureExtractor(feature_size=SIZES["num_mel_bins"], chunk_length=1)
    features = extractor(signal.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    owner = WhisperModel(WhisperConfig(**SIZES, **DECODER)).encoder.eval()
    state = encoder.model.state_dict() | {"embed_positions.weight": encoder.positions}
    owner.load_state_dict(state)
    with torch.no_grad():
        return owner(features).last_hidden_state


def run(encoder, signals, lengths):
    with torch.no_grad():
        return encoder(signals, torch.as_tensor(lengths))


@pytest.mark.parametrize("n_samples", [16_000, 15_900, 9_001, 4_800, 333])
def test_the_window_context_is_the_original(encoder, n_samples):
    encoder.configure(StudentSettings(trainable="all", context="window"))
    signal = noise(n_samples)
    hidden, n_frames = run(encoder, signal[None], [n_samples])
    assert n_frames.item() == -(-n_samples // 320)
    torch.testing.assert_close(hidden, by_its_owners(encoder, signal), atol=2e-4, rtol=0)


def test_the_utterance_context_is_the_original_without_attention_to_silence(encoder):
    signal = noise(9_001)
    own = 29
    with torch.no_grad():
        states, n_frames = encoder.states(signal[None], torch.tensor([9_001]))
        assert (n_frames.item(), states[0].shape[1]) == (own, own)
        encoder.configure(StudentSettings(trainable="all", context="window"))
        padded, _ = encoder.states(signal[None], torch.tensor([9_001]))
        torch.testing.assert_close(states[0], padded[0][:, :own], atol=1e-5, rtol=0)
        seen = (torch.arange(50) < own).expand(1, 1, 50, 50)
        hidden = padded[0]
        for layer in encoder.model.layers:
            hidden = layer(hidden, seen)
        hidden = encoder.model.layer_norm(hidden)
    torch.testing.assert_close(states[-1], hidden[:, :own], atol=1e-5, rtol=0)
    assert (states[-1] - padded[-1][:, :own]).abs().max() > 1e-2  # the silence does matter


@pytest.mark.parametrize("context", ["utterance", "window"])
def test_an_utterance_has_one_answer_in_either_context(encoder, context):
    encoder.configure(StudentSettings(trainable="all", context=context))
    signals = torch.stack([noise(40_000, seed) for seed in range(len(LENGTHS))])
    alone = torch.cat(
        [masked_mean(*run(encoder, signals[i : i + 1, :n], [n])) for i, n in enumerate(LENGTHS)]
    )
    for i, n in enumerate(LENGTHS):
        signals[i, n:] = 5.0
    together = masked_mean(*run(encoder, signals, LENGTHS))
    assert (together[0] - together[1]).abs().max() > 1e-3
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    order = [4, 1, 0, 3, 2]
    shuffled = masked_mean(*run(encoder, signals[order], [LENGTHS[i] for i in order]))
    torch.testing.assert_close(shuffled, alone[order], atol=1e-5, rtol=0)
    some = masked_mean(*run(encoder, signals[:3, :16_000], LENGTHS[:3]))  # one window: another path
    torch.testing.assert_close(some, alone[:3], atol=1e-5, rtol=0)


def test_what_the_original_cuts_off_is_heard(encoder):
    """Each further window as if it stood alone: the same second twice gives the same frames."""
    encoder.configure(StudentSettings(trainable="all", context="window"))
    second = noise(WINDOW)
    second[:200] = second[-200:] = 0.0
    hidden, n_frames = run(encoder, second.repeat(2)[None], [2 * WINDOW])
    assert n_frames.item() == 100
    wanted = by_its_owners(encoder, second)
    torch.testing.assert_close(hidden[:, :50], wanted, atol=2e-4, rtol=0)
    torch.testing.assert_close(hidden[:, 50:], wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize("context", ["utterance", "window"])
def test_gradients_are_finite_where_a_window_is_all_padding(encoder, context):
    encoder.configure(StudentSettings(trainable="all", context=context))
    encoder.train()
    signals = torch.stack([noise(40_000), noise(40_000, 1)])
    masked_mean(*encoder(signals, torch.tensor([40_000, 4_000]))).square().sum().backward()
    gradients = [p.grad for p in encoder.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("n_mels", [80, 128])  # 128 from large-v3 on
def test_the_filters_are_the_originals(n_mels):
    shape = Architecture(type="whisper", params=SIZES | {"num_mel_bins": n_mels})
    wanted = torch.from_numpy(WhisperFeatureExtractor(feature_size=n_mels).mel_filters).float()
    torch.testing.assert_close(build(shape).mel.filters, wanted, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("context", ["utterance", "window"])
def test_a_saved_student_keeps_its_context(encoder, tmp_path, context):
    settings = StudentSettings(backbone="hf:lab/whisper", context=context)
    model = Student(settings, encoder, ("a", "b"), {"t": 3}).eval()
    model.save_pretrained(tmp_path / "s")
    loaded = Student.from_pretrained(tmp_path / "s")
    assert loaded.backbone.settings.context == context
    signals, lengths = noise(9_000)[None], torch.tensor([9_000])
    with torch.no_grad():
        assert torch.equal(loaded(signals, lengths).logits, model(signals, lengths).logits)


def test_silence_is_a_signal_too(encoder):
    hidden, _ = run(encoder, torch.zeros(1, 8_000), [8_000])
    assert hidden.isfinite().all()


# --- on disk

HEADS = [WhisperModel, WhisperForConditionalGeneration, WhisperForAudioClassification]


def saved(folder, model, **front):
    model.save_pretrained(folder)
    settings = {"feature_size": 20, "chunk_length": 1, "sampling_rate": 16_000} | front
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("kind", HEADS)
def test_from_a_folder(kind, tmp_path):
    torch.manual_seed(0)
    model = kind(WhisperConfig(**SIZES, **DECODER))
    saved(tmp_path, model)
    backbone = load_backbone(f"hf:{tmp_path}")
    theirs = getattr(model, "model", model).encoder.state_dict()
    assert torch.equal(backbone.positions, theirs.pop("embed_positions.weight"))
    mine = backbone.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    assert not backbone.architecture.normalise
    assert all(p.requires_grad for p in backbone.parameters())


def test_shards_and_half_precision(tmp_path):
    model = WhisperModel(WhisperConfig(**SIZES, **DECODER)).half()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    backbone = load_backbone(f"hf:{tmp_path}")
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    theirs = model.encoder.conv1.weight.float()
    assert torch.equal(backbone.model.conv1.weight, theirs)


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ({"feature_size": 80}, "feature_size is 80, not 20"),
        ({"hop_length": 320}, "hop_length is 320, not 160"),
        ({"chunk_length": 30}, "chunk_length is 30, not 1"),
        ({"sampling_rate": 8000}, "8000 Hz"),
    ],
)
def test_another_front_end_is_no_whisper(front, message, tmp_path):
    saved(tmp_path, WhisperModel(WhisperConfig(**SIZES, **DECODER)), **front)
    with pytest.raises(UserError, match=message):
        load_backbone(f"hf:{tmp_path}")


@pytest.mark.slow
def test_whisper_base_at_full_size(tmp_path):
    """The published sizes, through save_pretrained, against Hugging Face's own 30 s."""
    torch.manual_seed(0)
    heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8}
    sizes = {"d_model": 512, "encoder_layers": 6, "encoder_ffn_dim": 2048, "decoder_layers": 1}
    config = WhisperConfig(**sizes, **heads)
    model = WhisperModel(config).eval()
    model.save_pretrained(tmp_path)
    extractor = WhisperFeatureExtractor()
    extractor.save_pretrained(tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}").eval()
    signal = noise(32_000)
    hidden, n_frames = run(backbone, signal[None], [32_000])
    assert (hidden.shape, n_frames.tolist()) == ((1, 100, 512), [100])
    backbone.configure(StudentSettings(trainable="all", context="window"))
    hidden, n_frames = run(backbone, signal[None], [32_000])
    features = extractor(signal.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        wanted = model.encoder(features).last_hidden_state
    assert (hidden.shape, n_frames.tolist()) == ((1, 1500, 512), [100])
    torch.testing.assert_close(hidden, wanted, atol=1e-4, rtol=0)
