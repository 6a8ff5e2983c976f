"""RAVDESS and EmoDB: corpora whose file names say everything."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from featstore.core.config import CorpusSettings
from featstore.core.schema import COLUMNS, Manifest, UserError
from featstore.corpora.acted import EMODB, RAVDESS
from tests.featstore.corpora.layouts import write_wav

DEFAULT = CorpusSettings()


def reasons(manifest: Manifest, but: tuple[str, ...] = ("count-differs",)) -> list[str]:
    return [fault.reason for fault in manifest.faults if fault.reason not in but]


class TestRavdess:
    @pytest.fixture
    def corpus(self, tmp_path: Path) -> Path:
        """Two actors, one file of each emotion, in mono and stereo at 48 kHz."""
        for actor in (1, 2):
            for emotion in range(1, 9):
                name = f"03-01-{emotion:02}-01-{actor:02}-01-{actor:02}.wav"
                path = tmp_path / f"Actor_{actor:02}" / name
                write_wav(path, n_frames=4800, rate=48000, channels=actor)
        return tmp_path

    def test_grammar(self, corpus: Path) -> None:
        manifest = RAVDESS.read(corpus, DEFAULT)
        table = manifest.utterances
        assert {name: str(dtype) for name, dtype in table.dtypes.items()} == dict(COLUMNS)
        assert manifest.classes == tuple(RAVDESS.emotions.values())
        assert len(table) == 16
        row = table.set_index("utterance_id").loc["03-01-08-01-02-01-02"]
        sentence = "Dogs are sitting by the door"
        assert tuple(row) == (
            *("Actor_02/03-01-08-01-02-01-02.wav", 0.0, 0.1, "actor02", "", "female"),
            *(sentence, "scripted", "surprised", "surprised"),
        )
        assert set(table["gender"][table["speaker"] == "actor01"]) == {"male"}
        assert reasons(manifest) == []

    def test_missing_actors_are_told(self, corpus: Path) -> None:
        messages = [fault.message for fault in RAVDESS.read(corpus, DEFAULT).faults]
        assert len(messages) == 24
        assert messages[0] == "speaker actor01: 8 utterances; published are 60"
        assert messages[-1] == "speaker actor24: 0 utterances; published are 60"

    def test_flat_and_nested_are_the_same(self, corpus: Path, tmp_path: Path) -> None:
        before = RAVDESS.read(corpus, DEFAULT).utterances.drop(columns="file")
        nested = tmp_path / "Audio_Speech_Actors_01-24"
        nested.mkdir()
        for actor in ("Actor_01", "Actor_02"):
            (corpus / actor).rename(nested / actor)
        assert RAVDESS.read(corpus, DEFAULT).utterances.drop(columns="file").equals(before)
        for wav in nested.rglob("*.wav"):
            wav.rename(corpus / wav.name)
        assert RAVDESS.read(corpus, DEFAULT).utterances.drop(columns="file").equals(before)

    def test_other_modalities_are_counted_not_read(self, corpus: Path) -> None:
        for name in ("03-02-03-01-01-01-01.wav", "01-01-03-01-01-01-01.mp4"):
            (corpus / "Actor_01" / name).touch()
        (corpus / "Actor_01" / "02-01-03-01-01-01-01.mp4").touch()
        (corpus / "Actor_01" / "02-01-04-01-01-01-01.mp4").touch()
        manifest = RAVDESS.read(corpus, DEFAULT)
        skipped = [fault.message for fault in manifest.faults if fault.reason == "skipped"]
        assert skipped == [
            "1 files skipped: song, audio only",
            "1 files skipped: speech, full audio-visual",
            "2 files skipped: speech, video only",
        ]
        assert manifest.excluded == {}

    @pytest.mark.parametrize(
        "name",
        [
            *("03-01-09-01-01-01-01.wav", "03-01-05-03-01-01-01.wav", "03-01-05-01-01-01-25.wav"),
            *("03-01-05-01-01-01.wav", "3-1-5-1-1-1-1.wav", "03-01-05-01-01-01-01 (1).wav"),
        ],
    )
    def test_names_beyond_the_grammar(self, corpus: Path, name: str) -> None:
        write_wav(corpus / name)
        (corpus / "README.txt").write_text("no audio, no fault")
        manifest = RAVDESS.read(corpus, DEFAULT)
        assert manifest.excluded == {"bad-name": 1}
        assert [fault.file for fault in manifest.faults if fault.reason == "bad-name"] == [name]

    def test_a_second_copy_is_told_and_the_shallow_one_used(self, corpus: Path) -> None:
        shutil.copytree(corpus / "Actor_01", corpus / "archive" / "Actor_01")
        manifest = RAVDESS.read(corpus, DEFAULT)
        assert reasons(manifest) == ["duplicate-id"] * 8
        assert all(file.startswith("Actor_") for file in manifest.utterances["file"])
        assert len(manifest.utterances) == 16

    def test_broken_files_are_faults(self, corpus: Path) -> None:
        folder = corpus / "Actor_01"
        (folder / "03-01-05-01-01-01-01.wav").write_bytes(b"")
        (folder / "03-01-06-01-01-01-01.wav").unlink()
        os.mkfifo(folder / "03-01-06-01-01-01-01.wav")
        (corpus / "Actor_03").symlink_to("/")
        manifest = RAVDESS.read(corpus, DEFAULT)
        assert manifest.excluded == {"empty-audio": 1, "irregular-audio": 1}
        assert "silent-speaker" not in reasons(manifest)
        assert [fault.file for fault in manifest.faults if fault.reason == "irregular-entry"] == [
            "Actor_03"
        ]

    def test_an_actor_of_whom_no_file_can_be_used_stops(self, corpus: Path) -> None:
        for path in (corpus / "Actor_01").iterdir():
            path.write_bytes(b"")
        stops = [
            fault for fault in RAVDESS.read(corpus, DEFAULT).faults if fault.severity == "stop"
        ]
        assert [fault.reason for fault in stops] == ["silent-speaker"]

    def test_label_map_by_name(self, corpus: Path) -> None:
        four = {"angry": "ang", "happy": "hap", "neutral": "neu", "calm": "neu", "sad": "sad"}
        manifest = RAVDESS.read(corpus, CorpusSettings(label_map=four))
        assert manifest.classes == ("ang", "hap", "neu", "sad")
        assert manifest.utterances["label"].value_counts()["neu"] == 4
        assert manifest.other_labels == {"disgust": 2, "fearful": 2, "surprised": 2}
        assert manifest.faults == ()

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no usable ravdess utterance"):
            RAVDESS.read(tmp_path, DEFAULT)
        with pytest.raises(UserError, match="no such file"):
            RAVDESS.read(tmp_path / "nowhere", DEFAULT)

    def test_acted_sentences_are_not_improvised(self, corpus: Path) -> None:
        with pytest.raises(UserError, match="no usable"):
            RAVDESS.read(corpus, CorpusSettings(kind="improvised"))
        assert len(RAVDESS.read(corpus, CorpusSettings(kind="scripted")).utterances) == 16


class TestEmodb:
    @pytest.fixture
    def corpus(self, tmp_path: Path) -> Path:
        for speaker in ("03", "16"):
            for letter in EMODB.emotions:
                write_wav(tmp_path / "wav" / f"{speaker}b02{letter}a.wav")
        return tmp_path

    def test_grammar(self, corpus: Path) -> None:
        manifest = EMODB.read(corpus, DEFAULT)
        names = "anger boredom disgust fear happiness neutral sadness"
        assert manifest.classes == tuple(names.split())
        row = manifest.utterances.set_index("utterance_id").loc["16b02La"]
        sentence = "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter."
        assert tuple(row) == (
            *("wav/16b02La.wav", 0.0, 0.1, "16", "", "female"),
            *(sentence, "scripted", "boredom", "boredom"),
        )
        assert [fault.message for fault in manifest.faults] == ["14 utterances; published are 535"]

    @pytest.mark.parametrize("name", ["04a01Fa.wav", "03a03Fa.wav", "03a01Xa.wav", "03A01Fa.wav"])
    def test_names_beyond_the_grammar(self, corpus: Path, name: str) -> None:
        write_wav(corpus / "wav" / name)
        assert EMODB.read(corpus, DEFAULT).excluded == {"bad-name": 1}

    def test_five_women_and_five_men(self) -> None:
        assert sorted(EMODB.genders.values()) == ["female"] * 5 + ["male"] * 5
        assert len(EMODB.sentences) == 10

    def test_class_without_utterance_stops(self, corpus: Path) -> None:
        for wav in corpus.rglob("*La.wav"):
            wav.unlink()
        stops = [one for one in EMODB.read(corpus, DEFAULT).faults if one.severity == "stop"]
        assert [one.message for one in stops] == ["class boredom has no usable utterance"]
