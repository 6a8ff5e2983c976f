from __future__ import annotations

import json
from pathlib import Path

import pytest

from featstore.core.config import CorpusSettings
from featstore.core.schema import FOUR_CLASSES, Fault, Manifest, UserError
from featstore.corpora import iemocap
from tests.featstore.corpora.layouts import (
    STANDIN,
    Said,
    write_corpus,
    write_dialogue,
    write_wav,
)

DEFAULT = CorpusSettings()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def read(root: Path, **settings: object) -> Manifest:
    return iemocap.read(root, CorpusSettings.model_validate(settings))


def faults(manifest: Manifest) -> list[Fault]:
    """All but the note that a small corpus is no full release."""
    return [fault for fault in manifest.faults if fault.reason != "count-differs"]


def only(manifest: Manifest) -> Fault:
    found = faults(manifest)
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(scope="module")
def standin() -> Manifest:
    root = STANDIN / "iemocap_standin"
    if not root.is_dir():
        pytest.skip("the stand-in corpus is not on this machine")
    return iemocap.read(root, DEFAULT)


class TestStandin:
    def test_every_speaker_and_class_agree_with_the_oracle(self, standin: Manifest) -> None:
        oracle = json.loads((STANDIN / "expected.json").read_text(encoding="utf-8"))
        merged = {"ang": "ang", "hap": "hap", "exc": "hap", "neu": "neu", "sad": "sad"}
        expected = {
            name: (one["speaker"], one["code"], merged[one["code"]])
            for name, one in oracle["utterances"].items()
            if one["code"] in merged
        }
        table = standin.utterances
        found = {
            row.utterance_id: (row.speaker, row.label_raw, row.label) for row in table.itertuples()
        }
        assert len(expected) == 280
        assert found == expected
        for speaker, counts in oracle["per_speaker"].items():
            rows = table[table["speaker"] == speaker]
            assert len(rows) == counts.pop("total") == 28
            assert rows["label"].value_counts().to_dict() == counts

    def test_only_the_incompleteness_is_told(self, standin: Manifest) -> None:
        assert [(fault.reason, fault.severity) for fault in standin.faults] == [
            ("count-differs", "warn")
        ]
        assert "15 of 151 dialogues" in standin.faults[0].message
        assert standin.other_labels == {"dis": 80, "fea": 80, "sur": 80, "xxx": 80}

    def test_texts_of_the_crlf_dialogue_are_clean(self, standin: Manifest) -> None:
        assert not standin.utterances["text"].str.contains(r"[\r\n\[\]]|^$").any()


class TestLabels:
    def test_own_map_and_classes(self, corpus: Path) -> None:
        manifest = read(corpus, label_map={"ang": "bad", "sad": "bad", "hap": "good"})
        assert manifest.classes == ("bad", "good")
        assert manifest.utterances["label"].value_counts().to_dict() == {"bad": 20, "good": 10}
        assert manifest.other_labels == {"exc": 10, "neu": 10, "xxx": 10}

    def test_classes_part_what_the_default_merges(self, corpus: Path) -> None:
        manifest = read(corpus, classes=["neu", "hap", "exc"])
        assert manifest.classes == ("neu", "hap", "exc")
        table = manifest.utterances
        assert (table["label"] == table["label_raw"]).all()
        assert len(table) == 30

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"label_map": {"anger": "ang", "sad": "sad"}}, "no such raw label: anger"),
            ({"classes": ["ang", "joy"]}, "no raw label leads to joy"),
            ({"classes": ["ang"]}, "at least 2"),
            ({"classes": ["ang", "ang"]}, "doubles"),
            ({"label_map": {"ang": "x", "sad": "x"}}, "at least 2"),
        ],
    )
    def test_senseless_settings(
        self, corpus: Path, settings: dict[str, object], words: str
    ) -> None:
        with pytest.raises(UserError, match=words):
            read(corpus, **settings)

    def test_class_that_nobody_speaks_stops(self, corpus: Path) -> None:
        fault = only(read(corpus, classes=["ang", "sad", "fru"]))
        assert (fault.reason, fault.severity) == ("empty-class", "stop")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """151 dialogues with the published counts; all wavs are one file."""
    root = tmp_path_factory.mktemp("release")
    wav = root / "one.wav"
    write_wav(wav)
    for number in range(1, 6):
        n = 31 if number == 1 else 30
        dialogues = [f"Ses0{number}F_impro{at:02d}" for at in range(n)]
        said: dict[str, list[Said]] = {dialogue: [] for dialogue in dialogues}
        for letter in "FM":
            counts = iemocap.TABLE[f"Ses0{number}{letter}"]
            codes = [
                code for code, count in zip(FOUR_CLASSES, counts, strict=True) for _ in range(count)
            ]
            for at, code in enumerate(codes):
                dialogue = dialogues[at % n]
                name = f"{dialogue}_{letter}{at // n:03d}"
                said[dialogue].append(Said(name, code))
        for dialogue, turns in said.items():
            write_dialogue(root, dialogue, turns, wav)
    return root


class TestCounts:
    def test_table_adds_up_to_the_published_totals(self) -> None:
        columns = [sum(column) for column in zip(*iemocap.TABLE.values(), strict=True)]
        assert columns == [1103, 1636, 1708, 1084]
        assert sum(columns) == sum(iemocap.KIND_TOTALS.values()) == 5531
        rows = [sum(row) for row in iemocap.TABLE.values()]
        assert rows == [528, 557, 481, 542, 522, 629, 528, 503, 590, 651]

    def test_full_release_raises_no_warning(self, release: Path) -> None:
        manifest = iemocap.read(release, DEFAULT)
        assert manifest.faults == ()
        assert len(manifest.utterances) == 5531

    def test_differing_rows_are_shown_with_both_values(self, release: Path) -> None:
        wav = next((release / "Session3" / "sentences" / "wav").rglob("*_F000.wav"))
        moved = wav.rename(wav.with_suffix(".away"))
        try:
            messages = [
                fault.message
                for fault in iemocap.read(release, DEFAULT).faults
                if fault.reason == "count-differs"
            ]
        finally:
            moved.rename(wav)
        assert messages == [
            "Ses03F: ang 91, hap 128, neu 130, sad 172 (all 521); published are "
            "ang 92, hap 128, neu 130, sad 172 (all 522)",
            "all speakers: 5530 utterances; published are 5531",
        ]

    def test_own_labels_and_the_layout_reader_are_not_compared(self, release: Path) -> None:
        merged = {"ang": "a", "hap": "b"}
        settings = CorpusSettings(label_map=merged)
        assert iemocap.read(release, settings).faults == ()
        settings = CorpusSettings(kind="improvised")
        assert iemocap.read_layout(release, settings, name="other").faults == ()
        assert [fault.message for fault in iemocap.read(release, settings).faults] == [
            "improvised: 5531 utterances, published are 2943"
        ]


def test_layout_reader_keeps_the_name(corpus: Path) -> None:
    manifest = iemocap.read_layout(corpus, DEFAULT, name="synthetic")
    assert (manifest.name, manifest.faults) == ("synthetic", ())
