from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console

from featstore.core.schema import Corrupt, UserError
from featstore.inspection import render
from featstore.inspection.compare import compare, linear_cka, logit_drift, mean_cosine
from featstore.store.arrays import read_array, read_metadata, write_array
from featstore.store.store import Store
from tests.featstore.store.kept_store import KEPT, copied
from tests.reliability.forgery import reseal


def two(a: Path, b: Path, **how: Any) -> dict[str, Any]:
    found = compare(Store.open(a), Store.open(b), **how)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def rewritten(unit: Path, name: str, change: Callable[[Any], Any]) -> None:
    dims = read_metadata(unit / name).dims
    values = np.ascontiguousarray(change(read_array(unit / name).copy()))
    shutil.rmtree(unit / name)
    write_array(unit, name, values, dims)
    reseal(unit)


def shown(facts: dict[str, Any]) -> str:
    console = Console(width=100, file=io.StringIO(), emoji=False)
    for part in render.differences(facts):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return copied(tmp_path / "other")


class TestSameStores:
    def test_nothing_differs(self, other: Path) -> None:
        found = two(KEPT, other)
        assert found["same_content"]
        assert found["utterances"] == {"a": 8, "b": 8, "common": 8, "relabelled": 0}
        assert (found["only_a"], found["only_b"]) == ([], [])
        assert [unit["a"] for unit in found["units"]] == Store.open(KEPT).units()
        for unit in found["units"]:
            assert unit["same_fingerprint"]
            assert unit["same_content"]
            assert unit["settings"] == unit["parents"] == unit["versions"] == []
        assert len(found["drift"]) == 4
        for row in found["drift"]:
            assert (row["mean_abs_logit"], row["max_abs_logit"], row["changed"]) == (0, 0, 0)
            assert row["agreement"] == {"training": 1, "validation": 1, "test": 1}
            assert row["mean_cosine"] == pytest.approx(1)
            assert row["cka"] == pytest.approx(1)
        text = shown(found)
        assert "the same content, to the byte" in text
        assert "8 of 8 compared unit(s) are the same" in text
        assert "made" not in text


class TestTwoStores:
    def test_drift_by_hand(self, other: Path) -> None:
        def change(logits: Any) -> Any:
            logits[0, 0] += 4
            logits[5] = logits[5][::-1]
            return logits

        before = Store.open(KEPT).fold(1)["linguistic"].logits
        rewritten(other / "folds/01/linguistic", "logits", change)
        found = two(KEPT, other)
        assert not found["same_content"]
        row = found["drift"][0]
        apart = abs(float(before[5, 0]) - float(before[5, 1]))
        assert row["max_abs_logit"] == pytest.approx(4, abs=1e-6)
        assert row["mean_abs_logit"] == pytest.approx((4 + 2 * apart) / 16, abs=1e-6)
        lead = float(before[0, 0] - before[0, 1])
        assert row["changed"] == pytest.approx((1 + (-4 < lead < 0)) / 8)
        assert [other["changed"] for other in found["drift"][1:]] == [0, 0, 0]
        unit = next(unit for unit in found["units"] if unit["a"] == "folds/01/linguistic")
        assert unit["same_fingerprint"]
        assert not unit["same_content"]
        assert "made from the same, yet with other content" in shown(found)

    def test_settings_parents_and_versions_that_differ(self, other: Path) -> None:
        reseal(other / "lld", lambda raw: raw["provenance"].update(opensmile="9.9"))
        unit = other / "folds/02/prosodic"
        reseal(unit, lambda raw: raw["settings"]["teacher"].update(dropout=0.75))
        (unit / "zarr.json").write_text("{}")
        reseal(unit)
        found = two(KEPT, other)
        told = {unit["a"]: unit for unit in found["units"]}
        assert told["folds/02/prosodic"]["settings"] == ["teacher.dropout: 0.2 -> 0.75"]
        assert not told["folds/02/prosodic"]["same_fingerprint"]
        assert told["lld"]["versions"][0].startswith("opensmile: ")
        text = shown(found)
        assert "folds/02/prosodic\n  made with teacher.dropout: 0.2 -> 0.75" in text
        assert "opensmile" not in text  # the bytes are the same, whoever made them

    def test_units_of_one_side(self, other: Path) -> None:
        shutil.rmtree(other / "folds/02/prosodic")
        shutil.rmtree(other / "lld")
        reseal(other / "folds/01/prosodic", lambda raw: raw["parents"].pop("lld"))
        (other / "folds/01/linguistic").rename(other / "folds/01/mine")
        reseal(other / "folds/01/mine", lambda raw: raw.update(unit="folds/01/mine"))
        found = two(KEPT, other)
        assert found["only_a"] == ["lld", "folds/01/linguistic", "folds/02/prosodic"]
        assert found["only_b"] == ["folds/01/mine"]
        assert [(row["fold"], row["teacher"]) for row in found["drift"]] == [
            (1, "prosodic"),
            (2, "linguistic"),
        ]
        assert "only in A: lld, folds/01/linguistic, folds/02/prosodic" in shown(found)
        named = two(KEPT, other, teacher="linguistic", counterpart="mine")
        assert [row["with"] for row in named["drift"]] == ["mine"]
        assert named["drift"][0]["max_abs_logit"] == 0

    def test_only_common_utterances_are_compared(self, other: Path) -> None:
        table = Store.open(other).utterances
        table["utterance_id"] = [
            f"{name}x" if row in (2, 6) else name for row, name in enumerate(table["utterance_id"])
        ]
        table.loc[3, "label"] = next(c for c in Store.open(KEPT).classes if c != table["label"][3])
        table.to_parquet(other / "corpus/utterances.parquet", index=False)
        reseal(other / "corpus")

        def change(logits: Any) -> Any:
            logits[[2, 6]] += 100
            return logits

        rewritten(other / "folds/01/linguistic", "logits", change)
        found = two(KEPT, other)
        assert found["utterances"] == {"a": 8, "b": 8, "common": 6, "relabelled": 1}
        assert found["drift"][0]["utterances"] == 6
        assert found["drift"][0]["max_abs_logit"] == 0
        text = shown(found)
        assert "compared on 6 common utterances: A has 2 more, B 2" in text
        assert "1 of them have another label in B" in text

    def test_classes_in_another_order(self, other: Path) -> None:
        def turned(raw: dict[str, Any]) -> None:
            raw["facts"]["classes"].reverse()

        reseal(other / "corpus", turned)
        for fold in ("01", "02"):
            for name in ("linguistic", "prosodic"):
                rewritten(other / "folds" / fold / name, "logits", lambda v: v[:, ::-1])
        assert {row["max_abs_logit"] for row in two(KEPT, other)["drift"]} == {0.0}

    def test_nothing_in_common(self, other: Path) -> None:
        table = Store.open(other).utterances
        table["utterance_id"] = [f"{name}x" for name in table["utterance_id"]]
        table.to_parquet(other / "corpus/utterances.parquet", index=False)
        reseal(other / "corpus")
        with pytest.raises(UserError, match="no utterance in common"):
            two(KEPT, other)
        reseal(other / "corpus", lambda raw: raw["facts"].update(classes=["ang", "\x1b[31m"]))
        with pytest.raises(UserError, match="other classes") as caught:
            two(KEPT, other)
        assert "\x1b" not in caught.value.message

    def test_logits_that_are_none(self, other: Path) -> None:
        rewritten(other / "folds/01/prosodic", "logits", lambda v: v * np.float32("nan"))
        with pytest.raises(Corrupt, match="folds/01/prosodic: not finite"):
            two(KEPT, other)

    def test_folds(self, other: Path) -> None:
        assert {row["fold"] for row in two(KEPT, other, folds="2")["drift"]} == {2}
        with pytest.raises(UserError, match="--fold 9"):
            two(KEPT, other, folds="9")


class TestTwoTeachers:
    def test_are_compared_in_every_fold(self) -> None:
        found = two(KEPT, KEPT, teacher="linguistic", counterpart="prosodic")
        store = Store.open(KEPT)
        for row in found["drift"]:
            outputs = store.fold(row["fold"])
            a, b = (outputs[name].logits.astype(float) for name in ("linguistic", "prosodic"))
            assert row["mean_abs_logit"] == pytest.approx(np.abs(a - b).mean())
            same = a.argmax(axis=1) == b.argmax(axis=1)
            assert row["changed"] == pytest.approx(1 - same.mean())
            test = store.roles[row["fold"] - 1] == 3
            assert row["agreement"]["test"] == pytest.approx(same[test].mean())
            assert row["mean_cosine"] is None  # 128 and 8 wide
            assert 0 <= row["cka"] <= 1
        assert [unit["b"] for unit in found["units"]] == ["folds/01/prosodic", "folds/02/prosodic"]
        text = shown(found)
        assert "folds/01/linguistic and folds/01/prosodic" in text
        assert "made with teacher.kind: linguistic -> prosodic" in text
        assert "made from lld in B alone" in text

    @pytest.mark.parametrize(
        ("teacher", "other", "told"),
        [
            ("", "", "nothing to compare"),
            ("linguistic", "", "nothing to compare"),
            ("linguistic", "linguistic", "nothing to compare"),
            ("", "prosodic", "--with: of which teacher"),
            ("linguistic", "lyrical", "no fold has linguistic in A and lyrical in B"),
            ("lyrical", "prosodic", "no fold has lyrical in A and prosodic in B"),
        ],
    )
    def test_that_are_not_two(self, teacher: str, other: str, told: str) -> None:
        with pytest.raises(UserError, match=told) as caught:
            two(KEPT, KEPT, teacher=teacher, counterpart=other)
        assert caught.value.hint


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
