"""The one loop that fits a teacher, whatever its kind, and the one pass that it then makes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from featstore.core.config import OptimSettings, TeacherSettings
from featstore.core.metrics import confusion, ua, wa
from featstore.core.schema import TaskFailed
from featstore.core.training import (
    Indices,
    class_weights,
    count_parameters,
    generator,
    make_optimiser,
    make_schedule,
    seed_all,
    shuffled_batches,
    sorted_batches,
)
from featstore.folds import OUT, TEST, TRAIN, VALIDATION
from featstore.teachers import Floats, FoldData, OnEpoch, prepare

EVAL_BATCH = 64
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Prepared:
    """A fold's teacher, ready to be fitted.

    Attributes:
        model: ``model(**batch) -> (logits [B, C], embeddings [B, D])``.
        collate: ``collate(rows, rng)`` gives a batch; ``rng`` augments, None evaluates.
        lengths: how long each row is to the model, ``[N]``.
    """

    model: nn.Module
    collate: Callable[[npt.NDArray[np.int64], np.random.Generator | None], Batch]
    lengths: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fit:
    """How a fit went: per epoch ``loss``, and ``validation_ua`` where there is a validation set."""

    history: tuple[dict[str, float], ...]
    best_epoch: int


def fit_whole(
    data: FoldData, settings: TeacherSettings, device: torch.device, on_epoch: OnEpoch
) -> tuple[Floats, Floats, dict[str, Any]]:
    """Fit one teacher on all training rows: logits and embeddings of all rows, and its facts."""
    teacher = prepare(data, settings)
    result = finetune(teacher, data, settings.optim, settings.seed, device, on_epoch)
    logits, embeddings = run_once(teacher, data, device)
    facts = {
        "parameters": count_parameters(teacher.model),
        "embedding_width": int(embeddings.shape[1]),
        "scores": score(logits, data),
        "best_epoch": result.best_epoch,
        "history": list(result.history),
    }
    return logits, embeddings, facts


def finetune(
    teacher: Prepared,
    data: FoldData,
    optim: OptimSettings,
    seed: int,
    device: torch.device,
    on_epoch: OnEpoch = lambda entry: None,
) -> Fit:
    """Fit the model on the fold's training rows, and leave its best weights in it.

    Best is the epoch with the highest validation UA, the lower validation loss deciding ties;
    without validation rows, or where ``optim.selection`` says so, the last epoch (PAPER.md row
    14). The test rows are never touched. ``on_epoch`` is called with each entry of the history.

    Raises:
        TaskFailed: the loss is not finite.
    """
    seed_all(seed)
    model = teacher.model.to(device)
    train, validation = data.train_rows, data.rows(VALIDATION)
    labels = torch.from_numpy(data.labels.astype(np.int64)).to(device)
    weights = class_weights(data.labels[train], data.n_classes) if optim.class_weights else None
    optimiser = make_optimiser(model, optim)
    steps = math.ceil(len(train) / optim.batch_size) * optim.epochs
    schedule = make_schedule(optimiser, optim, steps)
    history: list[dict[str, float]] = []
    best, best_key, best_state = 0, (-1.0, 0.0), None
    for epoch in range(1, optim.epochs + 1):
        rng = generator(seed, epoch)
        loss = _epoch(teacher, train, labels, weights, optim, optimiser, schedule, rng, device)
        entry = {"epoch": float(epoch), "loss": loss}
        if len(validation):
            logits, _ = predict(teacher, validation, device)
            truth = data.labels[validation]
            entry["validation_ua"] = ua(truth, logits.argmax(1), data.n_classes)
            entry["validation_loss"] = cross_entropy(logits, truth)
            if not math.isfinite(entry["validation_loss"]):
                raise TaskFailed("the validation loss is not finite", "lower the learning rate")
            key = (entry["validation_ua"], -entry["validation_loss"])
            if optim.selection == "validation_ua" and (best_state is None or key > best_key):
                best, best_key, best_state = epoch, key, copy.deepcopy(model.state_dict())
        history.append(entry)
        on_epoch(entry)
    if best_state is None:
        return Fit(tuple(history), optim.epochs)
    model.load_state_dict(best_state)
    return Fit(tuple(history), best)


@torch.inference_mode()
def predict(teacher: Prepared, rows: Indices, device: torch.device) -> tuple[Floats, Floats]:
    """Raw logits ``[len(rows), C]`` and embeddings ``[len(rows), D]`` in evaluation mode."""
    teacher.model.eval()
    found: dict[int, tuple[Floats, Floats]] = {}
    for batch in sorted_batches(rows, teacher.lengths, EVAL_BATCH):
        logits, embeddings = teacher.model(**_to(teacher.collate(batch, None), device))
        pairs = zip(logits.float().cpu().numpy(), embeddings.float().cpu().numpy(), strict=True)
        found.update(zip(batch.tolist(), pairs, strict=True))
    return (
        np.stack([found[row][0] for row in rows.tolist()]),
        np.stack([found[row][1] for row in rows.tolist()]),
    )


def run_once(teacher: Prepared, data: FoldData, device: torch.device) -> tuple[Floats, Floats]:
    """Logits ``[N, C]`` and embeddings ``[N, D]`` of all utterances by the frozen teacher.

    Each role goes through in batches of its own, so that not even a last bit of a training row's
    output can depend on which test utterances it was padded with.
    """
    parts = [data.rows(role) for role in (TRAIN, VALIDATION, TEST, OUT)]
    outputs = [(rows, *predict(teacher, rows, device)) for rows in parts if len(rows)]
    order = np.argsort(np.concatenate([rows for rows, _, _ in outputs]))
    logits = np.concatenate([part for _, part, _ in outputs])[order]
    embeddings = np.concatenate([part for _, _, part in outputs])[order]
    if not (np.isfinite(logits).all() and np.isfinite(embeddings).all()):
        raise TaskFailed("the teacher's outputs are not finite", "lower its learning rate")
    return logits, embeddings


def score(logits: Floats, data: FoldData) -> dict[str, dict[str, Any]]:
    """WA, UA, confusion (row = truth) and number of utterances of each role of the fold."""
    out: dict[str, dict[str, Any]] = {}
    for name, role in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        rows = data.rows(role)
        if len(rows):
            truth, prediction = data.labels[rows], logits[rows].argmax(1)
            out[name] = {
                "wa": wa(truth, prediction),
                "ua": ua(truth, prediction, data.n_classes),
                "n": len(rows),
                "confusion": confusion(truth, prediction, data.n_classes),
            }
    return out


def cross_entropy(logits: Floats, truth: npt.NDArray[np.integer[Any]]) -> float:
    """Mean cross entropy of raw logits, in nats."""
    return float(
        F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth.astype(np.int64)))
    )


def _epoch(
    teacher: Prepared,
    train: Indices,
    labels: torch.Tensor,
    weights: torch.Tensor | None,
    optim: OptimSettings,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    rng: np.random.Generator,
    device: torch.device,
) -> float:
    """One pass over the training rows; the mean loss."""
    teacher.model.train()
    weights = None if weights is None else weights.to(device)
    total = 0.0
    for rows in shuffled_batches(train, teacher.lengths, optim.batch_size, rng):
        logits, _ = teacher.model(**_to(teacher.collate(rows, rng), device))
        loss = F.cross_entropy(
            logits.float(), labels[rows], weights, label_smoothing=optim.label_smoothing
        )
        if not torch.isfinite(loss):
            raise TaskFailed("the teacher's loss is not finite", "lower its learning rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(teacher.model.parameters(), optim.clip_norm)
        optimiser.step()
        schedule.step()
        total += float(loss.detach()) * len(rows)
    return total / len(train)


def _to(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device) for name, value in batch.items()}
