"""distill/data.py: every utterance once an epoch, in an order that comes back, unaltered."""

import math
import pickle
import shutil
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.data import (
    CorpusSignals,
    MicroBatch,
    MicroBatchPlan,
    evaluation_batches,
    open_signals,
    plan_steps,
    read_batch,
    stream,
    training_steps,
)
from featstore.build import units as builds
from featstore.core.config import AudioSettings
from featstore.core.schema import Corrupt, Refused, UserError
from featstore.features.audio import BadAudio
from featstore.store.store import Store
from tests.distill.small_runs import copied, forged

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=40).map(np.array)
SIZES = st.integers(1, 9)


@dataclass
class Counting:
    """Utterance n is n repeated; remembers what was read, and fails where told to."""

    fails_at: int | None = None
    read: list[int] = field(default_factory=list)

    def read_into(self, index, out):
        if index == self.fails_at:
            raise Corrupt(f"utterance {index}", "mend it")
        self.read.append(index)
        out[:] = index


def streaming() -> bool:
    return any(thread.name == "stream" for thread in threading.enumerate())


def one_by_one(n: int) -> tuple[list[MicroBatchPlan], np.ndarray]:
    return [MicroBatchPlan(np.array([row])) for row in range(n)], np.full(n, 4)


@given(LENGTHS, SIZES, st.integers(1, 5), st.integers(0, 9), st.integers(1, 9))
def test_an_epoch_is_a_pure_function_of_seed_and_number(lengths, size, pool, seed, epoch):
    rows = np.arange(len(lengths))[::2]
    steps = training_steps(rows, lengths, size, pool, seed, epoch)
    again = training_steps(rows, lengths, size, pool, seed, epoch)
    assert [step.tolist() for step in steps] == [step.tolist() for step in again]
    assert sorted(np.concatenate(steps)) == rows.tolist()
    assert max(map(len, steps)) <= size
    assert len(steps) == math.ceil(len(rows) / size)


def test_epochs_and_seeds_differ_and_global_generators_do_not_matter():
    rows, lengths = np.arange(64), np.arange(64) * 10 + 1
    orders = set()
    for key in ((1, 1), (1, 2), (2, 1), (1, 1)):
        np.random.seed(len(orders))  # which must have no say
        torch.manual_seed(len(orders))
        orders.add(tuple(np.concatenate(training_steps(rows, lengths, 16, 8, *key)).tolist()))
    assert len(orders) == 3


@given(LENGTHS, SIZES, st.integers(1, 2000))
def test_micro_batches_are_the_step_within_the_budget(lengths, size, budget):
    steps = training_steps(np.arange(len(lengths)), lengths, size, 1, 0, 1)
    plans = plan_steps(steps, lengths, budget)
    for plan in plans:
        assert len(plan.rows) * lengths[plan.rows].max() <= budget or len(plan.rows) == 1
    ends = [index + 1 for index, plan in enumerate(plans) if plan.ends_step]
    assert ends[-1] == len(plans)
    for step, (start, end) in zip(steps, pairwise([0, *ends]), strict=True):
        parts = plans[start:end]
        assert sorted(np.concatenate([part.rows for part in parts])) == sorted(step)
        assert [part.share for part in parts] == [len(part.rows) / len(step) for part in parts]


@given(LENGTHS, st.integers(1, 2000))
def test_evaluation_visits_every_row_the_longest_first(lengths, budget):
    rows = np.arange(len(lengths))[::3]
    plans = evaluation_batches(rows, lengths, budget)
    visited = np.concatenate([plan.rows for plan in plans])
    assert sorted(visited) == rows.tolist()
    assert (np.diff(lengths[visited]) <= 0).all()
    assert all(
        len(plan.rows) * lengths[plan.rows].max() <= budget or len(plan.rows) == 1 for plan in plans
    )


def test_batches_are_the_stores_signals_with_zeros_after_them(small_store):
    zarr = pytest.importorskip("zarr")
    store = Store.open(small_store)
    group = zarr.open_group(small_store / "audio", mode="r")
    values, offsets = group["values"][:], group["offsets"][:]
    lengths = store.lengths
    steps = training_steps(np.arange(len(lengths)), lengths, 16, 1, 42, 1)
    plans = plan_steps(steps, lengths, budget=8 * 16_000)
    assert len(plans) > len(steps)
    seen = []
    for plan, batch in zip(plans, stream(open_signals(store, None), plans, lengths), strict=True):
        assert batch.rows.tolist() == plan.rows.tolist()
        assert (batch.share, batch.ends_step) == (plan.share, plan.ends_step)
        assert batch.signals.dtype == torch.float32
        assert batch.signals.shape[1] == batch.lengths.max()
        for row, size, signal in zip(batch.rows, batch.lengths, batch.signals, strict=True):
            expected = values[offsets[row] : offsets[row + 1]] / np.float32(32768)
            assert size == len(expected)
            np.testing.assert_array_equal(signal[:size].numpy(), expected)
            assert not signal[size:].any()
            seen.append(int(row))
    assert sorted(seen) == list(range(len(lengths)))


def test_lengths_stay_on_the_cpu():
    batch = MicroBatch(torch.tensor([0]), torch.zeros(1, 4), torch.tensor([4]), 1, True)
    there = batch.to(torch.device("meta"))
    devices = [t.device.type for t in (there.rows, there.signals, there.lengths)]
    assert devices == ["meta", "meta", "cpu"]


def test_an_error_in_the_thread_is_the_callers():
    plans, lengths = one_by_one(9)
    batches = stream(Counting(fails_at=5), plans, lengths)
    got = [next(batches).rows.tolist() for _ in range(5)]
    assert got == [[0], [1], [2], [3], [4]]
    with pytest.raises(Corrupt, match="utterance 5"):
        next(batches)
    assert not streaming()


def test_leaving_early_ends_the_thread():
    plans, lengths = one_by_one(500)
    signals = Counting()
    batches = stream(signals, plans, lengths)
    next(batches)
    assert streaming()
    batches.close()
    assert not streaming()
    assert len(signals.read) < 500


@pytest.mark.parametrize("ahead", [1, 3, 20])
def test_read_ahead_or_when_asked_for_the_batches_are_the_same(small_store, ahead):
    store = Store.open(small_store)
    signals, lengths = open_signals(store, None), store.lengths
    steps = training_steps(np.arange(len(lengths)), lengths, 16, 8, 42, 1)
    plans = plan_steps(steps, lengths, budget=6 * 16_000)
    assert len(plans) > 20
    for plan, batch in zip(plans, stream(signals, plans, lengths, ahead=ahead), strict=True):
        expected = read_batch(signals, plan, lengths)
        assert batch.rows.tolist() == expected.rows.tolist() == plan.rows.tolist()
        assert batch.lengths.tolist() == expected.lengths.tolist()
        assert torch.equal(batch.signals, expected.signals)
        assert (batch.share, batch.ends_step) == (expected.share, expected.ends_step)
    assert not streaming()


def test_an_error_of_the_caller_ends_the_thread():
    plans, lengths = one_by_one(500)
    signals = Counting()

    def fail():
        for batch in stream(signals, plans, lengths):
            raise ValueError(f"the caller's own, at {batch.rows.tolist()}")

    with pytest.raises(ValueError, match="the caller's own"):
        fail()
    assert not streaming()
    assert len(signals.read) < 500


def test_the_caller_never_waits_for_what_could_have_been_read():
    """Once the thread has had the time, a batch is handed over without a read in between."""
    plans, lengths = one_by_one(40)
    signals = Counting()
    batches = stream(signals, plans, lengths, ahead=3)
    for number in range(30):
        next(batches)
        wanted, deadline = min(number + 5, 40), time.monotonic() + 10
        while len(signals.read) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)  # the student at work
        assert len(signals.read) == wanted
    batches.close()


def test_one_thread_reads_faster_than_a_student_hears(small_store):
    """4,000 s of audio a second is a student ten times as fast as HuBERT-base on a large GPU."""
    store = Store.open(small_store)
    signals, lengths = open_signals(store, None, check=False), store.lengths
    plans = evaluation_batches(np.arange(len(lengths)), lengths, 160 * 16_000) * 5
    read_batch(signals, plans[0], lengths)
    began = time.thread_time()  # a busy machine makes others wait, not this clock
    for plan in plans:
        read_batch(signals, plan, lengths)
    heard_s = 5 * lengths.sum() / 16_000
    assert heard_s / (time.thread_time() - began) > 4_000


def test_a_step_without_rows_of_ours_has_one_that_counts_nothing():
    step = np.array([2, 0])
    (plan,) = plan_steps([step], np.array([4, 4, 4]), 8, [step[:0]])
    assert (plan.rows.tolist(), plan.share, plan.ends_step) == ([2], 0, True)


def test_nothing_planned_is_nothing_read():
    assert list(stream(Counting(), [], np.array([1]))) == []
    assert not streaming()


@pytest.fixture(scope="module")
def bare_store(small_request, tmp_path_factory):
    """Corpus and audio units of the small corpus, built with --no-embed-audio."""
    manifest = small_request.manifest
    store = Store.create(tmp_path_factory.mktemp("bare") / "store")
    settings = AudioSettings(embed_audio=False)
    sums = builds.source_sums(manifest)
    audio = builds.audio_identity(manifest, settings, sums)
    corpus = builds.corpus_identity(manifest, small_request.settings)
    audio, corpus = (builds.Step(one, "build", "not there yet") for one in (audio, corpus))
    builds.write_audio(store.path, audio, manifest, settings, sums, 1)
    builds.write_corpus(store.path, corpus, manifest, small_request.settings)
    return store


def test_a_store_without_audio_streams_the_corpus_to_the_same_samples(
    bare_store, small_store, small_corpus
):
    assert not (bare_store.path / "audio" / "values").exists()
    full = Store.open(small_store)
    assert bare_store.lengths.tolist() == full.lengths.tolist()
    outside = open_signals(bare_store, small_corpus)
    assert isinstance(outside, CorpusSignals)
    for plan in evaluation_batches(np.arange(len(full.lengths)), full.lengths, 60 * 16_000):
        expected = read_batch(open_signals(full, None), plan, full.lengths)
        torch.testing.assert_close(
            read_batch(outside, plan, full.lengths).signals, expected.signals, rtol=0, atol=0
        )


def test_a_store_without_audio_needs_the_corpus(bare_store):
    with pytest.raises(UserError, match="holds no signals") as caught:
        open_signals(bare_store, None)
    assert "--root" in caught.value.hint


def test_only_the_corpus_that_the_store_was_built_from_will_do(bare_store, small_corpus, tmp_path):
    root = Path(shutil.copytree(small_corpus, tmp_path / "corpus"))
    files = Store.open(bare_store.path).utterances["file"].tolist()
    first, second = root / files[0], root / files[1]
    signal, rate = soundfile.read(first, dtype="int16")
    signal[100] ^= 1
    soundfile.write(first, signal, rate)
    second.unlink()
    with pytest.raises(UserError) as caught:
        open_signals(bare_store, root)
    assert f"{files[0]}: not the file that the store was built from" in caught.value.message
    assert f"{files[1]}: missing" in caught.value.message
    assert files[2] not in caught.value.message
    assert "--root" in caught.value.hint


def outside(file: str, duration_s: float, start_s: float = 0, **settings) -> CorpusSignals:
    table = pd.DataFrame({"file": [file], "start_s": [start_s], "duration_s": [duration_s]})
    return CorpusSignals(Path(), table.assign(sha256=""), AudioSettings(**settings))


def test_an_utterance_within_a_longer_file(tmp_path):
    samples = np.random.default_rng(0).integers(-999, 999, 16_000, dtype=np.int16)
    soundfile.write(tmp_path / "dialogue.wav", samples, 16_000)
    out = np.empty(4_000, dtype=np.float32)
    outside(str(tmp_path / "dialogue.wav"), 0.25, start_s=0.5).read_into(0, out)
    np.testing.assert_array_equal(out, samples[8_000:12_000])


@pytest.mark.parametrize("name", ["/elsewhere/above.wav", "../above.wav", "in/../../above.wav"])
def test_a_store_that_names_files_outside_the_corpus(name):
    with pytest.raises(Refused, match="outside its corpus") as caught:
        outside(name, 1.0).verify()
    assert caught.value.exit_code == 4


def test_the_stores_own_limits_hold(tmp_path):
    """A store may have been built with other limits on duration than the default ones."""
    path = tmp_path / "long.wav"
    noise = np.random.default_rng(0).integers(-9, 9, 61 * 4_000, dtype=np.int16)
    soundfile.write(path, noise, 4_000)
    out = np.empty(61 * 16_000, dtype=np.float32)
    outside(str(path), 61.0, max_duration_s=90).read_into(0, out)
    assert np.abs(out).max() > 1
    with pytest.raises(UserError, match=r"audio.max_duration_s = 60") as caught:
        outside(str(path), 61.0).read_into(0, out)
    again = pickle.loads(pickle.dumps(caught.value))  # as it leaves a worker process
    assert isinstance(again, BadAudio)
    assert again.reason == "too-long"
    assert (again.message, again.hint) == (caught.value.message, caught.value.hint)
    with pytest.raises(Corrupt, match="976000 samples instead of 5"):
        outside(str(path), 61.0, max_duration_s=90).read_into(0, out[:5])


def test_audio_of_other_utterances_than_the_corpus(small_store, tmp_path):
    store = copied(small_store, tmp_path / "store")
    sources = store / "audio" / "sources.parquet"
    with forged(store / "audio"):
        pd.read_parquet(sources).iloc[::-1].to_parquet(sources, index=False)
    with pytest.raises(Refused, match="audio and corpus list different utterances"):
        open_signals(Store.open(store), None)
