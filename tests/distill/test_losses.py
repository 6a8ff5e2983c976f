import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical
from torch.distributions import kl_divergence as oracle

from distill.config import LossSettings
from distill.losses import (
    NORM_FLOOR,
    cosine_distance,
    cross_entropy,
    kl_divergence,
    total_loss,
)
from distill.model.student import StudentOutput
from featstore.core.schema import UserError
from featstore.core.settings import Settings, overrides, resolve


class Run(Settings):
    """A run's settings, as far as losses are concerned."""

    losses: LossSettings = LossSettings()


DIRECTIONS = ("teacher_student", "student_teacher")


def batch(rows=8, classes=4, seed=0, dtype=torch.float64):
    """A student's output and two teachers' targets for it."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=dtype)

    embeddings = {"linguistic": normal(rows, 6), "prosodic": normal(rows, 5)}
    logits = (3 * normal(rows, classes)).requires_grad_()
    for value in embeddings.values():
        value.requires_grad_()
    student = StudentOutput(logits, embeddings, normal(rows, 3))
    targets = {
        "linguistic": (3 * normal(rows, classes), normal(rows, 6)),
        "prosodic": (3 * normal(rows, classes), normal(rows, 5)),
    }
    return student, targets, torch.randint(classes, (rows,), generator=draw)


def part(student, targets, labels, rows):
    """Some rows of a batch."""
    some = StudentOutput(
        student.logits[rows],
        {name: value[rows] for name, value in student.embeddings.items()},
        student.pooled[rows],
    )
    return some, {n: (z[rows], e[rows]) for n, (z, e) in targets.items()}, labels[rows]


def gradient(loss, logits):
    logits = logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(logits).sum(), logits)
    return grad


# p_T = (3/4, 1/4), p_S = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2, and 1/2 log 2/3 + 1/2 log 2
@pytest.mark.parametrize(
    ("direction", "by_hand"),
    [("teacher_student", 0.13081203594113694), ("student_teacher", 0.14384103622589045)],
)
def test_kl_by_hand(direction, by_hand):
    teacher = torch.tensor([[3.0, 1.0]], dtype=torch.float64).log()
    student = torch.zeros(1, 2, dtype=torch.float64)
    assert kl_divergence(student, teacher, 1.0, direction).item() == pytest.approx(by_hand, 1e-14)
    # Halving tau doubles the logits: p_T becomes (9/10, 1/10).
    warmer = kl_divergence(student, 0.5 * teacher, 0.5, direction).item()
    assert warmer == pytest.approx(by_hand, 1e-14)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    tau=st.floats(0.5, 10.0),
    scale=st.floats(0.1, 8.0),  # beyond, torch's probabilities underflow and its answer is inf
    direction=st.sampled_from(DIRECTIONS),
)
def test_kl_is_that_of_torch_distributions(seed, tau, scale, direction):
    student, targets, _ = batch(seed=seed)
    s, t = scale * student.logits.detach(), scale * targets["prosodic"][0]
    p, q = Categorical(logits=t / tau), Categorical(logits=s / tau)
    expected = oracle(p, q) if direction == "teacher_student" else oracle(q, p)
    got = kl_divergence(s, t, tau, direction)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)
    assert (got > -1e-12).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", [40.0, 1e4])
@pytest.mark.parametrize("tau", [0.5, 5.0])
def test_extreme_logits_stay_finite(direction, size, tau):
    student = torch.tensor([[size, -size, 0.0, 0.0], [size, size, -size, -size]])
    teacher = student.flip(-1)
    value = kl_divergence(student, teacher, tau, direction)
    assert value.isfinite().all()
    grad = gradient(lambda s: kl_divergence(s, teacher, tau, direction), student)
    assert grad.isfinite().all()
    naive = (teacher / tau).softmax(-1) * (
        (teacher / tau).softmax(-1).log() - (student / tau).softmax(-1).log()
    )
    assert size < 100 or naive.isnan().any()  # what log space is for


def test_half_precision_logits_are_raised_first():
    student, targets, labels = batch(dtype=torch.float32)
    logits, teacher = student.logits.detach().bfloat16(), targets["prosodic"][0].bfloat16()
    for half, full in (
        (kl_divergence(logits, teacher, 0.5), kl_divergence(logits.float(), teacher.float(), 0.5)),
        (cosine_distance(logits, teacher), cosine_distance(logits.float(), teacher.float())),
        (cross_entropy(logits, labels), cross_entropy(logits.float(), labels)),
    ):
        assert half.dtype == torch.float32
        assert torch.equal(half, full)


def test_autocast_changes_nothing():
    student, targets, labels = batch(dtype=torch.float32)
    plain = total_loss(student, targets, labels, LossSettings()).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(total_loss(student, targets, labels, LossSettings()).total, plain)


def test_a_confidently_wrong_student_learns_only_from_the_default_direction():
    """PAPER.md row 2, at tau 0.5: softened gaps of 15 between the wrong class and the rest."""
    student = torch.tensor([[7.5, 0.0, 0.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 7.5, 0.0, 0.0]], dtype=torch.float64)
    q = math.exp(-15)

    grad = gradient(lambda s: kl_divergence(s, teacher, 0.5), student)
    assert grad.norm().item() == pytest.approx(2 * math.sqrt(2), rel=1e-5)  # (p_S - p_T) / tau
    ce = gradient(lambda s: cross_entropy(s, torch.tensor([1])), student)
    assert ce.norm().item() == pytest.approx(math.sqrt(2), rel=1e-2)
    dead = gradient(lambda s: kl_divergence(s, teacher, 0.5, "student_teacher"), student)
    # p_c / tau * (log p_c / t_c - KL), KL = 15: teacher's class -15 - 15, the two others 0 - 15.
    by_hand = torch.tensor([120.0, -60.0, -30.0, -30.0], dtype=torch.float64) * q
    torch.testing.assert_close(dead[0], by_hand, rtol=1e-4, atol=0)
    assert dead.norm().item() < 5e-5


@pytest.mark.parametrize(("tau_squared", "ratio"), [(False, 100.0), (True, 1.0)])
def test_tau_squared_levels_the_teachers(tau_squared, ratio):
    """For small logits the gradient is (s - t) / (C tau^2): (5 / 0.5)^2 apart, or level."""
    torch.manual_seed(0)
    s, t = 1e-3 * torch.randn(2, 16, 4, dtype=torch.float64)

    def norm(tau):
        return gradient(lambda z: kl_divergence(z, t, tau, tau_squared=tau_squared), s).norm()

    assert (norm(0.5) / norm(5.0)).item() == pytest.approx(ratio, rel=5e-3)


def test_cosine_by_hand():
    student = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, -3.0], [3.0, 4.0]])
    teacher = torch.tensor([[1.0, 1.0], [5.0, 0.0], [0.0, 1.0], [4.0, 3.0]])
    by_hand = torch.tensor([1 - math.sqrt(0.5), 0.0, 2.0, 1 - 24 / 25])
    torch.testing.assert_close(cosine_distance(student, teacher), by_hand, atol=1e-6, rtol=0)


@given(scale=st.floats(1e-2, 1e4), seed=st.integers(0, 1000))
def test_cosine_knows_no_length(scale, seed):
    torch.manual_seed(seed)
    s, t = torch.randn(2, 5, 7, dtype=torch.float64)
    s = s / s.norm(dim=-1, keepdim=True)
    expected = cosine_distance(s, t)
    torch.testing.assert_close(cosine_distance(scale * s, t), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(cosine_distance(s, scale * t), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 0.5 * NORM_FLOOR, NORM_FLOOR, 1.0])
def test_a_vanishing_embedding_has_a_bounded_gradient(size):
    teacher = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    student = size * torch.ones(1, 8) / math.sqrt(8)
    grad = gradient(lambda s: cosine_distance(s, teacher), student)
    assert grad.isfinite().all()
    assert 0 < grad.norm() <= 1.001 / max(size, NORM_FLOOR)


def test_cross_entropy_by_hand():
    logits = torch.tensor([[1.0, 3.0]]).log()  # p = (1/4, 3/4)
    assert cross_entropy(logits, torch.tensor([0])).item() == pytest.approx(math.log(4))
    weights = torch.tensor([5.0, 1.0])
    weighted = cross_entropy(logits, torch.tensor([0]), weights)
    assert weighted.item() == pytest.approx(5 * math.log(4))
    # Smoothing 0.2: 0.9 on the label, 0.1 on the other class.
    smooth = cross_entropy(logits, torch.tensor([0]), label_smoothing=0.2)
    assert smooth.item() == pytest.approx(0.9 * math.log(4) + 0.1 * math.log(4 / 3))


def test_the_total_is_the_papers_sum():
    student, targets, labels = batch()
    parts = total_loss(student, targets, labels, LossSettings())
    (z_l, e_l), (z_p, e_p) = targets["linguistic"], targets["prosodic"]
    s = student.logits
    kl = kl_divergence(s, z_l, 5.0).mean() + kl_divergence(s, z_p, 0.5).mean()
    cos = sum(
        (1 - torch.cosine_similarity(student.embeddings[name], e, dim=-1)).mean()
        for name, e in (("linguistic", e_l), ("prosodic", e_p))
    )
    ce = torch.nn.functional.cross_entropy(s, labels)
    torch.testing.assert_close(parts.total, 1 * kl + 10 * cos + 2 * ce, rtol=1e-12, atol=1e-12)
    assert set(parts.terms) == {
        "kl_linguistic",
        "kl_prosodic",
        "cos_linguistic",
        "cos_prosodic",
        "ce",
    }
    assert parts.weighted["cos_prosodic"].item() == pytest.approx(
        10 * parts.terms["cos_prosodic"].item()
    )
    assert parts.rows.mean().item() == pytest.approx(parts.total.item(), rel=1e-12)


@pytest.mark.parametrize("sizes", [(8,), (4, 4), (3, 3, 2), (1,) * 8, (5, 3)])
@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 3.0, 0.5]])
def test_micro_batches_add_up(sizes, weights):
    weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    student, targets, labels = batch(8)
    leaves = [student.logits, *student.embeddings.values()]
    whole = total_loss(student, targets, labels, LossSettings(), weights, 0.1).total
    wanted = torch.autograd.grad(whole, leaves)
    start, total, found = 0, 0.0, [torch.zeros_like(leaf) for leaf in leaves]
    for size in sizes:
        rows = slice(start, start := start + size)
        some = part(student, targets, labels, rows)
        share = total_loss(*some, LossSettings(), weights, 0.1).total * (size / 8)
        total += share.item()
        for sum_, grad in zip(found, torch.autograd.grad(share, leaves), strict=True):
            sum_ += grad
    assert total == pytest.approx(whole.item(), rel=1e-12)
    torch.testing.assert_close(found, list(wanted), rtol=1e-10, atol=1e-12)


def test_a_term_at_zero_is_logged_but_not_learned():
    student, targets, labels = batch()
    chosen = resolve(Run, overrides(["losses.teachers.prosodic.weight=0"])).losses
    parts = total_loss(student, targets, labels, chosen)
    full = total_loss(student, targets, labels, LossSettings())
    assert chosen.teachers["prosodic"].tau == 0.5
    assert parts.terms["kl_prosodic"].item() == full.terms["kl_prosodic"].item()
    assert not parts.terms["kl_prosodic"].requires_grad
    parts.total.backward()
    assert student.embeddings["prosodic"].grad is None
    assert student.embeddings["linguistic"].grad.norm() > 0


def test_a_term_at_zero_cannot_spoil_the_total():
    student, targets, labels = batch()
    targets["prosodic"][1][3] = torch.inf
    chosen = resolve(Run, overrides(["losses.teachers.prosodic.weight=0"])).losses
    assert total_loss(student, targets, labels, chosen).total.isfinite()
    rows = total_loss(student, targets, labels, LossSettings()).rows
    assert rows.isfinite().tolist() == [row != 3 for row in range(8)]


def test_any_number_of_teachers():
    student, targets, labels = batch()
    only = {"prosodic": targets["prosodic"]}
    assert set(total_loss(student, only, labels, LossSettings()).terms) == {
        "kl_prosodic", "cos_prosodic", "ce",
    }  # fmt: skip
    alone = total_loss(student, {}, labels, LossSettings())
    assert alone.total.item() == pytest.approx(2 * alone.terms["ce"].item())


def test_an_unknown_teacher_needs_a_temperature():
    with pytest.raises(UserError, match=r"--set losses.teachers.visual.tau=1") as caught:
        LossSettings().for_teachers(["visual", "prosodic", "wav"])
    assert "losses.teachers.wav.tau" in caught.value.message
    chosen = resolve(Run, overrides(["losses.teachers.visual.tau=2"])).losses
    assert list(chosen.for_teachers(["visual", "prosodic"])) == ["prosodic", "visual"]
    with pytest.raises(UserError, match="no such teacher, it has prosodic"):
        chosen.for_teachers(["prosodic"])


def test_nothing_to_learn_is_refused():
    chosen = LossSettings(gamma=0, beta=0)
    assert chosen.for_teachers(["prosodic"])
    with pytest.raises(UserError, match="all loss coefficients are 0"):
        chosen.for_teachers([])


@pytest.mark.parametrize("delta", ["alpha=-1", "teachers.prosodic.tau=0", "kl=both", "tau=1"])
def test_settings_are_checked(delta):
    with pytest.raises(UserError, match=delta.split("=")[0]):
        resolve(Run, overrides([f"losses.{delta}"]))


def test_settings_survive_a_round_trip():
    chosen = resolve(Run, overrides(["losses.teachers.visual.tau=3", "losses.kl=student_teacher"]))
    assert Run.model_validate(chosen.model_dump(mode="json")) == chosen
