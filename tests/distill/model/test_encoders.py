"""One utterance, one answer: alone, in a padded batch, in another order; and the owners' own."""

import copy

import pytest
import torch
from transformers import AutoModel

from distill.config import DropoutSettings, StudentSettings
from distill.model.encoders import Architecture, build
from distill.model.masking import masked_mean
from distill.model.student import Student
from distill.model.weights import architecture

# 16 channels a group of the positional convolution: oneDNN's bfloat16 kernel for Intel's AMX is
# wrong for 8.
CONVS = {"conv_dim": [16, 16, 16], "conv_kernel": [10, 3, 2], "conv_stride": [5, 4, 4]}
SMALL = {
    **CONVS,
    **{"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
    **{"intermediate_size": 48, "num_conv_pos_embedding_groups": 4},
}
GROUP = {**SMALL, "feat_extract_norm": "group", "num_conv_pos_embeddings": 16}
LAYER = {**GROUP, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
BUCKETS = {"num_buckets": 32, "max_bucket_distance": 40}
DATA2VEC = {**SMALL, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 7}
WHISPER = {
    **{"num_mel_bins": 20, "d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4},
    **{"encoder_ffn_dim": 48, "max_source_positions": 20, "dropout": 0.1},
}


def hf(kind, params, normalise=False):
    return Architecture(type=kind, params=params, normalise=normalise)


SHAPES = {
    "tiny": architecture("tiny"),
    "hf-whisper": hf("whisper", WHISPER),
    "hf-whisper-beyond-its-window": hf("whisper", WHISPER | {"max_source_positions": 8}),
    "hf-hubert-group": hf("hubert", GROUP),
    "hf-hubert-layer": hf("hubert", LAYER, normalise=True),
    "hf-wav2vec2-group": hf("wav2vec2", GROUP),
    "hf-wav2vec2-layer": hf("wav2vec2", LAYER, normalise=True),
    "hf-wavlm-group": hf("wavlm", GROUP | BUCKETS),
    "hf-wavlm-layer": hf("wavlm", LAYER | BUCKETS, normalise=True),
    "hf-data2vec": hf("data2vec-audio", DATA2VEC, normalise=True),
}
LENGTHS = [4000, 3999, 3100, 2401, 1600]  # up to 60 % padding


@pytest.fixture(params=SHAPES)
def backbone(request):
    torch.manual_seed(3)
    built = build(SHAPES[request.param]).eval()
    with torch.no_grad():  # fresh weights hardly look at their input: make every layer matter
        for parameter in built.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return built


@pytest.fixture
def signals():
    draw = torch.Generator().manual_seed(5)
    loudness = torch.tensor([0.02, 0.3, 0.05, 0.1, 0.2])[:, None]
    return loudness * torch.randn(5, max(LENGTHS), generator=draw) + 0.01


def pooled(backbone, signals, lengths):
    lengths = torch.as_tensor(lengths)
    with torch.no_grad():
        states, n_frames = backbone.states(signals, lengths)
        last, again = backbone(signals, lengths)
    assert torch.equal(n_frames, again)
    assert backbone.training or torch.equal(states[-1], last)
    return torch.stack([masked_mean(state, n_frames) for state in states], dim=1)


def test_an_utterance_has_one_answer(backbone, signals):
    alone = torch.cat(
        [pooled(backbone, signals[i : i + 1, :n], [n]) for i, n in enumerate(LENGTHS)]
    )
    assert alone.std() > 0.05  # the inputs do matter
    assert (alone[:-1] - alone[1:]).abs().max() > 1e-3

    for i, n in enumerate(LENGTHS):
        signals[i, n:] = 100.0  # what stands in the padding must not matter
    together = pooled(backbone, signals, LENGTHS)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)

    order = [3, 0, 4, 2, 1]
    shuffled = pooled(backbone, signals[order], [LENGTHS[i] for i in order])
    torch.testing.assert_close(shuffled, alone[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "weighted", "attention"])
def test_a_student_has_one_answer_with_every_pooling(backbone, signals, pooling):
    settings = StudentSettings(pooling=pooling)
    model = Student(settings, backbone, ("a", "b"), {"t": 3}).eval()
    with torch.no_grad():  # let the learned parts of the pooling matter
        for parameter in model.pooling.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        alone = [model(signals[i : i + 1, :n], torch.tensor([n])) for i, n in enumerate(LENGTHS)]
        for i, n in enumerate(LENGTHS):
            signals[i, n:] = 100.0
        together = model(signals, torch.tensor(LENGTHS)).pooled
        order = [4, 2, 3, 0, 1]
        shuffled = model(signals[order], torch.tensor(LENGTHS)[order]).pooled
    wanted = torch.cat([output.pooled for output in alone])
    torch.testing.assert_close(together, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(shuffled, wanted[order], atol=1e-5, rtol=0)


def test_frames_are_counted(backbone, signals):
    least = backbone.min_samples
    hidden, n_frames = backbone(signals[:2], torch.tensor([least, 4000]))
    assert n_frames.tolist() == [1, hidden.shape[1]]
    assert backbone(signals[:1, :least], torch.tensor([least]))[0].shape[1] == 1
    assert hidden.shape[2] == backbone.hidden_size
    assert len(backbone.states(signals[:1], torch.tensor([4000]))[0]) == backbone.n_states


def test_training_mode_without_dropout_is_deterministic(backbone, signals):
    """No SpecAugment and no layer drop hide in the models."""
    rates = dict.fromkeys(DropoutSettings.model_fields, 0.0)
    wanted = pooled(backbone, signals, LENGTHS)
    backbone.configure(StudentSettings(trainable="all", dropout=rates))
    torch.testing.assert_close(pooled(backbone.train(), signals, LENGTHS), wanted)
    backbone.configure(StudentSettings(trainable="all", dropout={"hidden": 0.5}))
    assert (pooled(backbone, signals, LENGTHS) - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("rate", list(DropoutSettings.model_fields))
def test_each_dropout_key_acts(backbone, signals, rate):
    off = dict.fromkeys(DropoutSettings.model_fields, 0.0)
    backbone.configure(StudentSettings(trainable="all", dropout=off | {rate: 0.5}))
    wanted = pooled(backbone.eval(), signals, LENGTHS)
    assert (pooled(backbone.train(), signals, LENGTHS) - wanted).abs().max() > 1e-3


def test_what_trains(backbone, signals):
    def gradients(trainable):
        backbone.configure(StudentSettings(trainable=trainable))
        backbone.train()
        backbone.zero_grad()
        hidden, _ = backbone(signals, torch.tensor(LENGTHS))
        if hidden.requires_grad:
            hidden.square().sum().backward()
        return {n for n, p in backbone.named_parameters() if p.grad is not None and p.grad.any()}

    everything = {name for name, _ in backbone.named_parameters()}
    fronts = ("model.feature_extractor.", "model.conv1.", "model.conv2.")
    cnn = {name for name in everything if name.startswith(fronts)}
    # A key's bias moves all scores of a query alike, which softmax does not see.
    blind = {name for name in everything if name.endswith(("k_proj.bias", "masked_spec_embed"))}
    assert gradients("all") >= everything - blind
    assert gradients("none") == set()
    assert not backbone.training
    assert everything - cnn - blind <= gradients("transformer") <= everything - cnn
    assert backbone.training
    assert not any(module.training for module in backbone.front_modules())


def test_checkpointing_changes_no_gradient(backbone, signals):
    def gradients():
        torch.manual_seed(0)  # dropout must be drawn alike when activations are recomputed
        backbone.zero_grad()
        backbone(signals, torch.tensor(LENGTHS))[0].square().mean().backward()
        return [p.grad.clone() for p in backbone.parameters() if p.grad is not None]

    backbone.train()
    wanted = gradients()
    backbone.configure(StudentSettings(trainable="all", gradient_checkpointing=True))
    torch.testing.assert_close(gradients(), wanted, rtol=1e-6, atol=1e-9)


def test_bfloat16_autocast(backbone, signals):
    """Half precision where PyTorch takes it, and the mask still reaches every layer."""
    wanted = pooled(backbone, signals, LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = pooled(backbone, signals, LENGTHS)
        for i, n in enumerate(LENGTHS):
            signals[i, n:] = 9.0
        again = pooled(backbone, signals, LENGTHS)
    assert got.dtype == torch.float32
    # Each operation rounds to 8 bits, by up to 2^-8: some 12 in a layer, 3 layers, at random.
    assert 0 < (got - wanted).norm() < 2**-4 * wanted.norm()
    torch.testing.assert_close(again, got, atol=1e-5, rtol=0)
    backbone.train()(signals, torch.tensor(LENGTHS))[0].sum().backward()


def test_its_architecture_rebuilds_it(backbone):
    shape = Architecture.model_validate_json(backbone.architecture.model_dump_json())
    twin = build(shape, empty=True)
    state = backbone.state_dict()
    assert {k: v.shape for k, v in twin.state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
    twin.load_state_dict(state, assign=True)
    assert not any(value.is_meta for value in [*twin.parameters(), *twin.buffers()])
    signal = torch.randn(1, 4000)
    assert torch.equal(pooled(twin.eval(), signal, [4000]), pooled(backbone, signal, [4000]))


def owners(name):
    """Our encoder, and Hugging Face's model of the same weights as transformers makes it."""
    torch.manual_seed(3)
    ours = build(SHAPES[name].model_copy(update={"normalise": False})).eval()
    theirs = AutoModel.from_config(ours.model.config).eval()
    report = theirs.load_state_dict(ours.model.state_dict(), strict=False)
    assert (report.missing_keys, report.unexpected_keys) == ([], ["masked_spec_embed"])
    return ours, theirs


@pytest.mark.parametrize("name", [n for n in SHAPES if n.startswith("hf") and "whis" not in n])
def test_without_padding_it_is_the_owners_model(name, signals):
    ours, theirs = owners(name)
    with torch.no_grad():
        states, _ = ours.states(signals, torch.full((5,), 4000))
        wanted = theirs(signals, output_hidden_states=True)
    assert len(states) == len(wanted.hidden_states)
    torch.testing.assert_close(states[:-1], [*wanted.hidden_states[:-1]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(states[-1], wanted.last_hidden_state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["hf-hubert-group", "hf-wav2vec2-group", "hf-data2vec"])
def test_left_to_their_owners_they_would_see_padding(name, signals):
    """The control of the tests above: without our hooks, the answer moves."""
    _, theirs = owners(name)
    mask = (torch.arange(4000) < torch.tensor([[4000], [1600]])).long()
    with torch.no_grad():
        alone = theirs(signals[1:2, :1600]).last_hidden_state
        batch = theirs(signals[:2] * mask, attention_mask=mask).last_hidden_state
    assert (batch[1, : alone.shape[1]] - alone[0]).abs().max() > 1e-3


def test_a_copy_sees_its_own_lengths(signals):
    """The hooks of a copied encoder belong to the copy."""
    first = build(SHAPES["hf-hubert-group"]).eval()
    second = copy.deepcopy(first)
    wanted = pooled(first, signals, LENGTHS)
    pooled(first, signals[:2, :1600], [1600, 900])
    assert torch.equal(pooled(second, signals, LENGTHS), wanted)


@pytest.mark.parametrize(
    "params",
    [{"num_hidden_layers": 10**6}, {"hidden_size": 10**9}, {"conv_dim": [[-1]]}, {"x": [1] * 300}],
)
def test_absurd_architectures_are_refused_before_anything_is_built(params):
    with pytest.raises(ValueError, match="beyond any speech encoder"):
        hf("hubert", params)
