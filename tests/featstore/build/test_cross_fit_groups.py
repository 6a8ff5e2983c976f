"""Which training speakers a part of cross-fitted targets is fitted without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from featstore.core.config import (
    FoldSettings,
)
from featstore.core.schema import UserError
from featstore.folds import Fold, cross_fit_fault, cross_fit_groups, make_folds
from tests.featstore.corpora.speaker_tables import FIVE, corpus

DRAWN = (("r", "s", "t"), ("p", "q"))


def labelled(sessions: dict[str, tuple[str, ...]], sizes: dict[str, int]) -> Any:
    """Each speaker says the classes in turn."""
    import pandas as pd

    tables = [
        corpus({session: (name,)}, sizes[name])
        for session, names in sessions.items()
        for name in names
    ]
    table = pd.concat(tables, ignore_index=True)
    table["label"] = [("angry", "happy")[at % 2] for at in table.groupby("speaker").cumcount()]
    return table


class TestGroups:
    def test_each_training_speaker_is_in_one(self) -> None:
        fold = make_folds(FIVE, FoldSettings())[0]
        training = FIVE[FIVE["speaker"].isin(fold.train)]
        for parts in range(2, 9):
            groups = cross_fit_groups(training, fold, parts, 42)
            assert len(groups) == parts
            assert sorted(name for group in groups for name in group) == sorted(fold.train)

    def test_they_have_about_as_many_utterances(self) -> None:
        sizes = {"p": 9, "q": 5, "r": 5, "s": 1, "t": 4}
        table = labelled({"": tuple(sizes)}, sizes)
        groups = cross_fit_groups(table, Fold(1, ("x",), (), tuple("pqrst")), 3, 42)
        assert sorted(sum(sizes[name] for name in group) for group in groups) == [6, 9, 9]

    def test_a_draw_never_changes(self) -> None:
        fold = Fold(1, ("x",), (), tuple("pqrst"))
        table = labelled({"": tuple("pqrst")}, dict.fromkeys("pqrst", 4))
        drawn = cross_fit_groups(table, fold, 2, 42)
        assert drawn == DRAWN
        assert cross_fit_groups(table.iloc[::-1], fold, 2, 42) == drawn
        seeds = {cross_fit_groups(table, fold, 2, seed) for seed in range(20)}
        assert len(seeds) > 3
        assert any(cross_fit_groups(table, replace(fold, number=n), 2, 42) != drawn for n in (2, 3))

    def test_a_speaker_without_training_utterances_leaves_no_group_empty(self) -> None:
        table = labelled({"": ("p", "q")}, {"p": 4, "q": 6})
        fold = Fold(1, ("x",), (), ("p", "q", "silent"))
        assert cross_fit_groups(table, fold, 2, 42) == (("q",), ("p", "silent"))
        with pytest.raises(UserError, match="trains on 2 speaker"):
            cross_fit_groups(table, fold, 3, 42)

    @pytest.mark.parametrize("parts", [-1, 0, 1, 9, 1000])
    def test_the_allowed_range_is_told(self, parts: int) -> None:
        fold = make_folds(FIVE, FoldSettings())[2]
        training = FIVE[FIVE["speaker"].isin(fold.train)]
        with pytest.raises(UserError, match=f"--cross-fit {parts}: fold 3 trains on 8") as caught:
            cross_fit_groups(training, fold, parts, 42)
        assert "2..8" in caught.value.hint
        assert caught.value.exit_code == 2

    def test_one_training_speaker_cannot_be_parted(self) -> None:
        table = labelled({"": ("p",)}, {"p": 4})
        with pytest.raises(UserError, match="trains on 1 speaker") as caught:
            cross_fit_groups(table, Fold(1, ("x",), (), ("p",)), 2, 42)
        assert "hold fewer speakers out" in caught.value.hint

    def test_a_class_that_one_speaker_alone_has(self) -> None:
        table = labelled({"": ("p", "q")}, {"p": 4, "q": 4})
        table.loc[table["speaker"] == "q", "label"] = "calm"
        table.loc[0, "label"] = "calm"
        with pytest.raises(UserError, match="fold 1: angry, happy without the speakers p"):
            cross_fit_groups(table, Fold(1, ("x",), (), ("p", "q")), 2, 42)


@pytest.mark.parametrize(
    ("at", "key", "value", "told"),
    [
        (0, "fitted_on", ["a", "c"], "part 1 teaches a, on whom it was fitted"),
        (1, "fitted_on", ["a", "v"], "part 2 has v, on whom fold 1 does not train"),
        (1, "fitted_on", ["t"], "part 2 has t, on whom fold 1 does not train"),
        (0, "held_out", ["a", "t"], "part 1 has t, on whom fold 1 does not train"),
        (1, "selected_on", ["b"], "part 2 was selected on b"),
        (1, "held_out", ["b"], "teaches a, b, fold 1 trains on a, b, c"),
        (1, "held_out", ["b", "c", "c"], ""),
        (0, "fitted_on", ["b"], ""),
    ],
)
def test_what_can_be_wrong_with_parts(at: int, key: str, value: list[str], told: str) -> None:
    parts: list[dict[str, Any]] = [
        {"held_out": ["a"], "fitted_on": ["b", "c"], "selected_on": ["v"]},
        {"held_out": ["b", "c"], "fitted_on": ["a"], "selected_on": ["v"]},
    ]
    fold = Fold(1, ("t",), ("v",), ("a", "b", "c"))
    assert cross_fit_fault(parts, fold) == ""
    parts[at][key] = value
    assert cross_fit_fault(parts, fold) == told
