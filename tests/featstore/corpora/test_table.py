from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featstore.core.config import CorpusSettings
from featstore.core.schema import COLUMNS, Fault, Manifest, UserError
from featstore.corpora import table
from tests.featstore.corpora.layouts import write_wav

HEADER = "file,speaker,label,text"
ROWS = ("a.wav,Ann,joy,Hello there", "b.wav,Bob,anger,Go away", "sub/c.wav,Ann,anger,No")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of one second at 8 kHz, and a table beside them."""
    for name in ("a.wav", "b.wav", "sub/c.wav"):
        write_wav(tmp_path / name, n_frames=8000, rate=8000)
    return write(tmp_path, HEADER, *ROWS)


def write(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    (folder / "table.csv").write_bytes("\n".join(lines).encode(encoding))
    return folder


def read(root: Path, **settings: object) -> Manifest:
    return table.read(root, CorpusSettings.model_validate(settings))


def only(manifest: Manifest) -> Fault:
    assert len(manifest.faults) == 1, manifest.faults
    return manifest.faults[0]


def test_folder_and_file_are_the_same_corpus(folder: Path) -> None:
    manifest = read(folder)
    assert manifest.utterances.equals(read(folder / "table.csv").utterances)
    assert {name: str(dtype) for name, dtype in manifest.utterances.dtypes.items()} == dict(COLUMNS)
    assert (manifest.root, manifest.faults, manifest.classes) == (folder, (), ("anger", "joy"))
    row = ("c", "sub/c.wav", 0.0, 1.0, "Ann", "", "", "No", "unknown", "anger", "anger")
    assert tuple(manifest.utterances.iloc[2]) == row


def test_our_own_columns_come_back(folder: Path) -> None:
    write(
        folder,
        "utterance_id,file,start_s,duration_s,speaker,session,gender,text,kind,label",
        "x.2,a.wav,0.25,0.5,1,s1,F,Two  words,scripted,joy",
        "x.1,b.wav,0,1,2,s1,male,One,improvised,anger",
    )
    rows = read(folder).utterances
    fields = ("1", "s1", "female", "Two words", "scripted", "joy", "joy")
    assert tuple(rows.iloc[1]) == ("x.2", "a.wav", 0.25, 0.5, *fields)
    assert list(rows["gender"]) == ["male", "female"]


@pytest.mark.parametrize("in_index", [True, False])
def test_audformat_segments_from_parquet(folder: Path, in_index: bool) -> None:
    (folder / "table.csv").unlink()
    frame = pd.DataFrame(
        {
            "file": ["a.wav", "a.wav", "b.wav"],
            "start": pd.to_timedelta([0.0, 0.5, 0.25], unit="s"),
            "end": pd.to_timedelta([0.5, np.nan, 0.75], unit="s"),
            "emotion": pd.Categorical(["joy", "anger", "joy"]),
            "speaker": [1, 1, 2],
        }
    )
    if in_index:
        frame = frame.set_index(["file", "start", "end"])
    frame.to_parquet(folder / "table.parquet")
    manifest = read(folder)
    rows = manifest.utterances
    assert list(rows["utterance_id"]) == ["a", "a_00000500", "b_00000250"]
    assert list(rows["start_s"]) == [0.0, 0.5, 0.25]
    assert list(rows["duration_s"]) == [0.5, 0.5, 0.5]
    assert list(rows["speaker"]) == ["1", "1", "2"]
    assert list(rows["label"]) == ["joy", "anger", "joy"]
    assert only(manifest).reason == "no-text"
    assert list(rows["text"]) == ["", "", ""]


def test_audformat_segments_from_csv(folder: Path) -> None:
    write(
        folder,
        "file,start,end,emotion,speaker,transcription",
        "a.wav,0 days 00:00:00.250000,0 days 00:00:00.750000,joy,1,Hi",
        "b.wav,0 days,,anger,2,Ho",
    )
    rows = read(folder).utterances
    assert list(rows["start_s"]) == [0.25, 0.0]
    assert list(rows["duration_s"]) == [0.5, 1.0]
    assert list(rows["text"]) == ["Hi", "Ho"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encodings_and_delimiters(folder: Path, encoding: str, delimiter: str) -> None:
    lines = [line.replace(",", delimiter) for line in (HEADER, *ROWS)]
    lines[1] = lines[1].replace("Hello there", "Grüße")
    write(folder, *lines, encoding=encoding)
    assert read(folder).utterances.iloc[0]["text"] == "Grüße"


def test_words_that_pandas_would_take_for_missing_stay_labels(folder: Path) -> None:
    write(folder, HEADER, "a.wav,NA,None,x", "b.wav,Bob,nan,null")
    rows = read(folder).utterances
    assert list(rows["speaker"]) == ["NA", "Bob"]
    assert list(rows["label"]) == ["None", "nan"]


class TestLabels:
    def test_map_and_classes(self, folder: Path) -> None:
        manifest = read(folder, label_map={"joy": "hap", "anger": "ang"}, classes=["hap", "ang"])
        assert manifest.classes == ("hap", "ang")
        assert list(manifest.utterances["label_raw"]) == ["joy", "anger", "anger"]

    def test_labels_beyond_the_list_are_counted(self, folder: Path) -> None:
        write(folder, HEADER, *ROWS, "a.wav,Ann,fear,x", "nowhere.wav,Ann,fear,x")
        manifest = read(folder, classes=["joy", "anger"])
        assert manifest.other_labels == {"fear": 2}
        assert manifest.excluded == {}

    def test_misspelt_map(self, folder: Path) -> None:
        manifest = read(folder, label_map={"joy": "a", "anger": "b", "angre": "b"})
        assert "angre" in only(manifest).message

    def test_class_that_does_not_occur(self, folder: Path) -> None:
        with pytest.raises(UserError, match="no raw label leads to fear"):
            read(folder, classes=["joy", "fear"])

    def test_a_numeric_column_is_no_label(self, folder: Path) -> None:
        write(folder, HEADER, *(f"a.wav,Ann,{at},x" for at in range(65)))
        with pytest.raises(UserError, match="65 different values"):
            read(folder)


class TestRowFaults:
    @pytest.mark.parametrize(
        ("row", "reason", "words"),
        [
            ("none.wav,Ann,joy,x,,,", "missing-audio", "none.wav"),
            (",Ann,joy,x,,,", "missing-audio", "no file"),
            ("../out.wav,Ann,joy,x,,,", "irregular-audio", "leads out"),
            ("/etc/passwd,Ann,joy,x,,,", "irregular-audio", "leads out"),
            (".,Ann,joy,x,,,", "irregular-audio", "a folder"),
            ("link.wav,Ann,joy,x,,,", "irregular-audio", "leads out"),
            ("table.csv,Ann,joy,x,,,", "unreadable-audio", "not audio"),
            ("a.wav,,joy,x,,,", "missing-speaker", "no speaker"),
            ("a.wav,A/B,joy,x,,,", "bad-speaker", "A/B"),
            ("a.wav,Ann,,x,,,", "missing-label", "no label"),
            ("a.wav,Ann,j\x1b[31moy,x,,,", "bad-label", "j\\x1b[31moy"),
            (f"a.wav,Ann,{'joy' * 22},x,,,", "bad-label", "joyjoy"),
            (f"a.wav,Ann,joy,{'x' * 200_000},,,", "oversized-text", "200000 characters"),
            ("a.wav,Ann,joy,x,../up,,", "bad-utterance_id", "../up"),
            ("a.wav,Ann,joy,x,,1.5,", "bad-times", "not after start"),
            ("a.wav,Ann,joy,x,,0.5,0.5", "bad-times", "not after start"),
            ("a.wav,Ann,joy,x,,-1,", "bad-times", "negative"),
            ("a.wav,Ann,joy,x,,0,1.2", "bad-times", "after the file's"),
            ("a.wav,Ann,joy,x,,soon,", "bad-times", "'soon' is no time"),
            ("a.wav,Ann,joy,x,,inf,", "bad-times", "inf"),
            ("a.wav,Ann,joy", "malformed-row", "3 fields"),
        ],
    )
    def test_each_is_found_by_row_and_line(
        self, folder: Path, row: str, reason: str, words: str
    ) -> None:
        write_wav(folder.parent / "out.wav")
        (folder / "link.wav").symlink_to("../out.wav")
        good = (f"{line},,," for line in ROWS)
        write(folder, f"{HEADER},utterance_id,start,end", *good, row)
        manifest = read(folder)
        fault = only(manifest)
        assert (fault.reason, fault.severity) == (reason, "exclude")
        assert fault.place == "table.csv:5"
        assert "row 4" in fault.message
        assert words in fault.message
        assert fault.remedy
        assert manifest.excluded == {reason: 1}
        assert len(manifest.utterances) == 3

    def test_a_folder_may_be_a_link_that_stays_inside(self, folder: Path) -> None:
        for place in (folder / "real", folder.parent / "elsewhere"):
            place.mkdir()
            write_wav(place / "x.wav")
        (folder / "in").symlink_to("real")
        (folder / "out").symlink_to("../elsewhere")
        write(folder, HEADER, *ROWS, "in/x.wav,Ann,joy,x", "out/x.wav,Ann,joy,x")
        manifest = read(folder)
        assert only(manifest).reason == "irregular-audio"
        assert "out/x.wav" in only(manifest).message
        assert "in/x.wav" in set(manifest.utterances["file"])

    def test_line_counts_lines_where_text_spans_several(self, folder: Path) -> None:
        write(folder, HEADER, 'a.wav,Ann,joy,"two\nlines"', "b.wav,Bob,anger,x", "no.wav,Bob,joy,x")
        manifest = read(folder)
        assert only(manifest).place == "table.csv:5"
        assert "row 3" in only(manifest).message
        assert manifest.utterances.iloc[0]["text"] == "two lines"

    def test_an_end_within_rounding_is_cut(self, folder: Path) -> None:
        write(folder, f"{HEADER},end", *(f"{line},1.04" for line in ROWS))
        assert set(read(folder).utterances["duration_s"]) == {1.0}

    def test_columns_are_told_once(self, folder: Path) -> None:
        rows = ("a.wav,Ann,joy,,x,acted", "b.wav,Bob,anger,,m,scripted")
        write(folder, f"{HEADER},gender,kind", *rows)
        manifest = read(folder)
        assert [(fault.reason, fault.severity) for fault in manifest.faults] == [
            ("no-text", "warn"),
            ("odd-gender", "warn"),
            ("odd-kind", "warn"),
        ]
        assert [fault.line for fault in manifest.faults] == [None, 2, 2]
        assert list(manifest.utterances["kind"]) == ["unknown", "scripted"]

    def test_texts_are_told_by_row(self, folder: Path) -> None:
        rows = (ROWS[0], "b.wav,Bob,anger,", ROWS[2].rpartition(",")[0] + ",a\x1b[2Jb")
        write(folder, HEADER, *rows)
        manifest = read(folder)
        assert [(fault.reason, fault.severity, fault.place) for fault in manifest.faults] == [
            ("empty-text", "warn", "table.csv:3"),
            ("control-characters", "warn", "table.csv:4"),
        ]
        assert list(manifest.utterances["text"])[1:] == ["", "a[2Jb"]

    def test_text_is_told_beside_what_excludes_the_row(self, folder: Path) -> None:
        write(folder, HEADER, *ROWS, "gone.wav,Bob,anger,a\x1bb")
        manifest = read(folder)
        assert {(fault.reason, fault.place) for fault in manifest.faults} == {
            ("missing-audio", "table.csv:5"),
            ("control-characters", "table.csv:5"),
        }

    def test_a_speaker_of_whom_nothing_is_usable_stops(self, folder: Path) -> None:
        write(folder, HEADER, *ROWS, "no.wav,Cy,joy,x", "none.wav,Cy,joy,x")
        manifest = read(folder)
        stops = [fault for fault in manifest.faults if fault.severity == "stop"]
        assert [(fault.reason, fault.place) for fault in stops] == [
            ("silent-speaker", "table.csv:5")
        ]
        assert "Cy" in stops[0].message
        assert manifest.excluded == {"missing-audio": 2}


class TestIds:
    def test_same_stem_in_two_folders_is_told_apart_whatever_the_order(self, folder: Path) -> None:
        write_wav(folder / "sub" / "a.wav")
        rows = [*ROWS, "sub/a.wav,Bob,joy,x"]
        write(folder, HEADER, *rows)
        first = read(folder).utterances
        write(folder, HEADER, *reversed(rows))
        assert first.equals(read(folder).utterances)
        assert first["utterance_id"].is_unique
        assert len(first) == 4

    def test_odd_stems_become_plain_ids(self, folder: Path) -> None:
        (folder / "a.wav").rename(folder / "ä b (1).wav")
        write(folder, HEADER, *ROWS[1:], "ä b (1).wav,Ann,joy,x")
        table = read(folder).utterances
        mark = hashlib.sha256("ä b (1).wav".encode()).hexdigest()[:8]
        assert list(table["utterance_id"]) == ["b", f"b_1_-{mark}", "c"]

    def test_two_like_rows_warn_and_two_unlike_stop(self, folder: Path) -> None:
        write(folder, HEADER, *ROWS, ROWS[0])
        assert (only(read(folder)).reason, only(read(folder)).severity) == ("duplicate-id", "warn")
        write(folder, HEADER, *ROWS, ROWS[0].replace("joy", "anger"))
        fault = only(read(folder))
        assert (fault.reason, fault.severity, fault.line) == ("conflicting-id", "stop", 5)

    @pytest.mark.parametrize("second", ["none.wav,Ann,anger,x,u", "c.wav,Bob,joy,x,u"])
    def test_one_id_with_two_labels_or_speakers_stops_usable_or_not(
        self, folder: Path, second: str
    ) -> None:
        write(folder, f"{HEADER},utterance_id", *(f"{line}," for line in ROWS),
              "a.wav,Ann,joy,x,u", second)  # fmt: skip
        stops = [fault for fault in read(folder).faults if fault.severity == "stop"]
        assert [(one.reason, one.line) for one in stops] == [("conflicting-label", 6)]


class TestUnreadable:
    def test_none_two_or_other(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no table here"):
            read(tmp_path)
        write(tmp_path, HEADER)
        (tmp_path / "table.parquet").touch()
        with pytest.raises(UserError, match="both tables"):
            read(tmp_path)
        with pytest.raises(UserError, match="neither a folder nor"):
            read(tmp_path / "table.xlsx")
        with pytest.raises(UserError, match="no such file"):
            read(tmp_path / "other.csv")

    @pytest.mark.parametrize(
        ("lines", "words"),
        [
            (("file,label", "a.wav,joy"), "no column speaker; found: file, label"),
            ((HEADER + ",file", *ROWS), "two columns of one name"),
            (("file,speaker,label,transcript,transcription", *ROWS), "two columns for one thing"),
            ((HEADER, 'a.wav,Ann,joy,"open'), "not CSV"),
            ((HEADER,), "no usable table utterance"),
            ((HEADER, ROWS[0]), "at least 2"),
            ((HEADER, "a.wav,Ann"), "row 1 has 2 fields"),
            (("",), "holds nothing"),
            ((HEADER, "x.wav,Ann,joy,x", "y.wav,Ann,anger,x"), "no usable table utterance"),
        ],
    )
    def test_csv(self, folder: Path, lines: tuple[str, ...], words: str) -> None:
        write(folder, *lines)
        with pytest.raises(UserError, match=words) as caught:
            read(folder)
        assert caught.value.hint

    def test_parquet(self, folder: Path) -> None:
        (folder / "other.parquet").write_bytes(b"PAR1 but no more")
        with pytest.raises(UserError, match="not a readable Parquet file"):
            read(folder / "other.parquet")

    def test_parquet_of_more_rows_than_are_read(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        frame = pd.DataFrame({"file": ["a.wav", "b.wav"], "speaker": "x", "label": ["u", "v"]})
        frame.to_parquet(folder / "other.parquet")
        assert len(read(folder / "other.parquet").utterances) == 2
        monkeypatch.setattr("featstore.corpora.table.MAX_ROWS", 1)
        with pytest.raises(UserError, match="2 rows where at most 1"):
            read(folder / "other.parquet")

    def test_table_that_is_a_pipe_or_leads_out(self, folder: Path) -> None:
        os.mkfifo(folder / "pipe.csv")
        with pytest.raises(UserError, match="a pipe"):
            read(folder / "pipe.csv")
        (folder / "sub" / "link.csv").symlink_to("../table.csv")
        with pytest.raises(UserError, match="leads out"):
            read(folder / "sub" / "link.csv")

    def test_kind_that_no_row_has(self, folder: Path) -> None:
        with pytest.raises(UserError, match="no usable") as caught:
            read(folder, kind="scripted")
        assert "corpus.kind" in caught.value.hint
