import pytest
import torch
from torch import nn

from distill.model.masking import (
    MaskedGroupNorm,
    conv_lengths,
    masked_mean,
    normalise_signals,
    receptive_field,
    valid_mask,
)


@pytest.fixture
def norm():
    torch.manual_seed(0)
    plain = nn.GroupNorm(6, 6)
    nn.init.uniform_(plain.weight)
    nn.init.uniform_(plain.bias)
    return plain


def test_lengths_are_those_of_the_convolutions_themselves():
    kernels, strides = [10, 3, 2], [5, 2, 2]
    convs = nn.Sequential(*(nn.Conv1d(1, 1, k, s) for k, s in zip(kernels, strides, strict=True)))
    least = receptive_field(kernels, strides)
    for length in range(least, least + 60):
        expected = convs(torch.zeros(1, 1, length)).shape[2]
        assert conv_lengths(torch.tensor([length]), kernels, strides).item() == expected
    assert conv_lengths(torch.tensor([0, 5, least - 1]), kernels, strides).tolist() == [0, 0, 0]


def test_without_padding_it_is_group_norm(norm):
    frames = torch.randn(3, 6, 20, requires_grad=True)
    twin = frames.detach().clone().requires_grad_()
    expected, got = norm(twin), MaskedGroupNorm.of(norm)(frames, torch.full((3,), 20))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    expected.pow(3).sum().backward()
    wanted = [twin.grad, norm.weight.grad.clone(), norm.bias.grad.clone()]
    norm.zero_grad()
    got.pow(3).sum().backward()
    found = [frames.grad, norm.weight.grad, norm.bias.grad]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("graph", [True, False])
def test_padding_changes_no_valid_frame(norm, graph):
    frames, lengths = torch.randn(4, 6, 30), [30, 11, 17, 2]
    alone = [norm(frames[i : i + 1, :, :n]) for i, n in enumerate(lengths)]
    for i, n in enumerate(lengths):
        frames[i, :, n:] = 1e4
    with torch.set_grad_enabled(graph):
        padded = MaskedGroupNorm.of(norm)(frames, torch.tensor(lengths))
    for row, n, expected in zip(padded, lengths, alone, strict=True):
        torch.testing.assert_close(row[None, :, :n], expected, atol=1e-5, rtol=1e-5)


def test_a_large_offset_costs_no_precision(norm):
    frames = torch.randn(1, 6, 5000)
    shifted = MaskedGroupNorm.of(norm)(frames + 100.0, torch.tensor([5000]))
    torch.testing.assert_close(shifted, norm(frames), atol=1e-3, rtol=0)


def test_groups_of_several_channels_are_refused():
    with pytest.raises(ValueError, match="one channel a group"):
        MaskedGroupNorm.of(nn.GroupNorm(2, 6))


def test_half_precision_is_averaged_in_float32():
    hidden = torch.full((1, 4000, 1), 0.1, dtype=torch.bfloat16)
    hidden[:, 2000:] = 9.0
    mean = masked_mean(hidden, torch.tensor([2000]))
    assert mean.dtype == torch.float32
    assert mean.item() == pytest.approx(hidden[0, 0, 0].item(), abs=1e-6)


def test_each_signal_is_normalised_over_its_own_samples():
    torch.manual_seed(1)
    signals, lengths = 0.3 * torch.randn(3, 800) + 0.2, torch.tensor([800, 500, 300])
    signals[~valid_mask(lengths, 800)] = 7.0
    got = normalise_signals(signals, lengths)
    for row, signal, n in zip(got, signals, lengths, strict=True):
        expected = nn.functional.layer_norm(signal[:n], (int(n),))
        torch.testing.assert_close(row[:n], expected, atol=1e-5, rtol=1e-5)
        assert not row[n:].any()
