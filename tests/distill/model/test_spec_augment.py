"""SpecAugment and layer drop: what they hide, from whom, and that the seed decides it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.config import DropoutSettings, SpecAugmentSettings
from distill.model.backbones import build_backbone, load_backbone
from distill.model.layerdrop import passed_by
from distill.model.spec_augment import spans, spec_augment
from distill.training import loop as trainer
from featstore.core.schema import UserError
from featstore.core.settings import resolve
from tests.distill.model.test_backbones import LENGTHS, SHAPES, hf
from tests.distill.small_runs import STEPS, history, request, same, train
from tests.distill.training.test_resuming import resumed

OFF = DropoutSettings(**dict.fromkeys(DropoutSettings.model_fields, 0.0))
MASKS = SpecAugmentSettings(time_ratio=0.4, time_length=3, feature_ratio=0.3, feature_length=4)


@pytest.fixture
def signals():
    draw = torch.Generator().manual_seed(5)
    return 0.1 * torch.randn(5, max(LENGTHS), generator=draw)


@pytest.fixture(params=SHAPES)
def backbone(request):
    torch.manual_seed(3)
    built = build_backbone(SHAPES[request.param])
    built.set_dropout(OFF)
    return built.train()


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


def test_bands_and_stretches_are_zero_and_the_rest_untouched():
    torch.manual_seed(0)
    features = torch.randn(4, 50, 32)
    out = spec_augment(features, torch.tensor([50, 40, 30, 20]), MASKS)
    hidden = out == 0
    assert torch.equal(out[~hidden], features[~hidden])
    frames, bands = hidden.all(dim=2), hidden.all(dim=1)
    assert torch.equal(hidden, frames[:, :, None] | bands[:, None, :])
    assert frames.any()
    assert bands.any()
    assert not frames[3, 20:].any()


def test_masks_act_in_training_only_and_come_from_the_seed(backbone, signals):
    wanted = run(backbone, signals)
    backbone.spec_augment = MASKS
    first, again, other = (run(backbone, signals, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-4
    assert (first - wanted).abs().max() > 1e-4
    torch.testing.assert_close(run(backbone.eval(), signals), wanted)


def test_nothing_is_hidden_where_nothing_of_the_backbone_trains(signals):
    backbone = load_backbone("tiny")
    backbone.spec_augment, backbone.layerdrop = MASKS, 0.9
    backbone.freeze("none")
    assert torch.equal(run(backbone.train(), signals, 1), run(backbone.train(), signals, 2))


def test_a_seed_and_a_state_bring_back_the_same_masks(signals):
    """As a resumed run does: the generator's state is all there is to keep."""
    backbone = load_backbone("tiny").train()
    backbone.spec_augment, backbone.layerdrop = MASKS, 0.4
    torch.manual_seed(0)
    backbone(signals, torch.tensor(LENGTHS))
    state = torch.get_rng_state()
    wanted = [backbone(signals, torch.tensor(LENGTHS))[0] for _ in range(3)]
    torch.set_rng_state(state)
    got = [backbone(signals, torch.tensor(LENGTHS))[0] for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_layer_drop_passes_layers_by(backbone, signals):
    """All but the first gone: the states above it are copies of its output."""
    backbone.layerdrop = 1 - 1e-9
    torch.manual_seed(0)
    states, _ = backbone.states(signals, torch.tensor(LENGTHS))
    assert len(states) == backbone.n_states
    assert (states[1] - states[0]).abs().max() > 1e-4
    for state in states[2:-1]:
        assert torch.equal(state, states[1])
    backbone.layerdrop = 0.0
    whole, _ = backbone.states(signals, torch.tensor(LENGTHS))
    assert (whole[-1] - states[-1]).abs().max() > 1e-4


def test_layer_drop_is_off_in_evaluation_and_drawn_from_the_seed(backbone, signals):
    wanted = run(backbone.eval(), signals)
    backbone.layerdrop = 0.5
    torch.testing.assert_close(run(backbone, signals), wanted)
    backbone.train()
    different = {run(backbone, signals, seed).sum().item() for seed in range(12)}
    assert 1 < len(different) <= 2 ** (backbone.n_states - 2)
    assert torch.equal(run(backbone, signals, 4), run(backbone, signals, 4))


def test_dropped_layers_get_a_gradient_of_zero(signals):
    """None would stall processes that train together."""
    backbone = build_backbone(hf("hubert", SHAPES["hf-hubert-group"].params)).train()
    backbone.set_dropout(OFF)
    backbone.layerdrop = 1 - 1e-9
    run(backbone, signals).square().sum().backward()
    dropped = [p.grad for layer in backbone.layers()[1:] for p in layer.parameters()]
    assert all(grad is not None and not grad.any() for grad in dropped)
    kept = [p.grad for name, p in backbone.layers()[0].named_parameters() if "weight" in name]
    assert all(grad.any() for grad in kept)


def test_passing_by_hands_the_gradient_on():
    layer = torch.nn.Linear(3, 3)
    hidden = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: passed_by(layer.double(), h), hidden)
    assert torch.equal(passed_by(layer, hidden), hidden)


@pytest.fixture
def one_process():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("accounted_for", [True, False])
def test_processes_that_train_together_need_that_gradient(signals, monkeypatch, accounted_for):
    """The second case is the control: with no gradient at all, they stop at the next step."""
    if not accounted_for:
        monkeypatch.setattr("distill.model.encoder.passed_by", lambda layer, hidden: hidden)
    backbone = load_backbone("tiny").train()
    backbone.layerdrop = 1 - 1e-9
    together = torch.nn.parallel.DistributedDataParallel(backbone)

    def step():
        together(signals, torch.tensor(LENGTHS))[0].square().sum().backward()

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


def test_masks_change_what_a_run_learns(small_store, tmp_path, finished):
    masked = train(small_store, tmp_path, "student.spec_augment.time_ratio=0.3")
    dropped = train(small_store, tmp_path, "student.layerdrop=0.5")
    losses = [history(run.folder)[0]["train"]["total"] for run in (finished[1], masked, dropped)]
    assert len(set(losses)) == 3


@pytest.mark.parametrize("key", ["time_ratio", "feature_ratio", "time_length", "feature_length"])
def test_absurd_masks_are_refused(key):
    with pytest.raises(UserError, match=key):
        resolve(SpecAugmentSettings, {key: -1})
