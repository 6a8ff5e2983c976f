"""distill/data.py: the temperature that calibrates, and a run that uses it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from distill.config import LossSettings
from distill.data import TEMPERATURES, calibrated, fit_temperature, load_targets
from featstore.core.schema import UserError
from featstore.folds import OUT, VALIDATION
from featstore.store.store import Store
from tests.distill.small_runs import train


def test_logits_scaled_by_a_temperature_are_fitted_by_it():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (20_000, 4))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (p.cumsum(1) < rng.random((len(p), 1))).sum(1)  # drawn from the distributions
    for tau in (0.5, 1.0, 4.0):
        assert fit_temperature(tau * logits, labels) == pytest.approx(tau, rel=0.05)


def test_one_that_is_always_right_is_sharpened_as_far_as_allowed():
    logits = np.eye(4)[[0, 1, 2, 3]]
    low, high = TEMPERATURES
    assert fit_temperature(logits, np.array([0, 1, 2, 3])) == pytest.approx(low, rel=0.01)
    assert fit_temperature(logits, np.array([1, 2, 3, 0])) == pytest.approx(high, rel=0.01)


def test_only_validation_rows_count(small_store):
    targets = load_targets(Store.open(small_store), 1, torch.device("cpu"))
    rows = targets.rows(VALIDATION)
    losses = calibrated(LossSettings(), targets)
    for name, output in targets.outputs.items():
        expected = fit_temperature(output.logits[rows], targets.labels.numpy()[rows])
        assert losses.teachers[name].tau == expected
    assert losses.alpha == LossSettings().alpha
    roles = targets.roles.copy()
    roles[rows] = OUT
    with pytest.raises(UserError, match="no validation speaker") as caught:
        calibrated(LossSettings(), replace(targets, roles=roles))
    assert "targets.tau=given" in caught.value.hint


def test_a_run_tells_the_temperatures_that_it_used(small_store, tmp_path):
    told = {}
    for tau in ("given", "validation"):
        outcome = train(small_store, tmp_path, f"targets.tau={tau}")
        told[tau] = json.loads((outcome.folder / "run.json").read_text())["temperatures"]
        assert "tau = 5.0" in (outcome.folder / "config.toml").read_text()
    assert told["given"] == {"linguistic": 5.0, "prosodic": 0.5}
    targets = load_targets(Store.open(small_store), 1, torch.device("cpu"))
    fitted = calibrated(LossSettings(), targets)
    assert told["validation"] == {name: term.tau for name, term in fitted.teachers.items()}
    assert told["validation"] != told["given"]
