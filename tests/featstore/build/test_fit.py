from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from featstore import teachers
from featstore.build.fit import TeacherJob, _fold_data, fit
from featstore.build.plan import make_plan
from featstore.build.units import source_sums
from featstore.core.config import LinguisticSettings
from featstore.core.schema import TaskFailed
from featstore.store.store import Store
from featstore.store.verify import verify
from featstore.teachers.finetune import predict
from featstore.teachers.linguistic import tiny_encoder, train_tokenizer


@pytest.fixture
def jobs(store_copy: Path, changed: Callable[..., Any]) -> dict[str, TeacherJob]:
    """The jobs of fold 1 in a store that has lost both its teachers."""
    shutil.rmtree(store_copy / "folds" / "01")
    request = changed(store=store_copy, folds="1")
    plan = make_plan(request, source_sums(request.manifest))
    return {job.name: job for job in plan.jobs}


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class TestFit:
    @pytest.mark.parametrize("name", ["linguistic", "prosodic"])
    def test_gives_the_bytes_that_another_process_gave(
        self, jobs: dict[str, TeacherJob], name: str, small_store: Path
    ) -> None:
        """The small store's were fitted by a spawned worker, two beside each other."""
        facts = fit(pickle.loads(pickle.dumps(jobs[name])))
        unit = jobs[name].unit
        assert files(jobs[name].store / unit) == files(small_store / unit)
        assert facts == Store(small_store).unit(unit).facts

    def test_facts_name_who_was_seen_and_who_was_not(self, small_store: Path) -> None:
        store = Store.open(small_store)
        for name in ("linguistic", "prosodic"):
            facts = store.unit(f"folds/01/{name}").facts
            assert facts["held_out"] == ["Ses01F"]
            assert facts["selected_on"] == ["Ses01M"]
            assert len(facts["fitted_on"]) == 8
            assert not {"Ses01F", "Ses01M"} & set(facts["fitted_on"])
            assert facts["temperature"] is None
            assert [facts["scores"][part]["n"] for part in ("train", "validation", "test")] == [
                64, 8, 8,
            ]  # fmt: skip
            assert facts["embedding_width"] == store.fold(1)[name].embeddings.shape[1]
            assert len(facts["history"]) == 2

    def test_scores_are_those_of_the_stored_logits(self, small_store: Path) -> None:
        store = Store.open(small_store)
        for name, output in store.fold(2).items():
            right = output.logits.argmax(1) == store.labels
            for part, role in (("train", 1), ("validation", 2), ("test", 3)):
                rows = store.roles[1] == role
                found = store.unit(f"folds/02/{name}").facts["scores"][part]["wa"]
                assert found == pytest.approx(right[rows].mean())

    def test_unit_that_stands_is_left_alone(self, jobs: dict[str, TeacherJob]) -> None:
        job = jobs["prosodic"]
        fit(job)
        before = files(job.store / job.unit)
        fit(replace(job, settings=job.settings.model_copy(update={"seed": 1})))
        assert files(job.store / job.unit) == before
        fit(replace(job, settings=job.settings.model_copy(update={"seed": 1}), replace=True))
        assert files(job.store / job.unit) != before

    def test_failure_leaves_nothing(self, jobs: dict[str, TeacherJob]) -> None:
        job = jobs["prosodic"]
        optim = job.settings.optim.model_copy(update={"lr": 1e30, "clip_norm": 1e30})
        with pytest.raises(TaskFailed, match="not finite"):
            fit(replace(job, settings=job.settings.model_copy(update={"optim": optim}), keep=True))
        assert not (job.store / "folds" / "01").exists() or not list(
            (job.store / "folds" / "01").iterdir()
        )
        assert not (job.store / "weights").exists()


class TestKeptWeights:
    def test_give_the_stored_outputs_again(self, jobs: dict[str, TeacherJob]) -> None:
        for job in jobs.values():
            fit(replace(job, keep=True))
            weights = job.store / job.weights.unit
            data = _fold_data(job)
            task = teachers.prepare(data, job.settings, getattr(job.settings, "model", ""))
            task.model.load_state_dict(load_file(weights / "model.safetensors"))
            rows = data.train_rows
            logits, embeddings = predict(task, rows, torch.device("cpu"))
            stored = Store(job.store).fold(1)[job.name]
            np.testing.assert_array_equal(logits, stored.logits[rows])
            np.testing.assert_array_equal(embeddings, stored.embeddings[rows])
        assert verify(Store.open(job.store)).exit_code == 0

    def test_of_another_teacher_are_replaced(self, jobs: dict[str, TeacherJob]) -> None:
        job = replace(jobs["prosodic"], keep=True)
        other = replace(job, settings=job.settings.model_copy(update={"seed": 1}))
        fit(other)
        before = files(job.store / job.weights.unit)["model.safetensors"]
        fit(replace(job, replace=True))
        assert files(job.store / job.weights.unit)["model.safetensors"] != before


def test_local_model_leaves_no_trace_of_its_place(
    jobs: dict[str, TeacherJob], tmp_path: Path
) -> None:
    """Neither in the unit, nor in the kept weights' own configuration files."""
    job = jobs["linguistic"]
    folder = tmp_path / "secret-place" / "our-bert"
    settings = LinguisticSettings(
        model=str(folder), optim=job.settings.optim.model_copy(update={"epochs": 1})
    )
    tokenizer = train_tokenizer(list(job.texts), settings)
    tokenizer.save_pretrained(folder)
    tiny_encoder(tokenizer.vocab_size, settings).save_pretrained(folder)
    recorded, provenance = teachers.portable(settings)
    identity = replace(
        job.identity, settings={"fold": 1, "teacher": recorded.model_dump(mode="json")}
    )
    fit(replace(job, settings=settings, identity=identity, provenance=provenance, keep=True))
    unit = Store(job.store).unit(job.unit)
    assert unit.provenance["model_name"] == "our-bert"
    found = {**files(job.store / job.unit), **files(job.store / job.weights.unit)}
    assert {"unit.json", "config.json", "tokenizer.json", "model.safetensors"} <= set(found)
    for secret in ("secret-place", str(tmp_path)):
        assert not [name for name, content in found.items() if secret.encode() in content], secret
