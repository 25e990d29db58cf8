"""Tile grids and token counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_dsocr.config import MODES, Resolution
from vllm_dsocr.page.geometry import (
    grid_side,
    largest_grid,
    most_tokens_size,
    num_image_tokens,
    plan_tiles,
)

GUNDAM = MODES["gundam"]
CROPS = st.integers(1, 9).flatmap(lambda high: st.tuples(st.integers(1, high), st.just(high)))


def _gundam(min_crops: int, max_crops: int) -> Resolution:
    return Resolution(1024, 640, crop_mode=True, min_crops=min_crops, max_crops=max_crops)


@pytest.mark.parametrize(
    ("mode", "size", "tokens"),
    [
        ("tiny", (5000, 100), 73),
        ("small", (1654, 2339), 111),
        ("base", (1654, 2339), 273),
        ("large", (1654, 2339), 421),
        ("gundam", (640, 640), 273),
        ("gundam", (1654, 2339), 903),
        ("gundam", (1400, 1400), 1203),
        ("gundam", (1, 6000), 1263),
        ("gundam", (6000, 1), 1183),
        ("gundam-m", (1654, 2339), 2005),
    ],
)
def test_token_counts_of_the_paper_and_the_official_code(
    mode: str, size: tuple[int, int], tokens: int
) -> None:
    assert plan_tiles(*size, MODES[mode]).num_image_tokens == tokens


@pytest.mark.parametrize(("size", "side"), [(512, 8), (640, 10), (1024, 16), (1280, 20), (528, 9)])
def test_grid_side_rounds_up(size: int, side: int) -> None:
    assert grid_side(size) == side


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((640, 640), (1, 1)),
        ((641, 640), (2, 2)),
        ((640, 641), (2, 2)),
        ((1280, 640), (1, 2)),
        ((1357, 1357), (2, 2)),  # 1357 * 1357 fills less than half of 3x3 tiles
        ((1358, 1358), (3, 3)),
        ((700, 1200), (3, 2)),  # exact fractions would say 2x1
    ],
)
def test_grid_is_the_official_one(size: tuple[int, int], grid: tuple[int, int]) -> None:
    plan = plan_tiles(*size, GUNDAM)
    assert (plan.rows, plan.cols) == grid


def test_tile_side_is_the_threshold() -> None:
    assert plan_tiles(1024, 1024, MODES["gundam-m"]).num_tiles == 0
    assert plan_tiles(1025, 1024, MODES["gundam-m"]).num_tiles == 4


def test_a_single_tile_is_no_tile() -> None:
    plan = plan_tiles(700, 700, _gundam(1, 9))
    assert (plan.rows, plan.cols, plan.num_tiles, plan.num_image_tokens) == (1, 1, 0, 273)


def test_only_one_view_without_crop_mode() -> None:
    assert plan_tiles(5000, 5000, MODES["large"]).num_tiles == 0


@pytest.mark.parametrize(
    ("mode", "size", "box"),
    [
        ("small", (100, 900), (0, 0, 640, 640)),
        ("base", (100, 100), (0, 0, 1024, 1024)),
        ("base", (1654, 2339), (150, 0, 724, 1024)),
        ("gundam", (2339, 1654), (0, 150, 1024, 724)),
        ("gundam", (6000, 1), (0, 512, 1024, 0)),
    ],
)
def test_place_of_the_page_in_the_global_view(
    mode: str, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    assert plan_tiles(*size, MODES[mode]).global_box == box


def test_small_views_are_padded_in_crop_mode() -> None:
    resolution = Resolution(512, 512, crop_mode=True)
    assert plan_tiles(100, 200, resolution).global_box == (128, 0, 256, 512)


@given(st.integers(1, 20_000), st.integers(1, 20_000), CROPS)
def test_every_page_has_a_plan_within_the_limits(
    width: int, height: int, crops: tuple[int, int]
) -> None:
    resolution = _gundam(*crops)
    plan = plan_tiles(width, height, resolution)
    assert plan.rows * plan.cols == 1 or crops[0] <= plan.num_tiles <= crops[1]
    assert plan.num_image_tokens <= num_image_tokens(resolution, *largest_grid(resolution))
    left, top, page_width, page_height = plan.global_box
    assert left >= 0 and left + page_width <= 1024
    assert top >= 0 and top + page_height <= 1024


@given(CROPS)
def test_some_page_has_the_most_tokens(crops: tuple[int, int]) -> None:
    plan = plan_tiles(*most_tokens_size(_gundam(*crops)), _gundam(*crops))
    assert (plan.rows, plan.cols) == largest_grid(_gundam(*crops))


@pytest.mark.parametrize("mode", ["tiny", "large"])
def test_most_tokens_without_crop_mode(mode: str) -> None:
    assert largest_grid(MODES[mode]) == (1, 1)
    assert plan_tiles(*most_tokens_size(MODES[mode]), MODES[mode]).num_tiles == 0


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (-1, 10)])
def test_a_page_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}"):
        plan_tiles(*size, GUNDAM)
