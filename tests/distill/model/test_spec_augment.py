"""SpecAugment and layer drop: what they hide, from whom, and that the seed decides it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.config import DropoutSettings, SpecAugmentSettings, StudentSettings
from distill.model.encoders import build
from distill.model.masking import spans
from distill.model.weights import load_backbone
from distill.training import loop as trainer
from featstore.core.schema import UserError
from featstore.core.settings import resolve
from tests.distill.model.test_encoders import LENGTHS, SHAPES
from tests.distill.small_runs import STEPS, request, same, train
from tests.distill.training.test_resuming import resumed

OFF = DropoutSettings(**dict.fromkeys(DropoutSettings.model_fields, 0.0))
MASKS = SpecAugmentSettings(time_ratio=0.4, time_length=3, feature_ratio=0.3, feature_length=4)


def configured(backbone, **settings):
    """The encoder in training, without dropout."""
    backbone.configure(StudentSettings(**{"trainable": "all", "dropout": OFF, **settings}))
    return backbone.train()


@pytest.fixture
def signals():
    draw = torch.Generator().manual_seed(5)
    return 0.1 * torch.randn(5, max(LENGTHS), generator=draw)


@pytest.fixture(params=SHAPES)
def backbone(request):
    torch.manual_seed(3)
    return configured(build(SHAPES[request.param]))


def run(backbone, signals, seed=0):
    torch.manual_seed(seed)
    return backbone(signals, torch.tensor(LENGTHS))[0]


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    ratio=st.floats(0.01, 0.99),
    length=st.integers(1, 20),
)
def test_spans_stay_inside_their_row(counts, ratio, length):
    mask = spans(torch.tensor(counts), 60, ratio, length)
    assert mask.shape == (len(counts), 60)
    for row, count in zip(mask, counts, strict=True):
        assert not row[count:].any()
        longest = max(len(run) for run in "".join(map(str, row.int().tolist())).split("0"))
        n_spans = int(ratio * count / max(1, min(length, count // 2))) + 1
        assert longest <= n_spans * min(length, count // 2)


def test_no_stretch_is_longer_than_half_of_a_short_utterance():
    torch.manual_seed(0)
    masks = torch.stack([spans(torch.tensor([5]), 5, 0.3, 10)[0] for _ in range(200)])
    assert set(masks.sum(dim=1).tolist()) == {0, 2}
    assert not spans(torch.tensor([1]), 5, 0.9, 10).any()  # one frame is all there is


def test_the_ratio_is_kept_on_average():
    torch.manual_seed(0)
    mask = spans(torch.full((4000,), 100), 100, 0.05, 10)
    assert 0.045 < mask.float().mean().item() < 0.055
    starts = mask.float().mean(dim=0)
    assert starts[20:80].min() > 0.5 * starts[20:80].max()  # no place is favoured


def test_what_is_replaced(backbone, signals):
    """Frames by the vector for masked frames (Whisper's by 0), then features by 0; nothing else."""
    lengths = torch.tensor(LENGTHS)
    whole, n_frames = backbone.states(signals, lengths)
    configured(backbone, spec_augment=MASKS)
    torch.manual_seed(2)
    masked, _ = backbone.states(signals, lengths)
    if "whisper" in backbone.architecture.type:
        place = torch.arange(whole[0].shape[1]) % len(backbone.positions)
        before, after = (states[0] - backbone.positions[place] for states in (whole, masked))
        vector = torch.zeros(backbone.hidden_size)
    else:
        before, after = (seen(backbone, signals, masks) for masks in (None, MASKS))
        vector = backbone.model.masked_spec_embed
    same = torch.isclose(after, before, atol=1e-6)
    bands = (after.abs() < 1e-6).all(dim=1)  # [B, D]
    frames = (torch.isclose(after, vector, atol=1e-6) | bands[:, None]).all(dim=2)  # [B, T']
    assert bands.any()
    assert frames.any()
    assert (same | bands[:, None] | frames[:, :, None]).all()
    for row, count in zip(frames & ~same.all(dim=2), n_frames, strict=True):
        assert not row[count:].any()


def seen(backbone, signals, masks):
    """What the transformer is fed, its positional convolution included."""
    configured(backbone, **({"spec_augment": masks} if masks else {}))
    inputs = []
    hook = backbone.model.encoder.register_forward_pre_hook(
        lambda _, args: inputs.append(args[0].detach().clone())
    )
    run(backbone, signals, 2)
    hook.remove()
    return inputs[0]


def test_masks_act_in_training_only_and_come_from_the_seed(backbone, signals):
    wanted = run(backbone, signals)
    configured(backbone, spec_augment=MASKS)
    first, again, other = (run(backbone, signals, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-4
    assert (first - wanted).abs().max() > 1e-4
    torch.testing.assert_close(run(backbone.eval(), signals), wanted)


def test_the_vector_for_masked_frames_trains_with_the_masks(signals):
    backbone = configured(load_backbone("tiny"))
    assert not backbone.model.masked_spec_embed.requires_grad
    configured(backbone, spec_augment=MASKS)
    run(backbone, signals).square().sum().backward()
    assert backbone.model.masked_spec_embed.grad.any()
    configured(backbone, spec_augment=MASKS, trainable="none")
    assert not backbone.model.masked_spec_embed.requires_grad


def test_nothing_is_hidden_where_nothing_of_the_backbone_trains(signals):
    settings = {"spec_augment": MASKS, "layerdrop": 0.9, "trainable": "none"}
    backbone = configured(load_backbone("tiny"), **settings)
    assert torch.equal(run(backbone, signals, 1), run(backbone, signals, 2))


def layers(backbone):
    return getattr(backbone.model, "encoder", backbone.model).layers


def test_layer_drop_leaves_layers_out(backbone, signals):
    calls = []
    for layer in layers(backbone):
        layer.register_forward_hook(lambda layer, *_: calls.append(layer))
    run(backbone, signals)
    assert len(calls) == backbone.n_states - 1
    configured(backbone, layerdrop=1 - 1e-9)
    calls.clear()
    run(backbone, signals)
    assert len(calls) == (backbone.architecture.type == "wavlm")  # whose first makes a bias for all
    run(backbone.eval(), signals)
    assert len(calls) >= backbone.n_states - 1


def test_layer_drop_is_off_in_evaluation_and_drawn_from_the_seed(backbone, signals):
    wanted = run(backbone.eval(), signals)
    configured(backbone, layerdrop=0.5)
    torch.testing.assert_close(run(backbone.eval(), signals), wanted)
    backbone.train()
    different = {run(backbone, signals, seed).detach().numpy().tobytes() for seed in range(12)}
    assert 1 < len(different) <= 2 ** (backbone.n_states - 1)
    assert torch.equal(run(backbone, signals, 4), run(backbone, signals, 4))


def test_dropped_layers_get_a_gradient_of_zero(backbone, signals):
    """None would stall processes that train together."""
    configured(backbone, layerdrop=1 - 1e-9)
    run(backbone, signals).square().sum().backward()
    dropped = layers(backbone)[1:]
    grads = [p.grad for layer in dropped for p in layer.parameters()]
    assert all(grad is not None and not grad.any() for grad in grads)


@pytest.fixture
def one_process():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("accounted_for", [True, False])
def test_processes_that_train_together_need_that_gradient(signals, accounted_for):
    """The second case is the control: the owners' model stops them at the next step."""
    backbone = configured(load_backbone("tiny"), layerdrop=1 - 1e-9)
    model = backbone if accounted_for else backbone.model
    together = torch.nn.parallel.DistributedDataParallel(model)

    def step():
        args = (signals, torch.tensor(LENGTHS)) if accounted_for else (signals,)
        together(*args)[0].square().sum().backward()

    step()
    if accounted_for:
        step()
    else:
        with pytest.raises(RuntimeError, match="not used in producing loss"):
            step()


@pytest.mark.parametrize("cuts", [(STEPS + 2,), (2, STEPS - 1)])
def test_a_resumed_run_hides_what_an_undisturbed_one_hides(
    small_store, tmp_path, monkeypatch, cuts
):
    """Killed between two epochs and within them."""
    masks = ("time_ratio=0.3", "time_length=3", "feature_ratio=0.2")
    sets = ("student.layerdrop=0.5", *(f"student.spec_augment.{mask}" for mask in masks))
    whole = train(small_store, tmp_path / "whole", *sets)
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY_S", 0)
    same(resumed(request(small_store, tmp_path / "cut", *sets), *cuts), whole)


@pytest.mark.parametrize("key", ["time_ratio", "feature_ratio", "time_length", "feature_length"])
def test_absurd_masks_are_refused(key):
    with pytest.raises(UserError, match=key):
        resolve(SpecAugmentSettings, {key: -1})
