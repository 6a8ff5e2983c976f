"""distill/data.py: what is done to a signal, to whom, and what is refused."""

import numpy as np
import pytest
import torch
from torchaudio.functional import mu_law_decoding, mu_law_encoding

from distill.config import AugmentSettings, RunSettings, run_key
from distill.data import (
    augmentation,
    mulaw,
    plan_steps,
    read_batch,
    stream,
    through,
    training_steps,
)
from featstore.core.schema import UserError
from featstore.core.settings import load_toml, overrides, resolve, to_toml
from featstore.core.training import generator
from tests.distill.small_runs import results, settings_of, train

RATE = 16_000
ALL = AugmentSettings(
    noise_snr_db=(5, 20), gain_db=(-6, 6), codecs=("mulaw", "narrowband", "telephone")
)


def tone(hz, seconds=1.0, level=0.1):
    t = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def db(ratio):
    return 10 * np.log10(ratio)


def power(signal):
    return np.mean(np.square(signal, dtype=np.float64))


class Tones:
    """Utterance n is a tone of its own."""

    def read_into(self, index, out):
        out[:] = 3000 * np.sin(np.arange(len(out)) * (0.01 + 0.01 * index))


LENGTHS = np.array([4_000, 1_600, 9_000, 3_000, 5_000, 7_000, 2_000, 8_000])


def altered(settings, epoch=1, seed=3, batch=4, budget=20_000, prefetch=False):
    """Every utterance as it comes out of the stream."""
    steps = training_steps(np.arange(len(LENGTHS)), LENGTHS, batch, 1, seed, epoch)
    plans = plan_steps(steps, LENGTHS, budget)
    augment = augmentation(settings, seed, epoch)
    batches = (
        stream(Tones(), plans, LENGTHS, augment=augment)
        if prefetch
        else (read_batch(Tones(), plan, LENGTHS, augment=augment) for plan in plans)
    )
    return {
        int(row): signal[:size].numpy().copy()
        for one in batches
        for row, size, signal in zip(one.rows, one.lengths, one.signals, strict=True)
    }


def same(ours, theirs):
    return all(np.array_equal(ours[row], theirs[row]) for row in range(len(LENGTHS)))


def test_batch_thread_and_place_in_the_epoch_change_nothing():
    expected = altered(ALL)
    assert same(altered(ALL, prefetch=True), expected)
    assert same(altered(ALL, batch=1), expected)
    assert same(altered(ALL, batch=8, budget=10**6), expected)
    resumed = augmentation(ALL, 3, 1)  # as a run that begins in the middle makes it anew
    alone = np.empty(LENGTHS[5], dtype=np.float32)
    Tones().read_into(5, alone)
    np.testing.assert_array_equal(resumed(5, alone / np.float32(32768)), expected[5])


def test_epochs_seeds_and_utterances_are_altered_each_in_its_own_way():
    expected = altered(ALL)
    for other in (altered(ALL, epoch=2), altered(ALL, seed=4)):
        assert not any(np.array_equal(other[row], expected[row]) for row in expected)
    flat = np.full(4_000, 0.25, dtype=np.float32)
    gain = augmentation(AugmentSettings(gain_db=(-6, 6)), 3, 1)
    assert len({float(gain(row, flat)[0]) for row in range(20)}) == 20


def test_the_order_of_the_epoch_and_the_first_utterance_draw_apart():
    """A seed sequence ignores zeros at its end: row 0 must not draw what orders the epoch."""
    noise = augmentation(AugmentSettings(noise_snr_db=(0, 0)), 3, 1)
    got = noise(0, np.full(8, 0.001, dtype=np.float32))
    order = generator(3, 1)
    order.uniform(0, 0)
    theirs = 0.001 + 0.001 * order.standard_normal(8, dtype=np.float32)
    assert np.abs(got - theirs).max() > 1e-4


def test_without_settings_nothing_is_done():
    assert augmentation(None, 1, 1) is None
    assert augmentation(AugmentSettings(), 1, 1) is None
    assert augmentation(ALL, 1, 1) is not None


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_noise_is_as_loud_as_was_said(snr_db):
    clean = tone(440, 4)
    noisy = augmentation(AugmentSettings(noise_snr_db=(snr_db, snr_db)), 1, 1)(0, clean)
    assert db(power(clean) / power(noisy - clean)) == pytest.approx(snr_db, abs=0.1)


def test_silence_stays_silent():
    silent = np.zeros(RATE, dtype=np.float32)
    assert not augmentation(ALL, 1, 1)(0, silent).any()


def test_gain_lies_within_its_range_and_clips_at_full_scale():
    gain = augmentation(AugmentSettings(gain_db=(-12, 6)), 1, 1)
    clean = tone(440)
    found = [db(power(gain(row, clean)) / power(clean)) for row in range(200)]
    assert -12 <= min(found) < -11
    assert 5 < max(found) <= 6
    loud = augmentation(AugmentSettings(gain_db=(40, 40)), 1, 1)(0, clean)
    assert (loud.min(), loud.max()) == (-1, np.float32(1 - 1 / 32768))
    assert loud.dtype == np.float32


def test_mulaw_is_g711s_curve():
    """Torchaudio's has 256 levels without a zero; the two are half a level apart at most."""
    clean = np.linspace(-1, 1, 10_001, dtype=np.float32)
    theirs = mu_law_decoding(mu_law_encoding(torch.from_numpy(clean), 256), 256).numpy()
    ours = mulaw(clean)
    assert len(np.unique(ours)) == 255
    assert np.abs(ours - theirs).max() < 0.045  # a level at full scale
    steady = np.abs(ours - clean) <= 0.025 * np.abs(clean) + 1e-4
    assert steady.all()


def test_a_narrow_band_keeps_what_lies_under_4_khz():
    for hz, kept in ((1_000, True), (6_000, False)):
        clean = tone(hz)
        got = through("narrowband", clean)
        assert len(got) == len(clean)
        inner = slice(800, -800)
        if kept:
            np.testing.assert_allclose(got[inner], clean[inner], atol=2e-3)
        else:
            assert db(power(got[inner]) / power(clean[inner])) < -40
    assert len(through("telephone", tone(440)[:-1])) == RATE - 1  # odd lengths stay odd


def test_a_share_of_the_utterances_goes_through_a_codec():
    clean = tone(1_000, 0.05)
    some = augmentation(AugmentSettings(codecs=("mulaw",), codec_share=0.3), 1, 1)
    touched = np.mean([not np.array_equal(some(row, clean), clean) for row in range(400)])
    assert touched == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize(
    "one", ["gain_db=[3, -3]", "speed=[0.9, 1.1]", "codecs=['mp3']", "noise_snr_db=[0, 200]"]
)
def test_ranges_that_are_none_and_what_targets_do_not_speak_of(one):
    with pytest.raises(UserError, match=r"stream\.augment"):
        resolve(RunSettings, overrides([f"stream.augment.{one}"]))


def test_it_is_part_of_what_a_run_is_and_is_written_down(tmp_path):
    plain = settings_of()
    noisy = settings_of("stream.augment.noise_snr_db=[5, 20]")
    assert run_key(noisy, "s", []) != run_key(plain, "s", [])
    written = tmp_path / "config.toml"
    written.write_text(to_toml(noisy))
    assert resolve(RunSettings, load_toml(written)) == noisy
    assert "stream.augment" not in to_toml(plain)


def test_it_changes_what_is_learned_and_nothing_that_is_tested(finished, small_store, tmp_path):
    noisy = train(small_store, tmp_path / "a", "stream.augment.noise_snr_db=[0, 10]")
    assert results(noisy.folder) != results(finished[1].folder)
    sets = ("stream.augment.gain_db=[0, 0]",)  # a factor of one: as if it were off
    same_again = train(small_store, tmp_path / "b", *sets)
    model = "student/model.safetensors"
    assert results(same_again.folder)[model] == results(finished[1].folder)[model]
