"""Pixels of the official code: equal with Pillow, within 2/255 with torch."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from tests.parity.loader import DATA, Case, ParityData, each_case, sha256
from vllm_dsocr.config import PageOptions, Resolution
from vllm_dsocr.encoder.assembly import normalise
from vllm_dsocr.page.pixels import PageTensors, page_tensors

IMAGES = sorted(path.name for path in (DATA.root / "images").iterdir() if path.suffix != ".json")


def _views(data: ParityData, case: Case, resampler: str) -> PageTensors:
    sizes = (case["base_size"], case["image_size"])
    resolution = Resolution(*sizes, case["crop_mode"], max_crops=case["max_num"])
    return page_tensors(data.image(case.document["image"]), PageOptions(resolution, resampler))


def _largest_difference(a: Tensor, b: Tensor) -> int:
    return int((a.int() - b.int()).abs().max()) if a.numel() else 0


@pytest.mark.parametrize("file", IMAGES)
def test_decoded_images(data: ParityData, file: str) -> None:
    record = data.image_record(file)
    image = data.image(f"images/{file}")
    assert list(image.size) == record["rgb_size_after_exif"]
    assert hashlib.sha256(image.tobytes()).hexdigest() == record["rgb_sha256"]


@each_case("pixels_*.json")
def test_exact_views(data: ParityData, case: Case) -> None:
    views = _views(data, case, "pillow")
    assert [[views.plan.cols, views.plan.rows]] == case["images_spatial_crop"]
    assert views.plan.num_image_tokens == case["n_image_tokens"]
    assert sha256(views.global_view) == case["images_ori"]["sha256_u8"]
    official = case["images_crop"]
    if official.get("all_zero"):  # how the official code says "no tiles"
        assert views.tiles.shape[0] == 0
    else:
        assert list(views.tiles.shape) == official["shape"]
        assert sha256(views.tiles) == official["sha256_u8"]


@each_case("pixels_*.json")
def test_normalised_views(data: ParityData, case: Case) -> None:
    """What the towers see in fp32 is the official floats bit by bit."""
    views = _views(data, case, "pillow")
    like = torch.empty(0)
    assert sha256(normalise(views.global_view, like)) == case["images_ori"]["sha256_f32le"]
    if not case["images_crop"].get("all_zero"):
        assert sha256(normalise(views.tiles, like)) == case["images_crop"]["sha256_f32le"]


@each_case("pixels_*.json")
def test_fast_views(data: ParityData, case: Case) -> None:
    exact, fast = _views(data, case, "pillow"), _views(data, case, "torch")
    assert _largest_difference(exact.global_view, fast.global_view) <= 2
    assert _largest_difference(exact.tiles, fast.tiles) <= 2
