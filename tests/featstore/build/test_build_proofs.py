"""What a store promises of its bytes: proved by building it again under other circumstances."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from featstore.core.schema import UserError
from featstore.core.settings import to_toml
from featstore.inspection.overview import excluded
from featstore.store.store import Store
from featstore.store.verify import verify
from tests import ROOT
from tests.featstore.build.helpers import SHARED, TEACHERS, Build, Change, files, plan


class TestSameBytes:
    def test_by_the_command_elsewhere_with_other_jobs_threads_and_hash_seed(
        self, small_request: Any, small_store: Path, tmp_path: Path
    ) -> None:
        """A fresh process, one job for two, another folder: and nothing of it is in the store."""
        corpus, store = tmp_path / "elsewhere-7q", tmp_path / "made-by-7q" / "store"
        shutil.copytree(small_request.manifest.root, corpus)
        (tmp_path / "fast.toml").write_text(to_toml(small_request.settings))
        root = str(ROOT)
        environment = {"PYTHONPATH": root, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "2",
                       "USER": "user-7q", "LOGNAME": "user-7q"}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", "import cli; cli.featstore_main()", "build", "--dataset",
             "synthetic", "--root", corpus, "--store", store, "--config", tmp_path / "fast.toml",
             "--fold", "1..2", "--jobs", "1", "--device", "cpu", "--json"],
            env=os.environ | environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["built"] == sorted(SHARED + TEACHERS)
        assert told["content"] == Store.open(store).content_hash()
        assert told["content"] == Store.open(small_store).content_hash()
        secrets = {"elsewhere-7q", "made-by-7q", "user-7q", str(tmp_path), root}
        if len(socket.gethostname()) > 5:  # shorter ones occur in any random bytes
            secrets.add(socket.gethostname())
        every = files(store).items()
        leaks = [(name, word) for name, raw in every for word in secrets if word.encode() in raw]
        assert leaks == []


class TestKeptOut:
    @pytest.fixture
    def store(self, build_here: Build, changed: Change, tmp_path: Path) -> Store:
        pairs = ("audio.embed_audio=false", "corpus.embed_text=false")
        request = changed(*pairs, store=tmp_path / "store", folds="1")
        build_here(request)
        return Store.open(request.store)

    def test_no_signal_and_no_word_is_in_it(
        self, store: Store, small_store: Path, small_request: Any
    ) -> None:
        texts = " ".join(small_request.manifest.utterances["text"])
        words = set(re.findall(rb"[A-Za-z]{8,}", texts.encode()))

        def quoted(root: Path) -> set[bytes]:
            every = b"\0".join(files(root).values())
            return {word for word in words if word in every}

        assert len(quoted(small_store)) > 8  # the search finds what is there
        assert quoted(store.path) == set()
        assert set(store.utterances["text"]) == {""}
        assert not (store.path / "audio" / "values").exists()
        with pytest.raises(UserError, match="holds no signals"):
            _ = store.audio
        assert sum(unit.n_bytes for unit in verify(store).sound) < 2_500_000

    def test_llds_and_teachers_are_the_same(self, store: Store, small_store: Path) -> None:
        other = Store.open(small_store)
        for unit in ("lld", *TEACHERS[:2]):
            one, two = files(store.path / unit), files(small_store / unit)
            del one["unit.json"], two["unit.json"]  # whose parents differ
            assert one == two, unit
        np.testing.assert_array_equal(store.lengths, other.lengths)
        assert list(store.sources["sha256"]) == list(other.sources["sha256"])


def test_bad_audio_is_left_out_counted_and_touches_no_other(
    build_here: Build, changed: Change, small_store: Path, corpus_copy: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    request = changed(store=tmp_path / "store")
    table = request.manifest.utterances
    gone = [3, 40]
    first, second = (corpus_copy / table["file"][row] for row in gone)
    nan = np.full(soundfile.info(first).frames, np.nan, dtype=np.float32)
    soundfile.write(first, nan, 16_000, subtype="FLOAT")
    second.write_bytes(second.read_bytes()[:-999])
    settings = request.settings.model_copy(update={"teachers": {}})
    manifest = replace(request.manifest, root=corpus_copy)
    request = replace(request, manifest=manifest, settings=settings)
    build_here(request)
    store, whole = Store.open(request.store), Store.open(small_store)
    assert excluded(store) == {"non-finite": 1, "truncated": 1}
    told = capsys.readouterr().err
    assert "2 utterance(s) excluded for their audio" in told
    assert f"{table['file'][3]}: non-finite" in told
    kept = [row for row in range(80) if row not in gone]
    assert list(store.utterances["utterance_id"]) == [table["utterance_id"][row] for row in kept]
    assert store.roles.shape == (10, 78)
    for at, row in enumerate(kept):
        np.testing.assert_array_equal(store.lld.read(at), whole.lld.read(row))
        np.testing.assert_array_equal(store.audio.read(at), whole.audio.read(row))
    assert set(plan(request).values()) == {("done", "same fingerprint")}


class TestLeakage:
    """The proof by behaviour: change all that the test speaker is, and nothing else changes."""

    @pytest.fixture
    def scrambled(
        self, build_here: Build, changed: Change, corpus_copy: Path, tmp_path: Path
    ) -> Store:
        request = changed(store=tmp_path / "scrambled", folds="1")
        table = request.manifest.utterances.copy()
        rows = np.flatnonzero(table["speaker"] == "Ses01F")
        rng = np.random.default_rng(0)
        for row in rows:
            n = int(rng.integers(8_000, 60_000))
            noise = rng.integers(-30_000, 30_000, n).astype(np.int16)
            soundfile.write(corpus_copy / table["file"][row], noise, 16_000)
            table.loc[row, "duration_s"] = n / 16_000
            table.loc[row, "text"] = f"zyzzyva {row} " * int(rng.integers(1, 30))
        table.loc[rows, "label"] = np.roll(table.loc[rows, "label"], 3)
        assert (table["label"] != request.manifest.utterances["label"]).sum() >= 4
        manifest = replace(request.manifest, root=corpus_copy, utterances=table)
        build_here(replace(request, manifest=manifest))
        return Store.open(request.store)

    def test_no_byte_of_the_test_speaker_reaches_a_teacher(
        self, scrambled: Store, build_here: Build, changed: Change, store_copy: Path
    ) -> None:
        build_here(changed(store=store_copy, folds="1"))
        store = Store.open(store_copy)
        test = (store.utterances["speaker"] == "Ses01F").to_numpy()
        assert test.sum() == 8
        for name, output in store.fold(1).items():
            other = scrambled.fold(1)[name]
            for one, two in ((output.logits, other.logits), (output.embeddings, other.embeddings)):
                assert one[~test].tobytes() == two[~test].tobytes(), name
                assert not (one[test] == two[test]).all(axis=1).any(), name  # it was scrambled
        for key in ("fitted_on", "history", "best_epoch"):
            for unit in TEACHERS[:2]:
                assert store.unit(unit).facts[key] == scrambled.unit(unit).facts[key]
