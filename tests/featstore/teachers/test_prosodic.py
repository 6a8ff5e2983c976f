from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from featstore.core.config import ProsodicSettings
from featstore.features.lld import Normaliser
from featstore.teachers import prosodic
from featstore.teachers.prosodic import Block, ProsodicTeacher, _after, _crop, collate

SMALL = ProsodicSettings(channels=(4, 4, 8, 8), time_stride=4, max_frames=100)


@pytest.fixture(scope="module")
def task(toy_fold: Any) -> Any:
    """With other running statistics than a fresh norm has: fresh ones let padding pass as zero."""
    found = prosodic.prepare(toy_fold, SMALL)
    found.model.train()
    for _ in range(3):
        found.model(**found.collate(np.arange(16), np.random.default_rng(0)))
    found.model.eval()
    return found


class TestOutputs:
    def test_are_the_same_alone_and_in_a_batch(self, task: Any) -> None:
        """The longest utterance is nearly twice the shortest; every layer's padding is blanked."""
        batch = task.collate(np.arange(24), None)
        with torch.inference_mode():
            logits, embeddings = task.model(**batch)
            for row in range(24):
                alone = task.model(**task.collate(np.array([row]), None))
                torch.testing.assert_close(alone[0][0], logits[row], rtol=0, atol=1e-5)
                torch.testing.assert_close(alone[1][0], embeddings[row], rtol=0, atol=1e-5)
        assert (logits.shape, embeddings.shape) == ((24, 2), (24, 8))
        assert len(set(batch["n_frames"].tolist())) > 5

    def test_do_not_depend_on_how_far_a_batch_is_padded(self, task: Any) -> None:
        batch = task.collate(np.array([3]), None)
        longer = nn.functional.pad(batch["image"], (0, 0, 0, 57))
        with torch.inference_mode():
            one = task.model(**batch)
            other = task.model(longer, batch["n_frames"])
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)

    def test_embedding_is_the_mean_over_valid_frames(self, task: Any) -> None:
        """And logits are the classifier on it, once dropout is off (PAPER.md row 9)."""
        seen: list[torch.Tensor] = []
        hook = task.model.blocks[-1].register_forward_hook(lambda _, __, out: seen.extend(out))
        with torch.inference_mode():
            logits, embeddings = task.model(**task.collate(np.array([0, 1]), None))
            torch.testing.assert_close(logits, task.model.classifier(embeddings))
        hook.remove()
        x, n_frames = seen
        for row, n in enumerate(n_frames.tolist()):
            torch.testing.assert_close(embeddings[row], x[row, :, :n].mean(dim=(1, 2)))
            assert not x[row, :, n:].any()

    def test_architecture_is_four_residual_blocks_of_the_widths(self) -> None:
        model = ProsodicTeacher(ProsodicSettings(), n_classes=4)
        assert [block.conv2.out_channels for block in model.blocks] == [64, 128, 256, 512]
        assert isinstance(model.blocks[0].shortcut, nn.Identity)
        assert not any(isinstance(block.shortcut, nn.Identity) for block in model.blocks[1:])
        assert model.classifier.in_features == 512

    def test_block_adds_its_input(self) -> None:
        """With the second norm at zero only the shortcut is left: relu of the input itself."""
        block = Block(3, 3, 1).eval()
        nn.init.zeros_(block.norm2.weight)
        x = torch.randn(1, 3, 6, 5)
        out, n_frames = block(x, torch.tensor([4]))
        expected = x.relu()
        expected[:, :, 4:] = 0
        torch.testing.assert_close(out, expected)
        assert n_frames.tolist() == [4]


class TestFrames:
    @settings(max_examples=40)
    @given(n=st.integers(1, 300), stride=st.integers(1, 9))
    def test_arithmetic_is_the_convolutions(self, n: int, stride: int) -> None:
        stem = nn.Conv2d(1, 1, (2 * stride + 1, 3), stride=(stride, 1), padding=(stride, 1))
        assert int(_after(torch.tensor(n), stride)) == stem(torch.zeros(1, 1, n, 3)).shape[2]
        if stride <= 2:
            conv = nn.Conv2d(1, 1, 3, stride=stride, padding=1)
            assert int(_after(torch.tensor(n), stride)) == conv(torch.zeros(1, 1, n, 3)).shape[2]

    @pytest.mark.parametrize("stride", [1, 4, 8])
    def test_of_the_whole_network(self, stride: int) -> None:
        model = ProsodicTeacher(SMALL.model_copy(update={"time_stride": stride}), 2).eval()
        seen: list[Any] = []
        model.blocks[-1].register_forward_hook(lambda _, __, out: seen.append(out))
        for n in (1, 2, 31, 32, 33, 100):
            model(torch.randn(1, 2, n, 4), torch.tensor([n]))
            x, n_frames = seen.pop()
            assert int(n_frames) == x.shape[2] == -(-n // (stride * 8))


class TestCrop:
    IMAGE = np.arange(2 * 300 * 4, dtype=np.float32).reshape(2, 300, 4) + 1

    def test_evaluation_takes_the_centre(self) -> None:
        found = _crop(self.IMAGE, SMALL, None)
        np.testing.assert_array_equal(found, self.IMAGE[:, 100:200])
        short = self.IMAGE[:, :60]
        assert _crop(short, SMALL, None) is not self.IMAGE
        np.testing.assert_array_equal(_crop(short, SMALL, None), short)

    @settings(max_examples=60)
    @given(
        n=st.integers(1, 300),
        share=st.floats(0.05, 1.0),
        masks=st.integers(0, 3),
        seed=st.integers(0, 99),
    )
    def test_training_takes_a_stretch_within_the_limits(
        self, n: int, share: float, masks: int, seed: int
    ) -> None:
        chosen = SMALL.model_copy(update={"time_crop": share, "time_masks": masks})
        image, before = self.IMAGE[:, :n], self.IMAGE.copy()
        found = _crop(image, chosen, np.random.default_rng(seed))
        kept = found.shape[1]
        assert 1 <= kept <= min(n, SMALL.max_frames)
        assert kept >= min(SMALL.max_frames, max(1, round(share * n)))
        blank = (found == 0).all(axis=(0, 2))
        assert blank.sum() <= masks * max(1, kept // 10)
        at = np.flatnonzero(~blank)
        if len(at):  # what is left is a stretch of the image, in its place
            start = int((found[0, at[0], 0] - 1) // 4) - at[0]
            np.testing.assert_array_equal(found[:, at], image[:, start + at])
        np.testing.assert_array_equal(self.IMAGE, before)  # and the image itself is untouched

    def test_training_differs_and_evaluation_does_not(self) -> None:
        rng = np.random.default_rng(0)
        starts = {float(_crop(self.IMAGE, SMALL, rng)[0, 0, 0]) for _ in range(20)}
        assert len(starts) > 10

    def test_batch_is_padded_with_zeros_to_its_longest(self) -> None:
        images = [self.IMAGE[:, :n] for n in (3, 7)]
        batch = collate(images, SMALL, np.array([1, 0]), None)
        assert batch["image"].shape == (2, 2, 7, 4)
        assert batch["n_frames"].tolist() == [7, 3]
        assert not batch["image"][1, :, 3:].any()
        np.testing.assert_array_equal(batch["image"][1, :, :3], images[0])


class TestNormalisation:
    def image(self, task: Any, row: int) -> Any:
        batch = task.collate(np.array([row]), None)
        return batch["image"][0, :, : int(batch["n_frames"][0])].numpy()

    def test_is_fitted_on_training_rows_alone(self, toy_fold: Any) -> None:
        wide = SMALL.model_copy(update={"max_frames": 1000})
        task = prosodic.prepare(toy_fold, wide)
        by_hand = Normaliser.fit((toy_fold.llds[row] for row in range(16)), toy_fold.lld_names)
        for row in (0, 17, 22):
            expected = by_hand.apply(toy_fold.llds[row])
            np.testing.assert_array_equal(self.image(task, row), expected)
        assert by_hand.mean[0] < 1  # the test speaker's thousand took no part

    def test_by_utterance_and_by_speaker(self, toy_fold: Any) -> None:
        llds = toy_fold.llds
        for kind, rows in (("utterance", [22]), ("speaker", [20, 21, 22, 23])):
            chosen = SMALL.model_copy(update={"normalisation": kind, "max_frames": 1000})
            task = prosodic.prepare(toy_fold, chosen)
            fitted = Normaliser.fit((llds[row] for row in rows), toy_fold.lld_names)
            np.testing.assert_array_equal(self.image(task, 22), fitted.apply(llds[22]))

    def test_second_channel_is_the_mask(self, task: Any) -> None:
        scores, mask = self.image(task, 2)
        assert set(np.unique(mask)) == {0.0, 1.0}
        assert (scores[mask == 0] == 0).all()
        assert mask[:, 0].all()
        assert 0.4 < mask[:, 1].mean() < 0.95


def test_seed_decides_the_weights(toy_fold: Any) -> None:
    one, same, other = (
        prosodic.prepare(toy_fold, SMALL.model_copy(update={"seed": seed})).model.state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
