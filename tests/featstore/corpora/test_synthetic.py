from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from featstore.core.config import CorpusSettings
from featstore.core.schema import FOUR_CLASSES, TaskFailed, UserError
from featstore.corpora import espeak, synthetic
from featstore.corpora.synthetic_script import VOICES, Turn, plan, speaker_of

pytest.importorskip("espeakng_loader", reason="the demo extra is not installed")

FOUR_CODES = {"ang", "hap", "exc", "neu", "sad"}


def tree_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "synthetic"
    synthetic.generate(root, utterances=81, seed=3)
    return root


class TestBytes:
    def test_same_whatever_jobs(self, corpus: Path, tmp_path: Path) -> None:
        synthetic.generate(tmp_path / "two", utterances=81, seed=3, jobs=2)
        assert tree_hash(tmp_path / "two") == tree_hash(corpus)

    def test_another_seed_differs_in_words_and_voice(self, corpus: Path, tmp_path: Path) -> None:
        synthetic.generate(tmp_path / "other", utterances=81, seed=4)
        name = "Session1/dialog/transcriptions/Ses01F_impro01.txt"
        assert (tmp_path / "other" / name).read_bytes() != (corpus / name).read_bytes()
        assert tree_hash(tmp_path / "other") != tree_hash(corpus)

    def test_of_a_line_depend_on_seed_and_on_what_was_said_before(self) -> None:
        line = espeak.Line("I am delighted.", "en-us+f5", 190, 50, 50, 60)  # a breathy voice
        first, second = espeak.speak([line, line], 5)
        assert not np.array_equal(first, second)  # why every batch gets a process of its own
        (again,) = espeak.speak([line], 5)
        (other,) = espeak.speak([line], 6)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


class TestLayout:
    def test_is_read_by_the_iemocap_parser_without_a_fault(self, corpus: Path) -> None:
        manifest = synthetic.read(corpus, CorpusSettings())
        acted = {t.utterance_id: t for t in plan(81, 3, "short") if t.code in FOUR_CODES}
        table = manifest.utterances.set_index("utterance_id")
        assert (manifest.name, manifest.faults, manifest.classes) == ("synthetic", (), FOUR_CLASSES)
        assert set(table.index) == set(acted)
        assert len(table) == 81
        for utterance_id, row in table.iterrows():
            turn = acted[str(utterance_id)]
            assert (row.text, row.label_raw) == (turn.line.text, turn.code)
            assert row.speaker == speaker_of(turn.utterance_id)
            assert row.gender == ("female" if row.speaker.endswith("F") else "male")
        assert set(table["speaker"]) == set(VOICES)
        assert set(table["kind"]) == {"scripted", "improvised"}
        assert table.groupby("speaker")["label"].nunique().min() >= 3
        assert sum((manifest.other_labels or {}).values()) == 5  # one a session of 16 turns

    def test_audio_is_what_the_annotation_says(self, corpus: Path) -> None:
        for path in sorted(corpus.glob("Session1/sentences/wav/*/*.wav")):
            info = soundfile.info(path)
            assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
            samples, _ = soundfile.read(path, dtype="int16")
            assert 0.4 < info.duration < 6
            assert 1_000 < np.abs(samples.astype(int)).max() < 32_767  # audible, not clipped
            labels = corpus / f"Session1/dialog/EmoEvaluation/{path.parent.name}.txt"
            summary = next(x for x in labels.read_text().splitlines() if f"\t{path.stem}\t" in x)
            start_s, end_s = map(float, summary[1 : summary.index("]")].split(" - "))
            assert end_s - start_s == pytest.approx(info.duration, abs=2e-4)

    def test_every_file_belongs_to_a_turn(self, corpus: Path) -> None:
        stems = {path.stem for path in corpus.rglob("*.wav")}
        assert stems == {turn.utterance_id for turn in plan(81, 3, "short")}
        others = {p.relative_to(corpus).parts[1:-1] for p in corpus.rglob("*.txt")}
        assert others == {("dialog", "EmoEvaluation"), ("dialog", "transcriptions")}

    def test_marker_says_what_it_is(self, corpus: Path) -> None:
        marker = json.loads((corpus / synthetic.MARKER).read_text())
        assert marker["corpus"] == "synthetic"
        assert (marker["utterances"], marker["seed"], marker["durations"]) == (81, 3, "short")
        assert "nothing about people" in marker["note"]


class TestPlace:
    def test_equal_corpus_is_left_as_is(self, corpus: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
        assert synthetic.generate(corpus, utterances=81, seed=3) is False
        assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before

    def test_different_corpus_is_refused_with_the_difference(self, corpus: Path) -> None:
        before = tree_hash(corpus)
        with pytest.raises(UserError, match="seed: 3 -> 5; utterances: 81 -> 90"):
            synthetic.generate(corpus, utterances=90, seed=5)
        with pytest.raises(UserError, match="durations: short -> iemocap"):
            synthetic.generate(corpus, utterances=81, seed=3, durations="iemocap")
        assert tree_hash(corpus) == before

    def test_foreign_folder_and_file_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        (tmp_path / "file").write_text("x")
        for name in ("mine", "file"):
            with pytest.raises(UserError, match=f"{name}: holds something else"):
                synthetic.generate(tmp_path / name, utterances=80)
        assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"

    @pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b" " * 70_000])
    def test_broken_marker_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / synthetic.MARKER).write_bytes(content)
        with pytest.raises(UserError, match=f"{synthetic.MARKER}: not readable"):
            synthetic.read(tmp_path, CorpusSettings())

    def test_read_wants_the_marker(self, tmp_path: Path) -> None:
        (tmp_path / "Session1").mkdir()
        with pytest.raises(UserError, match="no synthetic corpus"):
            synthetic.read(tmp_path, CorpusSettings())

    def test_interrupted_run_stops_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = tmp_path / "data" / "synthetic"
        batches: list[int] = []

        def interrupted(lines: Sequence[espeak.Line], seed: int) -> list[np.ndarray]:
            assert not root.exists()
            batches.append(seed)
            if len(batches) == 2:
                raise KeyboardInterrupt
            return [np.zeros(4_000, np.int16)] * len(lines)

        monkeypatch.setattr(espeak, "speak", interrupted)
        with pytest.raises(KeyboardInterrupt):
            synthetic.generate(root, utterances=4_000)
        assert list(root.parent.iterdir()) == []
        assert len(set(batches)) == len(batches) < 44  # of 88: the rest was never begun

    def test_what_a_killed_run_left_is_swept_and_an_empty_folder_is_used(
        self, tmp_path: Path
    ) -> None:
        left = tmp_path / ".staging-synthetic-0123456789abcdef"
        (left / "corpus").mkdir(parents=True)
        (left / "lock").touch()
        (tmp_path / "synthetic").mkdir()
        assert synthetic.generate(tmp_path / "synthetic", utterances=80, jobs=None)
        assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]
        assert len(list(tmp_path.rglob("*.wav"))) == 85

    def test_the_first_of_two_runs_wins(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = tmp_path / "synthetic"
        speak = espeak.speak

        def overtaken(lines: Sequence[espeak.Line], seed: int) -> list[np.ndarray]:
            if not root.exists():
                shutil.copytree(corpus, root)
                (root / "first").touch()
            return speak(lines, seed)

        monkeypatch.setattr(espeak, "speak", overtaken)
        synthetic.generate(root, utterances=81, seed=3)
        assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]
        assert (root / "first").exists()


class TestErrors:
    def test_missing_library_names_the_extra(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "espeakng_loader", None)
        with pytest.raises(UserError, match="not installed") as caught:
            synthetic.generate(tmp_path / "data" / "synthetic", utterances=80)
        assert caught.value.hint == 'pip install "emodistill[demo]"'
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("utterances", [-1, 0, 79, 100_001])
    def test_size_is_bounded(self, tmp_path: Path, utterances: int) -> None:
        with pytest.raises(UserError, match=f"of {utterances} utterances") as caught:
            synthetic.generate(tmp_path / "x", utterances=utterances)
        assert "80 to 100000" in caught.value.hint

    def test_engine_tells_what_it_did_not_accept(self) -> None:
        good = espeak.Line("Okay.", "en-us+f1", 190, 50, 50, 60)
        bad = espeak.Line("Okay.", "no-such-voice", 190, 50, 50, 60)
        with pytest.raises(TaskFailed, match=r"eSpeak NG failed: error .* \(voice no-such-voice\)"):
            espeak.speak([good, bad, good], 1)

    def test_missing_data_or_library_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        line = espeak.Line("Okay.", "en-us+f1", 190, 50, 50, 60)
        path, _ = espeak.library()
        for where in ((path, str(tmp_path)), (str(tmp_path / "none.so"), "")):
            monkeypatch.setattr(espeak, "library", lambda where=where: where)
            with pytest.raises(TaskFailed, match="eSpeak NG failed") as caught:
                espeak.speak([line] * 2_000, 1)
            assert str(tmp_path) in caught.value.message


def test_speakers_sound_unlike_each_other(corpus: Path) -> None:
    files = Counter(hashlib.sha256(p.read_bytes()).hexdigest() for p in corpus.rglob("*.wav"))
    assert max(files.values()) == 1
    assert len({voice for voice, _ in VOICES.values()}) == 10


@pytest.mark.parametrize("code", [*synthetic.RATINGS, "xxx"])
def test_votes_agree_with_the_code_and_attributes_with_their_mean(code: str) -> None:
    line = espeak.Line("Okay.", "en-us+f1", 190, 50, 50, 60)
    turns = [
        (Turn(f"Ses02F_impro01_M{n:03d}", code, line), 2.0 * n, 2.0 * n + 1) for n in range(40)
    ]
    blocks = synthetic.evaluation(turns, random.Random(1)).split("\n\n")[1:]
    assert len(blocks) == 40
    for (turn, start_s, end_s), block in zip(turns, blocks, strict=True):
        summary, *lines = block.strip().split("\n")
        place, name, label, attributes = summary.split("\t")
        assert place == f"[{start_s:.4f} - {end_s:.4f}]"
        assert (name, label) == (turn.utterance_id, code)
        votes = Counter(re.findall(r"^C-E\d:\t(.*);\t\(\)$", "\n".join(lines), re.MULTILINE))
        assert votes.total() == 3
        winner, count = votes.most_common(1)[0]
        agreed, _ = synthetic.RATINGS.get(code, (winner, ()))
        assert (winner, count > 1) == (agreed, code != "xxx")
        rated = re.findall(r"^A-E\d:\tval (\d); act (\d); dom  (\d);", "\n".join(lines), re.M)
        means = np.mean(np.array(rated, dtype=int), axis=0)
        assert attributes == "[{:.4f}, {:.4f}, {:.4f}]".format(*means)
        assert [line[:5] for line in lines if "M1" in line] == ["C-M1:", "A-M1:"]
