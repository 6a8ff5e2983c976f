from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from featstore.features.audio import Samples, to_samples
from featstore.features.lld import F0, LOUDNESS, Normaliser, extract, measured, names

COLUMNS = (LOUDNESS, F0, "F1amplitudeLogRelF0_sma3nz")
"""Three descriptors stand for 25: one measured everywhere, the pitch, and one with sentinels."""


@pytest.fixture(scope="module")
def signals(small_corpus: Path) -> list[Samples]:
    files = sorted(small_corpus.glob("Session1/sentences/wav/*/*.wav"))[:6]
    return [soundfile.read(file, dtype="int16")[0] for file in files]


def lld(*rows: tuple[float, float, float]) -> npt.NDArray[np.float32]:
    return np.array(rows, dtype=np.float32)


class TestExtract:
    def test_is_25_descriptors_every_10_ms(self, signals: list[Samples]) -> None:
        assert len(names()) == len(set(names())) == 25
        for samples in signals:
            found = extract(samples)
            assert found.dtype == np.float32
            assert found.shape == (len(found), 25)
            assert abs(len(found) - (100 * len(samples) / 16_000 - 4)) <= 1.5
            assert np.isfinite(found).all()

    def test_smaller_set_has_18(self, signals: list[Samples]) -> None:
        small = names("GeMAPSv01b")
        assert extract(signals[0], "GeMAPSv01b").shape[1] == len(small) == 18
        assert F0 in small  # what the mask is made from

    def test_shortest_utterance_allowed_has_finite_frames(self, signals: list[Samples]) -> None:
        found = extract(signals[0][4_000 : 4_000 + 960])  # audio.min_duration_s is 0.06 at least
        assert len(found) == 2
        assert np.isfinite(found).all()

    def test_same_samples_same_bytes_in_any_process_and_in_order(
        self, signals: list[Samples]
    ) -> None:
        here = [extract(samples).tobytes() for samples in signals]
        again = [extract(samples).tobytes() for samples in reversed(signals)][::-1]
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            others = [lld.tobytes() for lld in pool.map(extract, signals)]
        assert len(set(here)) == len(signals)
        assert here == again == others

    def test_silence_between_words_has_the_sentinels_that_the_mask_is_for(self) -> None:
        t = np.arange(8_000) / 16_000
        pulses = 0.3 * np.sign(np.sin(2 * np.pi * 150 * t)) * np.hanning(8_000)
        noise = np.random.default_rng(0).normal(0, 1e-3, 16_000)
        noise[4_000:12_000] += pulses
        found = extract(to_samples(noise.astype(np.float32)))
        unvoiced = found[:, names().index(F0)] == 0
        amplitude = found[:, names().index("F1amplitudeLogRelF0_sma3nz")]
        assert 0.2 < unvoiced.mean() < 0.9
        assert (amplitude[unvoiced] < -100).mean() > 0.8
        mask = measured(found, names())
        assert not mask[unvoiced][:, names().index("F1amplitudeLogRelF0_sma3nz")].any()


class TestMask:
    def test_voiced_only_descriptors_follow_the_pitch(self) -> None:
        table = lld((0.1, 0.0, -201.0), (0.2, 30.0, -20.0))
        np.testing.assert_array_equal(
            measured(table, COLUMNS), [[True, False, False], [True, True, True]]
        )

    def test_covers_fifteen_of_the_25(self) -> None:
        """Loudness, slopes, MFCC 1-4 and the like are measured in every frame."""
        unvoiced = measured(np.zeros((1, 25), dtype=np.float32), names())
        assert int(unvoiced.sum()) == 10
        assert [name for name, m in zip(names(), unvoiced[0], strict=True) if not m] == [
            name for name in names() if name.endswith("nz")
        ]


class TestNormaliser:
    def test_agrees_with_numpy_over_measured_frames(self) -> None:
        rng = np.random.default_rng(0)
        parts = [rng.normal(5, 3, (n, 3)).astype(np.float32) for n in (7, 1, 12)]
        for part in parts:
            part[:, 1] = np.abs(part[:, 1]) * (rng.random(len(part)) < 0.6)
            part[part[:, 1] == 0, 2] = -201.0
        every = np.concatenate(parts)
        voiced = every[:, 1] > 0
        expected = [every[:, 0], every[voiced, 1], every[voiced, 2]]
        found = Normaliser.fit(parts, COLUMNS)
        np.testing.assert_allclose(found.mean, [column.mean() for column in expected], rtol=1e-5)
        np.testing.assert_allclose(found.std, [column.std() for column in expected], rtol=1e-5)

    def test_sentinels_take_no_part(self) -> None:
        voiced = [(0.1, 30.0, -20.0), (0.3, 34.0, -10.0)]
        silent = [(0.2, 0.0, -201.0)] * 50
        few, many = (Normaliser.fit([lld(*rows)], COLUMNS) for rows in (voiced, voiced + silent))
        np.testing.assert_allclose(many.mean[1:], [32.0, -15.0])
        np.testing.assert_allclose(many.std[1:], [2.0, 5.0])
        np.testing.assert_allclose(many.mean[1:], few.mean[1:])

    def test_by_hand(self) -> None:
        found = Normaliser.fit([lld((0.0, 30.0, -20.0), (2.0, 34.0, -10.0))], COLUMNS)
        scores, mask = found.apply(lld((4.0, 36.0, -15.0), (1.0, 0.0, -201.0)))
        np.testing.assert_allclose(scores, [[3.0, 2.0, 0.0], [0.0, 0.0, 0.0]], atol=1e-6)
        np.testing.assert_array_equal(mask, [[1, 1, 1], [1, 0, 0]])

    def test_does_not_depend_on_how_frames_are_spread_over_utterances(self) -> None:
        rows = np.random.default_rng(1).normal(20, 9, (30, 3)).astype(np.float32)
        one = Normaliser.fit([rows], COLUMNS)
        many = Normaliser.fit([rows[:1], rows[1:20], rows[20:]], COLUMNS)
        np.testing.assert_array_equal(one.mean, many.mean)
        np.testing.assert_allclose(one.std, many.std, rtol=1e-6)

    def test_odd_frame_is_limited(self) -> None:
        found = Normaliser.fit([lld((0.0, 30.0, -20.0), (2.0, 34.0, -10.0))], COLUMNS)
        assert found.apply(lld((1e9, 1.0, -1e9)))[0].tolist() == [[10.0, -10.0, -10.0]]

    @pytest.mark.parametrize(
        "rows", [[(3.0, 0.0, -201.0)] * 4, [(3.0, 30.0, -20.0)] * 4, [(3.0, 30.0, -20.0)]]
    )
    def test_descriptor_without_spread_gives_zero_and_not_nan(
        self, rows: list[tuple[float, float, float]]
    ) -> None:
        found = Normaliser.fit([lld(*rows)], COLUMNS)
        assert found.std.tolist() == [1.0, 1.0, 1.0]
        np.testing.assert_array_equal(found.apply(lld(*rows))[0], 0.0)

    def test_of_nothing(self) -> None:
        found = Normaliser.fit([], COLUMNS)
        assert (found.mean.tolist(), found.std.tolist()) == ([0, 0, 0], [1, 1, 1])
