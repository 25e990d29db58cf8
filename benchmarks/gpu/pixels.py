"""A page's pixels on the device: normalised exactly, and resized there instead of on the CPU."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.encoder import A4
from vllm_dsocr.config import PAD_COLOR, PageOptions, Resolution
from vllm_dsocr.encoder.assembly import normalise
from vllm_dsocr.page.geometry import TilePlan
from vllm_dsocr.page.pixels import PageTensors, page_tensors

MOST_LEVELS = 2  # of 255


def run(bench: Bench) -> Iterator[Row]:
    """Normalising, then one page prepared by the CPU and by the device."""
    image = page_of_text(A4 if not bench.small else (165, 234))
    resolution = Resolution(128, 64, crop_mode=True) if bench.small else PageOptions().resolution
    options = PageOptions(resolution)
    views = page_tensors(image, options)
    yield normalising(bench, views.tiles)
    yield Row("pixels: page on the CPU", bench.wall_seconds(lambda: page_tensors(image, options)))
    yield resizing(bench, image, views)


def page_of_text(size: tuple[int, int]) -> Image.Image:
    """Black words on white, the same every time."""
    rng, image = random.Random(0), Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for top in range(10, size[1] - 10, 14):
        line = "".join(rng.choice("abcdefghij klmnop qrstu vwxyz") for _ in range(size[0] // 7))
        draw.text((10, top), line, fill=(0, 0, 0))
    return image


def normalising(bench: Bench, tiles: Tensor) -> Row:
    """How many values differ from the CPU's, in bf16 or fp32; a value reads and writes 3 bytes."""
    wrong, on_device = 0, tiles.to(bench.device)
    for dtype in (torch.float32, torch.bfloat16):
        like = torch.empty(0, dtype=dtype)
        got = normalise(on_device, like.to(bench.device))
        wrong += int((got.cpu() != normalise(tiles, like)).sum())
    like = torch.empty(0, dtype=torch.bfloat16, device=bench.device)
    seconds = bench.seconds(lambda: normalise(on_device, like))
    share = 3 * tiles.numel() / seconds / bench.bandwidth
    note = "values unlike the CPU's; share of bandwidth"
    return Row("pixels: normalised", seconds, share=share, error=wrong, allowed=0, note=note)


def resizing(bench: Bench, image: Image.Image, want: PageTensors) -> Row:
    """Both sets of views from the whole page, which already lies on the device."""
    page = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).to(bench.device)
    page = page.view(1, image.height, image.width, 3).permute(0, 3, 1, 2)
    got = views_of(page, want.plan)
    error = max(levels(*pair) for pair in zip(got, (want.global_view, want.tiles), strict=True))
    seconds, peak = (m(lambda: views_of(page, want.plan)) for m in (bench.seconds, bench.peak))
    sent = want.global_view.numel() + want.tiles.numel()
    note = f"levels of 255; the page is {page.numel() / 1e6:.1f} MB, its views {sent / 1e6:.1f} MB"
    return Row(
        "pixels: page on the device", seconds, peak, error=error, allowed=MOST_LEVELS, note=note
    )


def levels(got: Tensor, want: Tensor) -> int:
    return int((got.cpu().int() - want.int()).abs().max())


def views_of(page: Tensor, plan: TilePlan) -> tuple[Tensor, Tensor]:
    """(1, 3, H, W) uint8 -> global view (3, B, B) and tiles (T, 3, S, S), as the CPU cuts them."""
    base, side = plan.resolution.base_size, plan.resolution.image_size
    left, top, width, height = plan.global_box
    view = torch.tensor(PAD_COLOR, dtype=torch.uint8, device=page.device)
    view = view.view(3, 1, 1).repeat(1, base, base)
    view[:, top : top + height, left : left + width] = resized(page, width, height)
    grid = resized(page, *plan.tiled_size).unflatten(2, (plan.cols, side))
    tiles = grid.unflatten(1, (plan.rows, side)).permute(1, 3, 0, 2, 4)
    return view, tiles.flatten(0, 1)


def resized(page: Tensor, width: int, height: int) -> Tensor:
    """Width first and rounded in between, as the CPU does it for pages of this shape.

    In fp32: torch resizes bytes on CPUs only.
    """
    for size in ((page.shape[2], width), (height, width)):
        page = F.interpolate(page.float(), size, mode="bicubic", antialias=True)
        page = page.round_().clamp_(0, 255).to(torch.uint8)
    return page[0]
