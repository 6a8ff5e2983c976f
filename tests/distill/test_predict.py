import numpy as np
import pytest
import soundfile
import torch

from distill import predict
from distill.predict import predict_files
from distill.student import StudentSettings, build_student
from featstore.schema import FOUR_CLASSES, UserError

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
