"""Signals, words, batches and logits at the edge of what there can be: never a NaN, anywhere."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from distill.losses import total_loss
from distill.model.predict import predict_files, predict_signals
from distill.model.student import Student, StudentOutput, build_student
from featstore.core.schema import SAMPLING_RATE
from featstore.features.audio import from_samples
from featstore.features.lld import Normaliser, extract, names
from featstore.store.ragged import Ragged
from featstore.store.store import Store
from tests.reliability.at_once import build_now, request_of, rewrite, run_now, run_settings
from tests.reliability.forgery import reseal

pytestmark = [pytest.mark.reliability]

Samples = npt.NDArray[np.int16]
LOUD, RATE = 32_767, SAMPLING_RATE


def constant(value: int, n: int = RATE // 2) -> Samples:
    return np.full(n, value, dtype=np.int16)


def square(pitch_hz: float, n: int = RATE // 2) -> Samples:
    phase = np.arange(n) * pitch_hz / RATE % 1
    return np.where(phase < 0.5, LOUD, -LOUD - 1).astype(np.int16)


def impulse() -> Samples:
    samples = constant(0)
    samples[4_000] = LOUD
    return samples


def noise(peak: int, n: int = RATE // 2) -> Samples:
    return np.random.default_rng(peak).integers(-peak, peak + 1, n).astype(np.int16)


SIGNALS: Mapping[str, Samples] = {
    "constant": constant(1_000),
    "constant, least": constant(1),
    "constant, full scale": constant(LOUD),
    "constant, negative": constant(-LOUD - 1),
    "60 ms of noise": noise(3_000, 960),
    "60 ms, constant": constant(-5, 960),
    "square, clipping": square(150),
    "square, of two samples": square(8_000),
    "square, one period": square(2),
    "one click in silence": impulse(),
    "one bit of noise": noise(1),
    "noise, full scale": noise(LOUD),
    "silence, then a tone": np.concatenate([constant(0, 6_000), square(200, 2_000)]),
}
"""Silence itself is refused when it is read; every other signal may be somebody's utterance."""
TEXTS = ("a", "...", "\u00e9\u0303 \U0001f600", "no " * 3_000, "x" * 5_000, "the same", "the same")


@pytest.mark.parametrize("name", SIGNALS)
def test_descriptors_and_their_normalisation(name: str) -> None:
    columns = names()
    found = extract(SIGNALS[name])
    assert len(found) > 0
    assert np.isfinite(found).all()
    ordinary = extract(noise(3_000) + square(170) // 4)
    for fitted_on in ([found], [ordinary], [found, ordinary], [found[:1]]):
        normaliser = Normaliser.fit(fitted_on, columns)
        assert np.isfinite(normaliser.mean).all()
        assert (normaliser.std > 0).all()
        scores = normaliser.apply(found)
        assert np.isfinite(scores).all()
        assert np.abs(scores).max() <= 10


def test_silence_itself(tmp_path: Path) -> None:
    """Should it get that far: zeros all the way are refused by the reader alone."""
    found = extract(constant(0))
    assert np.isfinite(found).all()
    student = untrained()
    assert np.isfinite(predict_signals(student, [from_samples(constant(0))])).all()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A corpus of nothing else, three speakers, and teachers that see one utterance at a time."""
    base = tmp_path_factory.mktemp("odd")
    (base / "corpus").mkdir()
    rows = []
    for s, speaker in enumerate(("ada", "bo", "cy")):
        for n, samples in enumerate(SIGNALS.values()):
            name = f"{speaker}{n}"
            samples = np.roll(samples, 7 * s)
            soundfile.write(base / "corpus" / f"{name}.wav", samples, RATE, subtype="PCM_16")
            text = TEXTS[(n + s) % len(TEXTS)]
            rows.append([name, f"{name}.wav", speaker, ("high", "low")[n % 2], text])
    with (base / "corpus" / "table.csv").open("w", newline="", encoding="utf-8") as file:
        header = ["utterance_id", "file", "speaker", "label", "text"]
        csv.writer(file).writerows([header, *rows])
    sets = [
        "audio.min_duration_s=0.06", "teachers.alone.kind=prosodic",
        "teachers.alone.channels=[4, 4, 4, 4]", "teachers.alone.optim.batch_size=1",
        "teachers.alone.optim.epochs=1", "teachers.alone.optim.lr=0.1",
        "teachers.alone.normalisation=utterance", "teachers.linguistic.optim.batch_size=1",
        "teachers.prosodic.normalisation=speaker", "teachers.prosodic.time_masks=9",
        "teachers.prosodic.time_crop=0.05", "teachers.prosodic.optim.class_weights=true",
    ]  # fmt: skip
    return build_now(request_of(base / "corpus", base / "store", *sets, folds="1"))


def finite(store: Store, run: Path) -> int:
    """Every number of a run: its weights, epochs and predictions; how many there are."""
    state = load_file(run / "student" / "model.safetensors")
    for name, values in state.items():
        assert torch.isfinite(values).all(), name
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scalars = [v for line in lines for v in flat(line)]
    assert all(map(math.isfinite, scalars))
    student = Student.from_pretrained(run / "student")
    signals = [from_samples(store.audio.read(row)) for row in range(len(store.audio))]
    together = predict_signals(student, signals)
    assert np.isfinite(together).all()
    for signal, row in zip(signals, together, strict=True):
        assert np.allclose(predict_signals(student, [signal])[0], row, atol=1e-5)
    return sum(v.numel() for v in state.values()) + len(scalars) + together.size


def flat(value: object) -> list[float]:
    if isinstance(value, dict):
        return [v for item in value.values() for v in flat(item)]
    return [value] if isinstance(value, float) else []


def test_teachers_learn_from_them(odd: Store) -> None:
    assert len(odd.utterances) == 3 * len(SIGNALS)  # none was dropped
    lld = Ragged(odd.path / "lld")
    assert all(np.isfinite(lld.read(row)).all() for row in range(len(lld)))
    outputs = odd.fold(1)
    assert sorted(outputs) == ["alone", "linguistic", "prosodic"]
    for name, output in outputs.items():
        assert np.isfinite(output.logits).all(), name
        assert np.isfinite(output.embeddings).all(), name
        assert all(map(math.isfinite, [v for e in output.unit.facts["history"] for v in flat(e)]))


@pytest.mark.parametrize(
    "sets",
    [("optim.batch_size=1",), ("optim.batch_size=4", "optim.class_weights=true"),
     ("student.pooling=attention", "optim.lr=0.1"), ("losses.kl=student_teacher",)],
    ids=lambda sets: sets[0],
)  # fmt: skip
def test_a_student_learns_from_them(sets: tuple[str, ...], odd: Store, tmp_path: Path) -> None:
    """Among others one utterance a batch, so that each batch is of one class."""
    began = time.monotonic()
    run = run_now(odd.path, tmp_path, "losses.teachers.alone.tau=1", *sets).folder
    n = finite(odd, run)
    print(f"{sets[0]}: {n} numbers finite, {time.monotonic() - began:.1f} s")


@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
def test_a_student_survives_teachers_that_are_certain(
    direction: str, tone_store: Path, tmp_path: Path
) -> None:
    """Logits of 1e4 either way, right and wrong, and embeddings of any length."""
    rng = np.random.default_rng(0)

    def certain(values: npt.NDArray[np.float32]) -> None:
        values[:] = 1e4 * rng.choice([-1, 1], values.shape)

    def stretched(values: npt.NDArray[np.float32]) -> None:
        values *= 10.0 ** rng.integers(-15, 16, (len(values), 1))

    for name in ("linguistic", "prosodic"):
        unit = tone_store / "folds" / "01" / name
        rewrite(unit, "logits", certain)
        rewrite(unit, "embeddings", stretched)
        reseal(unit)
    run = run_now(tone_store, tmp_path, f"losses.kl={direction}", "losses.tau_squared=true").folder
    print(f"{direction}: {finite(Store.open(tone_store), run)} numbers finite")


def untrained(factor: float = 1.0) -> Student:
    """A tiny student whose last layer is multiplied."""
    student = build_student(run_settings().student, ("high", "low"), {"prosodic": 4}, seed=0)
    with torch.no_grad():
        for parameter in student.head[-1].parameters():
            parameter.mul_(factor)
    return student.eval()


@pytest.mark.parametrize("tau", [0.01, 0.5, 5.0, 1e4])
@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]])
def test_losses_and_gradients_of_certain_logits(
    tau: float, direction: str, labels: list[int]
) -> None:
    """Each sign of 1e4 for the student against each for the teacher, whatever the labels."""
    high, low = [1e4, -1e4], [-1e4, 1e4]
    logits = torch.tensor([high, high, low, [1e4, 1e4]], requires_grad=True)
    embeddings = torch.tensor(
        [[1e4, -1e4], [0.0, 0.0], [1e-30, 1e-30], [1e18, 1.0]], requires_grad=True
    )
    teacher = torch.tensor([high, low, low, [0.0, -1e4]])
    wanted = torch.tensor([[1e-20, 0.0], [1e4, 1e4], [-1e18, 1e18], [1.0, 2.0]])
    settings = run_settings(
        f"losses.teachers.prosodic.tau={tau}", f"losses.kl={direction}", "losses.tau_squared=true"
    ).losses
    output = StudentOutput(logits, {"prosodic": embeddings}, embeddings)
    parts = total_loss(
        output, {"prosodic": (teacher, wanted)}, torch.tensor(labels), settings,
        torch.tensor([0.0, 2.0]), 0.1,
    )  # fmt: skip
    assert all(torch.isfinite(value).all() for value in parts.terms.values())
    parts.total.backward()  # type: ignore[no-untyped-call]
    for leaf in (logits, embeddings):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("factor", [0.0, 1e6, 1e12])
def test_probabilities_of_certain_logits(factor: float, tmp_path: Path) -> None:
    student = untrained(factor)
    for number, samples in enumerate(SIGNALS.values()):
        soundfile.write(tmp_path / f"{number}.wav", samples, RATE, subtype="PCM_16")
    table = predict_files(student, sorted(tmp_path.glob("*.wav")))
    values = table[["high", "low"]].to_numpy()
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values.sum(axis=1), 1)
    with torch.inference_mode():
        signal = torch.from_numpy(from_samples(noise(3_000)))[None]
        logits = student(signal, torch.tensor([signal.shape[1]])).logits
    assert factor < 1e6 or logits.abs().max() > 1e4


def test_a_nan_would_have_been_seen(odd: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the floor under a normaliser's deviation, a constant is one."""
    plain: Callable[..., Normaliser] = Normaliser.fit
    found = extract(constant(1_000))

    def without_floor(llds: list[npt.NDArray[np.float32]], columns: tuple[str, ...]) -> Normaliser:
        made = plain(llds, columns)
        return Normaliser(columns, made.mean, np.std(found, axis=0))

    monkeypatch.setattr(Normaliser, "fit", staticmethod(without_floor))
    with np.errstate(all="ignore"):
        assert not np.isfinite(Normaliser.fit([found], names()).apply(found)).all()
