"""Grids, token counts and placements of the official code."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.parity.loader import Case, ParityData, each_case, resolution
from vllm_dsocr.config import MODES
from vllm_dsocr.document.compression import num_valid_vision_tokens
from vllm_dsocr.page.geometry import TilePlan, plan_tiles


def _found(plan: TilePlan) -> dict[str, object]:
    left, top, width, height = plan.global_box
    return {
        "grid_wh": [plan.cols, plan.rows],
        "n_crops": plan.num_tiles,
        "tokens": plan.num_image_tokens,
        "valid_img_tokens": num_valid_vision_tokens(plan),
        "crop_resize": list(plan.tiled_size) if plan.num_tiles else None,
        "pad_resized": [width, height],
        "pad_offset": [left, top],
    }


def _modes(case: Case) -> list[str]:
    return [name for name in case.values if name != "size"]


@each_case("geometry.json")
def test_plans(case: Case) -> None:
    for mode in _modes(case):
        found = _found(plan_tiles(*case["size"], resolution(mode)))
        assert {key: found[key] for key in case[mode]} == case[mode], mode


def test_rounding_decides_as_officially(data: ParityData) -> None:
    ties = data.document("geometry.json")["float_vs_exact_differs"]
    if not ties:
        pytest.skip("no such size in the data")
    for size, max_crops, exact, official in ties:
        plan = plan_tiles(*size, replace(MODES["gundam"], max_crops=max_crops))
        assert [plan.cols, plan.rows] == official != exact
