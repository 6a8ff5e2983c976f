from __future__ import annotations

import pandas as pd
import pytest

from featstore.core.config import FoldSettings
from featstore.core.schema import UserError
from featstore.holdout import Fold, make_folds, resolve_validation
from tests.featstore.corpora.speaker_tables import FIVE, NO_SESSIONS, corpus


class TestSchemes:
    def test_speaker_with_partner_is_the_default(self) -> None:
        folds = make_folds(FIVE, FoldSettings())
        assert [fold.number for fold in folds] == list(range(1, 11))
        assert folds[2] == Fold(
            3,
            ("s2F",),
            ("s2M",),
            ("s1F", "s1M", "s3F", "s3M", "s4F", "s4M", "s5F", "s5M"),
        )
        assert [fold.test for fold in folds] == [(name,) for name in sorted(set(FIVE["speaker"]))]

    def test_session(self) -> None:
        folds = make_folds(FIVE, FoldSettings(scheme="session", validation="none"))
        assert [fold.test for fold in folds] == [(f"s{at}F", f"s{at}M") for at in range(1, 6)]
        assert all(fold.validation == () and len(fold.train) == 8 for fold in folds)

    def test_groups_are_balanced_by_utterances(self) -> None:
        sizes = {"p": 9, "q": 5, "r": 5, "s": 1, "t": 4}
        table = pd.concat([corpus({"": (name,)}, size) for name, size in sizes.items()])
        folds = make_folds(table, FoldSettings(scheme="groups", groups=3, validation="none"))
        loads = sorted(sum(sizes[name] for name in fold.test) for fold in folds)
        assert loads == [6, 9, 9]
        assert sorted(name for fold in folds for name in fold.test) == sorted(sizes)

    def test_random_validation_is_one_other_speaker_and_follows_the_seed(self) -> None:
        chosen = [
            tuple(fold.validation for fold in make_folds(NO_SESSIONS, FoldSettings(seed=seed)))
            for seed in range(60)
        ]
        assert all(len(one) == 1 for draws in chosen for one in draws)
        assert len(set(chosen)) > 40
        assert {draws[0][0] for draws in chosen} == {"q", "r", "s", "t"}

    def test_a_draw_never_changes(self) -> None:
        folds = make_folds(NO_SESSIONS, FoldSettings(seed=42))
        assert [fold.validation[0] for fold in folds] == list("qsttr")


class TestResolution:
    @pytest.mark.parametrize(
        ("table", "scheme", "expected"),
        [
            (FIVE, "speaker", "partner"),
            (FIVE, "session", "random"),
            (FIVE, "groups", "random"),
            (NO_SESSIONS, "speaker", "random"),
            (corpus({"s1": ("a", "b"), "s2": ("c", "d", "e")}), "speaker", "random"),
            (corpus({"s1": ("a", "b"), "s2": ("b", "c")}), "speaker", "random"),
        ],
    )
    def test_none_becomes_explicit(self, table: pd.DataFrame, scheme: str, expected: str) -> None:
        chosen = FoldSettings.model_validate({"scheme": scheme, "seed": 7})
        resolved = resolve_validation(table, chosen)
        assert resolved == chosen.model_copy(update={"validation": expected})
        assert resolve_validation(table, resolved) == resolved

    @pytest.mark.parametrize(
        ("table", "scheme", "words"),
        [
            (NO_SESSIONS, "speaker", "no sessions of exactly two"),
            (corpus({"s1": ("a", "b"), "s2": ("c", "d", "e")}), "speaker", "exactly two"),
            (FIVE, "session", "scheme session has no session partner"),
            (FIVE, "groups", "scheme groups has no session partner"),
        ],
    )
    def test_partner_where_impossible(self, table: pd.DataFrame, scheme: str, words: str) -> None:
        chosen = FoldSettings.model_validate({"scheme": scheme, "validation": "partner"})
        with pytest.raises(UserError, match=words) as caught:
            make_folds(table, chosen)
        assert "random or none" in caught.value.hint


class TestImpossible:
    @pytest.mark.parametrize(
        ("table", "chosen", "words"),
        [
            (corpus({"": ("a",)}), {}, "nobody can be held out"),
            (corpus({"": ("a", "b")}), {}, "no speaker is left to train on"),
            (NO_SESSIONS, {"scheme": "session"}, "without a session"),
            (corpus({"s": ("a", "b", "c")}), {"scheme": "session"}, "or only one"),
            (corpus({"s1": ("a", "b"), "s2": ("b",)}), {"scheme": "session"}, "several sessions"),
            (NO_SESSIONS, {"scheme": "groups", "groups": 6}, "6 groups of 5 speakers"),
        ],
    )
    def test_each_has_a_remedy(
        self, table: pd.DataFrame, chosen: dict[str, object], words: str
    ) -> None:
        with pytest.raises(UserError, match=words) as caught:
            make_folds(table, FoldSettings.model_validate(chosen))
        assert caught.value.hint
