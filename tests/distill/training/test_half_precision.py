"""bfloat16 on a CPU: what rounding may do to an encoder, and a kernel that is wrong."""

import pytest
import torch

from distill.model.encoders import TINY, Architecture, build
from distill.model.weights import seeded
from distill.training.half_precision import LIMIT, bfloat16_error, require_bfloat16
from featstore.core.schema import UserError


@pytest.fixture
def backbone():
    with seeded(1):
        # 16 channels a group, which every kernel gets right
        return build(Architecture(type="tiny", params=TINY | {"hidden_size": 256}))


def convolution(backbone):
    (found,) = [
        one for one in backbone.modules() if isinstance(one, torch.nn.Conv1d) and one.groups > 1
    ]
    return found


def spoil(backbone, channels):
    """Wrong in bfloat16 as the kernel is: some channels get what belongs to others."""

    def hook(module, _, output):
        return output.roll(channels, dims=1) if output.dtype is torch.bfloat16 else output

    convolution(backbone).register_forward_hook(hook)


def test_rounding_is_passed(backbone):
    state = torch.get_rng_state()
    assert 0 < bfloat16_error(backbone) < LIMIT / 4
    require_bfloat16(backbone)
    assert backbone.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_wrong_kernel_is_refused(backbone):
    spoil(backbone, 1)
    with pytest.raises(UserError, match=r"off by \d+% of their size") as refusal:
        require_bfloat16(backbone.eval())
    assert refusal.value.hint == "use precision = fp32"
    assert not backbone.training


def test_frames_that_are_no_numbers_are_refused(backbone):
    convolution(backbone).register_forward_hook(
        lambda module, _, output: output * torch.nan if output.dtype is torch.bfloat16 else output
    )
    with pytest.raises(UserError, match="nan%"):
        require_bfloat16(backbone)
