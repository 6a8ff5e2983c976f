from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from featstore.core.config import OptimSettings, ProsodicSettings
from featstore.core.schema import TaskFailed
from featstore.folds import OUT, TEST, TRAIN, VALIDATION
from featstore.teachers import finetune as module
from featstore.teachers import prosodic
from featstore.teachers.finetune import Prepared, cross_entropy, finetune, predict, run_once, score

CPU = torch.device("cpu")
OPTIM = OptimSettings(lr=3e-3, epochs=4, batch_size=8)
SMALL = ProsodicSettings(channels=(4, 4, 8, 8), time_stride=4, max_frames=100)


def state(task: Prepared) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in task.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def fitted(toy_fold: Any, **changes: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    task = prosodic.prepare(toy_fold, SMALL)
    fit = finetune(task, toy_fold, OPTIM.model_copy(update=changes), 5, CPU)
    return fit, state(task)


class Watched(nn.Module):
    """A linear classifier on two numbers, that notes which rows it is trained and asked on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.trained: list[int] = []
        self.asked: list[list[int]] = []

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.training:
            self.trained += rows.tolist()
        else:
            self.asked.append(rows.tolist())
        return self.layer(x), x


def watched(n: int = 24) -> Prepared:
    torch.manual_seed(0)
    points = torch.randn(n, 2)

    def collate(rows: Any, rng: Any) -> dict[str, torch.Tensor]:
        return {"x": points[rows], "rows": torch.from_numpy(rows)}

    return Prepared(Watched(), collate, np.full(n, 3))


class TestFit:
    def test_sees_training_rows_only_and_selects_on_validation(self, toy_fold: Any) -> None:
        task = watched()
        finetune(task, toy_fold, OPTIM, 0, CPU)
        model: Any = task.model
        assert sorted(model.trained) == sorted(list(range(16)) * OPTIM.epochs)
        assert sorted(chain(*model.asked)) == sorted(list(range(16, 20)) * OPTIM.epochs)

    def test_learns(self, toy_fold: Any) -> None:
        fit, _ = fitted(toy_fold, epochs=8)
        losses = [entry["loss"] for entry in fit.history]
        assert losses[-1] < 0.7 * losses[0]
        assert [entry["epoch"] for entry in fit.history] == list(range(1, 9))

    def test_is_repeatable_and_seeded(self, toy_fold: Any) -> None:
        (one, weights), (again, as_before) = fitted(toy_fold), fitted(toy_fold)
        assert one == again
        assert same(weights, as_before)
        other = prosodic.prepare(toy_fold, SMALL)
        finetune(other, toy_fold, OPTIM, 6, CPU)
        assert not same(weights, state(other))

    def test_leaves_the_generators_of_others_alone(self, toy_fold: Any) -> None:
        np.random.seed(3)
        before = np.random.get_state()[1].tolist()
        fitted(toy_fold, epochs=1)
        assert np.random.get_state()[1].tolist() == before


class TestSelection:
    """Validation scores are dictated, so the best epoch is known beforehand."""

    def scripted(
        self, monkeypatch: pytest.MonkeyPatch, toy_fold: Any, outcomes: list[tuple[int, float]]
    ) -> tuple[list[dict[str, torch.Tensor]], Prepared]:
        """``outcomes``: hits of the four validation rows, and their margin, epoch by epoch."""
        states: list[dict[str, torch.Tensor]] = []
        truth = toy_fold.labels[toy_fold.rows(VALIDATION)]

        def dictated(task: Prepared, rows: Any, device: Any) -> tuple[Any, Any]:
            states.append(state(task))
            hits, margin = outcomes[len(states) - 1]
            said = np.where(np.arange(4) < hits, truth, 1 - truth)
            logits = np.zeros((4, 2), dtype=np.float32)
            logits[np.arange(4), said] = margin
            return logits, logits

        monkeypatch.setattr(module, "predict", dictated)
        return states, watched()

    def test_best_epoch_is_restored(self, monkeypatch: pytest.MonkeyPatch, toy_fold: Any) -> None:
        states, task = self.scripted(
            monkeypatch, toy_fold, [(1, 1.0), (3, 1.0), (2, 1.0), (2, 1.0)]
        )
        fit = finetune(task, toy_fold, OPTIM, 0, CPU)
        assert fit.best_epoch == 2
        assert same(state(task), states[1])
        assert not same(states[1], states[3])
        assert [entry["validation_ua"] for entry in fit.history] == [0.25, 0.75, 0.5, 0.5]

    def test_lower_loss_decides_ties(self, monkeypatch: pytest.MonkeyPatch, toy_fold: Any) -> None:
        outcomes = [(4, 1.0), (4, 3.0), (4, 2.0), (4, 2.0)]
        states, task = self.scripted(monkeypatch, toy_fold, outcomes)
        fit = finetune(task, toy_fold, OPTIM, 0, CPU)
        assert fit.best_epoch == 2
        assert same(state(task), states[1])
        by_hand = math.log(1 + math.exp(-3.0))
        assert fit.history[1]["validation_loss"] == pytest.approx(by_hand, rel=1e-5)

    def test_first_of_equals_stays(self, monkeypatch: pytest.MonkeyPatch, toy_fold: Any) -> None:
        states, task = self.scripted(monkeypatch, toy_fold, [(4, 1.0)] * 4)
        assert finetune(task, toy_fold, OPTIM, 0, CPU).best_epoch == 1
        assert same(state(task), states[0])

    def test_last_keeps_the_last(self, monkeypatch: pytest.MonkeyPatch, toy_fold: Any) -> None:
        outcomes = [(4, 1.0), (0, 1.0), (0, 1.0), (1, 1.0)]
        states, task = self.scripted(monkeypatch, toy_fold, outcomes)
        fit = finetune(task, toy_fold, OPTIM.model_copy(update={"selection": "last"}), 0, CPU)
        assert fit.best_epoch == 4
        assert same(state(task), states[3])
        assert fit.history[0]["validation_ua"] == 1.0

    def test_without_validation_the_last(self, toy_fold: Any) -> None:
        roles = np.where(toy_fold.roles == VALIDATION, TRAIN, toy_fold.roles).astype(np.int8)
        task = watched()
        fit = finetune(task, replace(toy_fold, roles=roles), OPTIM, 0, CPU)
        assert fit.best_epoch == 4
        assert "validation_ua" not in fit.history[0]
        assert set(task.model.trained) == set(range(20))  # type: ignore[arg-type]


class TestLoss:
    LABELS = np.array([0] * 12 + [1] * 12, dtype=np.int16)

    def first(self, toy_fold: Any, **changes: Any) -> tuple[float, Any]:
        """The loss of a first step over all 16 training rows, and minus their log-probabilities."""
        task, data = watched(), replace(toy_fold, labels=self.LABELS)
        with torch.inference_mode():
            x = task.collate(np.arange(16), None)["x"]
            surprise = -task.model.layer(x).log_softmax(1).double().numpy()
        optim = OPTIM.model_copy(update={"epochs": 1, "batch_size": 16, **changes})
        return finetune(task, data, optim, 0, CPU).history[0]["loss"], surprise

    def test_is_the_mean_cross_entropy(self, toy_fold: Any) -> None:
        loss, surprise = self.first(toy_fold)
        assert loss == pytest.approx(surprise[np.arange(16), self.LABELS[:16]].mean(), rel=1e-6)

    def test_classes_weigh_by_their_frequency_in_training(self, toy_fold: Any) -> None:
        """12 and 4 of the 16 training rows; over all 24 the weights would be 1 and 1."""
        loss, surprise = self.first(toy_fold, class_weights=True)
        by_class = [surprise[:12, 0].sum() * 16 / 24, surprise[12:16, 1].sum() * 16 / 8]
        assert loss == pytest.approx(sum(by_class) / 16, rel=1e-6)

    def test_labels_are_smoothed(self, toy_fold: Any) -> None:
        loss, surprise = self.first(toy_fold, label_smoothing=0.2)
        hard = surprise[np.arange(16), self.LABELS[:16]].mean()
        assert loss == pytest.approx(0.8 * hard + 0.2 * surprise.mean(), rel=1e-6)

    def test_that_is_not_finite_fails_with_a_remedy(self, toy_fold: Any) -> None:
        with pytest.raises(TaskFailed, match="not finite") as caught:
            fitted(toy_fold, lr=1e30, warmup=0.0, clip_norm=1e30)
        assert caught.value.exit_code == 1
        assert "learning rate" in caught.value.hint

    def test_validation_loss_that_is_not_finite_fails_too(
        self, monkeypatch: pytest.MonkeyPatch, toy_fold: Any
    ) -> None:
        """It would stand in the unit's record, which holds no NaN."""
        nowhere = np.full((4, 2), np.nan, dtype=np.float32)
        monkeypatch.setattr(module, "predict", lambda *_: (nowhere, nowhere))
        with pytest.raises(TaskFailed, match="validation loss is not finite"):
            finetune(watched(), toy_fold, OPTIM, 0, CPU)


class TestOutputs:
    def test_predict_keeps_the_order_of_the_rows(self, toy_fold: Any) -> None:
        task = prosodic.prepare(toy_fold, SMALL)
        rows = np.array([5, 0, 23, 7])
        logits, embeddings = predict(task, rows, CPU)
        assert (logits.dtype, logits.shape, embeddings.shape) == (np.float32, (4, 2), (4, 8))
        for at, row in enumerate(rows.tolist()):
            one, _ = predict(task, np.array([row]), CPU)
            np.testing.assert_allclose(one[0], logits[at], atol=1e-5)
        assert not task.model.training

    def test_each_role_goes_through_by_itself(self, toy_fold: Any) -> None:
        """A batch that mixed them would let test utterances decide how others are padded."""
        roles = toy_fold.roles.copy()
        roles[3] = OUT
        task = watched()
        logits, embeddings = run_once(task, replace(toy_fold, roles=roles), CPU)
        model: Any = task.model
        assert [set(roles[rows]) for rows in model.asked] == [{TRAIN}, {VALIDATION}, {TEST}, {OUT}]
        assert sorted(chain(*model.asked)) == list(range(24))
        points = task.collate(np.arange(24), None)["x"]
        np.testing.assert_array_equal(embeddings, points.numpy())
        np.testing.assert_allclose(logits, model.layer(points).detach().numpy(), atol=1e-6)

    def test_that_are_not_finite_are_not_kept(self, toy_fold: Any) -> None:
        task = watched()
        nn.init.constant_(task.model.layer.bias, float("inf"))  # type: ignore[union-attr,arg-type]
        with pytest.raises(TaskFailed, match="outputs are not finite"):
            run_once(task, toy_fold, CPU)

    def test_scores_by_hand(self, toy_fold: Any) -> None:
        labels = toy_fold.labels.astype(int)
        logits = np.eye(2, dtype=np.float32)[labels]
        logits[[20, 21]] = logits[[21, 20]]  # one of each class of the four test rows is wrong
        logits[[0, 2]] = logits[[1, 1]]  # two of the eight of class 0 in training
        found = score(logits, toy_fold)
        assert found["train"] == {
            "wa": 14 / 16, "ua": (6 / 8 + 1) / 2, "n": 16, "confusion": [[6, 2], [0, 8]],
        }  # fmt: skip
        assert found["validation"]["ua"] == 1.0
        assert found["test"] == {"wa": 0.5, "ua": 0.5, "n": 4, "confusion": [[1, 1], [1, 1]]}

    def test_cross_entropy_by_hand(self) -> None:
        logits = np.log(np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32))
        assert cross_entropy(logits, np.array([1, 0])) == pytest.approx(
            -(math.log(0.75) + math.log(0.5)) / 2
        )
