import numpy as np
import pytest
import soundfile
import torch

from distill.config import StudentSettings
from distill.model import predict
from distill.model.predict import predict_files
from distill.model.student import build_student
from featstore.core.schema import FOUR_CLASSES, UserError

DURATIONS_S = [0.5, 0.15, 1.2, 0.3, 0.9, 0.2]


@pytest.fixture(scope="module")
def student():
    made = build_student(StudentSettings(backbone="tiny"), FOUR_CLASSES, {"prosodic": 5}, seed=3)
    with torch.no_grad():  # spread the answers of an untrained student
        made.head[-1].weight.mul_(40)
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    draw = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("audio")
    paths = [folder / f"{index}.wav" for index in range(len(DURATIONS_S))]
    for path, seconds in zip(paths, DURATIONS_S, strict=True):
        soundfile.write(path, 0.1 * draw.standard_normal(int(seconds * 16_000)), 16_000)
    return paths


def test_one_row_per_file_in_order(student, files):
    table = predict_files(student, files)
    assert list(table.columns) == ["file", "label", *FOUR_CLASSES]
    assert table["file"].tolist() == [str(path) for path in files]
    probabilities = table[list(FOUR_CLASSES)].to_numpy()
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)
    assert table["label"].tolist() == [FOUR_CLASSES[i] for i in probabilities.argmax(axis=1)]
    assert probabilities.std(axis=0).max() > 1e-3


@pytest.mark.parametrize("batch_s", [0.1, 1.5, 100.0])
@pytest.mark.parametrize("window", [1, 8])
def test_company_changes_nothing(student, files, batch_s, window, monkeypatch):
    monkeypatch.setattr(predict, "_WINDOW", window)
    classes = list(FOUR_CLASSES)
    alone = np.vstack([predict_files(student, [path])[classes].to_numpy() for path in files])
    table = predict_files(student, files, batch_s=batch_s)
    np.testing.assert_allclose(table[classes].to_numpy(), alone, atol=1e-5)
    back = predict_files(student, files[::-1], batch_s=batch_s)
    np.testing.assert_allclose(back[classes].to_numpy()[::-1], alone, atol=1e-5)


def test_batches_stay_within_the_budget(student, files, monkeypatch):
    seen = []
    inner = predict.predict_signals

    def spy(student, signals, device):
        seen.append([len(signal) for signal in signals])
        return inner(student, signals, device)

    monkeypatch.setattr(predict, "predict_signals", spy)
    predict_files(student, files, batch_s=1.0)
    assert sorted(n for batch in seen for n in batch) == sorted(
        int(seconds * 16_000) for seconds in DURATIONS_S
    )
    assert all(len(b) == 1 or len(b) * max(b) <= 16_000 for b in seen)
    assert max(len(b) for b in seen) > 1


def test_a_training_student_is_put_to_rest(student, files):
    wanted = predict_files(student, files)
    assert predict_files(student.train(), files).equals(wanted)


def test_no_files(student):
    table = predict_files(student, [])
    assert list(table.columns) == ["file", "label", *FOUR_CLASSES]
    assert len(table) == 0


def test_every_bad_file_is_named(student, files, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    paths = [files[0], tmp_path / "text.wav", files[1], tmp_path / "absent.wav"]
    with pytest.raises(UserError, match="2 files cannot be used") as caught:
        predict_files(student, paths, batch_s=0.1)
    assert "text.wav" in caught.value.message
    assert "absent.wav" in caught.value.message
    with pytest.raises(UserError, match=r"absent\.wav"):
        predict_files(student, [tmp_path / "absent.wav"])


def test_too_short_for_the_student(files, tmp_path):
    student = build_student(StudentSettings(backbone="tiny"), ("a", "b"), {}, seed=0)
    student.backbone.min_samples = 8001
    with pytest.raises(UserError, match=r"0\.500 s of audio, this student needs"):
        predict_files(student, [files[0]])


def test_limits_are_its_own_and_can_be_raised(student, files, tmp_path):
    """No store's settings are at hand here, and no flag would change them."""
    for seconds, name in ((0.05, "short"), (0.07, "least"), (61.0, "long")):
        noise = np.random.default_rng(0).normal(0, 0.1, int(seconds * 16_000))
        soundfile.write(tmp_path / f"{name}.wav", noise, 16_000)
    with pytest.raises(UserError, match=r"short\.wav: shorter than 0\.06 s") as caught:
        predict_files(student, [tmp_path / "short.wav"])
    assert caught.value.hint == "leave the file out"
    with pytest.raises(UserError, match=r"long\.wav: longer than 60 s") as caught:
        predict_files(student, [tmp_path / "long.wav"])
    assert "--max-duration-s" in caught.value.hint
    paths = [tmp_path / "least.wav", tmp_path / "long.wav"]
    table = predict_files(student, paths, max_duration_s=61)
    assert np.isfinite(table[list(FOUR_CLASSES)].to_numpy()).all()
    with pytest.raises(UserError, match=r"0\.wav: longer than 0\.4 s"):
        predict_files(student, [files[0]], max_duration_s=0.4)


@pytest.mark.parametrize("limit", [0, -1, 601, float("nan"), float("inf")])
def test_a_limit_that_is_none(student, files, limit):
    with pytest.raises(UserError, match=r"--max-duration-s .*: not a limit in seconds") as caught:
        predict_files(student, files, max_duration_s=limit)
    assert caught.value.exit_code == 2
