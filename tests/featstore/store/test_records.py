"""Records: their sizes are bounded when they are written, and each is parsed once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from featstore.build import units
from featstore.core.config import BuildSettings, FoldSettings
from featstore.core.files import MAX_JSON_BYTES
from featstore.core.schema import COLUMNS, Corrupt, Manifest, TaskFailed
from featstore.folds import make_folds, prove, roles
from featstore.store.arrays import write_array, write_group
from featstore.store.staging import staged
from featstore.store.store import Store
from featstore.store.unit import RECORD, Identity
from tests.featstore.store.kept_store import KEPT, copied
from tests.reliability.forgery import reseal


def leave_one_speaker_out(place: Path, n_speakers: int) -> Store:
    """Corpus and splits of so many speakers of two utterances, as a build writes them."""
    speakers = [f"speaker{number:04d}" for number in range(n_speakers) for _ in "ab"]
    table = pd.DataFrame({
        "utterance_id": [f"u{row:05d}" for row in range(len(speakers))],
        "file": "f.wav", "start_s": 0.0, "duration_s": 1.0, "speaker": speakers, "session": "",
        "gender": "", "text": "", "kind": "unknown",
        "label": [*"ab"] * n_speakers, "label_raw": [*"AB"] * n_speakers,
    }).astype(dict(COLUMNS))  # fmt: skip
    manifest = Manifest("many", place, table, ("a", "b"))
    store = Store.create(place / "store")
    wanted = BuildSettings()
    corpus = units.corpus_identity(manifest, wanted)
    units.write_corpus(store.path, units.Step(corpus, "build", "new"), manifest, wanted)
    settings = FoldSettings(validation="random")
    folds = make_folds(table, settings)
    assigned = roles(table, folds, script_disjoint=False)
    splits = units.Step(units.splits_identity(settings, corpus), "build", "new")
    units.write_splits(store.path, splits, table, folds, assigned)
    assert Store.open(store.path).folds == folds
    prove(store.utterances, store.folds, store.roles)
    return store


def test_seven_hundred_folds_of_seven_hundred_speakers_can_be_opened(tmp_path: Path) -> None:
    """Their training speakers, listed fold by fold, would take 8 MB."""
    store = leave_one_speaker_out(tmp_path, 700)
    assert len(store.folds) == 700
    assert len(store.folds[0].train) == 698
    assert (store.path / "splits" / RECORD).stat().st_size < MAX_JSON_BYTES / 10


def test_a_record_that_no_reader_would_accept_is_not_committed(tmp_path: Path) -> None:
    def write(n_bytes: int) -> None:
        with staged(tmp_path / "lld", Identity("lld", {}, {})) as staging:
            staging.facts["text"] = "x" * n_bytes

    with pytest.raises(TaskFailed, match=r"lld: no reader would accept it .*unit\.json: not a reg"):
        write(MAX_JSON_BYTES)
    assert list(tmp_path.iterdir()) == []
    write(MAX_JSON_BYTES - 1000)
    assert Store(tmp_path).units() == ["lld"]


def test_an_array_that_no_reader_would_accept_is_not_committed(tmp_path: Path) -> None:
    def write(values: Any) -> None:
        with staged(tmp_path / "lld", Identity("lld", {}, {})) as staging:
            write_group(staging.folder)
            write_array(staging.folder, "x", values, tuple("abcde"[: values.ndim]))

    with pytest.raises(
        TaskFailed, match=r"lld: no reader would accept it .*sizes that are no list"
    ):
        write(np.zeros((1, 1, 1, 1, 1), np.float32))
    assert list(tmp_path.iterdir()) == []
    write(np.zeros((1, 1, 1, 1), np.float32))


def test_an_utterance_and_a_fold_are_read_with_one_parse_a_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    read_bytes = Path.read_bytes

    def counting(path: Path) -> bytes:
        if path.name == RECORD:
            read.append(path.parent.relative_to(KEPT).as_posix())
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counting)
    store = Store.open(KEPT)
    store.audio.read(0)
    store.lld.read(0)
    store.fold(1)
    assert sorted(read) == ["audio", "corpus", "folds/01/linguistic", "folds/01/prosodic", "lld",
                            "splits"]  # fmt: skip


def test_a_unit_that_a_build_replaces_is_read_anew(tmp_path: Path) -> None:
    store = Store.open(copied(tmp_path / "store"))
    before = store.unit("lld")
    assert store.unit("lld") is before
    identity = Identity("lld", before.settings, before.parents)
    with staged(store.path / "lld", identity, replace=True) as staging:
        write_group(staging.folder)
        staging.facts.update(before.facts)
    assert set(store.unit("lld").files) == {"zarr.json"}


FORGED: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "a fact less": ("corpus", lambda raw: raw["facts"].pop("speakers"), "facts.speakers: missing"),
    "a fact more": ("corpus", lambda raw: raw["facts"].update(x=1), "facts.x: an unknown key"),
    "a name that is a number": (
        "corpus", lambda raw: raw["facts"].update(name=1), "facts.name: not of type str"),
    "speakers that are a text": (
        "corpus", lambda raw: raw["facts"].update(speakers="ab"), "facts.speakers: no list"),
    "a class that is a list": (
        "corpus", lambda raw: raw["facts"].update(classes=["a", ["b"]]), "facts.classes.1: not"),
    "a count below zero": (
        "corpus", lambda raw: raw["facts"].update(excluded={"bad": -1}), "facts.excluded.bad: not"),
    "a count that is true": (
        "lld", lambda raw: raw["facts"].update(n_frames=True), "facts.n_frames: not of type int"),
    "a fold that is no table": (
        "splits", lambda raw: raw["facts"].update(folds=[1]), "facts.folds.0: no table"),
    "no settings of the audio": (
        "audio", lambda raw: raw.update(settings={}), "settings.audio"),
    "an unknown setting": (
        "audio", lambda raw: raw["settings"]["audio"].update(x=1), "settings.audio.x"),
    "a teacher without test scores": (
        "folds/01/prosodic", lambda raw: raw["facts"]["scores"].pop("test"), "scores.test: miss"),
    "a teacher of no fold": (
        "folds/01/prosodic", lambda raw: raw["settings"].pop("fold"), "settings.fold: missing"),
    "a temperature": (
        "folds/01/prosodic", lambda raw: raw["facts"].update(temperature=2.0), "facts.temperature"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGED)
def test_a_record_that_a_reader_would_trip_over_is_refused(tmp_path: Path, kind: str) -> None:
    unit, forge, fault = FORGED[kind]
    store = copied(tmp_path / "store")
    reseal(store / unit, forge)
    with pytest.raises(Corrupt) as caught:
        Store.open(store).unit(unit)
    assert f"{unit}/{RECORD}: not the record of a {unit.split('/')[0]} unit" in caught.value.message
    assert fault in caught.value.message
    assert json.loads((store / unit / RECORD).read_bytes())
