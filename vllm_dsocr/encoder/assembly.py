"""Pages of views -> image embeddings in sequence order; the seam both hosts call.

    pages -> views of one size -> sam -> clip -> projector -> per page: tiles, view, separator

Rows of the tile grid run through the whole tiled picture and, like those of the global view, end
with `image_newline`; one `view_seperator` (the checkpoint's spelling) ends the page.
Knows nothing of image files, prompts or where the embeddings go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vllm_dsocr.config import PATCH_SIZE, Resolution, VisionSizes
from vllm_dsocr.encoder.attention import Forms
from vllm_dsocr.encoder.clip import ClipVit
from vllm_dsocr.encoder.projector import Projector
from vllm_dsocr.encoder.sam import SamVit
from vllm_dsocr.page.geometry import num_image_tokens, num_tiles

# Patches one pass of the towers takes: 4 views of 1024 px on a GPU, one on a CPU, where larger
# batches gain nothing. More are encoded in chunks, so peak memory does not grow with the pages.
MAX_PATCHES_PER_PASS = 4 * (1024 // PATCH_SIZE) ** 2
CPU_PATCHES_PER_PASS = (1024 // PATCH_SIZE) ** 2


class VisionTower(Protocol):
    """What a host module must carry; names are the checkpoint's."""

    sam_model: SamVit
    vision_model: ClipVit
    projector: Projector
    image_newline: Tensor
    view_seperator: Tensor


class PageViews(NamedTuple):
    """One page as tensors: uint8 pixels, or floats that are normalised already.

    global_view: (3, B, B); tiles: (T, 3, S, S) row by row, T = 0 without tiles.
    """

    global_view: Tensor
    tiles: Tensor
    rows: int
    cols: int


def build_vision_tower(
    module: nn.Module, sizes: VisionSizes, forms: Forms | None = None, backend: str = "sdpa"
) -> None:
    """Give `module` the five attributes of a VisionTower, under the checkpoint's names.

    forms: which form SAM's attention takes; backend: CLIP's, one of encoder.attention.PLAIN.
    """
    module.sam_model = SamVit(sizes.sam, forms)
    module.vision_model = ClipVit(sizes.clip, backend)
    module.projector = Projector(sizes.projector_input, sizes.projector_output)
    module.image_newline = nn.Parameter(torch.zeros(sizes.projector_output))
    module.view_seperator = nn.Parameter(torch.zeros(sizes.projector_output))


def normalise(views: Tensor, like: Tensor) -> Tensor:
    """uint8 pixels -> (x / 255 - 0.5) / 0.5 on the device and in the dtype of `like`.

    The arithmetic is fp32, so the result is exact on any device. Floats are taken as normalised.
    """
    views = views.to(like.device, non_blocking=True)
    if views.dtype == torch.uint8:
        views = (views.float() / 255 - 0.5) / 0.5
    return views.to(like.dtype)


def encode_views(tower: VisionTower, views: Tensor) -> Tensor:
    """(N, 3, S, S) -> (N, q*q, D). CLIP's channels come before SAM's in the projector."""
    step = _views_per_pass(tower, views.shape[-1])
    return torch.cat([_encode_or_halve(tower, chunk) for chunk in views.split(step)])


def _views_per_pass(tower: VisionTower, side: int) -> int:
    on_cpu = tower.image_newline.device.type == "cpu"
    patches = CPU_PATCHES_PER_PASS if on_cpu else MAX_PATCHES_PER_PASS
    return max(1, patches // (side // PATCH_SIZE) ** 2)


def num_passes(tower: VisionTower, pages: Sequence[PageViews]) -> int:
    """How often `embed_pages` runs the towers, memory permitting."""
    views: dict[int, int] = defaultdict(int)
    for page in pages:
        views[page.global_view.shape[-1]] += 1
        if len(page.tiles):
            views[page.tiles.shape[-1]] += len(page.tiles)
    return sum(-(-count // _views_per_pass(tower, side)) for side, count in views.items())


def _encode_or_halve(tower: VisionTower, views: Tensor) -> Tensor:
    try:
        return encode_pass(tower, views)
    except torch.OutOfMemoryError:
        if len(views) == 1:
            raise
    halves = views.split((len(views) + 1) // 2)
    return torch.cat([_encode_or_halve(tower, half) for half in halves])


def encode_pass(tower: VisionTower, views: Tensor) -> Tensor:
    """`encode_views` in one pass, whatever it takes."""
    sam = tower.sam_model(normalise(views, like=tower.image_newline))
    clip = tower.vision_model(sam)
    sam = sam.to(clip.device)  # the towers may lie on several
    return tower.projector(torch.cat((clip[:, 1:], sam.flatten(2).transpose(1, 2)), dim=-1))


def embed_pages(tower: VisionTower, pages: Sequence[PageViews]) -> list[Tensor]:
    """One (num_image_tokens, D) tensor per page; views of one size are encoded as one batch.

    Raises ValueError when a page's tiles do not fill its grid.
    """
    for page in pages:
        check_grid(page)
    views = views_by_side(pages)
    return assemble_pages(
        tower, pages, {side: encode_views(tower, batch) for side, batch in views.items()}
    )


def views_by_side(pages: Sequence[PageViews]) -> dict[int, Tensor]:
    """All views of one side together, (N, 3, S, S): page by page, the global view first."""
    batches: dict[int, list[Tensor]] = defaultdict(list)
    for page in pages:
        for views in (page.global_view[None], page.tiles):
            if len(views):
                batches[views.shape[-1]].append(views)
    return {side: torch.cat(views) for side, views in batches.items()}


def assemble_pages(
    tower: VisionTower, pages: Sequence[PageViews], encoded: Mapping[int, Tensor]
) -> list[Tensor]:
    """The same views encoded, (N, q*q, D) by side -> (num_image_tokens, D) per page."""
    left = dict.fromkeys(encoded, 0)

    def following(views: Tensor) -> Tensor:
        side, start = views.shape[-1], left[views.shape[-1]]
        left[side] += len(views)
        return encoded[side][start : left[side]]

    return [
        _assemble(
            tower,
            page,
            following(page.global_view[None]),
            following(page.tiles) if len(page.tiles) else None,
        )
        for page in pages
    ]


def check_grid(page: PageViews) -> None:
    """Raises ValueError when the tiles do not fill the grid."""
    want = num_tiles(page.rows, page.cols)
    if len(page.tiles) != want:
        grid = f"{page.rows} x {page.cols}"
        raise ValueError(f"a grid of {grid} needs {want} tiles, got {len(page.tiles)}")


def _assemble(
    tower: VisionTower, page: PageViews, global_view: Tensor, tiles: Tensor | None
) -> Tensor:
    separator = tower.view_seperator[None].to(global_view.device)
    parts = [_end_rows(tower, global_view, 1, 1), separator]
    if tiles is not None:
        parts.insert(0, _end_rows(tower, tiles, page.rows, page.cols))
    embeddings = torch.cat(parts)
    want = expected_tokens(page)
    if len(embeddings) != want:
        raise ValueError(f"assembled {len(embeddings)} image embeddings where {want} were planned")
    return embeddings


def _end_rows(tower: VisionTower, views: Tensor, rows: int, cols: int) -> Tensor:
    """(rows*cols, q*q, D) -> (rows*q * (cols*q + 1), D) with a newline after each row."""
    side = int(views.shape[1] ** 0.5)
    grid = views.unflatten(1, (side, side)).unflatten(0, (rows, cols))
    grid = grid.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (rows*q, cols*q, D)
    newline = tower.image_newline.to(grid.device).expand(grid.shape[0], 1, -1)
    return torch.cat((grid, newline), dim=1).flatten(0, 1)


def expected_tokens(page: PageViews) -> int:
    """How many embeddings the page becomes."""
    tiled = len(page.tiles) > 0
    base_size = page.global_view.shape[-1]
    image_size = page.tiles.shape[-1] if tiled else base_size
    return num_image_tokens(Resolution(base_size, image_size, tiled), page.rows, page.cols)
