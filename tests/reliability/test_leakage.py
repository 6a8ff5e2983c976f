"""What the test speaker says, how, and with which label reaches nobody: fold by fold, to the byte.

A store keeps a teacher's outputs for all speakers, so the proof is by behaviour: another test
speaker is put in his place, and everything that was learnt stays as it was.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.data import load_targets
from distill.runs.folder import FAILED
from featstore.core.schema import Refused
from featstore.folds import TEST, TRAIN
from featstore.store.store import Store
from featstore.store.unit import RECORD
from tests.reliability.at_once import FOLDS, build_now, request_of, rewrite, run_now, scramble, tree
from tests.reliability.forgery import reseal
from tests.reliability.harness import SPEAKERS, call

pytestmark = [pytest.mark.reliability]

TEACHERS = (
    "teachers.by-speaker.kind=prosodic",
    "teachers.by-speaker.normalisation=speaker",
    "teachers.by-speaker.channels=[4, 4, 4, 4]",
    "teachers.by-speaker.time_stride=8",
    "teachers.by-speaker.time_masks=2",
    "teachers.by-speaker.optim.epochs=2",
    "teachers.by-speaker.optim.batch_size=5",
    "teachers.by-speaker.optim.class_weights=true",
)
"""Beside the tones' two: one that looks at its speakers' statistics and counts their classes."""
LEARNT = ("student/model.safetensors", "student/student.json")


@pytest.fixture(scope="module")
def built(tone_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All four folds with three teachers each, weights kept."""
    place = tmp_path_factory.mktemp("leakage") / "store"
    return build_now(request_of(tone_corpus, place, *TEACHERS, keep_teachers=True))


@pytest.fixture(scope="module")
def learnt(built: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A student of each fold."""
    runs = tmp_path_factory.mktemp("leakage-runs")
    return {fold: student(built.path, runs, fold) for fold in FOLDS}


@pytest.fixture
def copy(built: Store, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.path, tmp_path / "store"))


def student(store: Path, runs: Path, fold: int) -> Path:
    sets = ("losses.teachers.by-speaker.tau=1", "optim.epochs=3")
    return run_now(store, runs, *sets, fold=fold).folder


def said(store: Store, fold: int) -> Iterator[tuple[str, dict[str, tuple[bytes, bytes]]]]:
    """Each teacher with the bytes of what it says of every utterance."""
    ids = store.utterances["utterance_id"]
    for name, output in store.fold(fold).items():
        pairs = zip(output.logits, output.embeddings, strict=True)
        yield name, {i: (a.tobytes(), b.tobytes()) for i, (a, b) in zip(ids, pairs, strict=True)}


@pytest.mark.parametrize("fold", FOLDS)
def test_another_test_speaker_changes_no_teacher_and_no_student(
    fold: int, built: Store, learnt: dict[int, Path], tone_corpus: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    speaker = SPEAKERS[fold - 1]
    corpus = scramble(tone_corpus, tmp_path / "corpus", speaker)
    request = request_of(corpus, tmp_path / "store", *TEACHERS, folds=str(fold), keep_teachers=True)
    other = build_now(request)
    assert built.folds[fold - 1].test == other.folds[fold - 1].test == (speaker,)
    compared = 0
    for (name, before), (_, after) in zip(said(built, fold), said(other, fold), strict=True):
        mine = {i for i in before if i.startswith(speaker)}
        assert {i: before[i] for i in set(before) - mine} == {
            i: after[i] for i in after if not i.startswith(speaker)
        }, name
        assert all(before[i] != after[i] for i in mine & set(after)), name  # he was scrambled
        compared += len(before) - len(mine)
    weights = [tree(s.path / f"weights/{fold:02d}", without=(RECORD,)) for s in (built, other)]
    assert weights[0] == weights[1]
    kinds = {Path(name).name for name in weights[0]}
    assert {"model.safetensors", "normaliser.safetensors", "tokenizer.json"} <= kinds
    for name in built.teacher_names(fold):
        units = [s.unit(f"folds/{fold:02d}/{name}").facts for s in (built, other)]
        for key in ("history", "best_epoch", "fitted_on", "selected_on"):
            assert units[0][key] == units[1][key], name
    runs = learnt[fold], student(other.path, tmp_path / "runs", fold)
    models = [[(run / name).read_bytes() for name in LEARNT] for run in runs]
    assert models[0] == models[1]
    print(
        f"fold {fold}: {len(weights[0])} teacher files, {compared} rows and the student unchanged "
        f"by another {speaker}, {time.monotonic() - began:.1f} s"
    )


@pytest.mark.parametrize("role", ["training", "validation"])
def test_labels_of_whom_it_learns_from_do_matter(
    role: str, built: Store, learnt: dict[int, Path], tone_corpus: Path, tmp_path: Path
) -> None:
    """The control: the comparison above is able to fail."""
    fold = built.folds[0]
    speaker = {"training": fold.train, "validation": fold.validation}[role][0]
    corpus = scramble(tone_corpus, tmp_path / "corpus", speaker, only="label")
    request = request_of(corpus, tmp_path / "store", *TEACHERS, folds="1", keep_teachers=True)
    other = build_now(request)
    for name in built.teacher_names(1):
        model = f"weights/01/{name}/model.safetensors"
        same = (built.path / model).read_bytes() == (other.path / model).read_bytes()
        histories = [s.unit(f"folds/01/{name}").facts["history"] for s in (built, other)]
        assert histories[0] != histories[1], name
        assert role == "validation" or not same, name
    if role == "training":
        run = student(other.path, tmp_path / "runs", 1)
        assert (run / LEARNT[0]).read_bytes() != (learnt[1] / LEARNT[0]).read_bytes()


@pytest.mark.parametrize("fold", FOLDS)
def test_a_student_never_looks_at_the_test_speakers_targets(
    fold: int, learnt: dict[int, Path], copy: Path, tmp_path: Path
) -> None:
    test = Store.open(copy).roles[fold - 1] == TEST

    def spoil(values: np.ndarray) -> None:
        values[test] = np.nan

    names = Store.open(copy).teacher_names(fold)
    for name in names:
        unit = copy / f"folds/{fold:02d}/{name}"
        rewrite(unit, "logits", spoil)
        rewrite(unit, "embeddings", spoil)
        reseal(unit)
    run = student(copy, tmp_path / "runs", fold)
    for name in (*LEARNT, "predictions.parquet"):
        assert (run / name).read_bytes() == (learnt[fold] / name).read_bytes(), name
    print(f"fold {fold}: targets of {test.sum()} test rows x {len(names)} teachers NaN: same bytes")


def other_store(tone_corpus: Path, place: Path, what: str) -> Path:
    """A store of fold 1 that is sound in itself, and differs in one thing from the tones'."""
    corpus, sets = tone_corpus, list(TEACHERS)
    if what == "labels":
        corpus = scramble(tone_corpus, place / "corpus", "dee", only="label")
    elif what == "corpus":
        corpus = scramble(tone_corpus, place / "corpus", "dee")
    elif what == "audio":
        corpus = scramble(tone_corpus, place / "corpus", "dee", only="audio")
    elif what == "folds":
        sets.append("folds.seed=3")
    elif what == "roles":
        sets.append("folds.validation=none")
    build_now(request_of(corpus, place / "other", *sets, folds="1"))
    return place / "other"


@pytest.mark.parametrize(
    ("what", "part"),
    [
        ("labels", "corpus"),
        ("audio", "audio"),
        ("audio", "lld"),
        ("corpus", "corpus"),
        ("folds", "splits"),
        ("roles", "splits"),
    ],
)
def test_parts_of_another_store_are_refused(
    what: str, part: str, copy: Path, tone_corpus: Path, tmp_path: Path
) -> None:
    """Another's teachers in this store, then this one's teachers with a part of another's."""
    other = other_store(tone_corpus, tmp_path, what)
    mine = Path(shutil.copytree(copy, tmp_path / "mine"))
    for unit in ("folds", part):
        shutil.rmtree(copy / unit)
        shutil.copytree(other / unit, copy / unit)
        refused(copy, tmp_path / "runs")
        for record in sorted((copy / unit).glob(f"**/{RECORD}")):
            reseal(record.parent)
        refused(copy, tmp_path / "runs")
        shutil.rmtree(copy)
        shutil.copytree(mine, copy)


def swap(one: Path, two: Path) -> None:
    one.rename(one.with_name("aside"))
    two.rename(one)
    one.with_name("aside").rename(two)


def renamed(store: Path, tell: Callable[[dict, int], None] | None = None) -> None:
    """Folds 1 and 2 in each other's place, their records rewritten by ``tell``."""
    swap(store / "folds/01", store / "folds/02")
    for number in (1, 2):
        for unit in (store / f"folds/{number:02d}").glob(f"*/{RECORD}"):
            if tell is not None:
                reseal(unit.parent, partial(retold, unit.parent.relative_to(store), tell, number))


def retold(unit: Path, tell: Callable[[dict, int], None], number: int, record: dict) -> None:
    record["unit"] = unit.as_posix()
    tell(record, number)


def in_settings(record: dict, number: int) -> None:
    record["settings"]["fold"] = number


def in_settings_and_facts(record: dict, number: int) -> None:
    record["settings"]["fold"] = record["facts"]["fold"] = number


def all_but_the_speakers_fitted_on(record: dict, number: int) -> None:
    in_settings_and_facts(record, number)
    record["facts"]["held_out"] = [SPEAKERS[number - 1]]


@pytest.mark.parametrize(
    "tell",
    [None, lambda *_: None, in_settings, in_settings_and_facts, all_but_the_speakers_fitted_on],
    ids=["renamed", "unit", "settings", "facts", "held_out"],
)
def test_folds_under_each_others_name_are_refused(
    tell: Callable[[dict, int], None] | None, copy: Path, tmp_path: Path
) -> None:
    renamed(copy, tell)
    refused(copy, tmp_path / "runs")


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("fitted_on", "test"),
        ("selected_on", "test"),
        ("fitted_on", "validation"),
        ("selected_on", "training"),
        ("fitted_on", "stranger"),
        ("fold", 3),
        ("held_out", ["dee"]),
    ],
)
def test_a_record_that_tells_of_a_leak_is_refused(
    fact: str, value: object, copy: Path, tmp_path: Path
) -> None:
    fold = Store.open(copy).folds[0]
    speakers = {"test": fold.test, "validation": fold.validation, "training": fold.train,
                "stranger": ("eve",)}  # fmt: skip

    def edit(record: dict) -> None:
        told = record["facts"]
        told[fact] = [*told[fact], *speakers[value]] if isinstance(value, str) else value

    reseal(copy / "folds/01/prosodic", edit)
    refused(copy, tmp_path / "runs")


def test_splits_that_train_on_the_test_speaker_are_refused(copy: Path, tmp_path: Path) -> None:
    def leak(role: np.ndarray) -> None:
        role[0, np.flatnonzero(role[0] == TEST)[0]] = TRAIN

    rewrite(copy / "splits", "role", leak)
    reseal(copy / "splits")
    refused(copy, tmp_path / "runs")


def test_the_command_says_so_and_exits_with_4(copy: Path, tmp_path: Path) -> None:
    renamed(copy, in_settings_and_facts)
    done = call(
        "distill", "run", "--store", copy, "--runs", tmp_path / "runs", "--student", "tiny",
        "--fold", "1", "--jobs", "1", "--threads", "1", "--device", "cpu",
        "--set", "losses.teachers.by-speaker.tau=1",
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "has seen ada, whom fold 1 tests" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").rglob("predictions.parquet"))


def refused(store: Path, runs: Path) -> None:
    """Exit code 4 with a remedy, before anything is trained; at most the reason is left."""
    with pytest.raises(Refused) as caught:
        student(store, runs, 1)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    left = [path for path in runs.rglob("*") if path.is_file()]
    assert not [path for path in left if path.name != FAILED and path.suffix != ".failed"]


def test_the_untouched_store_is_not_refused(copy: Path) -> None:
    """No false alarm, also where every record was written anew with the same words."""
    for unit in sorted(path.parent for path in copy.glob(f"**/{RECORD}")):
        before = json.loads((unit / RECORD).read_text())
        reseal(unit)
        assert json.loads((unit / RECORD).read_text()) == before
    for fold in FOLDS:
        load_targets(Store.open(copy), fold, torch.device("cpu"))
