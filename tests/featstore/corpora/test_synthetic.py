from __future__ import annotations

import hashlib
import json
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
from featstore.corpora.synthetic_script import VOICES, plan, speaker_of

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
        again = next(espeak.speak([line], 5))
        other = next(espeak.speak([line], 6))
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
        assert synthetic.ensure(corpus, utterances=81, seed=3) is False
        synthetic.generate(corpus, utterances=81, seed=3)
        assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before

    def test_different_corpus_is_refused_with_the_difference(self, corpus: Path) -> None:
        before = tree_hash(corpus)
        with pytest.raises(UserError, match="seed: 3 -> 5; utterances: 81 -> 90"):
            synthetic.generate(corpus, utterances=90, seed=5)
        with pytest.raises(UserError, match="durations: short -> iemocap"):
            synthetic.ensure(corpus, utterances=81, seed=3, durations="iemocap")
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

        def silence(lines: Sequence[espeak.Line], seed: int) -> list[np.ndarray]:
            batches.append(seed)
            return [np.zeros(4_000, np.int16)] * len(lines)

        def interrupt(done: int, total: int) -> None:
            assert (done, total) == (50, 4_400)
            assert not root.exists()
            raise KeyboardInterrupt

        monkeypatch.setattr(espeak, "speak", silence)
        with pytest.raises(KeyboardInterrupt):
            synthetic.generate(root, utterances=4_000, progress=interrupt)
        assert list(root.parent.iterdir()) == []
        assert len(set(batches)) == len(batches) < 44  # of 88: the rest was never begun

    def test_what_a_killed_run_left_is_swept_and_an_empty_folder_is_used(
        self, tmp_path: Path
    ) -> None:
        left = tmp_path / ".staging-synthetic-0123456789abcdef"
        (left / "corpus").mkdir(parents=True)
        (left / "lock").touch()
        (tmp_path / "synthetic").mkdir()
        seen: list[tuple[int, int]] = []
        made = synthetic.ensure(
            tmp_path / "synthetic", utterances=80, jobs=None, progress=lambda *n: seen.append(n)
        )
        assert made
        assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]
        assert seen == [(50, 85), (85, 85)]

    def test_the_first_of_two_runs_wins(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = tmp_path / "synthetic"

        def overtaken(done: int, total: int) -> None:
            if done == total:
                monkeypatch.setattr(synthetic, "_is_there", lambda *_: True)
                root.mkdir()
                (root / "first").touch()

        synthetic.generate(root, utterances=80, progress=overtaken)
        assert [path.name for path in tmp_path.rglob("*")] == ["synthetic", "first"]


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

    def test_unknown_durations_list_the_known(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="unknown durations 'long'") as caught:
            synthetic.generate(tmp_path / "x", durations="long")  # type: ignore[arg-type]
        assert caught.value.hint == "one of: short, iemocap"

    def test_engine_tells_what_it_did_not_accept(self) -> None:
        good = espeak.Line("Okay.", "en-us+f1", 190, 50, 50, 60)
        bad = espeak.Line("Okay.", "no-such-voice", 190, 50, 50, 60)
        spoken = espeak.speak([good, bad, good], 1)
        assert len(next(spoken)) > 0.1 * espeak.RATE_HZ
        with pytest.raises(TaskFailed, match=r"eSpeak NG failed: error .* \(voice no-such-voice\)"):
            next(spoken)

    def test_missing_data_or_library_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        line = espeak.Line("Okay.", "en-us+f1", 190, 50, 50, 60)
        path, _ = espeak.library()
        for where in ((path, str(tmp_path)), (str(tmp_path / "none.so"), "")):
            monkeypatch.setattr(espeak, "library", lambda where=where: where)
            with pytest.raises(TaskFailed, match="eSpeak NG failed") as caught:
                list(espeak.speak([line] * 2_000, 1))
            assert str(tmp_path) in caught.value.message

    def test_a_listener_may_leave_early(self) -> None:
        line = espeak.Line("Okay.", "en-us+f1", 190, 50, 50, 60)
        spoken = espeak.speak([line] * 500, 1)
        next(spoken)
        spoken.close()  # type: ignore[attr-defined]  # must neither hang nor leave a process


def test_speakers_sound_unlike_each_other(corpus: Path) -> None:
    files = Counter(hashlib.sha256(p.read_bytes()).hexdigest() for p in corpus.rglob("*.wav"))
    assert max(files.values()) == 1
    assert len({voice for voice, _ in VOICES.values()}) == 10
