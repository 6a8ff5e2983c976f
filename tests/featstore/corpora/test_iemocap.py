from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.core.config import CorpusSettings
from featstore.core.schema import COLUMNS, FOUR_CLASSES, Fault, Manifest, UserError
from featstore.corpora import iemocap
from featstore.corpora.iemocap import UTTERANCE, Turn, parse_transcript, parse_turns, speaker_of
from tests.featstore.corpora.layouts import (
    STANDIN,
    Said,
    label_file,
    transcript_file,
    wav_file,
    write_corpus,
    write_dialogue,
    write_wav,
)

DEFAULT = CorpusSettings()
NAME = "Ses01F_impro01_M003"  # neu


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def read(root: Path, **settings: object) -> Manifest:
    return iemocap.read(root, CorpusSettings.model_validate(settings))


def faults(manifest: Manifest) -> list[Fault]:
    """All but the note that a small corpus is no full release."""
    return [fault for fault in manifest.faults if fault.reason != "count-differs"]


def only(manifest: Manifest) -> Fault:
    (fault,) = faults(manifest)
    return fault


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "\n" + line + "\n", encoding="utf-8")


def drop_line(path: Path, name: str) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join(line for line in lines if name not in line), encoding="utf-8")


def test_manifest_has_the_schema_and_the_right_speaker(corpus: Path) -> None:
    manifest = read(corpus)
    table = manifest.utterances
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == dict(COLUMNS)
    assert list(table.columns) == list(COLUMNS)
    assert list(table.index) == list(range(50))
    assert list(table["utterance_id"]) == sorted(table["utterance_id"])
    assert manifest.classes == FOUR_CLASSES
    assert tuple(table.set_index("utterance_id").loc[NAME]) == (
        *(f"Session1/sentences/wav/Ses01F_impro01/{NAME}.wav", 0.0, 0.1, "Ses01M", "Ses01"),
        *("male", "Number 3, M!", "improvised", "neu", "neu"),
    )
    assert manifest.other_labels == {"xxx": 10}
    assert faults(manifest) == []


@pytest.mark.parametrize("up", [0, 1])
def test_root_is_found_up_to_two_levels_above_session1(corpus: Path, up: int) -> None:
    root = corpus if up == 0 else corpus.parent
    assert read(root).root == corpus


def test_no_session_and_two_corpora_are_user_errors(corpus: Path) -> None:
    with pytest.raises(UserError, match="no Session1"):
        read(corpus / "Session1" / "dialog")
    shutil.copytree(corpus, corpus.parent / "other")
    with pytest.raises(UserError, match="several folders"):
        read(corpus.parent)
    with pytest.raises(UserError, match="no such file"):
        read(corpus / "nowhere")
    with pytest.raises(UserError, match="a file where a folder"):
        read(label_file(corpus))


@pytest.mark.parametrize(
    ("dialogue", "kind"),
    [
        ("Ses03M_impro05a", "improvised"),
        ("Ses03M_impro08b", "improvised"),
        ("Ses05M_script01_1b", "scripted"),
        ("Ses05F_script03_2", "scripted"),
    ],
)
def test_suffix_dialogues_and_kinds(corpus: Path, dialogue: str, kind: str) -> None:
    name = f"{dialogue}_F000"
    write_dialogue(corpus, dialogue, [Said(name, "sad")])
    assert read(corpus).utterances.set_index("utterance_id").loc[name, "kind"] == kind
    others = {"scripted", "improvised"} - {kind}
    assert name not in set(read(corpus, kind=others.pop()).utterances["utterance_id"])


def test_dot_files_and_subfolders_are_never_read(corpus: Path) -> None:
    evaluations = label_file(corpus).parent
    (evaluations / "._Ses01F_impro01.txt").write_bytes(b"\x00\x05\x16\x07[\xff")
    (evaluations / ".hidden.txt").write_text(f"[0.0 - 1.0]\t{NAME}\tsad\t[1, 1, 1]")
    (evaluations / "Categorical").mkdir()
    (evaluations / "Categorical" / "x.txt").write_text(f"[0.0 - 1.0]\t{NAME}\tsad\t[1, 1, 1]")
    manifest = read(corpus)
    assert faults(manifest) == []
    assert len(manifest.utterances) == 50


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_bom_crlf_and_latin1(corpus: Path, encoding: str) -> None:
    for path in (label_file(corpus), transcript_file(corpus)):
        text = path.read_text(encoding="utf-8").replace(
            "Number 3, M!", "Voilà Zoë,  [LAUGHTER] hm."
        )
        path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    manifest = read(corpus)
    row = manifest.utterances.set_index("utterance_id").loc[NAME]
    assert row["text"] == "Voilà Zoë, hm."
    assert len(manifest.utterances) == 50


def test_no_utterances_are_passed_over(corpus: Path) -> None:
    append(label_file(corpus), "[0.0 - 1.0]\tSes01F_impro01_MXX0\tneu\t[1, 1, 1]")
    append(transcript_file(corpus), "Ses01F_impro01_FXX0 [000.0-001.0]: [LAUGHTER]\nM: Mmhmm.")
    assert faults(read(corpus)) == []
    assert len(read(corpus).utterances) == 50


class TestAudioFaults:
    @pytest.mark.parametrize("damage", ["missing", "empty"])
    def test_each_is_found_counted_and_explained(self, corpus: Path, damage: str) -> None:
        wav = wav_file(corpus, NAME)
        wav.unlink()
        if damage == "empty":
            wav.touch()
        manifest = read(corpus)
        fault = only(manifest)
        assert (fault.reason, fault.severity) == (f"{damage}-audio", "exclude")
        assert fault.utterance_id == NAME
        assert fault.file == f"Session1/sentences/wav/Ses01F_impro01/{NAME}.wav"
        assert fault.remedy
        assert manifest.excluded == {f"{damage}-audio": 1}
        assert len(manifest.utterances) == 49

    def test_a_link_that_stays_below_the_root_is_followed(self, corpus: Path) -> None:
        wav = wav_file(corpus, NAME)
        kept = corpus / "kept.wav"
        wav.rename(kept)
        wav.symlink_to(kept)
        assert faults(read(corpus)) == []

    def test_a_folder_of_wavs_that_leads_out_is_not_followed(self, corpus: Path) -> None:
        folder = wav_file(corpus, NAME).parent
        moved = corpus.parent / "moved"
        folder.rename(moved)
        folder.symlink_to(moved)
        manifest = read(corpus)
        assert manifest.excluded == {"irregular-audio": 10}
        assert {fault.file for fault in faults(manifest) if fault.severity == "stop"} == {
            "Session1"
        }

    def test_a_turn_without_audio_and_words_is_excluded_once(self, corpus: Path) -> None:
        wav_file(corpus, NAME).unlink()
        path = transcript_file(corpus)
        drop_line(path, NAME)
        assert read(corpus).excluded == {"missing-audio": 1}


class TestTextFaults:
    def test_missing_line(self, corpus: Path) -> None:
        path = transcript_file(corpus)
        drop_line(path, NAME)
        fault = only(read(corpus))
        assert (fault.reason, fault.severity, fault.utterance_id) == (
            "missing-transcript",
            "exclude",
            NAME,
        )
        assert fault.file == "Session1/dialog/transcriptions/Ses01F_impro01.txt"

    @pytest.mark.parametrize("damage", ["missing", "empty"])
    def test_missing_file_excludes_each_of_its_turns(self, corpus: Path, damage: str) -> None:
        path = transcript_file(corpus)
        path.unlink()
        if damage == "empty":
            path.touch()
        assert read(corpus).excluded == {f"{damage}-transcript": 10}

    def test_tags_only_is_kept_with_a_warning_and_its_line(self, corpus: Path) -> None:
        path = transcript_file(corpus)
        path.write_text(path.read_text().replace("Number 3, M!", "[LAUGHTER] [BREATHING]"))
        manifest = read(corpus)
        fault = only(manifest)
        assert (fault.reason, fault.severity, fault.line) == ("empty-text", "warn", 8)
        assert manifest.utterances.set_index("utterance_id").loc[NAME, "text"] == ""

    @pytest.mark.parametrize(
        ("words", "reason", "kept"),
        [
            ("a\0b\x1b[2J\u202ec", "control-characters", "ab[2Jc"),
            ("word " * 20_001, "oversized-text", None),
            ("[" * 100_001, "oversized-text", None),
        ],
    )
    def test_text_that_is_none(
        self, corpus: Path, words: str, reason: str, kept: str | None
    ) -> None:
        path = transcript_file(corpus)
        path.write_text(path.read_text().replace("Number 3, M!", words))
        manifest = read(corpus)
        fault = only(manifest)
        assert (fault.reason, fault.line) == (reason, 8)
        assert fault.severity == ("warn" if kept else "exclude")
        texts = manifest.utterances.set_index("utterance_id")["text"]
        assert texts.get(NAME) == kept

    def test_second_other_line_is_told_and_the_first_used(self, corpus: Path) -> None:
        append(transcript_file(corpus), f"{NAME} [000.0-001.0]: Something else.")
        manifest = read(corpus)
        assert only(manifest).reason == "duplicate-transcript"
        assert manifest.utterances.set_index("utterance_id").loc[NAME, "text"] == "Number 3, M!"


class TestLabelFaults:
    @pytest.mark.parametrize(
        ("line", "reason", "severity"),
        [
            (f"[0.0 - 1.0]\t{NAME}\tneu\t[1, 1, 1]", "duplicate-id", "warn"),
            (f"[0.0 - 1.0]\t{NAME}\tsad\t[1, 1, 1]", "conflicting-label", "stop"),
            ("[0.0 - 1.0]\tSes01F_impro01_M099\tjoy\t[1, 1, 1]", "unknown-label", "exclude"),
            ("[2.0 - 1.0]\tSes01F_impro01_M099\tneu\t[1, 1, 1]", "bad-times", "exclude"),
            ("[1.0 - 1.0]\tSes01F_impro01_M099\tneu\t[1, 1, 1]", "bad-times", "exclude"),
            ("[0.0 - 1.0]\tSes06F_impro01_M000\tneu\t[1, 1, 1]", "bad-id", "exclude"),
            ("[0.0 - 1.0]\tSes01F_impro01_M00\tneu\t[1, 1, 1]", "bad-id", "exclude"),
            ("[0.0 - 1.0]\tSes01F_impro01_M\u0663\u0663\u0663\tneu\t[1]", "bad-id", "exclude"),
            ("[0.0 - 1.0]\t../../etc/passwd\tneu\t[1, 1, 1]", "bad-id", "exclude"),
            ("[0.0 - 1.0]\tSes02F_impro01_M099\tneu\t[1, 1, 1]", "wrong-session", "exclude"),
            ("[0.0 - x]\tSes01F_impro01_M099\tneu\t[1, 1, 1]", "malformed-line", "exclude"),
            ("[0.0 - 1.0]", "malformed-line", "exclude"),
        ],
    )
    def test_each_is_found_with_its_line(
        self, corpus: Path, line: str, reason: str, severity: str
    ) -> None:
        append(label_file(corpus), line)
        manifest = read(corpus)
        fault = only(manifest)
        assert (fault.reason, fault.severity) == (reason, severity)
        text = label_file(corpus).read_text(encoding="utf-8").split("\n")
        assert fault.place == f"Session1/dialog/EmoEvaluation/Ses01F_impro01.txt:{len(text) - 1}"
        assert fault.remedy
        assert len(manifest.utterances) == 50

    def test_a_copy_of_a_label_file_is_seen_as_doubles(self, corpus: Path) -> None:
        path = label_file(corpus)
        shutil.copy(path, path.with_name("Ses01F_impro01_copy.txt"))
        manifest = read(corpus)
        assert {fault.reason for fault in faults(manifest)} == {"duplicate-id"}
        assert len(manifest.utterances) == 50

    def test_escapes_in_a_label_file_are_shown_as_text(self, corpus: Path) -> None:
        append(label_file(corpus), "[0.0 - 1.0]\tSes\x1b[31m\tneu\t[1, 1, 1]")
        fault = only(read(corpus))
        assert "\x1b" not in fault.message + fault.utterance_id
        assert "\\x1b" in fault.message

    def test_missing_label_file_excludes_its_dialogue(self, corpus: Path) -> None:
        write_dialogue(corpus, "Ses01M_impro02", [Said("Ses01M_impro02_F000", "neu")])
        (label_file(corpus).parent / "Ses01M_impro02.txt").unlink()
        fault = only(read(corpus))
        assert (fault.reason, fault.severity) == ("unlabelled-dialogue", "exclude")
        assert "(1 turns)" in fault.message
        assert fault.file == "Session1/dialog/EmoEvaluation/Ses01M_impro02.txt"

    @pytest.mark.parametrize("damage", ["missing", "nul", "cut"])
    def test_a_turn_without_its_summary_line_is_not_lost_unseen(
        self, corpus: Path, damage: str
    ) -> None:
        path = label_file(corpus)
        if damage == "missing":
            drop_line(path, NAME)
        else:
            cut = NAME if damage == "cut" else "\0["
            text = path.read_text()
            at = (
                text.index(f"{NAME}\t") if damage == "cut" else text[: text.index(NAME)].rindex("[")
            )
            path.write_text(text[:at] + cut + text[text.index("\n", at) :])
        fault = only(read(corpus))
        assert fault.reason == ("malformed-line" if damage == "cut" else "unlabelled-turn")
        assert (fault.severity, fault.utterance_id) == ("exclude", NAME)

    def test_label_file_that_is_a_pipe_is_not_opened(self, corpus: Path) -> None:
        os.mkfifo(label_file(corpus).with_name("Ses01M_impro02.txt"))
        assert only(read(corpus)).reason == "irregular-labels"

    def test_label_file_without_turns(self, corpus: Path) -> None:
        label_file(corpus).with_name("notes.txt").write_text("nothing of use\n")
        assert only(read(corpus)).reason == "empty-labels"


class TestStops:
    def test_missing_session(self, corpus: Path) -> None:
        shutil.rmtree(corpus / "Session4")
        fault = only(read(corpus))
        assert (fault.reason, fault.severity, fault.file) == ("missing-session", "stop", "Session4")

    def test_speaker_without_usable_turn(self, corpus: Path) -> None:
        for wav in (corpus / "Session2").rglob("*_M00?.wav"):
            wav.unlink()
        stops = [fault for fault in faults(read(corpus)) if fault.severity == "stop"]
        assert [(one.reason, one.file) for one in stops] == [("silent-speaker", "Session2")]
        assert "Ses02M" in stops[0].message

    def test_missing_label_folder(self, corpus: Path) -> None:
        shutil.rmtree(label_file(corpus, 3).parent)
        stops = [fault.reason for fault in faults(read(corpus)) if fault.severity == "stop"]
        assert stops == ["missing-labels", "silent-speaker", "silent-speaker"]


def test_faults_of_every_sort_are_found_in_one_pass(corpus: Path) -> None:
    wav_file(corpus, NAME).unlink()
    append(label_file(corpus, 2), "[0.0 - 1.0]\tSes02F_impro01_M099\tjoy\t[1, 1, 1]")
    transcript_file(corpus, 3).unlink()
    shutil.rmtree(corpus / "Session4")
    reasons = {fault.reason for fault in faults(read(corpus))}
    assert reasons == {
        "missing-audio",
        "unknown-label",
        "missing-transcript",
        "missing-session",
        "silent-speaker",
    }


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

    def test_own_labels_and_other_corpora_are_not_compared(self, release: Path) -> None:
        assert read(release, label_map={"ang": "a", "hap": "b"}).faults == ()
        settings = CorpusSettings(kind="improvised")
        assert iemocap.read(release, settings, name="other").faults == ()
        assert [fault.message for fault in iemocap.read(release, settings).faults] == [
            "improvised: 5531 utterances, published are 2943"
        ]


# grammar

IDS = st.from_regex(
    r"Ses0[1-5][FM]_(impro[0-9][0-9][ab]?|script[0-9][0-9]_[0-9][ab]?)_[FM][0-9]{3}", fullmatch=True
)


@given(IDS, st.sampled_from(["ang", "xxx"]), st.integers(0, 10**6), st.integers(1, 10**5))
def test_every_turn_that_is_written_is_read(name: str, code: str, start: int, length: int) -> None:
    begin, end = start / 10_000, (start + length) / 10_000
    line = f"[{begin:.4f} - {end:.4f}]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]"
    turns, faults = parse_turns(f"% header\n\n{line}\nC-E2:\tAnger;\t()\n", "f.txt", name[:5])
    assert faults == []
    assert turns == [Turn(name, code, "f.txt", 3)]
    last = name.split("_")[-1]
    assert speaker_of(name) == name[:5] + last[0]
    assert turns[0].kind == ("scripted" if "script" in name else "improvised")
    assert f"{turns[0].dialogue}_{last}" == name


@given(st.text(alphabet="[] -.0123456789\tSes01FM_impro\n\r:\x85\u2028\x00", max_size=200))
def test_no_text_whatever_raises(text: str) -> None:
    turns, _ = parse_turns(text, "f.txt", "Ses01")
    assert all(UTTERANCE.match(turn.utterance_id) for turn in turns)
    parse_transcript(text, "f.txt")


@pytest.mark.parametrize(
    "name",
    ["Ses06F_impro01_F000", "Ses01X_impro01_F000", "Ses01F_impro1_F000", "Ses01F_impro01c_F000",
     "Ses01F_script01_F000", "Ses01F_impro01_F00", "Ses01F_impro01_F0000", "Ses01F_impro01_MXX0",
     "Ses01F_impro01_F000\n", "._Ses01F_impro01_F000", "Ses01F_impro01_F00\u0660"],
)  # fmt: skip
def test_no_ids(name: str) -> None:
    assert not UTTERANCE.match(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[LAUGHTER]", ""),
        ("Oh [BREATHING] no: yes.", "Oh no: yes."),
        ("[A][B] a  b\t[C]", "a b"),
        ("half [open", "half [open"),
        ("[LAUGHTER [more", "[LAUGHTER [more"),
    ],
)
def test_tags_are_no_words(text: str, expected: str) -> None:
    lines, _ = parse_transcript(f"\nSes01F_impro01_F001 [014.1411-018.0116]: {text}\n", "f.txt")
    words, line = lines["Ses01F_impro01_F001"]
    assert (" ".join(words.split()), line) == (expected, 2)


def test_untimed_lines_and_other_ids_are_no_utterances() -> None:
    text = "M: Mmhmm.\nSes01F_impro01_F000 Hello.\nSes01F_impro01_MXX0 [014.1411-018.0116]: Oh.\n"
    assert parse_transcript(text, "f.txt") == ({}, [])


@pytest.mark.timeout(20)
def test_no_line_takes_more_than_linear_time() -> None:
    """A hundred thousand times as much would take hours if each character meant another pass."""
    n = 2_000_000
    for text in ("[" * n, "[1" * n, "1" * n, "[" + "1" * n, "[ " * n, "[]" * n, " " * n + "x"):
        parse_turns(f"[{text}", "a.txt", "Ses01")
        parse_transcript(f"Ses01F_impro01_F000 {text}", "a.txt")
        parse_transcript(text, "a.txt")
