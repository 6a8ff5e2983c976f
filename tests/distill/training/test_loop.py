"""distill/training/loop.py: micro-batches add up to the step; the step does what settings say."""

import dataclasses
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F

from distill.config import VARIANTS
from distill.data import MicroBatchPlan, load_targets, open_signals, read_batch, training_steps
from distill.losses import total_loss
from distill.model.student import build_student
from distill.training import checkpoint, loop
from distill.training.checkpoint import Report
from distill.training.loop import evaluate, fit, make_learner
from distill.training.team import Team
from featstore.core.schema import TaskFailed, UserError
from featstore.folds import OUT, TRAIN
from featstore.store.store import Store
from tests.distill.small_runs import STEPS, settings_of, small_hubert

CPU = torch.device("cpu")
STILL = ("student.head_dropout=0.0", "student.dropout.hidden=0.0", "optim.warmup=0.0")
"""No dropout, and a first step that is not at learning rate 0."""


@pytest.fixture(scope="module")
def store(small_store):
    return Store.open(small_store)


@pytest.fixture(scope="module")
def targets(store):
    return load_targets(store, 1, CPU)


def learner(targets, *sets, variant="full", n_steps=8, **options):
    settings = settings_of(*STILL, *sets, variant=variant)
    student = build_student(settings.student, targets.classes, targets.widths, None, 1)
    return make_learner(student.train(), settings, targets, n_steps, CPU, **options)


def first_step(store, targets):
    """The utterances of the first optimiser step as one batch."""
    rows, lengths = targets.rows(TRAIN), store.lengths
    step = training_steps(rows, lengths, 16, 8, 42, 1)[0]
    return read_batch(open_signals(store, None), MicroBatchPlan(step), lengths)


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def trained(module):
    """Names of the weights that train; tiny's vector for masked frames does with masks only."""
    return {name for name, value in module.named_parameters() if value.requires_grad}


def moved(before, after):
    """Names of the weights that a step changed."""
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def take(ours, store, n_steps=1):
    """The next optimiser steps of the run, of fewer than all."""
    signals, until = open_signals(store, None), ours.progress.total + n_steps
    assert not fit(ours, signals, store.lengths, lambda: None, lambda _: None, until)


def gradients(ours, store):
    """Gradients of a step as AdamW gets them; it must not clip."""
    kept = {}

    def spy(*_):
        named = ours.student.named_parameters()
        kept.update({name: p.grad.clone() for name, p in named if p.grad is not None})

    ours.optimiser.register_step_pre_hook(spy)
    take(ours, store)
    return kept


def test_accumulated_micro_batches_are_one_batch(store, targets):
    loose, calls = "optim.clip_norm=1e9", []
    whole = learner(targets, loose, "stream.max_batch_s=1000")
    parts = learner(targets, loose, "stream.max_batch_s=6")
    for ours in (whole, parts):
        ours.net.register_forward_hook(lambda net, *_: calls.append(net))
    before = weights(whole.student)
    expected, got = gradients(whole, store), gradients(parts, store)
    assert calls.count(whole.net) == 1
    assert calls.count(parts.net) > 3
    assert set(got) == set(expected)
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-6 * scale, msg=name)
    after = weights(whole.student)
    assert moved(before, after) == trained(whole.student)
    compared, accumulated = 0, weights(parts.student)
    for name in expected:
        # Of a gradient that is rounding alone (keys' biases), AdamW makes a step of full length.
        sure = expected[name].abs() > 1e-5 * scale
        value, other = accumulated[name][sure], after[name][sure]
        torch.testing.assert_close(value, other, rtol=0, atol=1e-6, msg=name)
        compared += int(sure.sum())
    assert compared > 0.8 * sum(value.numel() for value in before.values())
    one_means, many_means = whole.report.means()["train"], parts.report.means()["train"]
    assert many_means == pytest.approx(one_means, rel=1e-5)
    assert whole.report.n == parts.report.n == 16


def test_the_report_is_the_losses_of_the_batch(store, targets):
    ours, batch = learner(targets), first_step(store, targets)
    labels, teachers = targets.batch(batch.rows)
    with torch.no_grad():
        output = ours.student(batch.signals, batch.lengths)
        expected = total_loss(output, teachers, labels, ours.settings.losses)
    take(ours, store)
    terms, gradient_norms = ours.report.means().values()
    assert set(terms) == {"ce", "total", *COEFFICIENTS["full"]}
    for name, value in {**expected.terms, "total": expected.total}.items():
        assert terms[name] == pytest.approx(float(value), rel=1e-5), name
    assert set(gradient_norms) == set(terms) - {"total"}
    assert all(norm > 0 for norm in gradient_norms.values())


def test_the_reports_means_by_hand():
    report = Report(n=4, terms={"ce": 2.0}, gradients={"ce": 3.0}, n_gradients=2)
    assert report.means() == {"train": {"ce": 0.5}, "gradients": {"ce": 1.5}}
    assert Report().means() == {"train": {}, "gradients": {}}


def test_gradients_are_measured_now_and_then_and_once_a_report(store, targets, monkeypatch):
    monkeypatch.setattr(loop, "GRADIENTS_EVERY", 3)
    ours, counts = learner(targets), []
    for _ in range(STEPS + 3):
        take(ours, store)
        counts.append(ours.report.n_gradients)
    assert counts == [1, 1, 1, 2, 1, 1, 2]  # steps 0 and 3; then the first of an epoch, and 6


COEFFICIENTS = {
    "full": {"kl_linguistic": 1, "kl_prosodic": 1, "cos_linguistic": 10, "cos_prosodic": 10},
    "no-logits": {"cos_linguistic": 10, "cos_prosodic": 10},
    "no-embeddings": {"kl_linguistic": 1, "kl_prosodic": 1},
    "no-prosodic": {"kl_linguistic": 1, "cos_linguistic": 10},
    "no-linguistic": {"kl_prosodic": 1, "cos_prosodic": 10},
    "ce-only": {},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_takes_a_step_of_its_own_terms(store, targets, variant):
    ours = learner(targets, variant=variant)
    before = weights(ours.student)
    take(ours, store)
    terms, norms = ours.report.means().values()
    coefficients = {"ce": 2, **COEFFICIENTS[variant]}
    expected = sum(value * terms[name] for name, value in coefficients.items())
    assert terms["total"] == pytest.approx(expected, rel=1e-5)
    assert {name for name, norm in norms.items() if norm > 0} == set(coefficients)
    assert len(terms) == 6  # the others are told all the same
    assert moved(before, weights(ours.student)) == trained(ours.student)


def test_the_gradient_is_clipped(store, targets):
    taken = {}
    for name, clip in (("loose", 1e6), ("tight", 0.01)):
        ours = learner(targets, f"optim.clip_norm={clip}")

        def measure(optimiser, *_, name=name):
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            taken[name] = float(torch.cat([p.grad.flatten() for p in parameters]).norm())

        ours.optimiser.register_step_pre_hook(measure)
        take(ours, store)
        assert all(p.grad is None for p in ours.student.parameters())
    assert taken["loose"] > 0.1
    assert taken["tight"] == pytest.approx(0.01, rel=1e-3)


def test_class_weights_weigh_the_cross_entropy(store, targets):
    batch, ours = first_step(store, targets), learner(targets, "optim.class_weights=true")
    train = targets.labels[torch.from_numpy(targets.rows(1))]
    by_class = len(train) / (4 * torch.bincount(train, minlength=4).float())
    skewed = torch.tensor([0.5, 1.0, 2.0, 4.0])
    torch.testing.assert_close(ours.net.weights, by_class)
    ours.net.weights = skewed
    labels = targets.labels[batch.rows]
    with torch.no_grad():
        logits = ours.student(batch.signals, batch.lengths).logits
        rows = F.cross_entropy(logits, labels, reduction="none")
    take(ours, store)
    expected = float((rows * skewed[labels]).sum() / len(labels))
    assert ours.report.means()["train"]["ce"] == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(float(rows.mean()), rel=1e-2)


@pytest.mark.parametrize(
    ("trainable", "extractor", "transformer"),
    [("transformer", False, True), ("all", True, True), ("none", False, False)],
)
def test_what_is_frozen_does_not_move(store, targets, tmp_path, trainable, extractor, transformer):
    sets = (
        f"student.backbone='random:hf:{small_hubert(tmp_path)}'",
        f"student.trainable={trainable}",
    )
    ours = learner(targets, *sets, "student.dropout.projection=0.0")
    before = weights(ours.student)
    take(ours, store)
    changed = moved(before, weights(ours.student))
    assert any("feature_extractor" in name for name in before)
    assert any("feature_extractor" in name for name in changed) == extractor
    assert any("encoder.layers" in name for name in changed) == transformer
    assert any(name.startswith("head.") for name in changed)
    assert any(name.startswith("projections.") for name in changed)
    assert bool(ours.report.gradients) == (trainable != "none")


def test_two_learning_rates(store, targets):
    ours = learner(targets, "optim.lr=0.01", "optim.encoder_lr=0.001")
    rates = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in ours.optimiser.param_groups
        for parameter in group["params"]
    }
    named = {n: p for n, p in ours.student.named_parameters() if p.requires_grad}
    assert len(rates) == len(named)
    for name, parameter in named.items():
        lr, decay = rates[id(parameter)]
        assert lr == (0.001 if name.startswith("backbone.") else 0.01), name
        assert decay == (0.01 if parameter.ndim > 1 else 0), name
    take(ours, store)
    later = (1 + math.cos(math.pi / 8)) / 2  # one of eight steps down the cosine
    lrs = [group["lr"] for group in ours.optimiser.param_groups]
    assert lrs == pytest.approx([rate * later for rate in (0.001, 0.001, 0.01, 0.01)])


def test_one_learning_rate_unless_told(targets):
    groups = learner(targets, "optim.lr=0.01").optimiser.param_groups
    assert [group["lr"] for group in groups] == [0.01] * 4


@pytest.mark.parametrize("array", [0, 1], ids=["logits", "embeddings"])
def test_a_loss_that_is_no_number_names_its_utterances(store, targets, array):
    batch = first_step(store, targets)
    bad = sorted(batch.rows[[2, 5]].tolist())
    poisoned = targets.teachers["prosodic"][array].clone()
    poisoned[bad] = torch.inf
    pair = list(targets.teachers["prosodic"])
    pair[array] = poisoned
    teachers = {**targets.teachers, "prosodic": tuple(pair)}
    names = store.utterances["utterance_id"].tolist()
    ours = learner(dataclasses.replace(targets, teachers=teachers), utterance_ids=names)
    before = weights(ours.student)
    with pytest.raises(TaskFailed, match="loss not finite") as caught:
        take(ours, store)
    first, *named = caught.value.message.splitlines()
    assert sorted(named) == sorted(names[row] for row in bad)
    term = ("kl_prosodic", "cos_prosodic")[array]
    assert f"({term}) for 2 of the 16 utterance(s) of a micro-batch, at step 1:" in first
    assert caught.value.exit_code == 1
    assert not moved(before, weights(ours.student))


def test_weights_that_are_no_numbers_spoil_the_whole_micro_batch(store, targets):
    ours = learner(targets)
    with torch.no_grad():
        ours.student.head[1].bias.fill_(torch.nan)
    batch = first_step(store, targets)
    with pytest.raises(TaskFailed, match="for 16 of the 16 utterance") as caught:
        take(ours, store)
    named = caught.value.message.splitlines()[1:]
    assert sorted(named) == sorted(f"row {row} of the store" for row in batch.rows.tolist())


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_schedule_optimiser_and_report_are_restored_exactly(store, targets, tmp_path, kind):
    sets = (f"optim.schedule={kind}", "optim.warmup=0.25", "optim.encoder_lr=1e-5")

    def rates(ours, n_steps):
        seen = []
        for _ in range(n_steps):
            seen.append([group["lr"] for group in ours.optimiser.param_groups])
            take(ours, store)
        return seen

    whole = learner(targets, *sets, n_steps=6)
    expected = rates(whole, 4)
    assert len({tuple(lrs) for lrs in expected}) > 2
    half = learner(targets, *sets, n_steps=6)
    rates(half, 2)
    checkpoint.save(tmp_path, half)
    resumed = learner(targets, *sets, n_steps=6)
    assert checkpoint.load(tmp_path, resumed)
    assert resumed.report == half.report
    assert resumed.report.n == 32
    assert rates(resumed, 2) == expected[2:]
    for name, value in weights(whole.student).items():
        assert torch.equal(weights(resumed.student)[name], value), name
    assert resumed.report == whole.report


def test_evaluation_is_in_the_order_of_the_rows_whatever_the_batches(store, targets):
    noisy = ("student.head_dropout=0.5", "student.dropout.hidden=0.5")
    at_once = learner(targets, *noisy, "stream.max_batch_s=1000")
    one_by_one = learner(targets, *noisy, "stream.max_batch_s=0.1")
    rows, signals = np.array([4, 9, 17, 18, 60]), open_signals(store, None)
    logits = evaluate(at_once, signals, store.lengths, rows)
    again = evaluate(one_by_one, signals, store.lengths, rows)
    assert logits.shape == (5, 4)
    np.testing.assert_allclose(again, logits, atol=1e-5)
    for row, expected in zip(rows, logits, strict=True):
        alone = evaluate(one_by_one, signals, store.lengths, np.array([row]))
        np.testing.assert_allclose(alone[0], expected, atol=1e-5)
    assert np.abs(logits - logits[0]).max() > 1e-4
    assert not at_once.student.training


def test_evaluation_heads_and_losses_are_float32_whatever_the_precision(store, targets):
    """Ties between logits of bf16 would be decided by the order of the classes."""
    half, full = learner(targets), learner(targets)
    half.net.dtype = torch.bfloat16
    rows, signals = np.arange(12), open_signals(store, None)
    logits = evaluate(half, signals, store.lengths, rows)
    assert np.array_equal(logits, evaluate(full, signals, store.lengths, rows))
    batch = first_step(store, targets)
    with torch.autocast("cpu", torch.bfloat16):
        said = half.student.eval()(batch.signals, batch.lengths)
    assert {x.dtype for x in (said.logits, said.pooled, *said.embeddings.values())} == {
        torch.float32
    }
    with torch.no_grad():
        exact = half.student.eval()(batch.signals, batch.lengths)
        heads = half.student.head(
            torch.cat([part(said.pooled) for part in half.student.projections], dim=-1)
        )
    assert not torch.equal(said.pooled, exact.pooled)  # the backbone was in bf16
    assert torch.equal(said.logits, heads)  # nothing after it was


def test_precision_is_what_the_device_can_do(targets):
    assert learner(targets).net.dtype is torch.float32
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        learner(targets, "precision=fp16")


def in_half(targets, scale):
    """float16 with its scaler, which a CPU can do although it is not offered."""
    ours = learner(targets)
    ours.net.dtype, ours.scaler = torch.float16, GradScaler("cpu")
    ours.scaler.load_state_dict({**ours.scaler.state_dict(), "scale": scale})
    return ours


def test_a_scaled_gradient_is_scaled_back(store, targets):
    ours = in_half(targets, 1024.0)
    taken = gradients(ours, store)
    total = math.sqrt(sum(float(value.norm()) ** 2 for value in taken.values()))
    assert total == pytest.approx(1, rel=1e-3)  # clipped to 1, not to 1/1024
    assert ours.schedule.last_epoch == 1
    assert ours.report.means()["train"]["total"] > 0


def test_a_step_that_overflows_is_not_taken_and_the_scale_falls(store, targets, tmp_path):
    ours = in_half(targets, 2.0**60)  # the gradient becomes infinite
    before, lrs = weights(ours.student), ours.schedule.get_last_lr()
    take(ours, store)
    assert not moved(before, weights(ours.student))
    assert ours.scaler.get_scale() == 2.0**59
    assert ours.schedule.get_last_lr() == lrs
    checkpoint.save(tmp_path, ours)
    resumed = in_half(targets, 1.0)
    assert checkpoint.load(tmp_path, resumed)
    assert resumed.scaler.get_scale() == 2.0**59


class Unsent(Team):
    """One of several processes whose gradients go nowhere, to see its part of them."""

    def any(self, here=False, *, error=None):
        return here

    def wrap(self, module):
        return module

    def exchanging(self, module, ends_step):
        return nullcontext()


@pytest.mark.parametrize("n_rows", [16, 3, 1])
def test_the_mean_over_processes_is_the_step_of_one(store, targets, n_rows):
    roles = targets.roles.copy()
    roles[targets.rows(TRAIN)[n_rows:]] = OUT
    few = dataclasses.replace(targets, roles=roles)

    def taken(team):
        ours = learner(few, "optim.clip_norm=1e9", "stream.max_batch_s=6", team=team)
        return gradients(ours, store), ours.report

    (expected, whole), *parts = (taken(team) for team in (Team(), Unsent(0, 2), Unsent(1, 2)))
    assert [report.n for _, report in parts] == [n_rows - n_rows // 2, n_rows // 2]
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        mean = sum(part[name] for part, _ in parts) / 2
        torch.testing.assert_close(mean, value, rtol=1e-3, atol=1e-6 * scale, msg=name)
    merged = Report()
    for _, report in parts:
        merged.add(report)
    assert merged.n == n_rows
    assert merged.means()["train"] == pytest.approx(whole.means()["train"], rel=1e-5)


def test_half_precision_trains_nearly_alike(store, targets):
    reports = []
    for precision in (torch.float32, torch.bfloat16):
        ours = learner(targets)
        ours.net.dtype = precision
        take(ours, store)
        reports.append(ours.report.means()["train"])
    assert reports[0]["total"] != reports[1]["total"]
    assert reports[1] == pytest.approx(reports[0], rel=0.05, abs=0.01)
