"""benchmarks/: what is measured is the real thing, and counts what it says."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import memory, nothing, padding, reading, stall, stores, study
from benchmarks.common import ROOT, Bench, script
from distill.data import MicroBatchPlan, open_signals
from featstore.build.plan import Request, make_plan
from featstore.build.units import source_sums
from featstore.core.schema import TaskFailed
from featstore.corpora import load
from featstore.store.verify import verify

N = 80


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"), quick=True)


@pytest.fixture(scope="module")
def store(bench):
    return stores.store(bench, N)


def test_a_store_to_measure_on_is_a_store(store):
    assert verify(store).faults == ()
    assert len(store.units()) == 4 + 2 * len(store.folds) == 24
    assert store.fold(10)["linguistic"].embeddings.shape == (N, 768)


def test_a_build_takes_it_for_finished(bench):
    place = stores.table_store(bench, N, folds="1")
    settings = stores.settings()
    corpus = load("table", place / "corpus", settings.corpus)
    request = Request(corpus, settings, place / "store", "1")
    sums = source_sums(corpus)
    assert {step.status for step in make_plan(request, sums).steps} == {"done"}
    name = corpus.utterances["file"][0]
    changed = make_plan(request, {**sums, name: "0" * 64}).step("audio")
    assert changed.status == "conflict"  # so the files were looked at


def test_half_a_store_does_not_stay(bench):
    def fill(folder):
        (folder / "half").touch()
        raise KeyError("interrupted")

    with pytest.raises(KeyError):
        stores.made(bench, "halved", fill)
    place = stores.made(bench, "halved", lambda folder: (folder / "whole").touch())
    assert [path.name for path in place.iterdir()] == ["whole"]
    assert stores.made(bench, "halved", fill) == place


def test_other_samples_are_not_timed(store):
    ours = open_signals(store, None, check=False)
    shifted = reading.Handing(lambda i: np.roll(store.audio.read(i), 1))
    plan = MicroBatchPlan(np.array([3, 1]))
    reading._refuse_differences({"store": ours, "same": ours}, plan, store.lengths)
    with pytest.raises(TaskFailed, match="shifted gives other samples"):
        reading._refuse_differences({"store": ours, "shifted": shifted}, plan, store.lengths)


def test_every_variant_is_given_the_same_batches():
    one, other = reading._endless(N), reading._endless(N)
    for _ in range(3):
        pairs = zip(next(one), next(other), strict=True)
        assert all(a.rows.tolist() == b.rows.tolist() for a, b in pairs)
    assert next(one)[0].rows.tolist() != next(one)[0].rows.tolist()


def test_padding_is_counted():
    lengths = (stores.lengths_s(2_000) * 16_000).astype(np.int64)
    ours = padding._ours(lengths, 128, 8, 160.0, 1)
    assert (
        0 < ours < padding._ours(lengths, 128, 1, 160.0, 1) < padding._random(lengths, 35, 1) < 90
    )


class Slow:
    def read_into(self, index, out):
        time.sleep(0.01)


@pytest.mark.parametrize(("pace", "low", "high"), [(1e9, 0.9, 1.0), (20.0, 0.0, 0.4)])
def test_waiting_is_told_from_computing(pace, low, high):
    plans = [MicroBatchPlan(np.array([row])) for row in range(20)]
    lengths = np.full(20, 16_000)
    waits_s, whole_s = stall.consume(Slow(), plans, lengths, pace)
    assert len(waits_s) == len(plans) + 1
    assert low <= sum(waits_s) / whole_s <= high


def test_memory_that_was_given_back_counts():
    with memory.Peak() as peak:
        held = np.ones(8_000_000)  # 64 MB
        time.sleep(0.1)
        before = memory._status("RssAnon")
        del held
    assert peak.anonymous >= before - 1
    assert peak.anonymous > memory._status("RssAnon") + 50
    assert peak.resident >= peak.anonymous


def test_the_study_fits_each_teacher_once(bench):
    answer = study.measure(bench)
    assert answer.rows[0].met
    assert answer.measured["fits"] == [20.0]
    assert answer.measured["runs"] == [130.0]


def test_a_build_with_work_to_do_is_no_measurement(bench, tmp_path):
    place = shutil.copytree(stores.table_store(bench, N, folds="1"), tmp_path / "place")
    shutil.rmtree(place / "store" / "splits")
    with pytest.raises(TaskFailed, match="the build had work to do: splits"):
        nothing.build(place, "1")


@pytest.mark.slow
def test_all_of_it_runs_small_and_writes_nothing(tmp_path):
    pytest.importorskip("datasets")
    pytest.importorskip("lhotse")
    script("featstore")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--out", tmp_path],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 40
    assert list(tmp_path.iterdir()) == []
