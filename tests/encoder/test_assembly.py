"""Assembly: sequence order, mixed sizes in one batch, refusals."""

import pytest
import torch
from torch import nn

from vllm_dsocr.config import ClipSizes, SamSizes, VisionSizes
from vllm_dsocr.encoder import assembly
from vllm_dsocr.encoder.assembly import PageViews, build_vision_tower, embed_pages, normalise

SIZES = VisionSizes(
    SamSizes(
        width=16, layers=1, heads=2, global_attn_indexes=(0,), downsample_channels=(8, 8),
        neck_channels=8, window_size=4, pos_size=128,
    ),
    ClipSizes(width=8, layers=1, heads=2, image_size=28, patch_size=14),
    projector_input=16,
    projector_output=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    module = nn.Module()
    build_vision_tower(module, SIZES)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def page(base_size=128, tile=64, rows=1, cols=1):
    tiles = rows * cols if rows * cols > 1 else 0
    return PageViews(
        torch.randint(0, 256, (3, base_size, base_size), dtype=torch.uint8),
        torch.randint(0, 256, (tiles, 3, tile, tile), dtype=torch.uint8),
        rows,
        cols,
    )


@torch.no_grad()
def test_order_is_tiles_global_view_separator(tower):
    views = page(rows=2, cols=3)  # q = 1 for 64 px tiles, 2 for the 128 px view
    (out,) = embed_pages(tower, [views])
    assert out.shape == (2 * (3 + 1) + 2 * (2 + 1) + 1, 6)
    newlines = [3, 7, 8 + 2, 8 + 5]
    for row in newlines:
        assert torch.equal(out[row], tower.image_newline)
    assert torch.equal(out[-1], tower.view_seperator)
    tiles = assembly.encode_views(tower, views.tiles)
    torch.testing.assert_close(out[[0, 1, 2, 4, 5, 6]], tiles.flatten(0, 1))
    torch.testing.assert_close(out[[8, 9, 11, 12]], assembly.encode_views(tower, views[0][None])[0])


@torch.no_grad()
def test_tile_rows_run_through_the_whole_picture(tower):
    views = page(tile=128, base_size=64, rows=1, cols=2)  # q = 2: rows interleave both tiles
    (out,) = embed_pages(tower, [views])
    left, right = assembly.encode_views(tower, views.tiles)
    torch.testing.assert_close(out[:4], torch.stack((left[0], left[1], right[0], right[1])))
    torch.testing.assert_close(out[5:9], torch.stack((left[2], left[3], right[2], right[3])))


@torch.no_grad()
def test_a_batch_of_mixed_pages_equals_single_pages(tower):
    pages = [page(rows=2, cols=1), page(base_size=64), page(rows=1, cols=3), page(base_size=192)]
    for together, alone in zip(
        embed_pages(tower, pages), (embed_pages(tower, [p])[0] for p in pages), strict=True
    ):
        torch.testing.assert_close(together, alone)


@torch.no_grad()
def test_tiles_and_view_of_one_size_are_told_apart(tower):
    views = page(base_size=64, tile=64, rows=1, cols=2)
    (out,) = embed_pages(tower, [views])
    torch.testing.assert_close(out[:2], assembly.encode_views(tower, views.tiles).flatten(0, 1))


@torch.no_grad()
def test_chunked_passes_change_nothing(tower, monkeypatch):
    pages = [page(rows=2, cols=3)]
    whole = embed_pages(tower, pages)[0]
    monkeypatch.setattr(assembly, "CPU_PATCHES_PER_PASS", 1)
    torch.testing.assert_close(embed_pages(tower, pages)[0], whole)


@torch.no_grad()
def test_a_pass_that_does_not_fit_is_halved_until_it_does(tower, monkeypatch):
    views = page(rows=1, cols=5).tiles
    whole = assembly.encode_views(tower, views)
    encode, sizes = assembly.encode_pass, []

    def small_device(tower, views):
        sizes.append(len(views))
        if len(views) > 2:
            raise torch.OutOfMemoryError
        return encode(tower, views)

    monkeypatch.setattr(assembly, "encode_pass", small_device)
    torch.testing.assert_close(assembly.encode_views(tower, views), whole)
    assert sizes == [5, 3, 2, 1, 2]


def test_tiles_that_do_not_fill_the_grid_are_refused(tower):
    with pytest.raises(ValueError, match="2 x 2 needs 4 tiles, got 3"):
        embed_pages(tower, [page()._replace(tiles=page(rows=1, cols=3).tiles, rows=2, cols=2)])


def test_pixels_are_normalised_exactly_in_the_towers_dtype():
    pixels = torch.arange(256, dtype=torch.uint8)
    exact = pixels.float() / 255 * 2 - 1
    assert torch.equal(normalise(pixels, torch.zeros(1)), exact)
    assert torch.equal(normalise(pixels, torch.zeros(1, dtype=torch.bfloat16)), exact.bfloat16())
    floats = torch.tensor([-1.0, 0.25])
    assert torch.equal(normalise(floats, torch.zeros(1)), floats)
