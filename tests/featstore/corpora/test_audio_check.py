from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from featstore.core.config import AudioSettings
from featstore.core.schema import COLUMNS, Fault, Manifest
from featstore.corpora import audio_check
from featstore.corpora.audio_check import checked

SETTINGS = AudioSettings()


def noise(seed: int, n_frames: int = 3_200) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1_000, 1_000, n_frames).astype(np.int16)


def write(root: Path, **seeds: int) -> None:
    for name, seed in seeds.items():
        soundfile.write(root / f"{name}.wav", noise(seed), 16_000)


def manifest(root: Path, *names: str, **fields: object) -> Manifest:
    """Utterances ``a0``, ``b1`` and so on: the letter is the speaker, even numbers are happy."""
    rows = [
        {"utterance_id": name, "file": f"{name}.wav", "start_s": 0.0, "duration_s": 0.2,
         "speaker": name[0], "session": "", "gender": "", "text": name, "kind": "unknown",
         "label": ("hap", "sad")[int(name[1:]) % 2], "label_raw": ""} | fields
        for name in names
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict(COLUMNS))
    earlier = Fault("empty-text", "t", "m", "r", severity="warn")
    return Manifest("table", root, table, ("hap", "sad"), (earlier,), {"xxx": 3}, full_release=True)


def found(before: Manifest, **settings: float) -> list[Fault]:
    """The faults that hearing adds to those before."""
    after = checked(before, AudioSettings.model_validate(settings), threads=1)
    n = len(before.faults)
    assert after.faults[:n] == before.faults
    return list(after.faults[n:])


def test_sound_corpus_is_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, a0=0, a1=1, b0=2, b1=3)
    before = manifest(tmp_path, "a0", "a1", "b0", "b1")
    after = checked(before, SETTINGS)
    assert after.utterances.equals(before.utterances)
    assert after.faults == before.faults
    assert after.full_release


def test_no_utterance_at_all(tmp_path: Path) -> None:
    assert found(manifest(tmp_path)) == []


def test_what_only_decoding_tells_is_excluded_and_counted(tmp_path: Path) -> None:
    write(tmp_path, a0=0, a1=1, a2=2, a4=4, b0=5, b1=6)
    soundfile.write(tmp_path / "a2.wav", np.zeros(3_200, dtype=np.int16), 16_000)
    data = (tmp_path / "a4.wav").read_bytes()
    (tmp_path / "a4.wav").write_bytes(data[:2_000])
    before = manifest(tmp_path, "a0", "a1", "a2", "a4", "b0", "b1")
    after = checked(before, SETTINGS)
    assert list(after.utterances["utterance_id"]) == ["a0", "a1", "b0", "b1"]
    assert list(after.utterances.index) == [0, 1, 2, 3]
    assert after.excluded == {"silent": 1, "truncated": 1}
    assert not after.full_release
    silent, truncated = after.faults[1:]
    assert (silent.place, silent.utterance_id, silent.severity) == ("a2.wav", "a2", "exclude")
    assert silent.message == "a2: every sample is zero"
    assert silent.remedy
    assert str(tmp_path) not in truncated.message


def test_limits_on_duration_are_the_settings(tmp_path: Path) -> None:
    write(tmp_path, a0=0, a1=1)
    before = manifest(tmp_path, "a0", "a1")
    assert {fault.reason for fault in found(before, min_duration_s=0.3)} == {
        "too-short", "silent-speaker", "empty-class",
    }  # fmt: skip


def test_speaker_and_class_lost_by_ear_stop(tmp_path: Path) -> None:
    write(tmp_path, a0=0, a1=1, b0=2)
    for name in ("a1", "b0"):
        (tmp_path / f"{name}.wav").write_bytes(b"")
    faults = found(manifest(tmp_path, "a0", "a1", "b0"))
    stops = {one.reason: one for one in faults if one.severity == "stop"}
    assert set(stops) == {"silent-speaker", "empty-class"}
    assert "speaker b" in stops["silent-speaker"].message
    assert stops["silent-speaker"].file == "b0.wav"
    assert "class sad" in stops["empty-class"].message


def test_file_names_of_escapes_are_shown_as_text(tmp_path: Path) -> None:
    before = manifest(tmp_path, "a0", "b0", file="\x1b[2J.wav")
    for fault in found(before)[:2]:
        assert "\x1b" not in fault.file + fault.message


def test_gone_or_replaced_since_the_corpus_was_read(tmp_path: Path) -> None:
    write(tmp_path, a0=0, b0=0)
    os.mkfifo(tmp_path / "a2.wav")
    reasons = [fault.reason for fault in found(manifest(tmp_path, "a0", "a2", "a4"))]
    assert reasons == ["not-a-file", "missing-audio"]


def test_progress_is_told_where_it_takes_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, a0=0, a1=1)
    before = manifest(tmp_path, "a0", "a1")
    checked(before, SETTINGS)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(audio_check, "PROGRESS_FROM_S", 0.1)
    checked(before, SETTINGS)
    assert "audio checked: 2/2 utterances" in capsys.readouterr().err


def test_how_many_threads_decode_does_not_show(tmp_path: Path) -> None:
    names = [f"{speaker}{n}" for speaker in "abc" for n in range(5)]
    write(tmp_path, **{name: at for at, name in enumerate(names) if at % 4})
    before = manifest(tmp_path, *names)
    one, many = checked(before, SETTINGS, threads=1), checked(before, SETTINGS, threads=3)
    assert one.utterances.equals(many.utterances)
    assert one.faults == many.faults


class TestIdenticalAudio:
    def pairs(self, before: Manifest) -> list[tuple[str, str]]:
        faults = [fault for fault in found(before) if fault.reason == "identical-audio"]
        assert {fault.severity for fault in faults} <= {"warn"}
        first = re.compile(r"same audio as (\w+)")
        return [(first.findall(fault.message)[0], fault.utterance_id) for fault in faults]

    def test_copies_across_speakers_only(self, tmp_path: Path) -> None:
        write(tmp_path, a0=1, a1=1, a2=2, b0=1, b1=3)
        before = manifest(tmp_path, "a0", "a1", "a2", "b0", "b1")
        assert self.pairs(before) == [("a0", "b0"), ("a1", "b0")]

    def test_same_samples_in_another_file(self, tmp_path: Path) -> None:
        """Other bytes, the same sound: another format, two equal channels."""
        write(tmp_path, a0=1)
        soundfile.write(tmp_path / "b0.wav", noise(1), 16_000, format="FLAC")
        soundfile.write(tmp_path / "c0.wav", np.stack([noise(1)] * 2, axis=1), 16_000)
        assert self.pairs(manifest(tmp_path, "a0", "b0", "c0")) == [("a0", "b0"), ("a0", "c0")]

    def test_one_bit_apart_or_at_another_rate_is_not_identical(self, tmp_path: Path) -> None:
        write(tmp_path, a0=1)
        other = noise(1)
        other[-1] ^= 1
        soundfile.write(tmp_path / "b0.wav", other, 16_000)
        soundfile.write(tmp_path / "c0.wav", noise(1), 15_999)
        assert self.pairs(manifest(tmp_path, "a0", "b0", "c0")) == []

    def test_segments(self, tmp_path: Path) -> None:
        """The same stretch of one file under two speakers; other stretches are nobody's copies."""
        soundfile.write(tmp_path / "talk.wav", noise(0, 16_000), 16_000)
        before = manifest(tmp_path, "a0", "b0", "b1", file="talk.wav")
        before.utterances.loc[2, "start_s"] = 0.5
        assert self.pairs(before) == [("a0", "b0")]
