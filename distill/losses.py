"""The losses of EmoDistill (equations 1 to 5) as pure functions, one value per utterance.

All arithmetic is float32 or float64 whatever the autocast, and both sides of a KL divergence stay
in log space: ``p * log(p / q)`` is NaN at logits of 40 and tau 0.5. A batch's loss is the mean of
its rows, so a micro-batch of n rows out of N counts exactly n/N.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.config import Direction, LossSettings
from distill.model.masking import wide

if TYPE_CHECKING:
    from distill.model.student import StudentOutput

NORM_FLOOR = 1e-3
"""A student embedding shorter than this counts as this long in the cosine, which bounds the
gradient by 1 / NORM_FLOOR; a fresh projection's outputs are a hundred times as long."""


class LossParts(NamedTuple):
    """A batch's loss and what it is made of."""

    total: Tensor
    """Scalar: the mean over the batch of the weighted sum of all terms."""
    terms: dict[str, Tensor]
    """``kl_<teacher>``, ``cos_<teacher>`` and ``ce``: batch means before any coefficient."""
    weighted: dict[str, Tensor]
    """The same with their coefficients; their sum is the total. Terms at 0 have no graph."""
    rows: Tensor
    """[B], detached: the total of each utterance, to say which one is not finite."""


def kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    tau: float,
    direction: Direction = "teacher_student",
    tau_squared: bool = False,
) -> Tensor:
    """Equation 1: KL divergence of class distributions softened by ``tau`` (equation 2).

    ``teacher_student`` is sum_c p_T log(p_T / p_S), what Hinton and all public code compute;
    ``student_teacher`` is sum_c p_S log(p_S / p_T), the order equation 1 prints, which has next to
    no gradient where the student is confidently wrong (PAPER.md row 2).

    Args:
        student_logits: [B, C], raw.
        teacher_logits: [B, C], raw.
        tau: temperature of both.
        direction: which distribution the logarithm is weighted by.
        tau_squared: multiply by tau squared (PAPER.md row 4).

    Returns:
        [B]: the sum over classes of each row. Their mean is "batchmean" (PAPER.md row 3).

    By hand: p_T = (3/4, 1/4), p_S = (1/2, 1/2) give 3/4 log 3/2 + 1/4 log 1/2 = 0.1308.

    >>> teacher = torch.tensor([[3.0, 1.0]]).log()
    >>> round(kl_divergence(torch.zeros(1, 2), teacher, tau=1.0).item(), 4)
    0.1308
    """
    student = F.log_softmax(wide(student_logits) / tau, dim=-1)
    teacher = F.log_softmax(wide(teacher_logits) / tau, dim=-1)
    p, q = (teacher, student) if direction == "teacher_student" else (student, teacher)
    rows: Tensor = (p.exp() * (p - q)).sum(dim=-1)
    return rows * (tau * tau) if tau_squared else rows


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Equation 4 as a distance: 1 - cos(student, teacher), with -cos's gradient (PAPER.md row 6).

    Args:
        student: [B, D]; norms under :data:`NORM_FLOOR` count as that.
        teacher: [B, D], no row of zeros.

    Returns:
        [B], from 0 (same direction) to 2 (opposite).

    By hand: (1, 0) and (1, 1) enclose 45 degrees, and 1 - cos 45° = 0.2929.

    >>> s, t = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    >>> round(cosine_distance(s, t).item(), 4)
    0.2929
    """
    student, teacher = wide(student), wide(teacher)
    unit = student / student.norm(dim=-1, keepdim=True).clamp(min=NORM_FLOOR)
    cosine: Tensor = (unit * F.normalize(teacher, dim=-1)).sum(dim=-1)
    return 1.0 - cosine


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Equation 5's cross entropy with the labels, at temperature 1 (PAPER.md row 5).

    Args:
        logits: [B, C], raw.
        labels: [B] int64 in 0..C-1.
        class_weights: [C]. A row is multiplied by its class' weight and the batch's loss stays the
            sum over rows divided by their *number*, unlike PyTorch's mean, which divides by the
            weights' sum and so depends on how a batch is split. Weights of mean 1 over the
            training rows keep the scale.
        label_smoothing: share of the target spread evenly over all classes.

    Returns:
        [B].

    By hand: even logits over 4 classes give log 4 = 1.3863.

    >>> round(cross_entropy(torch.zeros(1, 4), torch.tensor([2])).item(), 4)
    1.3863
    """
    logits = wide(logits)
    weights = None if class_weights is None else class_weights.to(logits)
    return F.cross_entropy(
        logits, labels, weight=weights, label_smoothing=label_smoothing, reduction="none"
    )


def total_loss(
    student: StudentOutput,
    targets: Mapping[str, tuple[Tensor, Tensor]],
    labels: Tensor,
    settings: LossSettings,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> LossParts:
    """Equations 3 to 5: alpha * sum_t w_t KL_t + beta * sum_t w_t cos_t + gamma * CE.

    Terms whose coefficient is 0 are computed for the log, without a graph.

    Args:
        student: of B utterances.
        targets: teacher name -> its raw logits [B, C] and embeddings [B, D].
        labels: [B] int64.
        settings: coefficients, with a term for each teacher.
        class_weights: [C], see :func:`cross_entropy`.
        label_smoothing: see :func:`cross_entropy`.

    Returns:
        Batch means. The total of a micro-batch times its share of the effective batch's rows adds
        up to the effective batch's total.

    Raises:
        KeyError: where the settings lack a teacher, see :meth:`LossSettings.for_teachers`.
    """
    rows: dict[str, tuple[float, Tensor]] = {}

    def add(name: str, coefficient: float, loss: Any, *args: Any) -> None:
        with torch.set_grad_enabled(torch.is_grad_enabled() and coefficient > 0):
            rows[name] = coefficient, loss(*args)

    for name, (logits, embeddings) in sorted(targets.items()):
        term = settings.teachers[name]
        kl_args = (student.logits, logits, term.tau, settings.kl, settings.tau_squared)
        add(f"kl_{name}", settings.alpha * term.weight, kl_divergence, *kl_args)
        cos_args = (student.embeddings[name], embeddings)
        add(f"cos_{name}", settings.beta * term.weight, cosine_distance, *cos_args)
    ce_args = (student.logits, labels, class_weights, label_smoothing)
    add("ce", settings.gamma, cross_entropy, *ce_args)

    terms = {name: values.mean() for name, (_, values) in rows.items()}
    active = {name: c for name, (c, _) in rows.items() if c > 0}  # 0 * inf would be NaN
    weighted = {n: active[n] * m if n in active else m.new_zeros(()) for n, m in terms.items()}
    total = torch.stack([weighted[name] for name in active]).sum()
    per_row = torch.stack([c * rows[name][1].detach() for name, c in active.items()]).sum(dim=0)
    return LossParts(total, terms, weighted, per_row)
