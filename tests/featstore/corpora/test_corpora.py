from __future__ import annotations

from pathlib import Path

import pytest

from featstore.core.config import CorpusSettings
from featstore.core.schema import UserError
from featstore.corpora import CORPORA, corpus, load
from tests.featstore.corpora.layouts import write_wav


def test_every_promised_corpus_is_there() -> None:
    assert set(CORPORA) == {"iemocap", "ravdess", "emodb", "table", "synthetic"}
    assert CORPORA["iemocap"].licensed
    for one in CORPORA.values():
        assert callable(one.read)
        assert one.about
        assert "\n" not in one.about


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match="no corpus 'iemocp'") as caught:
        corpus("iemocp")
    assert "iemocap, ravdess, emodb, table, synthetic" in caught.value.hint


class TestPlaces:
    @pytest.fixture(autouse=True)
    def _here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("FEATSTORE_EMODB_ROOT", raising=False)

    def test_flag_then_environment_then_data(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def root_of(root: Path | None) -> Path:
            return load("emodb", root, CorpusSettings(classes=("anger", "fear"))).root

        for place in ("flag", "env", "data/emodb"):
            write_wav(tmp_path / place / "03a01Wa.wav")
            write_wav(tmp_path / place / "03a01Aa.wav")
        assert root_of(None) == Path("data/emodb")
        monkeypatch.setenv("FEATSTORE_EMODB_ROOT", str(tmp_path / "env"))
        assert root_of(None) == tmp_path / "env"
        assert root_of(tmp_path / "flag") == tmp_path / "flag"

    def test_missing_names_all_three_places_and_where_to_get_it(self) -> None:
        with pytest.raises(UserError) as caught:
            load("emodb", None, CorpusSettings())
        for place in ("--root (not given)", "FEATSTORE_EMODB_ROOT (not set)", "data/emodb"):
            assert place in caught.value.message
        assert caught.value.hint == CORPORA["emodb"].about

    def test_a_mistyped_root_never_ends_in_another_corpus(self, tmp_path: Path) -> None:
        (tmp_path / "data" / "emodb").mkdir(parents=True)
        with pytest.raises(UserError, match=r"--root \(nowhere\)"):
            load("emodb", Path("nowhere"), CorpusSettings())
