"""SAM tower: windows, relative positions, sizes."""

import pytest
import torch

from vllm_dsocr.config import SamSizes
from vllm_dsocr.encoder.sam import SamVit
from vllm_dsocr.encoder.windows import from_windows, to_windows
from vllm_dsocr.page.geometry import grid_side

SIZES = SamSizes(
    width=32, layers=2, heads=2, global_attn_indexes=(1,), downsample_channels=(24, 16),
    neck_channels=8, window_size=4, pos_size=128,
)  # fmt: skip


@pytest.mark.parametrize("side", [4, 7, 8, 10])
def test_windows_are_undone_exactly(side):
    x = torch.randn(2, side, side, 3)
    windows = to_windows(x, 4, fill=torch.zeros(3))
    assert windows.shape == (2 * (-(-side // 4)) ** 2, 4, 4, 3)
    assert torch.equal(from_windows(windows, 4, side), x)


def test_window_padding_is_the_fill_and_in_the_last_windows():
    windows = to_windows(torch.ones(1, 5, 5, 1), 4, fill=torch.tensor([7.0]))
    assert (windows[0] == 1).all()
    assert windows[3].sum() == 1 + 15 * 7  # one real patch in the bottom right window


@pytest.mark.parametrize("size", [64, 128, 208, 320])
def test_side_of_the_feature_map_is_the_planned_one(size):
    features = SamVit(SIZES)(torch.zeros(1, 3, size, size))
    assert features.shape == (1, 16, grid_side(size), grid_side(size))


def test_gradients_reach_every_parameter():
    model = SamVit(SIZES)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model(torch.randn(1, 3, 128, 128)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_windows_keep_the_precision_of_autocast():
    from vllm_dsocr.encoder.windows import to_windows

    windows = to_windows(torch.zeros(1, 5, 5, 4, dtype=torch.bfloat16), 2, torch.ones(4))
    assert windows.dtype == torch.bfloat16 and windows.shape == (9, 2, 2, 4)
    assert (windows[-1, 1, 1] == 1).all()
