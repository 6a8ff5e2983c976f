"""The whole pipeline on real speech, where the stand-in corpus lies beside the checkout.

Accuracy on it checks the code and is never a result: its voices and its words are paired by chance.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import opensmile
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from distill.config import RunSettings
from distill.experiments.launch import launch
from distill.experiments.plan import each_fold, run_settings
from distill.model.predict import predict_files
from distill.model.student import Student
from distill.report import collect, summarise
from distill.runs.folder import RunRequest
from featstore.build.plan import Request
from featstore.build.run import build
from featstore.core.config import PRESETS, BuildSettings
from featstore.core.metrics import ua
from featstore.core.settings import resolve
from featstore.corpora import load
from featstore.features.audio import from_samples
from featstore.folds import TEST, TRAIN
from featstore.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def store(standin: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    settings = resolve(BuildSettings, PRESETS["tiny"])
    place = tmp_path_factory.mktemp("standin") / "store"
    build(Request(load("iemocap", standin, settings.corpus), settings, place, device="cpu"))
    return Store.open(place)


def pooled_ua(store: Store, teacher: str) -> float:
    logits = np.stack([store.fold(n)[teacher].logits for n in range(1, 11)])
    return ua(*_pooled(store, logits.argmax(2)), n_classes=4)


def _pooled(store: Store, predictions: Any) -> tuple[Any, Any]:
    fold, row = np.nonzero(store.roles == TEST)
    return store.labels[row], predictions[fold, row]


def test_every_speaker_and_class_is_the_oracle_s(store: Store, standin: Path) -> None:
    expected = json.loads((standin.parent / "expected.json").read_text())
    merged = {"exc": "hap"}
    wanted = {
        name: (entry["speaker"], merged.get(entry["code"], entry["code"]))
        for name, entry in expected["utterances"].items()
        if merged.get(entry["code"], entry["code"]) in store.classes
    }
    table = store.utterances
    found = dict(
        zip(table["utterance_id"], zip(table["speaker"], table["label"], strict=True), strict=True)
    )
    assert found == wanted
    assert len(found) == 280
    assert set(table["speaker"].value_counts()) == {28}


def test_prosodic_teacher_is_not_below_functionals_with_a_linear_classifier(store: Store) -> None:
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.Functionals,
    )
    functionals = np.concatenate(
        [smile.process_signal(from_samples(store.audio.read(row)), 16000).to_numpy()
         for row in range(len(store.audio))]
    )  # fmt: skip
    predictions = []
    for roles in store.roles:
        oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        oracle.fit(functionals[roles == TRAIN], store.labels[roles == TRAIN])
        predictions.append(oracle.predict(functionals))
    baseline = ua(*_pooled(store, np.stack(predictions)), n_classes=4)
    reached = pooled_ua(store, "prosodic")
    print(f"pooled test UA: prosodic teacher {reached:.4f}, functionals + linear {baseline:.4f}")
    assert baseline > 0.5  # else the oracle itself is broken
    assert reached >= baseline


def test_students_report_and_prediction(store: Store, standin: Path, tmp_path: Path) -> None:
    settings: RunSettings = run_settings("tiny", "full", None, None, ["optim.epochs=2"], None)
    request = RunRequest(
        store.path, settings=settings, runs=tmp_path, experiment="tiny", device="cpu"
    )
    done = launch(each_fold(request, "1..10"), "tiny")
    assert not done.failed
    assert [outcome.status for outcome in done.outcomes.values()] == ["done"] * 10
    (study,) = summarise(collect([tmp_path])).studies
    assert {teacher.name for teacher in study.teachers} == {"linguistic", "prosodic"}
    assert study.students[0].results.pooled.n == 280
    student = Student.from_pretrained(done.outcomes["fold 1"].folder / "student")
    wav = next(standin.glob("Session1/sentences/wav/*/*.wav"))
    table = predict_files(student, [wav])
    assert table[list(store.classes)].to_numpy().sum() == pytest.approx(1)
