"""Bad input beyond the corpus: one clear refusal, nothing hangs, nothing is lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from distill.config import RunSettings
from distill.experiments.launch import Done, launch
from distill.experiments.plan import each_fold, run_settings
from distill.model.student import Student
from distill.runs.folder import RunRequest
from featstore.core.config import BuildSettings, CorpusSettings
from featstore.core.schema import Corrupt, UserError
from featstore.core.settings import load_toml, overrides, resolve
from featstore.corpora.manifest import choose_labels
from featstore.store.store import Store
from featstore.store.verify import verify


@pytest.fixture
def damaged(small_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_store, tmp_path / "store"))


def trained(store: Path, tmp_path: Path, **fields: Any) -> Done:
    settings: RunSettings = run_settings("tiny", "full", None, None, ["optim.epochs=1"], None)
    fields = {"settings": settings, "experiment": "e", "device": "cpu"} | fields
    request = RunRequest(store, runs=tmp_path / "runs", **fields)
    return launch(each_fold(request, "1"), "e", jobs=1)


def test_a_fold_without_one_of_the_teachers_is_not_trained(damaged: Path, tmp_path: Path) -> None:
    shutil.rmtree(damaged / "folds/01/linguistic")
    done = trained(damaged, tmp_path)
    assert done.exit_code == 2
    _, error = done.failed["fold 1"]
    assert "no teacher linguistic" in error.message
    assert "featstore build --fold 1" in error.hint


def test_a_store_without_a_teacher_at_all_says_how_to_do_without(
    damaged: Path, tmp_path: Path
) -> None:
    for fold in ("01", "02"):
        shutil.rmtree(damaged / "folds" / fold / "linguistic")
    done = trained(damaged, tmp_path)
    assert "--set losses.teachers.linguistic.weight=0" in done.failed["fold 1"][1].hint
    settings = run_settings("tiny", "no-linguistic", None, None, ["optim.epochs=1"], None)
    done = trained(damaged, tmp_path, settings=settings)
    assert done.outcomes["fold 1"].status == "done"


@pytest.mark.parametrize("name", ["folds/zarr.json", "folds/01/zarr.json"])
def test_group_metadata_is_verified_and_mended(
    damaged: Path, name: str, small_request: Any
) -> None:
    before = Store.open(damaged).content_hash()
    for content in (b"", b"{}", (damaged / name).read_bytes().replace(b"3", b"2")):
        (damaged / name).write_bytes(content)
        (fault,) = verify(Store.open(damaged)).faults
        assert isinstance(fault, Corrupt)
        assert name in fault.message
        Store.create(damaged)
        found = verify(Store.open(damaged))
        assert not found.faults
        assert found.content == before


def test_an_empty_store_is_not_sound(tmp_path: Path) -> None:
    found = verify(Store.create(tmp_path / "store"))
    assert found.exit_code == 1


@pytest.mark.parametrize("name", ["../../out", "/abs", "a\x1b[31m", "", "a/b"])
def test_an_experiment_is_a_folder_s_name(small_store: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--experiment"):
        trained(small_store, tmp_path, experiment=name)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "setting",
    ["teachers.prosodic.optim.lr=inf", "teachers.prosodic.optim.lr=nan",
     "teachers.prosodic.channels=[0,0,0,0]", "teachers.linguistic.seed=-1",
     "teachers.prosodic.seed=99999999999999999999", "teachers.prosodic.time_stride=99999999"],
)  # fmt: skip
def test_settings_beyond_reason_are_refused_at_once(setting: str) -> None:
    with pytest.raises(UserError, match=r"setting\(s\) not accepted"):
        resolve(BuildSettings, overrides([setting]))


def test_a_settings_file_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    (tmp_path / "digits.toml").write_text("a = " + "1" * 5_000)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("pipe", "deep", "digits", "bytes", "missing"):
        with pytest.raises(UserError, match=f"{name}.toml"):
            load_toml(tmp_path / f"{name}.toml")
    with pytest.raises(UserError, match="not a readable TOML file"):
        load_toml(Path("/dev/zero"))


def test_a_student_s_card_that_never_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "student.json")
    with pytest.raises(Corrupt, match="student"):
        Student.from_pretrained(tmp_path)


def test_class_names_that_predictions_need_themselves() -> None:
    settings = CorpusSettings(name="table", classes=("file", "ok"))
    with pytest.raises(UserError, match="collide"):
        choose_labels(settings, {"file": "file", "ok": "ok"})
