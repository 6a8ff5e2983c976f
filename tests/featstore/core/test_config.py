from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.core.config import (
    PRESETS,
    BuildSettings,
    LinguisticSettings,
    ProsodicSettings,
)
from featstore.core.schema import UserError
from featstore.core.settings import (
    canonical,
    choose,
    differences,
    digest,
    load_toml,
    merge,
    overrides,
    resolve,
    to_toml,
)

KEYS = st.text("abcdef_-. é\"'", min_size=1, max_size=6)
SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
)  # fmt: skip
TABLES = st.recursive(
    st.dictionaries(KEYS, SCALARS, max_size=4),
    lambda inner: st.dictionaries(KEYS, st.one_of(SCALARS, inner), max_size=4),
    max_leaves=12,
)


class TestResolve:
    def test_defaults_are_the_papers(self) -> None:
        found = resolve(BuildSettings)
        assert found.lld.feature_set == "eGeMAPSv02"
        assert list(found.teachers) == ["linguistic", "prosodic"]
        words, voice = found.teachers["linguistic"], found.teachers["prosodic"]
        assert isinstance(words, LinguisticSettings)
        assert isinstance(voice, ProsodicSettings)
        assert (words.model, words.pooling) == ("bert-base-uncased", "cls")
        assert len(voice.channels) == 4
        for teacher in (words, voice):
            assert (teacher.optim.lr, teacher.optim.epochs) == (1e-4, 30)

    def test_later_layers_win(self) -> None:
        layers = ({"folds": {"seed": 1, "groups": 3}}, {"folds": {"seed": 2}}, {})
        found = resolve(BuildSettings, *layers)
        assert (found.folds.seed, found.folds.groups) == (2, 3)

    def test_nothing_can_be_changed_afterwards(self) -> None:
        with pytest.raises(Exception, match="frozen"):
            resolve(BuildSettings).folds.seed = 7

    def test_delta_of_one_paper_teacher_keeps_the_other(self) -> None:
        found = resolve(BuildSettings, overrides(["teachers.prosodic.dropout=0.3"]))
        assert list(found.teachers) == ["linguistic", "prosodic"]
        assert found.teachers["prosodic"].dropout == 0.3
        assert found.teachers["linguistic"] == LinguisticSettings()

    def test_tables_that_tell_every_kind_are_the_whole_set(self) -> None:
        one = resolve(BuildSettings, overrides(["teachers.voice.kind=prosodic"]))
        assert one.teachers == {"voice": ProsodicSettings()}
        alone = resolve(BuildSettings, {"teachers": {"prosodic": {"kind": "prosodic"}}})
        assert list(alone.teachers) == ["prosodic"]
        none = resolve(BuildSettings, {"teachers": {}})
        assert none.teachers == {}

    def test_teacher_of_another_name_stands_beside(self) -> None:
        pairs = ["teachers.words2.kind=linguistic", "teachers.words2.pooling=mean"]
        found = resolve(BuildSettings, PRESETS["tiny"], overrides(pairs))
        assert sorted(found.teachers) == ["linguistic", "prosodic", "words2"]


class TestFaults:
    def faults(self, *pairs: str) -> UserError:
        with pytest.raises(UserError) as caught:
            resolve(BuildSettings, overrides(pairs))
        assert caught.value.exit_code == 2
        assert caught.value.hint
        return caught.value

    @pytest.mark.parametrize(
        ("pair", "near"),
        [
            ("folds.sed=7", "seed"),
            ("teachers.prosodic.drop_out=0.1", "dropout"),
            ("teachers.linguistic.optim.epoch=3", "epochs"),
            ("lld.featureset=GeMAPSv01b", "feature_set"),
        ],
    )
    def test_near_miss_is_named(self, pair: str, near: str) -> None:
        key = pair.split("=")[0]
        assert f"{key}: unknown key; did you mean {near}?" in self.faults(pair).message

    @pytest.mark.parametrize(
        "pair",
        ["tau_linguistic=5", "teachers.linguistic.tau=5", "alpha=1", "losses.beta=10",
         "student.backbone=tiny", "optim.lr=1e-4"],
    )  # fmt: skip
    def test_what_belongs_to_the_student_is_no_setting_of_a_store(self, pair: str) -> None:
        assert f"{pair.split('=')[0].split('.')[0]}" in self.faults(pair).message
        assert "unknown key" in self.faults(pair).message

    def test_all_are_told_at_once(self) -> None:
        message = self.faults(
            "folds.groups=1", "audio.min_duration_s=0.01", "teachers.prosodic.dropout=2",
            "teachers.x.kind=visual", "corpus.name=3",
        ).message  # fmt: skip
        assert message.startswith("5 setting(s) not accepted")
        for key in ("folds.groups", "audio.min_duration_s", "teachers.prosodic.dropout",
                    "teachers.x", "corpus.name"):  # fmt: skip
            assert f"\n{key}: " in message
        assert "(given: 2)" in message

    @pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "a" * 129, "a b", "é"])
    def test_teacher_name_that_is_a_path_is_refused(self, name: str) -> None:
        with pytest.raises(UserError, match="teacher name"):
            resolve(BuildSettings, {"teachers": {name: {"kind": "prosodic"}}})


class TestOverrides:
    def test_values_are_toml_and_bare_words_text(self) -> None:
        pairs = ["a.b=1", "a.c=true", "a.d=[1, 2]", 'e="1"', "f=improvised", "g=1e-4", "h=x=y"]
        assert overrides(pairs) == {
            "a": {"b": 1, "c": True, "d": [1, 2]}, "e": "1", "f": "improvised", "g": 1e-4,
            "h": "x=y",
        }  # fmt: skip

    @pytest.mark.parametrize("pair", ["seed", "=7", "folds.=7", "a..b=1", ""])
    def test_wants_key_and_value(self, pair: str) -> None:
        with pytest.raises(UserError, match="expected key=value"):
            overrides([pair])

    @given(TABLES, TABLES)
    def test_merge_touches_neither_and_the_second_wins(self, a: Any, b: Any) -> None:
        before = (canonical(a), canonical(b))
        both = merge(a, b)
        assert (canonical(a), canonical(b)) == before
        assert merge(both, b) == both
        assert merge({}, a) == merge(a, {}) == a


class TestToml:
    def test_missing_and_broken_files(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"gone\.toml: no such settings file"):
            load_toml(tmp_path / "gone.toml")
        for content in (b"a = ", b"\xff\xfe", b"a = 1\na = 2"):
            (tmp_path / "a.toml").write_bytes(content)
            with pytest.raises(UserError, match=r"a\.toml: not a readable TOML file"):
                load_toml(tmp_path / "a.toml")
        with pytest.raises(UserError, match="not a readable TOML file"):
            load_toml(tmp_path)

    @pytest.mark.parametrize("preset", sorted(PRESETS))
    def test_settings_survive_the_way_through_a_file(self, preset: str, tmp_path: Path) -> None:
        settings = resolve(
            BuildSettings, PRESETS[preset],
            {"corpus": {"classes": ["a", "b"], "label_map": {'odd "label"': "a", "né.1": "b"}},
             "teachers": {"v2.b": {"kind": "prosodic", "channels": [1, 2, 3, 4]}}},
        )  # fmt: skip
        (tmp_path / "a.toml").write_text(to_toml(settings), encoding="utf-8")
        assert resolve(BuildSettings, load_toml(tmp_path / "a.toml")) == settings

    @given(st.dictionaries(KEYS, st.text(st.characters(exclude_categories=("Cs",)), max_size=9)))
    def test_any_label_map_survives(self, label_map: dict[str, str]) -> None:
        settings = resolve(BuildSettings, {"corpus": {"label_map": label_map}})
        assert resolve(BuildSettings, tomllib.loads(to_toml(settings))) == settings


class TestDigest:
    @given(TABLES)
    def test_does_not_depend_on_the_order_of_keys(self, table: dict[str, Any]) -> None:
        assert digest(dict(reversed(table.items()))) == digest(table)

    def test_known_value(self) -> None:
        """Fingerprints outlive a version of ours: the canonical text may not drift."""
        assert canonical({"b": [1, 2.5, None], "a": "é"}) == '{"a":"é","b":[1,2.5,null]}'.encode()
        assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
    def test_has_no_text_for_what_json_cannot_hold(self, value: Any) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 (each has words of its own)
            canonical({"a": value})

    @given(TABLES, TABLES)
    def test_differences_are_empty_for_equals_only(self, a: Any, b: Any) -> None:
        assert differences(a, a) == []
        assert (differences(a, b) == []) == (canonical(a) == canonical(b))

    def test_difference_names_the_key_and_both_values(self) -> None:
        old, new = {"a": {"b": 1, "c": 2}, "x": "0" * 64}, {"a": {"b": 3, "c": 2}, "x": "1" * 64}
        assert differences(old, new) == ["a.b: 1 -> 3", f"x: {'0' * 16}... -> {'1' * 16}..."]
        assert differences({}, {"k": None, "m": 1}) == ["m: null -> 1"]


def test_choose_lists_what_there_is() -> None:
    assert choose("--preset", "tiny", PRESETS) is PRESETS["tiny"]
    with pytest.raises(UserError, match="--preset tinny: not known") as caught:
        choose("--preset", "tinny", PRESETS)
    assert "paper, safe, tiny" in caught.value.hint
