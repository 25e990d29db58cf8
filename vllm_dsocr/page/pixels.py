"""PIL image + PageOptions -> PageTensors: the views of one page as uint8, ready for the encoder.

Pixels stay uint8 up to the model's device; normalising is the encoder's work. Knows nothing of
prompts or tokens. Two resamplers: "pillow" gives the official pixels bit by bit, "torch" differs
by at most 2/255 and takes a fraction of the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vllm_dsocr.config import PAD_COLOR, PageOptions
from vllm_dsocr.page.geometry import TilePlan, plan_tiles
from vllm_dsocr.page.source import upright_rgb

Resize = Callable[[tuple[int, int]], Tensor]  # (width, height) -> uint8 (3, height, width)


@dataclass(frozen=True, slots=True, eq=False)
class PageTensors:
    """One page as the encoder takes it; B and S are base_size and image_size of the plan.

    global_view: uint8 (3, B, B), the whole page.
    tiles: uint8 (num_tiles, 3, S, S), row by row from the top left.
    """

    plan: TilePlan
    global_view: Tensor
    tiles: Tensor


def page_tensors(image: Image.Image, options: PageOptions) -> PageTensors:
    """The views of a page in any Pillow mode, turned upright by its EXIF tag.

    What is cut depends on the page's size alone, never on its pixels.
    """
    image = upright_rgb(image, options.alpha)
    plan = plan_tiles(*image.size, options.resolution)
    resize = _resizer(image, options.resampler)
    return PageTensors(plan, _global_view(plan, resize), _tiles(plan, resize))


def _global_view(plan: TilePlan, resize: Resize) -> Tensor:
    side = plan.resolution.base_size
    left, top, width, height = plan.global_box
    view = torch.tensor(PAD_COLOR, dtype=torch.uint8).view(3, 1, 1).repeat(1, side, side)
    if width and height:  # a sliver of a page can round to nothing
        view[:, top : top + height, left : left + width] = resize((width, height))
    return view


def _tiles(plan: TilePlan, resize: Resize) -> Tensor:
    side = plan.resolution.image_size
    if not plan.num_tiles:
        return torch.empty((0, 3, side, side), dtype=torch.uint8)
    page = resize(plan.tiled_size)  # (3, rows * S, cols * S)
    grid = page.unflatten(2, (plan.cols, side)).unflatten(1, (plan.rows, side))
    return grid.permute(1, 3, 0, 2, 4).contiguous().flatten(0, 1)  # cut and to planes in one copy


def _resizer(image: Image.Image, resampler: str) -> Resize:
    if resampler == "pillow":
        return functools.partial(_pillow_resize, image)
    return functools.partial(_torch_resize, _as_batch(image))


def _pillow_resize(page: Image.Image, size: tuple[int, int]) -> Tensor:
    for step in _passes(page.size, size):
        page = page.resize(step, Image.Resampling.BICUBIC)
    return _as_batch(page)[0]


def _torch_resize(page: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bicubic, Pillow's kernel in 16-bit fixed point; SIMD on channels-last uint8.

    page: (1, 3, H, W) as `_as_batch` lays it out; the result is channels-last too.
    """
    for width, height in _passes((page.shape[3], page.shape[2]), size):
        page = torch.nn.functional.interpolate(
            page, size=(height, width), mode="bicubic", antialias=True
        )
    return page[0]


def _passes(size: tuple[int, int], target: tuple[int, int]) -> list[tuple[int, int]]:
    """The sizes a page goes through; rounding between the passes makes their order visible.

    Both resamplers scale the width first. Pillow 13 scales the height first where that shrinks
    by more than twice as many pixels; done here, every version of it gives the same picture.
    """
    (width, height), (new_width, new_height) = size, target
    if height - new_height > max(0, 2 * (width - new_width)):
        return [(width, new_height), target]
    return [target]


def _as_batch(image: Image.Image) -> Tensor:
    """RGB image -> uint8 (1, 3, height, width), a channels-last view that must not be written to.

    The batch goes in before the channels move: only then are the strides channels-last to torch,
    whose resize otherwise takes most of its time to write planes. Pillow hands out read-only
    memory; DLPack takes it without the copy `from_numpy` asks for.
    """
    return torch.from_dlpack(np.asarray(image))[None].permute(0, 3, 1, 2)
