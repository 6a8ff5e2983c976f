from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from featstore.build import units as steps
from featstore.core.config import AudioSettings, BuildSettings, CorpusSettings, FoldSettings
from featstore.core.schema import COLUMNS, Fault, Manifest, UserError
from featstore.corpora.audio_check import in_threads
from featstore.folds import make_folds, roles
from featstore.store.store import Store
from featstore.store.unit import Identity

AUDIO, SETTINGS = AudioSettings(), BuildSettings()
WORDLESS = BuildSettings(corpus=CorpusSettings(embed_text=False))


def tone(seed: int, n: int = 4_000) -> Any:
    return np.random.default_rng(seed).integers(-9_000, 9_000, n).astype(np.int16)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Two sessions of two speakers, two utterances each; the last two are stretches of one file."""
    root = tmp_path / "corpus"
    (root / "wav").mkdir(parents=True)
    rows = []
    for at in range(8):
        file, start_s = (f"wav/{at}.wav", 0.0) if at < 6 else ("wav/both.wav", 0.25 * (at - 6))
        if at < 6:
            soundfile.write(root / file, tone(at), 16_000)
        rows.append({
            "utterance_id": f"u{at}", "file": file, "start_s": start_s, "duration_s": 0.25,
            "speaker": f"s{at // 4}{'FM'[at // 2 % 2]}", "session": f"s{at // 4}",
            "gender": "female", "text": f"words {at}", "kind": "scripted", "label": "ab"[at % 2],
            "label_raw": "AB"[at % 2],
        })  # fmt: skip
    soundfile.write(root / "wav" / "both.wav", tone(6, 8_000), 16_000)
    table = pd.DataFrame(rows).astype(dict(COLUMNS))
    faults = (Fault("odd", "f", "m", "r", severity="warn"), Fault("gone", "f", "m", "r"))
    return Manifest("toy", root, table, ("a", "b"), faults, {"xxx": 3})


def identity(manifest: Manifest, settings: AudioSettings = AUDIO) -> str:
    sums = steps.source_sums(manifest)
    return steps.audio_identity(manifest, settings, sums).fingerprint


def written(manifest: Manifest, place: Path, settings: AudioSettings = AUDIO) -> Store:
    store = Store.create(place)
    sums = steps.source_sums(manifest)
    step = new(steps.audio_identity(manifest, settings, sums))
    steps.write_audio(place, step, manifest, settings, sums, threads=2)
    return store


def new(identity: Identity) -> steps.Step:
    return steps.Step(identity, "build", "not there yet")


class TestAudioIdentity:
    def test_is_of_bytes_and_not_of_place_or_time(self, manifest: Manifest) -> None:
        before = identity(manifest)
        elsewhere = manifest.root.with_name("moved")
        manifest.root.rename(elsewhere)
        os.utime(elsewhere / "wav" / "0.wav", (1, 1))
        assert identity(replace(manifest, root=elsewhere)) == before

    def test_takes_in_bytes_stretch_owner_and_settings(self, manifest: Manifest) -> None:
        prints = {identity(manifest)}
        for column, value in (("start_s", 0.1), ("duration_s", 0.2), ("utterance_id", "v7")):
            table = manifest.utterances.copy()
            table.loc[7, column] = value
            prints.add(identity(replace(manifest, utterances=table)))
        prints.add(identity(manifest, AudioSettings(max_duration_s=30)))
        prints.add(identity(manifest, AudioSettings(embed_audio=False)))
        soundfile.write(manifest.root / "wav" / "3.wav", tone(99), 16_000)
        prints.add(identity(manifest))
        assert len(prints) == 7

    def test_file_that_cannot_be_read_has_no_sum(self, manifest: Manifest) -> None:
        before = steps.source_sums(manifest)
        assert list(before) == sorted(before)
        assert len(set(before.values())) == 7
        (manifest.root / "wav" / "0.wav").unlink()
        (manifest.root / "wav" / "1.wav").write_bytes(b"")
        (manifest.root / "wav" / "2.wav").unlink()
        os.mkfifo(manifest.root / "wav" / "2.wav")
        after = steps.source_sums(manifest)
        assert [name for name, value in after.items() if not value] == [
            f"wav/{at}.wav" for at in range(3)
        ]
        assert {name: value for name, value in after.items() if value}.items() <= before.items()


class TestWriteAudio:
    def test_keeps_every_stretch(self, manifest: Manifest, tmp_path: Path) -> None:
        store = written(manifest, tmp_path / "store")
        for at in range(6):
            np.testing.assert_array_equal(store.audio.read(at), tone(at))
        both = tone(6, 8_000)
        np.testing.assert_array_equal(store.audio.read(6), both[:4_000])
        np.testing.assert_array_equal(store.audio.read(7), both[4_000:])
        assert store.lengths.tolist() == [4_000] * 8
        sums = steps.source_sums(manifest)
        assert list(store.sources["sha256"]) == [sums[file] for file in manifest.utterances["file"]]

    def test_leaves_out_what_is_bad_and_says_why(self, manifest: Manifest, tmp_path: Path) -> None:
        bad = np.full(4_000, np.nan, dtype=np.float32)
        soundfile.write(manifest.root / "wav" / "1.wav", bad, 16_000, subtype="FLOAT")
        (manifest.root / "wav" / "4.wav").write_bytes(b"no sound at all")
        store = written(manifest, tmp_path / "store")
        facts = store.unit("audio").facts
        assert facts["excluded"] == [
            {"utterance_id": "u1", "file": "wav/1.wav", "reason": "non-finite"},
            {"utterance_id": "u4", "file": "wav/4.wav", "reason": "unreadable"},
        ]
        assert facts["n_utterances"] == len(store.audio) == 6
        assert list(store.sources["utterance_id"]) == ["u0", "u2", "u3", "u5", "u6", "u7"]

    def test_loses_no_speaker(self, manifest: Manifest, tmp_path: Path) -> None:
        for at in (0, 1):
            (manifest.root / "wav" / f"{at}.wav").write_bytes(b"no sound at all")
        with pytest.raises(UserError, match="speaker s0F has no usable turn"):
            written(manifest, tmp_path / "store")
        assert [path.name for path in (tmp_path / "store").iterdir()] == ["zarr.json"]

    def test_kept_out_leaves_lengths_and_no_sample(
        self, manifest: Manifest, tmp_path: Path
    ) -> None:
        settings = AudioSettings(embed_audio=False)
        store = written(manifest, tmp_path / "store", settings)
        assert store.lengths.tolist() == [4_000] * 8
        assert not (store.path / "audio" / "values").exists()
        with pytest.raises(UserError, match="holds no signals"):
            _ = store.audio


class TestCorpus:
    def unit(self, manifest: Manifest, place: Path, settings: BuildSettings = SETTINGS) -> Store:
        store = Store.create(place)
        step = new(steps.corpus_identity(manifest, settings))
        steps.write_corpus(place, step, manifest, settings)
        return store

    def test_content_is_of_meaning_and_not_of_where_audio_lies(self, manifest: Manifest) -> None:
        def identity(table: pd.DataFrame, settings: BuildSettings = SETTINGS) -> Identity:
            return steps.corpus_identity(replace(manifest, utterances=table), settings)

        table = manifest.utterances
        before = identity(table)
        for column, value in (("file", "x"), ("start_s", 9.0)):  # kept in the unit all the same
            after = identity(table.assign(**{column: value}))
            assert after.content == before.content
            assert after.fingerprint != before.fingerprint
        assert identity(table, WORDLESS).content == before.content
        assert identity(table, WORDLESS).fingerprint != before.fingerprint
        assert identity(table.assign(duration_s=9.0)).fingerprint == before.fingerprint
        meaning = set(COLUMNS) - {"file", "start_s", "duration_s"}
        changes = [identity(table.assign(**{column: "x"})).content for column in sorted(meaning)]
        changes.append(identity(table.iloc[1:]).content)
        assert len({before.content, *changes}) == len(changes) + 1

    def test_holds_strings_and_codes(self, manifest: Manifest, tmp_path: Path) -> None:
        store = self.unit(manifest, tmp_path / "store")
        assert store.classes == ("a", "b")
        assert store.labels.tolist() == [0, 1] * 4
        assert list(store.utterances["text"]) == [f"words {at}" for at in range(8)]
        assert b"words" in (store.path / "corpus" / "utterances.parquet").read_bytes()
        facts = store.unit("corpus").facts
        assert facts["speakers"] == ["s0F", "s0M", "s1F", "s1M"]
        assert (facts["excluded"], facts["warnings"]) == ({"gone": 1}, {"odd": 1})
        assert facts["other_labels"] == {"xxx": 3}
        assert (facts["name"], facts["full_release"]) == ("toy", False)

    def test_leaves_texts_out_where_asked(self, manifest: Manifest, tmp_path: Path) -> None:
        store = self.unit(manifest, tmp_path / "store", WORDLESS)
        assert set(store.utterances["text"]) == {""}
        assert manifest.utterances["text"][0] == "words 0"
        assert b"words" not in (store.path / "corpus" / "utterances.parquet").read_bytes()


def test_splits_hold_roles_speakers_and_overlap(manifest: Manifest, tmp_path: Path) -> None:
    table = manifest.utterances.assign(text=["same"] * 2 + [f"t{at}" for at in range(5)] + ["same"])
    settings = FoldSettings(validation="partner")
    folds = make_folds(table, settings)
    role = roles(table, folds, script_disjoint=False)
    store = Store.create(tmp_path / "store")
    corpus = steps.corpus_identity(replace(manifest, utterances=table), SETTINGS)
    steps.write_corpus(store.path, new(corpus), replace(manifest, utterances=table), SETTINGS)
    unit = steps.splits_identity(settings, corpus)
    steps.write_splits(store.path, new(unit), table, folds, role)
    np.testing.assert_array_equal(store.roles, role)
    assert store.folds == folds
    first = store.unit("splits").facts["text_overlap"][0]
    assert (first["fold"], first["n_test"], first["n_shared"], first["share"]) == (1, 2, 2, 1.0)
    assert first["share_improvised"] is None  # a share of nothing, not NaN, which JSON lacks
    assert unit.parents == {"corpus": corpus.content}


class TestInThreads:
    def test_keeps_the_order(self) -> None:
        later = threading.Event()

        def slow_first(n: int) -> int:
            if n == 0:
                later.wait(5)
            if n == 3:
                later.set()
            return n * n

        assert list(in_threads(slow_first, range(9), jobs=4)) == [n * n for n in range(9)]

    def test_draws_only_a_few_ahead(self) -> None:
        drawn: list[int] = []

        def source() -> Iterator[int]:
            for n in range(100):
                drawn.append(n)
                yield n

        results = in_threads(lambda n: n, source(), jobs=2)
        assert next(results) == 0
        assert len(drawn) == 8

    def test_tells_the_first_error(self) -> None:
        with pytest.raises(ZeroDivisionError):
            list(in_threads(lambda n: 1 // (n - 3), range(9), jobs=2))
