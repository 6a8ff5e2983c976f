"""The units of cross-fitted targets: beside the plain ones, which stay as they are."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import cli
from featstore.core.config import BuildSettings, cross_fitted
from featstore.core.schema import Corrupt, UserError
from featstore.core.settings import digest, resolve, to_toml
from featstore.folds import TRAIN, cross_fit_fault
from featstore.inspection import render
from featstore.inspection.overview import overview, utterance
from featstore.store.store import Store
from featstore.store.verify import verify
from tests.featstore.build.helpers import Build, files, planned
from tests.reliability.forgery import reseal

CROSS = ["folds/01/linguistic-crossfit2", "folds/01/prosodic-crossfit2"]


@pytest.fixture(scope="module")
def store(cross_store: Path) -> Store:
    return Store.open(cross_store)


def status(request: Any) -> dict[str, str]:
    plan = planned(request)
    return {step.unit: step.status for step in plan.steps if step.unit.startswith("folds")}


class TestUnits:
    def test_they_stand_beside_plain_ones_that_stay_as_they_were(
        self, cross_store: Path, small_store: Path
    ) -> None:
        new, old = files(cross_store), files(small_store)
        assert {name: raw for name, raw in new.items() if name in old} == old
        assert {"/".join(name.split("/")[:3]) for name in new if name not in old} == set(CROSS)

    def test_a_plain_build_leaves_them_alone(
        self, cross_store: Path, small_request: Any, build_here: Build, tmp_path: Path
    ) -> None:
        place = Path(shutil.copytree(cross_store, tmp_path / "store"))
        assert build_here(replace(small_request, store=place)).built == []
        assert files(place) == files(cross_store)

    def test_what_is_done_is_not_done_again(
        self, cross_store: Path, small_request: Any, build_here: Build, tmp_path: Path
    ) -> None:
        place = Path(shutil.copytree(cross_store, tmp_path / "store"))
        request = replace(small_request, store=place, folds="1", cross_fit=2)
        assert set(status(request).values()) == {"done"}
        shutil.rmtree(place / CROSS[0])
        assert status(request)[CROSS[0]] == "build"
        assert build_here(request).built == [CROSS[0]]
        assert files(place) == files(cross_store)  # two builds of one unit are the same bytes

    def test_parts_decide_the_fingerprint(self, cross_store: Path, small_request: Any) -> None:
        found = {}
        for parts in (2, 3):
            request = replace(small_request, store=cross_store, cross_fit=parts)
            plan = planned(request)
            found[parts] = {step.identity.fingerprint for step in plan.steps}
        assert len(found[2] & found[3]) == 4 + 4  # shared, plain

    def test_they_are_read_by_the_plain_names(self, store: Store) -> None:
        assert store.teacher_names(1) == ["linguistic", "prosodic"]
        assert store.teacher_names(1, 2) == ["linguistic", "prosodic"]
        assert (store.teacher_names(1, 3), store.teacher_names(2, 2)) == ([], [])
        plain, cross = store.fold(1), store.fold(1, cross_fit=2)
        assert list(plain) == list(cross) == ["linguistic", "prosodic"]
        assert [output.unit.unit for output in cross.values()] == CROSS
        train = store.roles[0] == TRAIN
        for name in plain:
            assert (plain[name].logits[train] != cross[name].logits[train]).any(axis=1).all()
        with pytest.raises(UserError, match="fold 2: no teacher cross-fitted by 2 parts") as caught:
            store.fold(2, cross_fit=2)
        assert "`featstore build --fold 2 --cross-fit 2`" in caught.value.hint

    def test_their_record(self, store: Store, small_request: Any) -> None:
        plain, cross = store.unit("folds/01/prosodic"), store.unit(CROSS[1])
        groups = digest([part["held_out"] for part in cross.facts["parts"]])
        assert cross.settings == {**plain.settings, "cross_fit": 2, "groups": groups}
        assert cross.parents == plain.parents
        fold = store.folds[0]
        assert cross_fit_fault(cross.facts["parts"], fold) == ""
        assert sorted(len(part["held_out"]) for part in cross.facts["parts"]) == [4, 4]
        assert cross.facts["held_out"] == list(fold.test)

    def test_they_verify(self, store: Store) -> None:
        found = verify(store)
        assert found.faults == ()
        assert [unit.unit for unit in found.sound if "crossfit" in unit.unit] == CROSS

    def test_inspection_shows_them(self, store: Store) -> None:
        facts = overview(store)
        assert facts["folds"][0]["teachers"] == [
            "linguistic", "linguistic-crossfit2", "prosodic", "prosodic-crossfit2",
        ]  # fmt: skip
        teacher = facts["teachers"]["linguistic-crossfit2"]
        assert (teacher["cross_fit"], facts["teachers"]["linguistic"]["cross_fit"]) == (2, 0)
        parts = teacher["folds"]["1"]["parts"]
        assert [sorted(part) for part in parts] == [
            ["best_epoch", "fitted_on", "held_out", "residual"]
        ] * 2
        console = Console(width=200)
        with console.capture() as shown:
            for part in render.overview(facts):
                console.print(part)
        assert "in 2 parts" in shown.get()
        assert "unseen train UA" in shown.get()
        told = utterance(store, 1, "Ses02F_impro01_F000")
        assert list(told["teachers"]) == facts["folds"][0]["teachers"]

    @pytest.mark.parametrize("change", ["seen", "parts", "name"])
    def test_a_record_that_tells_of_a_leak(
        self, cross_store: Path, tmp_path: Path, change: str
    ) -> None:
        place = Path(shutil.copytree(cross_store, tmp_path / "store"))
        unit = place / CROSS[0]
        if change == "name":
            unit = unit.rename(unit.with_name("linguistic-crossfit3"))

        def edit(record: dict[str, Any]) -> None:
            parts = record["facts"]["parts"]
            if change == "seen":
                parts[0]["fitted_on"] += parts[0]["held_out"]
            elif change == "parts":
                record["settings"]["cross_fit"] = 3
            else:
                record["unit"] = "folds/01/linguistic-crossfit3"

        reseal(unit, edit)
        (fault,) = verify(Store.open(place)).faults
        assert isinstance(fault, Corrupt)
        assert ("on whom it was fitted" if change == "seen" else "2 parts") in fault.message


def test_a_store_built_anew_with_a_training_speakers_labels_scrambled(
    cross_store: Path, small_request: Any, build_here: Build, tmp_path: Path
) -> None:
    """Through the whole build: groups, fits and what is written."""
    place = Path(shutil.copytree(cross_store, tmp_path / "store"))
    for unit in ("corpus", "splits", "folds"):
        shutil.rmtree(place / unit)
    table = small_request.manifest.utterances.copy()
    classes = list(small_request.manifest.classes)
    own = (table["speaker"] == "Ses03F").to_numpy()
    table.loc[own, "label"] = [
        classes[(classes.index(label) + 1) % len(classes)] for label in table["label"][own]
    ]
    manifest = replace(small_request.manifest, utterances=table)
    build_here(replace(small_request, manifest=manifest, store=place, folds="1", cross_fit=2))
    old, new = Store.open(cross_store), Store.open(place)
    assert (old.labels != new.labels).tolist() == own.tolist()
    for name in CROSS:
        before, after = old.outputs(name), new.outputs(name)
        parts = before.unit.facts["parts"]
        assert [p["held_out"] for p in after.unit.facts["parts"]] == [p["held_out"] for p in parts]
        (group,) = (part["held_out"] for part in parts if "Ses03F" in part["held_out"])
        mates = old.utterances["speaker"].isin(group).to_numpy()
        assert own.sum() == 8 < mates.sum()
        for values, others in (
            (before.logits, after.logits),
            (before.embeddings, after.embeddings),
        ):
            assert values[mates].tobytes() == others[mates].tobytes()
            assert (values[~mates] != others[~mates]).any(axis=1).all()
        plain = name.removesuffix("-crossfit2")
        assert (old.outputs(plain).logits != new.outputs(plain).logits)[own].any(axis=1).all()


def test_the_command(
    cross_store: Path, small_request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "fast.toml").write_text(to_toml(small_request.settings))
    root = str(small_request.manifest.root)

    def call(parts: str) -> int:
        arguments = [
            *("build", "--dataset", "synthetic", "--root", root, "--store", str(cross_store)),
            *("--config", str(tmp_path / "fast.toml"), "--fold", "1", "--cross-fit", parts),
            *("--dry-run", "--json"),
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["featstore", *arguments])
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # no handler outlives the test
        with pytest.raises(SystemExit) as ended:
            cli.featstore_main()
        return int(ended.value.code or 0)

    assert call("3") == 0
    told = json.loads(capsys.readouterr().out)
    steps = {step["unit"]: step["status"] for step in told["steps"]}
    assert steps["folds/01/prosodic-crossfit3"] == "build"
    assert steps["folds/01/prosodic"] == "done"
    assert told["fits"] == 6
    assert call("9") == 2
    assert "give a number of speaker groups within 2..8" in capsys.readouterr().err


def test_nothing_is_made_where_it_cannot_be_done(
    small_request: Any, build_here: Build, tmp_path: Path
) -> None:
    for parts in (9, 1):
        with pytest.raises(UserError, match=f"--cross-fit {parts}: fold 1 trains on 8 speaker"):
            build_here(replace(small_request, store=tmp_path / "store", cross_fit=parts))
    assert not (tmp_path / "store").exists()


def test_their_names_are_kept() -> None:
    assert cross_fitted("a", 12) == "a-crossfit12"
    kinds = {"kind": "prosodic"}
    for name in ("a-crossfit2", "a-crossfit02"):
        with pytest.raises(UserError, match=f"{name}.* is kept for what --cross-fit makes"):
            resolve(BuildSettings, {"teachers": {name: kinds}})
    names = ["crossfit2", "a-crossfit", "a-crossfit2b"]
    settings = resolve(BuildSettings, {"teachers": dict.fromkeys(names, kinds)})
    assert list(settings.teachers)[-3:] == names


def test_a_name_too_long_to_be_parted(small_request: Any) -> None:
    settings = resolve(BuildSettings, {"teachers": {"n" * 120: {"kind": "prosodic"}}})
    request = replace(small_request, settings=settings, cross_fit=2)
    with pytest.raises(UserError, match="too long a name"):
        planned(request)
