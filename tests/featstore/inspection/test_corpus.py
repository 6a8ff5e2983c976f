from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from featstore.core.config import CorpusSettings, FoldSettings
from featstore.core.schema import COLUMNS, FOUR_CLASSES, Fault, Manifest
from featstore.corpora import iemocap
from featstore.inspection.corpus import audit, durations, speaker_audit
from tests import STANDIN as CORPORA

STANDIN = CORPORA / "iemocap_standin"


def row(name: str, **fields: object) -> dict[str, object]:
    speaker = name[:5] + name.rpartition("_")[2][0]
    return {
        "utterance_id": name,
        "file": f"{name}.wav",
        "start_s": 0.0,
        "duration_s": 2.0,
        "speaker": speaker,
        "session": name[:5],
        "gender": "female" if speaker.endswith("F") else "male",
        "text": name,
        "kind": "scripted" if "script" in name else "improvised",
        "label": "ang",
        "label_raw": "ang",
    } | fields


def manifest(rows: list[dict[str, object]], root: Path = Path("nowhere")) -> Manifest:
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict(COLUMNS))
    return Manifest("iemocap", root, table, FOUR_CLASSES, (), {"xxx": 3})


def four_speakers() -> list[dict[str, object]]:
    """Two sessions, each person saying every class once, half of it in the other's dialogue."""
    return [
        row(f"Ses0{session}{'FM'[at % 2]}_impro01_{letter}{at:03d}", label=label)
        for session in (1, 2)
        for letter in "FM"
        for at, label in enumerate(FOUR_CLASSES)
    ]


class TestAudit:
    def test_counts_by_hand(self) -> None:
        seen = audit(manifest(four_speakers()), FoldSettings())
        assert seen["n_utterances"] == 16
        assert seen["classes"] == {"ang": 4, "hap": 4, "neu": 4, "sad": 4}
        assert seen["kinds"] == {"improvised": 16}
        assert seen["speakers"]["Ses01M"] == {
            "session": "Ses01",
            "gender": "male",
            "n": 4,
            "duration_s": 8.0,
            "classes": {"ang": 1, "hap": 1, "neu": 1, "sad": 1},
        }
        assert seen["fold_settings"]["validation"] == "partner"
        assert len(seen["folds"]) == 4
        first = seen["folds"][0]
        assert (first["fold"], first["test"], first["validation"]) == (1, ["Ses01F"], ["Ses01M"])
        sizes = [first[f"n_{role}"] for role in ("test", "validation", "train", "left_out")]
        assert sizes == [4, 4, 8, 0]
        assert first["train_classes"] == {"ang": 2, "hap": 2, "neu": 2, "sad": 2}
        assert seen["other_labels"] == {"xxx": 3}
        assert (seen["faults"], seen["excluded"], seen["buildable"]) == ([], {}, True)
        assert seen["n_faults"] == {"stop": 0, "exclude": 0, "warn": 0}
        assert first["text_overlap"]["share_scripted"] is None
        assert json.loads(json.dumps(seen, allow_nan=False)) == seen

    def test_overlap_is_added_up_over_the_folds(self) -> None:
        rows = four_speakers()
        rows[0]["text"] = "Hello!"  # Ses01F
        rows[8]["text"] = "hello"  # Ses02F
        seen = audit(manifest(rows), FoldSettings())
        assert [fold["text_overlap"]["n_shared"] for fold in seen["folds"]] == [1, 0, 1, 0]
        assert seen["text_overlap"]["n_test"] == 16
        assert seen["text_overlap"]["n_shared"] == 2
        assert seen["text_overlap"]["share"] == 0.125
        disjoint = audit(manifest(rows), FoldSettings(script_disjoint=True))
        assert disjoint["text_overlap"]["n_shared"] == 0
        # Folds 1 and 3 lose the other's line from training, folds 2 and 4 have it elsewhere.
        assert [fold["n_left_out"] for fold in disjoint["folds"]] == [1, 0, 1, 0]

    def test_durations_by_hand(self) -> None:
        table = pd.DataFrame({"duration_s": [1.0, 2.0, 3.0, 10.0]})
        assert durations(table) == pytest.approx(
            {
                "hours": 16 / 3600,
                "mean": 4.0,
                "median": 2.5,
                "min": 1.0,
                "p95": 3 + 0.85 * 7,
                "p99": 3 + 0.97 * 7,
                "max": 10.0,
            }
        )

    def test_faults_are_counted_by_severity(self) -> None:
        faults = (
            Fault("missing-audio", "a", "m", "r"),
            Fault("missing-audio", "b", "m", "r"),
            Fault("empty-text", "c", "m", "r", severity="warn"),
        )
        base = manifest(four_speakers())
        faulty = Manifest(base.name, base.root, base.utterances, base.classes, faults)
        plain = audit(faulty, FoldSettings())
        assert plain["n_faults"] == {"stop": 0, "exclude": 2, "warn": 1}
        assert plain["excluded"] == {"missing-audio": 2}
        assert plain["faults"][0]["file"] == "a"

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            ([row("Ses01F_impro01_F000"), row("Ses01F_impro01_F001")], "nobody can be held out"),
            ([row("Ses01F_impro01_F000"), row("Ses01F_impro01_M001")], "no speaker is left"),
        ],
    )
    def test_impossible_folds_are_a_fault_among_the_rest(
        self, rows: list[dict[str, object]], words: str
    ) -> None:
        seen = audit(manifest(rows), FoldSettings())
        assert [(fault["reason"], fault["severity"]) for fault in seen["faults"]] == [
            ("folds", "stop")
        ]
        assert words in seen["faults"][0]["message"]
        assert (seen["folds"], seen["n_utterances"], seen["buildable"]) == ([], 2, False)

    def test_class_that_only_one_speaker_has(self) -> None:
        rows = four_speakers()
        for at, one in enumerate(rows):
            one["label"] = "sad" if at == 0 else "ang"
        seen = audit(manifest(rows), FoldSettings())
        assert (
            seen["faults"][0]["message"]
            == "classes without a training utterance: fold 1: sad; fold 2: sad"
        )
        assert len(seen["folds"]) == 4

    def test_empty_corpus(self) -> None:
        plain = audit(manifest([]), FoldSettings())
        assert (plain["n_utterances"], plain["folds"], plain["durations"]) == (0, [], {})
        assert plain["speaker_audit"] is None


class TestSpeakerAudit:
    def test_by_hand(self) -> None:
        names = [
            "Ses01F_impro01_F000",
            "Ses01F_impro01_M000",
            "Ses01M_impro02_F000",
            "Ses01M_impro02_F001",
            "Ses01M_impro02_M000",
        ]
        assert speaker_audit(pd.DataFrame({"utterance_id": names})) == {
            "n": 5,
            "n_differ": 3,
            "share": 0.6,
            "speakers": {
                "Ses01F": {"n": 3, "n_differ": 2, "share_in_training": 2 / 3},
                "Ses01M": {"n": 2, "n_differ": 1, "share_in_training": 0.5},
            },
        }

    def test_other_corpora_have_none(self) -> None:
        table = pd.DataFrame({"utterance_id": ["Ses01F_impro01_F000", "03a01Fa"]})
        assert speaker_audit(table) is None

    def test_standin(self) -> None:
        if not STANDIN.is_dir():
            pytest.skip("the stand-in corpus is not on this machine")
        seen = audit(iemocap.read(STANDIN, CorpusSettings()), FoldSettings())
        assert seen["speaker_audit"] is not None
        assert seen["speaker_audit"]["n"] == 280
        # Read off the ids: the dialogue's letter against the turn's.
        names = iemocap.read(STANDIN, CorpusSettings()).utterances["utterance_id"]
        assert seen["speaker_audit"]["n_differ"] == sum(name[5] != name[-4] for name in names)
        assert [fold["n_train"] for fold in seen["folds"]] == [224] * 10
        assert seen["buildable"]
