"""featstore/teachers/cross_fit.py: no target tells what its speaker's own data taught a teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from featstore.core.config import (
    LinguisticSettings,
    ProsodicSettings,
    TeacherSettings,
)
from featstore.folds import OUT, TEST, TRAIN, VALIDATION, Fold
from featstore.teachers import FoldData
from featstore.teachers.cross_fit import HOLD, agreement, common_space, fit_parts
from featstore.teachers.finetune import run_once
from tests.fast import FAST

CPU = torch.device("cpu")
TOY = Fold(1, ("s5",), ("s4",), ("s0", "s1", "s2", "s3"))
PAIRS = (("s0", "s3"), ("s1", "s2"))
SETTINGS: dict[str, TeacherSettings] = {
    "linguistic": LinguisticSettings(**FAST["teachers"]["linguistic"]),
    "prosodic": ProsodicSettings(**FAST["teachers"]["prosodic"]),
}


Outputs = tuple[Any, Any, dict[str, Any]]


def parted(data: FoldData, kind: str, groups: tuple[tuple[str, ...], ...] = PAIRS) -> Outputs:
    return fit_parts(data, groups, SETTINGS[kind], CPU)


def alone(data: FoldData, kind: str, group: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """What the one teacher of a fold says of all rows, were these speakers none of the fold's.

    The embeddings are turned by scipy's Procrustes, each axis held as much as ours are.
    """
    from featstore.teachers import prepare
    from featstore.teachers.finetune import finetune

    roles = data.roles.copy()
    roles[np.isin(data.speakers, group)] = OUT
    seen, settings = replace(data, roles=roles), SETTINGS[kind]
    task = prepare(seen, settings)
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


def scrambled(data: FoldData, rows: list[int]) -> FoldData:
    """Other words and other speech in some rows, as long as before."""
    texts = [
        " ".join(reversed(text.split())) if row in rows else text
        for row, text in enumerate(data.texts)
    ]
    llds = [lld[::-1].copy() * 3 if row in rows else lld for row, lld in enumerate(data.llds)]
    return replace(data, texts=tuple(texts), llds=llds)


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
    data = replace(toy_fold, roles=roles)
    logits, _, facts = fit_parts(data, PAIRS, SETTINGS["linguistic"], CPU)
    assert np.isfinite(logits).all()
    assert facts["scores"].keys() == {"train", "test"}
    assert [part["best_epoch"] for part in facts["parts"]] == [2, 2]
