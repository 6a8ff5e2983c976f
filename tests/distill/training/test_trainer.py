"""distill/training/loop.py: what a run leaves, what it may depend on, and what stops it."""

import json
import tomllib

import numpy as np
import pandas as pd
import pytest
import torch

from distill.model.predict import predict_files
from distill.model.student import Student
from distill.report import collect
from distill.runs import folder as runs
from distill.runs.folder import FAILED, Keys, RunRequest
from distill.runs.records import RunFacts
from distill.training import loop
from distill.training.loop import run_fold
from featstore.core.metrics import ua, wa
from featstore.core.schema import FOUR_CLASSES, Corrupt, TaskFailed, UserError
from featstore.folds import OUT, TEST, TRAIN, VALIDATION
from featstore.store.store import Store
from tests.distill.small_runs import (
    EPOCHS,
    copied,
    flip_byte,
    folder_of,
    forged,
    history,
    request,
    results,
    rewrite,
    same,
    settings_of,
    small_hubert,
    train,
    tree,
)

LOGITS = [f"logit_{name}" for name in FOUR_CLASSES]


# What a finished run leaves


def test_it_leaves_what_was_promised(finished):
    folder = finished[1].folder
    assert folder.name == "fold01-seed42"
    names = "DONE config.toml metrics.jsonl predictions.parquet run.json student teachers.parquet"
    assert sorted(path.name for path in folder.iterdir()) == names.split()
    assert tomllib.loads((folder / "config.toml").read_text())["student"]["backbone"] == "tiny"
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in entries] == [1, EPOCHS]
    for entry in entries:
        assert set(entry["validation"]) == {"wa", "ua", "loss"}
        assert set(entry["gradients"]) | {"total"} == set(entry["train"])
    assert entries[-1]["lr"] == 0  # the cosine's end


def test_predictions_are_of_the_held_out_speakers(finished, small_store):
    outcome = finished[1]
    table = pd.read_parquet(outcome.folder / "predictions.parquet")
    columns = ["utterance_id", "speaker", "fold", "role", "truth", "prediction"]
    assert list(table.columns) == [*columns, *LOGITS]
    assert {kind.name for kind in table[LOGITS].dtypes} == {"float32"}
    assert set(table["fold"]) == {1}
    stored = Store.open(small_store).utterances
    for role, speaker in (("test", "Ses01F"), ("validation", "Ses01M")):
        part, expected = table[table["role"] == role], stored[stored["speaker"] == speaker]
        assert part["utterance_id"].tolist() == expected["utterance_id"].tolist()
        assert part["truth"].tolist() == expected["label"].tolist()
    best = table[LOGITS].to_numpy().argmax(axis=1)
    assert table["prediction"].tolist() == [FOUR_CLASSES[index] for index in best]
    tests = table[table["role"] == "test"]
    truth, said = (tests[c].map(FOUR_CLASSES.index).to_numpy() for c in ("truth", "prediction"))
    assert outcome.wa == pytest.approx(wa(truth, said))
    assert outcome.ua == pytest.approx(ua(truth, said, 4))


def test_what_the_teachers_said_of_every_utterance_is_kept_beside_it(finished, small_store):
    table = pd.read_parquet(finished[1].folder / "teachers.parquet")
    store = Store.open(small_store)
    place = {name: row for row, name in enumerate(store.utterances["utterance_id"])}
    for name, outputs in store.fold(1).items():
        part = table[table["teacher"] == name]
        assert len(part) == part["utterance_id"].nunique() == (store.roles[0] != OUT).sum()
        rows = [place[one] for one in part["utterance_id"]]
        assert np.array_equal(part[LOGITS].to_numpy(), outputs.logits[rows])
        for role, number in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
            assert (store.roles[0][rows][part["role"] == role] == number).all()
        scores = outputs.unit.facts["scores"]["test"]
        tests = part[part["role"] == "test"]
        assert (tests["truth"] == tests["prediction"]).mean() == pytest.approx(scores["wa"])


def test_why_a_run_failed_stays_in_its_folder_until_it_is_begun_again(small_store, tmp_path):
    order = request(small_store, tmp_path)
    folder = folder_of(order).path
    wide = ["optim.lr=1e30", "precision=fp32"]
    hot = request(small_store, tmp_path, *wide)
    with pytest.raises(TaskFailed) as caught:
        run_fold(hot)
    told = (folder_of(hot).path / FAILED).read_text()
    assert told == " ".join(caught.value.message.split())[:2000]
    folder.mkdir(parents=True)
    (folder / FAILED).write_text("an earlier failure")
    assert run_fold(order).status == "done"
    assert not (folder / FAILED).exists()


def test_the_report_reads_it_without_complaint(finished):
    facts = RunFacts.model_validate_json((finished[1].folder / "run.json").read_bytes())
    assert (facts.fold, facts.seed, facts.n_folds, facts.dataset) == (1, 42, 10, "synthetic")
    assert facts.split.test == ("Ses01F",)
    assert facts.split.validation == ("Ses01M",)
    assert facts.best_epoch in (1, EPOCHS)
    assert set(facts.teachers) == {"linguistic", "prosodic"}
    assert facts.student.parameters > 400_000
    assert (facts.device, facts.precision) == ("cpu", "fp32")
    found = collect([finished[1].folder.parents[2]])
    assert found.left_out == ()
    assert [run.facts.fold for run in found.runs] == [1, 2]


def test_its_student_alone_says_the_same(finished, small_corpus, small_store):
    """Audio alone, one file at a time, gives the probabilities of the stored logits."""
    folder = finished[1].folder
    table = pd.read_parquet(folder / "predictions.parquet").set_index("utterance_id")
    files = Store.open(small_store).utterances.set_index("utterance_id")["file"]
    student = Student.from_pretrained(folder / "student")
    for name in table[table["role"] == "test"].index[:3]:
        said = predict_files(student, [small_corpus / files[name]])
        logits = torch.from_numpy(table.loc[name, LOGITS].to_numpy(dtype=np.float64))
        np.testing.assert_allclose(
            said[list(FOUR_CLASSES)].to_numpy()[0], logits.softmax(0).numpy(), atol=1e-5
        )
        assert said["label"][0] == table.loc[name, "prediction"]


def test_done_comes_last(small_store, tmp_path, monkeypatch):
    written, write = [], runs.write_file

    def spy(path, content):
        if path.name == "DONE":
            assert (path.parent / "student" / "model.safetensors").exists()
        written.append(path.name)
        write(path, content)

    monkeypatch.setattr(runs, "write_file", spy)
    train(small_store, tmp_path, "optim.epochs=1")
    assert written[-1] == "DONE"
    assert written.count("DONE") == 1
    assert written.index("predictions.parquet") < len(written) - 1


# Once more


def test_a_finished_run_is_skipped(finished, small_store):
    folder = finished[1].folder
    before = tree(folder)
    again = train(small_store, folder.parents[2])
    assert (again.status, again.why, again.folder) == ("skipped", "finished before", folder)
    assert (again.wa, again.ua) == (finished[1].wa, finished[1].ua)  # read back, not trained
    assert tree(folder) == before


def test_one_process_a_run(small_store, tmp_path):
    order = request(small_store, tmp_path)
    with folder_of(order).held(), pytest.raises(UserError, match="another process") as caught:
        run_fold(order)
    assert caught.value.exit_code == 2


def test_finished_by_another_while_we_came(finished, small_store, tmp_path, monkeypatch):
    runs_folder = copied(finished[1].folder.parents[2], tmp_path / "runs")
    order = request(small_store, runs_folder)
    mark = folder_of(order).path / "DONE"
    content = mark.read_bytes()
    mark.unlink()
    held = runs.RunFolder.held

    def late(self):
        mark.write_bytes(content)
        return held(self)

    monkeypatch.setattr(runs.RunFolder, "held", late)
    before = tree(mark.parent)
    assert run_fold(order).status == "skipped"
    assert tree(mark.parent) == before | {"DONE": tree(mark.parent)["DONE"]}


# What it may not depend on, and may not touch


def test_what_a_teacher_says_of_the_test_speaker_changes_nothing(finished, small_store, tmp_path):
    store = copied(small_store, tmp_path / "store")
    tested = Store.open(store).roles[0] == TEST

    def poison(values):
        values[tested] = np.nan

    for name in ("linguistic", "prosodic"):
        with forged(store / "folds/01" / name):
            rewrite(store / "folds/01" / name, "logits", poison)
            rewrite(store / "folds/01" / name, "embeddings", poison)
    assert Store.open(store).content_hash() != Store.open(small_store).content_hash()
    same(train(store, tmp_path / "runs"), finished[1])


def test_a_teachers_word_on_training_rows_counts(finished, small_store, tmp_path):
    """That the test above could fail: targets of the other rows do change the student."""
    store = copied(small_store, tmp_path / "store")
    tested = Store.open(store).roles[0] == TEST

    def turn(values):
        values[~tested] *= -1

    with forged(store / "folds/01/prosodic"):
        rewrite(store / "folds/01/prosodic", "embeddings", turn)
    assert results(train(store, tmp_path / "runs").folder) != results(finished[1].folder)


def test_no_setting_of_a_student_touches_the_store(small_store, tmp_path):
    before, keys = tree(small_store), set()
    for sets in (
        ("losses.teachers.linguistic.tau=2", "losses.teachers.prosodic.tau=4"),
        ("losses.alpha=3", "losses.beta=2", "losses.gamma=1"),
        ("student.pooling=attention", "student.projection=linear_gelu", "optim.lr=0.01"),
    ):
        outcome = train(small_store, tmp_path, *sets, max_steps=1)
        assert outcome.status == "stopped"
        keys.add(outcome.folder.parent.name)
    assert len(keys) == 3
    assert tree(small_store) == before


def key_of(store, fold, settings, weights=None):
    return Keys(store).folder(RunRequest(store.path, fold, settings, weights=weights)).key


def test_only_settings_and_store_decide_the_key(small_store, tmp_path):
    store = Store.open(small_store)
    keys = {key_of(store, fold, settings_of(f"seed={fold}")) for fold in (1, 2)}
    moved = Store.open(copied(small_store, tmp_path / "moved"))
    assert keys == {key_of(moved, 1, settings_of())}
    weights = tmp_path / "weights.pt"
    with pytest.raises(UserError, match=r"weights.pt: no such file"):
        key_of(store, 1, settings_of(), weights)
    weights.write_bytes(b"1")
    assert key_of(store, 1, settings_of(), weights) not in keys


def test_a_teacher_made_from_other_lld_is_another_teacher(small_store, tmp_path):
    store = copied(small_store, tmp_path / "store")
    with forged(store / "lld") as record:
        record["settings"]["lld"]["feature_set"] = "GeMAPSv01b"
    with forged(store / "folds/01/prosodic") as record:
        record["parents"]["lld"] = Store.open(store).unit("lld").fingerprint
    keys = {key_of(Store.open(path), 1, settings_of()) for path in (store, small_store)}
    assert len(keys) == 2


def test_a_run_tells_no_path(small_store, tmp_path):
    model = small_hubert(tmp_path / "models" / "mine")
    flags = (f"student.backbone='random:hf:{model}'", "optim.epochs=1")
    outcome = train(small_store, tmp_path / "runs", *flags)
    assert outcome.status == "done"
    facts = json.loads((outcome.folder / "run.json").read_text())
    assert facts["student"]["backbone"] == "random:hf:mine"
    settings = tomllib.loads((outcome.folder / "config.toml").read_text())
    assert settings["student"]["backbone"].startswith("random:hf:sha256:")
    for path in outcome.folder.rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path


# What stops it


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("losses.teachers.third.tau=1", "the store has no such teacher"),
        ("optim.lr=1e30", "not finite"),
    ],
)
def test_it_stops_with_a_reason(small_store, tmp_path, flag, message):
    with pytest.raises(UserError, match=message):
        train(small_store, tmp_path, flag)
    assert not list(tmp_path.rglob("DONE"))


def test_logits_that_are_no_numbers_are_never_predictions(small_store, tmp_path, monkeypatch):
    evaluate = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *args: evaluate(*args) * np.float32(np.nan))
    with pytest.raises(TaskFailed, match="validation logits are not finite in epoch 1"):
        train(small_store, tmp_path)


def flipped(store, unit):
    """One bit of a unit's values, as a disk would."""
    chunks = (path for path in (store / unit / "values" / "c").rglob("*") if path.is_file())
    flip_byte(next(chunks), 1000)


def test_every_byte_of_the_audio_is_looked_at(small_store, tmp_path):
    store = copied(small_store, tmp_path / "store")
    flipped(store, "audio")
    with pytest.raises(Corrupt, match=r"audio/values/c/.*\(array values\)") as caught:
        train(store, tmp_path / "runs")
    assert caught.value.exit_code == 3


def test_llds_which_no_student_uses_stop_none(finished, small_store, tmp_path):
    store = copied(small_store, tmp_path / "store")
    flipped(store, "lld")
    same(train(store, tmp_path / "runs"), finished[1])


def test_audio_replaced_under_the_teachers(small_store, tmp_path):
    """As a --rebuild leaves a store that was interrupted between audio and LLDs."""
    store = copied(small_store, tmp_path / "store")
    with forged(store / "audio") as record:
        record["settings"]["audio"]["min_duration_s"] = 0.2
    with pytest.raises(UserError, match="lld: made from another audio") as caught:
        train(store, tmp_path / "runs")
    assert caught.value.exit_code == 4


def test_tensorboard_logs_every_epoch(small_store, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    outcome = train(small_store, tmp_path, tensorboard=True)
    log = events.EventAccumulator(str(outcome.folder / "tensorboard")).Reload()
    logged = [event.value for event in log.Scalars("validation/ua")]
    assert logged == pytest.approx([e["validation"]["ua"] for e in history(outcome.folder)])
    assert {"train/total", "gradients/ce"} <= set(log.Tags()["scalars"])


def test_without_tensorboard_it_says_so_before_it_trains(small_store, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="TensorBoard is not installed") as caught:
        train(small_store, tmp_path, tensorboard=True)
    assert "emodistill[tracking]" in caught.value.hint
    assert not list(tmp_path.iterdir())
