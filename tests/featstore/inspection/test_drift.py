from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featstore.inspection.drift import linear_cka, logit_drift, mean_cosine

FINITE = {"allow_nan": False, "allow_infinity": False}
ARRAYS = hnp.arrays(np.float64, (6, 3), elements=st.floats(-50, 50, width=32, **FINITE))
ROLES = np.array([1, 1, 2, 3, 3, 0], dtype=np.int8)


@given(ARRAYS, ARRAYS)
def test_drift_is_the_same_both_ways(a: Any, b: Any) -> None:
    assert logit_drift(a, b, ROLES) == logit_drift(b, a, ROLES)
    assert logit_drift(a, a, ROLES)["changed"] == 0


@given(ARRAYS, st.floats(0.5, 9), st.integers(0, 5))
def test_cka_knows_what_is_only_turned(x: Any, scale: float, shift: int) -> None:
    turned = scale * np.roll(x, 1, axis=1) + shift
    found = linear_cka(x, turned)
    spread = np.ptp(x, axis=0).max()
    if spread > 1e-3:
        assert found == pytest.approx(1, abs=1e-6)
    elif not spread:
        assert found is None


def test_cka_of_unrelated_embeddings_is_small() -> None:
    rng = np.random.default_rng(1)
    found = linear_cka(rng.normal(size=(2000, 4)), rng.normal(size=(2000, 7)))
    assert found is not None
    assert found < 0.01


def test_cosine_of_other_widths_or_of_nothing() -> None:
    assert mean_cosine(np.ones((3, 2)), np.ones((3, 4))) is None
    assert mean_cosine(np.zeros((3, 2)), np.ones((3, 2))) is None
