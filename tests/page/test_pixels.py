"""Views of a page, as both resamplers make them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vllm_dsocr.config import MODES, PAD_COLOR, RESAMPLERS, PageOptions
from vllm_dsocr.page.pixels import PageTensors, page_tensors

pytestmark = pytest.mark.filterwarnings("error")  # such as torch's on memory that is read-only
GREY = PAD_COLOR[0]
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


@pytest.fixture(params=RESAMPLERS)
def resampler(request: pytest.FixtureRequest) -> str:
    return request.param


def _views(image: Image.Image, mode: str, resampler: str) -> PageTensors:
    return page_tensors(image, PageOptions(MODES[mode], resampler))


def _noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize("mode", MODES)
def test_shapes_follow_the_plan(mode: str, resampler: str) -> None:
    views = _views(_noise(1100, 700), mode, resampler)
    resolution = MODES[mode]
    side, tile = resolution.base_size, resolution.image_size
    assert views.global_view.shape == (3, side, side)
    assert views.tiles.shape == (views.plan.num_tiles, 3, tile, tile)
    assert views.global_view.dtype == views.tiles.dtype == torch.uint8
    assert views.global_view.is_contiguous() and views.tiles.is_contiguous()


def test_tiles_come_row_by_row(resampler: str) -> None:
    """3 x 2 tiles of one colour each; the colour is the tile's index."""
    page = Image.new("RGB", (2 * 640, 3 * 640))
    for index in range(6):
        row, col = divmod(index, 2)
        page.paste((index, index, index), (col * 640, row * 640, (col + 1) * 640, (row + 1) * 640))
    tiles = _views(page, "gundam", resampler).tiles
    assert torch.equal(tiles, torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand_as(tiles))


def test_channels_are_red_green_blue(resampler: str) -> None:
    views = _views(Image.new("RGB", (641, 641), (10, 20, 30)), "gundam", resampler)
    color = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    assert (views.global_view == color).all() and (views.tiles == color).all()


def test_half_black_half_white_page_keeps_its_tiles(resampler: str) -> None:
    """Its normalised pixels sum to exactly 0, which must not read as "no tiles"."""
    page = Image.new("RGB", (1280, 640), BLACK)
    page.paste(WHITE, (640, 0, 1280, 640))
    views = _views(page, "gundam", resampler)
    assert views.tiles.shape[0] == views.plan.num_tiles == 2
    assert (views.tiles[0] == 0).all() and (views.tiles[1] == 255).all()


def test_large_views_are_padded_with_grey(resampler: str) -> None:
    view = _views(Image.new("RGB", (500, 1000), WHITE), "base", resampler).global_view
    assert (view[:, :, 256:768] == 255).all()
    assert (view[:, :, :256] == GREY).all() and (view[:, :, 768:] == GREY).all()


def test_small_views_are_squeezed(resampler: str) -> None:
    assert (
        _views(Image.new("RGB", (500, 1000), WHITE), "small", resampler).global_view == 255
    ).all()


@pytest.mark.parametrize("size", [(6000, 1), (1, 6000), (640, 1), (1, 1), (10_000, 50)])
@pytest.mark.parametrize("mode", ["tiny", "base", "gundam"])
def test_slivers_have_views_too(size: tuple[int, int], mode: str, resampler: str) -> None:
    views = _views(Image.new("RGB", size, WHITE), mode, resampler)
    assert (views.tiles == 255).all()
    _, _, width, height = views.plan.global_box
    assert int((views.global_view == 255).sum()) == 3 * width * height


@pytest.mark.parametrize(
    "size",
    [(1654, 2339), (700, 1200), (1200, 700), (100, 90), (50, 3000), (3000, 50), (640, 640)],
)
@pytest.mark.parametrize("mode", ["tiny", "small", "large", "gundam"])
def test_fast_resampler_is_close_to_the_exact_one(size: tuple[int, int], mode: str) -> None:
    exact, fast = (_views(_noise(*size), mode, name) for name in ("pillow", "torch"))
    for a, b in ((exact.global_view, fast.global_view), (exact.tiles, fast.tiles)):
        assert not a.numel() or int((a.int() - b.int()).abs().max()) <= 2


def test_a_page_of_the_view_size_is_not_resampled(resampler: str) -> None:
    page = _noise(640, 640)
    view = _views(page, "small", resampler).global_view
    assert np.array_equal(view.permute(1, 2, 0).numpy(), np.asarray(page))


def test_a_turned_page_gives_the_views_of_the_upright_one(resampler: str) -> None:
    page = _noise(300, 700)
    turned = page.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    expected, views = (_views(image, "gundam", resampler) for image in (page, turned))
    assert views.plan == expected.plan
    assert torch.equal(views.tiles, expected.tiles)
    assert torch.equal(views.global_view, expected.global_view)
