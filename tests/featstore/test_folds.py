from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from featstore.core.config import FoldSettings
from featstore.core.schema import Refused, UserError
from featstore.folds import (
    OUT,
    TEST,
    TRAIN,
    VALIDATION,
    Fold,
    make_folds,
    normalised,
    parse_numbers,
    prove,
    resolve_validation,
    roles,
    text_overlap,
)
from tests.featstore.corpora.speaker_tables import FIVE, NO_SESSIONS, corpus

WORDS = ("yes", "no", "Yes!", "go  away", "Go away.", "", "...")


@st.composite
def corpora(draw: st.DrawFn, paired: bool = False) -> pd.DataFrame:
    """Some sessions of some speakers; every speaker says both labels; rows in any order."""
    n_sessions = draw(st.integers(2, 5))
    rows = []
    for session in range(n_sessions):
        for speaker in range(2 if paired else draw(st.integers(1, 3))):
            name = f"s{session}p{speaker}"
            for at in range(draw(st.integers(2, 4))):
                rows.append(
                    {
                        "utterance_id": f"{name}_{at}",
                        "speaker": name,
                        "session": f"s{session}",
                        "text": draw(st.sampled_from(WORDS)),
                        "kind": draw(st.sampled_from(["scripted", "improvised", "unknown"])),
                        "label": "ab"[at % 2],
                    }
                )
    assume(len({row["speaker"] for row in rows}) >= 3)
    return pd.DataFrame(draw(st.permutations(rows)))


FOLD_SETTINGS = st.builds(
    FoldSettings,
    scheme=st.sampled_from(["speaker", "session", "groups"]),
    groups=st.integers(2, 3),
    validation=st.sampled_from([None, "none"]),
    seed=st.integers(0, 5),
)


def folds_or_skip(table: pd.DataFrame, chosen: FoldSettings) -> tuple[Fold, ...]:
    """The folds; a corpus with nobody left to train on is no example."""
    try:
        return make_folds(table, chosen)
    except UserError as error:
        assume("no speaker is left to train on" not in error.message)
        raise


class TestProperties:
    @settings(max_examples=60)
    @given(corpora(), FOLD_SETTINGS)
    def test_disjoint_and_every_row_tested_once(
        self, table: pd.DataFrame, chosen: FoldSettings
    ) -> None:
        folds = folds_or_skip(table, chosen)
        assigned = roles(table, folds, script_disjoint=False)
        prove(table, folds, assigned)
        speakers = table["speaker"].to_numpy()
        assert ((assigned == TEST).sum(axis=0) == 1).all()
        assert not (assigned == OUT).any()
        for fold, row in zip(folds, assigned, strict=True):
            groups = [set(speakers[row == role]) for role in (TRAIN, VALIDATION, TEST)]
            assert groups == [set(fold.train), set(fold.validation), set(fold.test)]
            assert sum(map(len, groups)) == len(set(speakers)) == len(set.union(*groups))

    @settings(max_examples=40)
    @given(corpora(), FOLD_SETTINGS, st.randoms(use_true_random=False))
    def test_order_of_rows_does_not_matter(
        self, table: pd.DataFrame, chosen: FoldSettings, random: Random
    ) -> None:
        folds = folds_or_skip(table, chosen)
        order = list(range(len(table)))
        random.shuffle(order)
        shuffled = table.iloc[order].reset_index(drop=True)
        assert make_folds(shuffled, chosen) == folds
        for disjoint in (False, True):
            assert np.array_equal(
                roles(table, folds, disjoint)[:, order], roles(shuffled, folds, disjoint)
            )

    @settings(max_examples=40)
    @given(corpora(), FOLD_SETTINGS)
    def test_script_disjoint_shares_no_text_and_loses_no_test_row(
        self, table: pd.DataFrame, chosen: FoldSettings
    ) -> None:
        folds = folds_or_skip(table, chosen)
        plain, disjoint = (roles(table, folds, flag) for flag in (False, True))
        assert (text_overlap(table, disjoint)["n_shared"] == 0).all()
        assert np.array_equal(plain == TEST, disjoint == TEST)
        # Only rows whose words are said in the fold's test are out; empty texts never are.
        texts = np.array([normalised(text) for text in table["text"]], dtype=object)
        for before, after in zip(plain, disjoint, strict=True):
            said = set(texts[before == TEST]) - {""}
            gone = (before != TEST) & np.array([text in said for text in texts])
            assert np.array_equal(after == OUT, gone)
            assert np.array_equal(before[~gone], after[~gone])

    @settings(max_examples=60)
    @given(corpora(paired=True), st.data())
    def test_any_changed_role_but_leaving_out_is_refused(
        self, table: pd.DataFrame, data: st.DataObject
    ) -> None:
        folds = folds_or_skip(table, FoldSettings())
        assigned = roles(table, folds, script_disjoint=False)
        fold = data.draw(st.integers(0, len(folds) - 1))
        at = data.draw(st.integers(0, len(table) - 1))
        before = assigned[fold, at]
        others = [TRAIN, VALIDATION, TEST] if before != TEST else [OUT, TRAIN, VALIDATION]
        assigned[fold, at] = data.draw(st.sampled_from([one for one in others if one != before]))
        with pytest.raises(Refused):
            prove(table, folds, assigned)


class TestProof:
    @pytest.fixture
    def folds(self) -> tuple[Fold, ...]:
        return make_folds(FIVE, FoldSettings())

    def test_whole_speaker_moved_into_another_role(self, folds: tuple[Fold, ...]) -> None:
        assigned = roles(FIVE, folds, script_disjoint=False)
        assigned[0, (FIVE["speaker"] == "s1M").to_numpy()] = TRAIN
        with pytest.raises(Refused, match="s1M is in training and validation"):
            prove(FIVE, folds, assigned)

    def test_folds_that_name_a_speaker_twice(self, folds: tuple[Fold, ...]) -> None:
        leaky = (replace(folds[0], train=(*folds[0].train, "s1F")), *folds[1:])
        with pytest.raises(Refused, match="s1F is in training and test"):
            prove(FIVE, leaky, roles(FIVE, leaky, script_disjoint=False))

    def test_fold_left_out_or_doubled(self, folds: tuple[Fold, ...]) -> None:
        for wrong, times in ((folds[1:], 0), ((folds[0], *folds), 2)):
            with pytest.raises(Refused, match=f"s1F_0 is tested {times} times"):
                prove(FIVE, wrong, roles(FIVE, wrong, script_disjoint=False))

    def test_speaker_in_no_list_and_list_without_speaker(self, folds: tuple[Fold, ...]) -> None:
        assigned = roles(FIVE, folds, script_disjoint=False)
        short = (replace(folds[0], train=folds[0].train[1:]), *folds[1:])
        with pytest.raises(Refused, match="stands in no list"):
            prove(FIVE, short, assigned)
        ghost = (replace(folds[0], train=(*folds[0].train, "ghost")), *folds[1:])
        with pytest.raises(Refused, match="ghost has no utterance"):
            prove(FIVE, ghost, assigned)

    @pytest.mark.parametrize(("role", "name"), [(TRAIN, "training"), (VALIDATION, "validation")])
    def test_empty_role(self, folds: tuple[Fold, ...], role: int, name: str) -> None:
        assigned = roles(FIVE, folds, script_disjoint=False)
        assigned[4][assigned[4] == role] = OUT
        with pytest.raises(Refused, match=f"fold 5: no {name} utterance"):
            prove(FIVE, folds, assigned)

    def test_no_validation_is_fine_where_none_is_asked(self) -> None:
        folds = make_folds(FIVE, FoldSettings(validation="none"))
        prove(FIVE, folds, roles(FIVE, folds, script_disjoint=False))

    def test_class_without_training_is_a_users_error(self) -> None:
        table = FIVE.copy()
        table.loc[table["speaker"] != "s1F", "label"] = "a"
        folds = make_folds(table, FoldSettings())
        with pytest.raises(UserError, match=r"fold 1: b\nfold 2: b|fold 1: b$") as caught:
            prove(table, folds, roles(table, folds, script_disjoint=False))
        assert not isinstance(caught.value, Refused)

    @pytest.mark.parametrize("change", ["shape", "value"])
    def test_roles_of_another_manifest(self, folds: tuple[Fold, ...], change: str) -> None:
        assigned = roles(FIVE, folds, script_disjoint=False)
        if change == "shape":
            assigned = assigned[:, 1:]
        else:
            assigned[0, 0] = 7
        with pytest.raises(Refused, match="expected"):
            prove(FIVE, folds, assigned)


class TestTexts:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Excuse me.", "excuse me"),
            ("  EXCUSE -- me?! ", "excuse me"),
            ("Don't", "dont"),
            ("don\u2019t", "dont"),
            ("Stra\u00dfe", "strasse"),
            ("uh-huh", "uh huh"),
            ("\uff39\uff45\uff53", "yes"),
            ("_a_b_", "a b"),
            ("...", ""),
            ("", ""),
        ],
    )
    def test_normalised(self, text: str, expected: str) -> None:
        assert normalised(text) == expected

    @given(st.text())
    def test_punctuation_and_space_never_tell_texts_apart(self, text: str) -> None:
        assert normalised(f"  {text} ... ") == normalised(f"({text})") == normalised(text)

    def test_overlap_by_hand(self) -> None:
        table = corpus({"": ("a", "b", "c")}, per_speaker=3)
        table["kind"] = ["scripted", "scripted", "improvised"] * 3
        table["text"] = [
            *("Hello.", "Bye", "one"),
            *("hello", "", "two"),
            *("HELLO!", "...", "one"),
        ]
        folds = make_folds(table, FoldSettings(validation="none"))
        overlap = text_overlap(table, roles(table, folds, script_disjoint=False))
        assert overlap["fold"].tolist() == [1, 2, 3]
        assert overlap["n_test"].tolist() == [3, 3, 3]
        assert overlap["n_shared"].tolist() == [2, 1, 2]
        assert overlap["share"].tolist() == pytest.approx([2 / 3, 1 / 3, 2 / 3])
        assert overlap["n_test_scripted"].tolist() == [2, 2, 2]
        assert overlap["n_shared_scripted"].tolist() == [1, 1, 1]
        assert overlap["share_improvised"].tolist() == [1, 0, 1]

    def test_share_of_nothing_is_nan(self) -> None:
        folds = make_folds(FIVE, FoldSettings())
        overlap = text_overlap(FIVE, roles(FIVE, folds, script_disjoint=False))
        assert overlap["share_scripted"].isna().all()


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("all", [1, 2, 3, 4, 5]),
            ("1..5", [1, 2, 3, 4, 5]),
            ("3", [3]),
            ("5, 1..2,2", [1, 2, 5]),
            ("2..2", [2]),
        ],
    )
    def test_accepted(self, text: str, expected: list[int]) -> None:
        assert parse_numbers(text, 5) == expected

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("0", "0 is not within 1..5"),
            ("6", "6 is not within"),
            ("1..999999999", "not within"),
            ("4..2", "4..2 runs backwards"),
            ("", "'' is no fold"),
            ("1,", "'' is no fold"),
            ("1-3", "'1-3' is no fold"),
            ("1...3", "is no fold"),
            ("-1", "is no fold"),
            ("\u0661", "is no fold"),
            ("1\x1b[31m", r"1\\x1b\[31m"),
        ],
    )
    def test_refused_with_what_there_is(self, text: str, words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            parse_numbers(text, 5)
        assert "folds 1..5" in caught.value.hint

    @given(st.sets(st.integers(1, 30), min_size=1))
    def test_any_list_comes_back_sorted(self, numbers: set[int]) -> None:
        assert parse_numbers(",".join(map(str, numbers)), 30) == sorted(numbers)


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
