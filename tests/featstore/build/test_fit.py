from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featstore import teachers
from featstore.build.units import TeacherJob, fit_teacher
from featstore.core.config import LinguisticSettings
from featstore.store.store import Store
from featstore.teachers.linguistic import tiny_encoder, train_tokenizer
from tests.featstore.build.helpers import files, planned


@pytest.fixture
def jobs(store_copy: Path, changed: Callable[..., Any]) -> dict[str, TeacherJob]:
    """The jobs of fold 1, by kind, in a store that has lost both its teachers."""
    shutil.rmtree(store_copy / "folds" / "01")
    request = changed(store=store_copy, folds="1")
    return {job.settings.kind: job for job in planned(request).jobs}


def with_seed(job: TeacherJob, seed: int) -> TeacherJob:
    return replace(job, settings=job.settings.model_copy(update={"seed": seed}))


class TestFit:
    @pytest.mark.parametrize("name", ["linguistic", "prosodic"])
    def test_gives_the_bytes_that_another_process_gave(
        self, jobs: dict[str, TeacherJob], name: str, small_store: Path
    ) -> None:
        """The small store's were fitted by a spawned worker, two beside each other."""
        fit_teacher(pickle.loads(pickle.dumps(jobs[name])))
        unit = jobs[name].unit
        assert files(jobs[name].store / unit) == files(small_store / unit)

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
        fit_teacher(job)
        before = files(job.store / job.unit)
        fit_teacher(with_seed(job, 1))
        assert files(job.store / job.unit) == before
        fit_teacher(replace(with_seed(job, 1), step=replace(job.step, status="replace")))
        assert files(job.store / job.unit) != before


class TestLocalModel:
    @pytest.fixture
    def model(self, jobs: dict[str, TeacherJob], tmp_path: Path) -> LinguisticSettings:
        """A random BERT in a folder, as somebody would have downloaded it."""
        job = jobs["linguistic"]
        folder = tmp_path / "secret-place" / "our-bert"
        optim = job.settings.optim.model_copy(update={"epochs": 1})
        settings = LinguisticSettings(model=str(folder), optim=optim)
        tokenizer = train_tokenizer(list(job.texts), settings)
        tokenizer.save_pretrained(folder)
        tiny_encoder(tokenizer.vocab_size, settings).save_pretrained(folder)
        return settings

    def test_leaves_no_trace_of_its_place(
        self, jobs: dict[str, TeacherJob], model: LinguisticSettings, tmp_path: Path
    ) -> None:
        job = jobs["linguistic"]
        recorded, provenance = teachers.portable(model)
        made_from = {"fold": 1, "teacher": recorded.model_dump(mode="json")}
        identity = replace(job.step.identity, settings=made_from)
        step = replace(job.step, identity=identity)
        fit_teacher(replace(job, settings=model, step=step, provenance=provenance))
        assert Store(job.store).unit(job.unit).provenance["model_name"] == "our-bert"
        found = files(job.store / job.unit)
        for secret in ("secret-place", str(tmp_path)):
            names = [name for name, content in found.items() if secret.encode() in content]
            assert names == [], secret

    def test_is_known_by_what_it_is_loaded_from(self, model: LinguisticSettings) -> None:
        """A README beside it makes no other teacher; other weights or words do."""
        folder, before = Path(model.model), teachers.portable(model)[0]
        assert before.model_dump()["model"].startswith("sha256:")
        for name in ("README.md", ".gitattributes", "pytorch_model.bin", "trainer_state.json"):
            (folder / name).write_text("nothing that is loaded")
        assert teachers.portable(model)[0] == before
        seen = {before}
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            path = folder / name
            path.write_bytes(path.read_bytes() + b" ")
            seen.add(teachers.portable(model)[0])
        assert len(seen) == 4

    def test_a_vocabulary_is_for_tiny_alone(self) -> None:
        small, large = (
            teachers.portable(LinguisticSettings(model=name, vocabulary=size))[0]
            for name, size in (("some/bert", 100), ("some/bert", 900))
        )
        assert small == large
        assert teachers.portable(LinguisticSettings(model="tiny", vocabulary=100))[0].model_dump()[
            "vocabulary"
        ] == 100  # fmt: skip
