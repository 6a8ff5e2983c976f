from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from featstore.core.config import OptimSettings
from featstore.core.schema import UserError
from featstore.core.training import (
    class_weights,
    count_parameters,
    generator,
    make_optimiser,
    make_schedule,
    parameter_groups,
    pick_device,
    shuffled_batches,
    sorted_batches,
)


def rates(settings: OptimSettings, n_steps: int) -> list[float]:
    """The learning rate of each step."""
    optimiser = make_optimiser(nn.Linear(1, 1), settings)
    schedule = make_schedule(optimiser, settings, n_steps)
    out = []
    for _ in range(n_steps):
        out.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return out


class TestSchedule:
    def test_warms_up_over_a_tenth_then_follows_one_cosine(self) -> None:
        """20 steps, 2 of warm-up: step 11 is half-way down, where cos(pi/2) = 0."""
        found = rates(OptimSettings(lr=0.8), 20)
        by_hand = [0.0, 0.4] + [0.4 * (1 + math.cos(math.pi * k / 18)) for k in range(18)]
        assert found == pytest.approx(by_hand)
        assert (found[2], found[11], max(found)) == pytest.approx((0.8, 0.4, 0.8))
        assert 0 < found[-1] < 0.01

    @pytest.mark.parametrize(
        ("schedule", "warmup", "expected"),
        [
            ("linear", 0.5, [0.0, 0.5, 1.0, 0.5]),
            ("constant", 0.5, [0.0, 0.5, 1.0, 1.0]),
            ("linear", 0.0, [1.0, 0.75, 0.5, 0.25]),
        ],
    )
    def test_others(self, schedule: Any, warmup: float, expected: list[float]) -> None:
        settings = OptimSettings(lr=1.0, schedule=schedule, warmup=warmup)
        assert rates(settings, 4) == pytest.approx(expected)


class TestOptimiser:
    def test_decays_weights_but_no_bias_nor_norm(self) -> None:
        model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        decayed, plain = make_optimiser(model, OptimSettings(lr=0.5)).param_groups
        assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
        assert [p.shape for p in decayed["params"]] == [(3, 2)]
        assert [p.shape for p in plain["params"]] == [(3,), (3,), (3,)]
        assert decayed["lr"] == plain["lr"] == 0.5

    def test_leaves_out_what_is_frozen(self) -> None:
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        model[0].requires_grad_(False)
        groups = parameter_groups(model.named_parameters(), OptimSettings(), lr=0.25)
        assert sum(p.numel() for group in groups for p in group["params"]) == 4
        assert {group["lr"] for group in groups} == {0.25}
        assert parameter_groups(model[0].named_parameters(), OptimSettings()) == []

    def test_parameters_are_counted_frozen_or_not(self) -> None:
        assert count_parameters(nn.Linear(2, 3).requires_grad_(False)) == 9


class TestClassWeights:
    def test_average_utterance_weighs_one(self) -> None:
        labels = np.array([0] * 6 + [1] * 3 + [2] * 1)
        weights = class_weights(labels, 3)
        assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
        assert float(weights[torch.from_numpy(labels)].mean()) == pytest.approx(1.0)

    def test_class_that_does_not_occur_is_finite(self) -> None:
        assert torch.isfinite(class_weights(np.array([0, 0]), 2)).all()


class TestBatches:
    @given(
        n=st.integers(1, 60),
        batch=st.integers(1, 9),
        pool=st.integers(1, 4),
        seed=st.integers(0, 9),
    )
    def test_epoch_visits_each_row_once_in_batches_of_the_size(
        self, n: int, batch: int, pool: int, seed: int
    ) -> None:
        lengths = np.random.default_rng(seed).integers(1, 50, 100)
        rows = np.random.default_rng(seed + 1).permutation(100)[:n]
        found = shuffled_batches(rows, lengths, batch, generator(seed), pool)
        assert sorted(np.concatenate(found).tolist()) == sorted(rows.tolist())
        assert sorted(len(part) for part in found)[1:] == [batch] * (len(found) - 1)
        assert len(found) == math.ceil(n / batch)  # what the schedule counts on

    def test_order_is_the_generators(self) -> None:
        rows, lengths = np.arange(40), np.arange(40) % 7 + 1
        one, same, other = (
            [part.tolist() for part in shuffled_batches(rows, lengths, 4, generator(*key))]
            for key in ((1, 2), (1, 2), (1, 3))
        )
        assert one == same != other

    def test_pads_less_than_full_shuffling(self) -> None:
        lengths = np.random.default_rng(0).integers(50, 1500, 400)

        def padded(pool: int) -> int:
            parts = shuffled_batches(np.arange(400), lengths, 10, generator(0), pool)
            return sum(len(part) * int(lengths[part].max()) for part in parts)

        assert padded(8) < 0.75 * padded(1)

    def test_evaluation_goes_from_long_to_short(self) -> None:
        lengths = np.array([3, 9, 1, 9, 5])
        found = [part.tolist() for part in sorted_batches(np.array([0, 1, 2, 3, 4]), lengths, 2)]
        assert found == [[1, 3], [4, 0], [2]]


class TestDevice:
    def test_cpu_is_always_there(self) -> None:
        assert pick_device("cpu").type == "cpu"
        assert pick_device("auto").type in ("cpu", "cuda")

    @pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "meta2"])
    def test_other_devices_are_told_with_a_remedy(self, name: str) -> None:
        with pytest.raises(UserError, match=f"--device {name}: not usable here") as caught:
            pick_device(name)
        assert "cpu" in caught.value.hint
