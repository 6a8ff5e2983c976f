"""featstore/teachers/cross_fit.py, and the units that it makes beside the plain ones."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fast import FAST
from reliability.forgery import reseal
from rich.console import Console
from speaker_tables import FIVE, corpus

import cli
from featstore import render
from featstore.config import (
    BuildSettings,
    FoldSettings,
    LinguisticSettings,
    ProsodicSettings,
    TeacherSettings,
    cross_fitted,
)
from featstore.folds import OUT, TEST, TRAIN, VALIDATION, make_folds
from featstore.holdout import Fold, cross_fit_fault, cross_fit_groups
from featstore.inspection import overview, utterance
from featstore.plan import make_plan, plan_dict
from featstore.schema import Corrupt, UserError
from featstore.settings import resolve, to_toml
from featstore.steps import source_sums
from featstore.store import Store
from featstore.teachers.cross_fit import HOLD, agreement, common_space, fit_parts
from featstore.teachers.data import FoldData
from featstore.teachers.finetune import run_once
from featstore.units import RECORD
from featstore.verification import verify

CPU = torch.device("cpu")
CROSS = ["folds/01/linguistic-crossfit2", "folds/01/prosodic-crossfit2"]
TOY = Fold(1, ("s5",), ("s4",), ("s0", "s1", "s2", "s3"))
PAIRS = (("s0", "s3"), ("s1", "s2"))
SETTINGS: dict[str, TeacherSettings] = {
    "linguistic": LinguisticSettings(**FAST["teachers"]["linguistic"]),
    "prosodic": ProsodicSettings(**FAST["teachers"]["prosodic"]),
}

Build = Callable[[Any], Any]
Outputs = tuple[Any, Any, dict[str, Any]]


def tree(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class TestGroups:
    def test_each_training_speaker_is_in_one(self) -> None:
        fold = make_folds(FIVE, FoldSettings())[0]
        training = FIVE[FIVE["speaker"].isin(fold.train)]
        for parts in range(2, 9):
            groups = cross_fit_groups(training, fold, parts, 42)
            assert len(groups) == parts
            assert sorted(name for group in groups for name in group) == sorted(fold.train)

    def test_they_have_about_as_many_utterances(self) -> None:
        sizes = {"p": 9, "q": 5, "r": 5, "s": 1, "t": 4}
        table = labelled({"": tuple(sizes)}, sizes)
        groups = cross_fit_groups(table, Fold(1, ("x",), (), tuple("pqrst")), 3, 42)
        assert sorted(sum(sizes[name] for name in group) for group in groups) == [6, 9, 9]

    def test_a_draw_never_changes(self) -> None:
        fold = Fold(1, ("x",), (), tuple("pqrst"))
        table = labelled({"": tuple("pqrst")}, dict.fromkeys("pqrst", 4))
        drawn = cross_fit_groups(table, fold, 2, 42)
        assert drawn == DRAWN
        assert cross_fit_groups(table.iloc[::-1], fold, 2, 42) == drawn
        seeds = {cross_fit_groups(table, fold, 2, seed) for seed in range(20)}
        assert len(seeds) > 3
        assert any(cross_fit_groups(table, replace(fold, number=n), 2, 42) != drawn for n in (2, 3))

    def test_a_speaker_without_training_utterances_leaves_no_group_empty(self) -> None:
        table = labelled({"": ("p", "q")}, {"p": 4, "q": 6})
        fold = Fold(1, ("x",), (), ("p", "q", "silent"))
        assert cross_fit_groups(table, fold, 2, 42) == (("q",), ("p", "silent"))
        with pytest.raises(UserError, match="trains on 2 speaker"):
            cross_fit_groups(table, fold, 3, 42)

    @pytest.mark.parametrize("parts", [-1, 0, 1, 9, 1000])
    def test_the_allowed_range_is_told(self, parts: int) -> None:
        fold = make_folds(FIVE, FoldSettings())[2]
        training = FIVE[FIVE["speaker"].isin(fold.train)]
        with pytest.raises(UserError, match=f"--cross-fit {parts}: fold 3 trains on 8") as caught:
            cross_fit_groups(training, fold, parts, 42)
        assert "2..8" in caught.value.hint
        assert caught.value.exit_code == 2

    def test_one_training_speaker_cannot_be_parted(self) -> None:
        table = labelled({"": ("p",)}, {"p": 4})
        with pytest.raises(UserError, match="trains on 1 speaker") as caught:
            cross_fit_groups(table, Fold(1, ("x",), (), ("p",)), 2, 42)
        assert "hold fewer speakers out" in caught.value.hint

    def test_a_class_that_one_speaker_alone_has(self) -> None:
        table = labelled({"": ("p", "q")}, {"p": 4, "q": 4})
        table.loc[table["speaker"] == "q", "label"] = "calm"
        table.loc[0, "label"] = "calm"
        with pytest.raises(UserError, match="fold 1: angry, happy without the speakers p"):
            cross_fit_groups(table, Fold(1, ("x",), (), ("p", "q")), 2, 42)


DRAWN = (("r", "s", "t"), ("p", "q"))


def labelled(sessions: dict[str, tuple[str, ...]], sizes: dict[str, int]) -> Any:
    """Each speaker says the classes in turn."""
    import pandas as pd

    tables = [
        corpus({session: (name,)}, sizes[name])
        for session, names in sessions.items()
        for name in names
    ]
    table = pd.concat(tables, ignore_index=True)
    table["label"] = [("angry", "happy")[at % 2] for at in table.groupby("speaker").cumcount()]
    return table


@pytest.mark.parametrize(
    ("at", "key", "value", "told"),
    [
        (0, "fitted_on", ["a", "c"], "part 1 teaches a, on whom it was fitted"),
        (1, "fitted_on", ["a", "v"], "part 2 has v, on whom fold 1 does not train"),
        (1, "fitted_on", ["t"], "part 2 has t, on whom fold 1 does not train"),
        (0, "held_out", ["a", "t"], "part 1 has t, on whom fold 1 does not train"),
        (1, "selected_on", ["b"], "part 2 was selected on b"),
        (1, "held_out", ["b"], "teaches a, b, fold 1 trains on a, b, c"),
        (1, "held_out", ["b", "c", "c"], ""),
        (0, "fitted_on", ["b"], ""),
    ],
)
def test_what_can_be_wrong_with_parts(at: int, key: str, value: list[str], told: str) -> None:
    parts: list[dict[str, Any]] = [
        {"held_out": ["a"], "fitted_on": ["b", "c"], "selected_on": ["v"]},
        {"held_out": ["b", "c"], "fitted_on": ["a"], "selected_on": ["v"]},
    ]
    fold = Fold(1, ("t",), ("v",), ("a", "b", "c"))
    assert cross_fit_fault(parts, fold) == ""
    parts[at][key] = value
    assert cross_fit_fault(parts, fold) == told


def parted(data: FoldData, kind: str, groups: tuple[tuple[str, ...], ...] = PAIRS) -> Outputs:
    return fit_parts(data, TOY, groups, SETTINGS[kind], CPU)


def alone(data: FoldData, kind: str, group: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """What the one teacher of a fold says of all rows, were these speakers none of the fold's.

    The embeddings are turned by scipy's Procrustes, each axis held as much as ours are.
    """
    from featstore.teachers import prepare
    from featstore.teachers.finetune import finetune

    roles = data.roles.copy()
    roles[np.isin(data.speakers, group)] = OUT
    seen, settings = replace(data, roles=roles), SETTINGS[kind]
    task = prepare(seen, settings, getattr(settings, "model", ""))
    finetune(task, seen, settings.optim, settings.seed, CPU)
    logits, embeddings = run_once(task, seen, CPU)
    rows = seen.train_rows
    return logits, embeddings @ procrustes(embeddings[rows], data.labels[rows], data.n_classes)


def procrustes(embeddings: Any, labels: Any, n_classes: int) -> Any:
    from scipy.linalg import orthogonal_procrustes

    means = np.array([embeddings[labels == c].mean(0, dtype=float) for c in range(n_classes)])
    length, width = np.linalg.norm(means, axis=1).mean(), embeddings.shape[1]
    held = HOLD * length * np.eye(width)
    axes = length * np.eye(n_classes, width)
    return orthogonal_procrustes(np.vstack([means, held]), np.vstack([axes, held]))[0]


@pytest.fixture(scope="module", params=["linguistic", "prosodic"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(toy_fold: Any, kind: str) -> Outputs:
    return parted(toy_fold, kind)


class Backwards:
    """LLDs of which some rows run backwards in time: as many frames, other content."""

    def __init__(self, lld: Any, rows: list[int]) -> None:
        self._lld, self._rows, self.lengths = lld, rows, lld.lengths

    def __len__(self) -> int:
        return len(self._lld)

    def read(self, row: int) -> Any:
        values = self._lld.read(row)
        return values[::-1].copy() * 3 if row in self._rows else values


def scrambled(data: FoldData, rows: list[int]) -> FoldData:
    """Other words and other speech in some rows, as long as before."""
    texts = [
        " ".join(reversed(text.split())) if row in rows else text
        for row, text in enumerate(data.texts)
    ]
    return replace(data, texts=tuple(texts), lld=Backwards(data.lld, rows))  # type: ignore[arg-type]


def relabelled(data: FoldData, speaker: str) -> FoldData:
    labels = data.labels.copy()
    labels[np.array(data.speakers) == speaker] ^= 1
    return replace(data, labels=labels)


class TestParts:
    def test_a_groups_targets_are_those_of_a_teacher_that_never_met_it(
        self, toy_fold: Any, kind: str, made: Outputs
    ) -> None:
        parts = [alone(toy_fold, kind, group) for group in PAIRS]
        for group, (logits, embeddings) in zip(PAIRS, parts, strict=True):
            rows = np.isin(toy_fold.speakers, group)
            assert rows.sum() == 8
            np.testing.assert_allclose(made[0][rows], logits[rows], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(made[1][rows], embeddings[rows], rtol=1e-5, atol=1e-6)
        beyond = toy_fold.roles != TRAIN
        for at in (0, 1):
            mean = (parts[0][at].astype(np.float64) + parts[1][at]) / 2
            np.testing.assert_allclose(made[at][beyond], mean[beyond], rtol=1e-5, atol=1e-6)
            assert not np.allclose(parts[0][at], parts[1][at], atol=1e-3)

    def test_a_speakers_labels_are_not_in_their_own_targets(
        self, toy_fold: Any, kind: str, made: Outputs
    ) -> None:
        other = relabelled(toy_fold, "s1")
        targets = parted(other, kind)
        pair, rest = (np.isin(toy_fold.speakers, group) for group in (PAIRS[1], PAIRS[0]))
        for at in (0, 1):
            assert targets[at][pair].tobytes() == made[at][pair].tobytes()
            assert (targets[at][rest] != made[at][rest]).any(axis=1).all()
        plain = [alone(data, kind)[0] for data in (toy_fold, other)]
        assert (plain[0][pair] != plain[1][pair]).any(axis=1).all()  # where they are

    def test_nor_are_what_they_say_elsewhere_and_how(
        self, toy_fold: Any, kind: str, made: Outputs
    ) -> None:
        """Words, vocabulary, LLDs and normaliser: an utterance's target comes from it alone."""
        rows = [5, 6]  # two of s1's four
        targets = parted(scrambled(toy_fold, rows), kind)
        pair, rest = (np.isin(toy_fold.speakers, group) for group in (PAIRS[1], PAIRS[0]))
        pair[rows] = False
        assert targets[0][pair].tobytes() == made[0][pair].tobytes()
        assert targets[1][pair].tobytes() == made[1][pair].tobytes()
        assert (targets[0][rows] != made[0][rows]).any(axis=1).all()
        assert (targets[0][rest] != made[0][rest]).any(axis=1).all()

    def test_the_test_speaker_is_in_no_training_target(
        self, toy_fold: Any, kind: str, made: Outputs
    ) -> None:
        test = np.flatnonzero(toy_fold.roles == TEST).tolist()
        targets = parted(relabelled(scrambled(toy_fold, test), "s5"), kind)
        others = toy_fold.roles != TEST
        assert targets[0][others].tobytes() == made[0][others].tobytes()
        assert (targets[0][test] != made[0][test]).any()

    def test_its_facts(self, toy_fold: Any, kind: str, made: Outputs) -> None:
        logits, embeddings, facts = made
        first, second = facts["parts"]
        assert (first["held_out"], first["fitted_on"]) == (["s0", "s3"], ["s1", "s2"])
        assert (second["held_out"], second["fitted_on"]) == (["s1", "s2"], ["s0", "s3"])
        assert [part["selected_on"] for part in facts["parts"]] == [["s4"], ["s4"]]
        assert all(len(part["history"]) == 2 for part in facts["parts"])
        assert all(part["best_epoch"] in (1, 2) for part in facts["parts"])
        assert facts["parameters"] == first["parameters"] + second["parameters"]
        assert facts["beyond_training"] == "mean of the parts"
        assert all(0 <= part["residual"] < 1.5 for part in facts["parts"])
        assert -1 <= facts["agreement"]["different"] < facts["agreement"]["same"] <= 1
        assert facts["embedding_width"] == embeddings.shape[1]
        train = toy_fold.roles == TRAIN
        share = (logits[train].argmax(1) == toy_fold.labels[train]).mean()
        assert facts["scores"]["train"]["wa"] == pytest.approx(share)
        assert {role: score["n"] for role, score in facts["scores"].items()} == {
            "train": 16, "validation": 4, "test": 4,
        }  # fmt: skip


class TestCommonSpace:
    RNG = np.random.default_rng(5)
    LABELS = np.arange(40) % 4
    CENTRES = RNG.normal(0, 1, (4, 12)) * 3
    VALUES = (CENTRES[LABELS] + RNG.normal(0, 0.3, (40, 12))).astype(np.float32)

    def test_it_is_scipys_procrustes(self) -> None:
        rotation, residual = common_space(self.VALUES, self.LABELS, 4)
        expected = procrustes(self.VALUES, self.LABELS, 4)
        np.testing.assert_allclose(rotation.numpy(), expected, atol=1e-9)
        assert 0 < residual < 1

    def test_lengths_and_angles_stay(self) -> None:
        turned = self.VALUES @ common_space(self.VALUES, self.LABELS, 4)[0].numpy()
        np.testing.assert_allclose(turned @ turned.T, self.VALUES @ self.VALUES.T, atol=1e-3)

    def test_the_same_teacher_in_two_spaces_is_one_again(self) -> None:
        other, _ = np.linalg.qr(self.RNG.normal(0, 1, (12, 12)))
        moved = (self.VALUES @ other).astype(np.float32)
        before = agreement(np.stack([self.VALUES, moved]))
        spaces = [
            (values @ common_space(values, self.LABELS, 4)[0].numpy()).astype(np.float32)
            for values in (self.VALUES, moved)
        ]
        after = agreement(np.stack(spaces))
        assert before["same"] < 0.5 < 0.97 < after["same"]
        assert after["different"] < 0.5

    def test_what_no_class_tells_stays_where_it_is(self) -> None:
        """Classes that lie on their axes turn nothing, be the rest what it may."""
        values = np.eye(2, 6, dtype=np.float32).repeat(3, axis=0)
        noise = self.RNG.normal(0, 1, (3, 4)).astype(np.float32)
        noise -= noise.mean(0)
        values[:3, 2:], values[3:, 2:] = noise, -noise
        rotation, residual = common_space(values, np.arange(2).repeat(3), 2)
        np.testing.assert_allclose(rotation.numpy(), np.eye(6), atol=1e-6)
        assert residual == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("width", [1, 3])
    def test_more_classes_than_dimensions(self, width: int) -> None:
        rotation, residual = common_space(self.VALUES[:, :width].copy(), self.LABELS, 4)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(width), atol=1e-12)
        assert np.isfinite(residual)

    def test_embeddings_that_are_all_nought(self) -> None:
        rotation, residual = common_space(np.zeros((4, 3), np.float32), np.arange(4), 4)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert residual == pytest.approx(1)


def test_agreement_by_hand() -> None:
    """Three parts, two utterances: one part turned by 90 degrees."""
    one, turned = [[2.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [-1.0, 0.0]]
    assert agreement(np.array([one, one], np.float32)) == {"same": 1, "different": 0}
    three = agreement(np.array([one, one, turned], np.float32))
    assert three["same"] == pytest.approx(1 / 3, abs=1e-6)  # of three pairs one agrees
    assert three["different"] == pytest.approx(0)  # 1 and -1 where one of the pair is turned
    single = agreement(np.array([[[1.0, 0.0]], [[1.0, 0.0]]], np.float32))
    assert single == {"same": 1, "different": 0}


def test_without_validation_and_with_rows_left_out(toy_fold: Any) -> None:
    roles = toy_fold.roles.copy()
    roles[roles == VALIDATION] = OUT
    roles[0] = OUT
    fold, data = replace(TOY, validation=()), replace(toy_fold, roles=roles)
    logits, _, facts = fit_parts(data, fold, PAIRS, SETTINGS["linguistic"], CPU)
    assert np.isfinite(logits).all()
    assert facts["scores"].keys() == {"train", "test"}
    assert [part["best_epoch"] for part in facts["parts"]] == [2, 2]


@pytest.fixture(scope="module")
def store(cross_store: Path) -> Store:
    return Store.open(cross_store)


def status(request: Any) -> dict[str, str]:
    plan = make_plan(request, source_sums(request.manifest))
    return {step.unit: step.status for step in plan.steps if step.unit.startswith("folds")}


class TestUnits:
    def test_they_stand_beside_plain_ones_that_stay_as_they_were(
        self, cross_store: Path, small_store: Path
    ) -> None:
        new, old = tree(cross_store), tree(small_store)
        assert {name: raw for name, raw in new.items() if name in old} == old
        assert {"/".join(name.split("/")[:3]) for name in new if name not in old} == set(CROSS)

    def test_a_plain_build_leaves_them_alone(
        self, cross_store: Path, small_request: Any, build_here: Build, tmp_path: Path
    ) -> None:
        place = Path(shutil.copytree(cross_store, tmp_path / "store"))
        assert build_here(replace(small_request, store=place)).built == []
        assert tree(place) == tree(cross_store)

    def test_what_is_done_is_not_done_again(
        self, cross_store: Path, small_request: Any, build_here: Build, tmp_path: Path
    ) -> None:
        place = Path(shutil.copytree(cross_store, tmp_path / "store"))
        request = replace(small_request, store=place, folds="1", cross_fit=2)
        assert set(status(request).values()) == {"done"}
        shutil.rmtree(place / CROSS[0])
        assert status(request)[CROSS[0]] == "build"
        assert build_here(request).built == [CROSS[0]]
        assert tree(place) == tree(cross_store)  # two builds of one unit are the same bytes

    def test_a_plan_tells_units_and_fits(self, cross_store: Path, small_request: Any) -> None:
        request = replace(small_request, store=cross_store, cross_fit=3, folds="1..2")
        plan = make_plan(request, source_sums(request.manifest))
        todo = [step.unit for step in plan.steps if step.status == "build"]
        names = ["linguistic-crossfit3", "prosodic-crossfit3"]
        assert todo == [f"folds/{fold}/{name}" for fold in ("01", "02") for name in names]
        assert plan_dict(plan, request.settings)["fits"] == 4 * 3

    def test_parts_decide_the_fingerprint(self, cross_store: Path, small_request: Any) -> None:
        found = {}
        for parts in (2, 3):
            request = replace(small_request, store=cross_store, cross_fit=parts)
            plan = make_plan(request, source_sums(request.manifest))
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
        assert cross.settings == {**plain.settings, "cross_fit": 2}
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
        told = utterance(store, 1, "Ses02F_impro01_F000", 1.0)
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
    for over, told in (
        ({"cross_fit": 9}, "--cross-fit 9: fold 1 trains on 8 speaker"),
        ({"cross_fit": 1}, "--cross-fit 1: fold 1 trains on 8 speaker"),
        ({"cross_fit": 2, "keep_teachers": True}, "--keep-teachers --cross-fit 2"),
    ):
        with pytest.raises(UserError, match=told):
            build_here(replace(small_request, store=tmp_path / "store", **over))
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
        make_plan(request, source_sums(request.manifest))


def test_the_record_is_the_units_own(store: Store) -> None:
    """No time, and not the plain teacher's record with one more key."""
    cross = (store.path / CROSS[0] / RECORD).read_text()
    assert '"cross_fit": 2' in cross
    assert '"parts"' not in (store.path / "folds/01/linguistic" / RECORD).read_text()
