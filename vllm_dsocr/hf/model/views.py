"""`images`, `images_spatial_crop`, `images_seq_mask` as callers pass them -> views and places.

    images, crops -> PageViews (for the encoder);  embeddings, mask -> (B, S, D)

Takes the official layouts and what collators make of them. Knows nothing of models or prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vllm_dsocr.encoder.assembly import PageViews
from vllm_dsocr.page.geometry import num_tiles


def page_views(images: Any, images_spatial_crop: Any) -> list[PageViews]:
    """Official model inputs -> views. Tiles count only where the grid has more than one.

    images: per image, or per sample with several of them, (tiles (T, 3, S, S), global views
    (n, 3, B, B) or (3, B, B)); lists of tensors do as well, and so does one tensor (n, 3, B, B) of
    global views alone. Without tiles the official code puts zeros there, which are ignored.
    images_spatial_crop: (n, 2) [tiles across, tiles down], a tensor or lists; [0, 0] is the
    official code's way to say that there is no image.
    Raises ValueError unless there is a row for every view and every row's grid is filled.
    """
    grids = [] if images_spatial_crop is None else torch.as_tensor(images_spatial_crop)
    grids = torch.as_tensor(grids).reshape(-1, 2).tolist()
    samples = [_sample(entry) for entry in images]
    views = sum(len(global_views) for _, global_views in samples)
    if views != len(grids):
        raise ValueError(
            "images_spatial_crop needs one row [tiles across, tiles down] per image: "
            f"{len(grids)} rows for {views} images"
        )
    rows = iter(grids)
    pages = [page for tiles, globals_ in samples for page in _pages(tiles, globals_, rows)]
    return [page for page in pages if page.rows * page.cols]


def _sample(entry: Any) -> tuple[Tensor, Tensor]:
    """(tiles (T, 3, S, S), global views (n, 3, B, B)) of one entry of `images`."""
    tiles, views = entry if isinstance(entry, (tuple, list)) else (None, entry)
    views = _stacked(views)
    return views[:0] if tiles is None or not len(tiles) else _stacked(tiles), views


def _stacked(views: Any) -> Tensor:
    if not isinstance(views, Tensor):
        views = [torch.as_tensor(view) for view in views]
        views = torch.stack([view[0] if view.ndim == 4 else view for view in views])
    return views[None] if views.ndim == 3 else views


def _pages(tiles: Tensor, views: Tensor, grids: Iterator[list[int]]) -> Iterator[PageViews]:
    used = 0
    for view in views:
        cols, rows = map(int, next(grids))
        own = num_tiles(rows, cols) if rows * cols else 0
        yield PageViews(view, tiles[used : used + own], rows, cols)
        used += own
    if used and used != len(tiles):
        raise ValueError(f"images_spatial_crop asks for {used} tiles, images has {len(tiles)}")


def from_pixel_values(
    pixel_values: Tensor, input_ids: Tensor | None, image_token_id: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Views (n, 3, B, B) alone -> images, images_seq_mask and images_spatial_crop.

    Raises ValueError where nothing says which positions are an image's.
    """
    if image_token_id is None or input_ids is None:
        raise ValueError(
            "pixel_values need input_ids and config.image_token_id, the id that stands for a "
            "page; images and images_seq_mask do without"
        )
    grids = torch.ones(len(pixel_values), 2, dtype=torch.long)
    return pixel_values, input_ids == image_token_id, grids


def place(onto: Tensor, mask: Tensor | None, pages: Sequence[Tensor]) -> Tensor:
    """Put image embeddings, in order, where `mask` (B, S) is true in `onto` (B, S, D).

    Raises ValueError when counts differ.
    """
    embeddings = torch.cat(list(pages)).to(onto) if pages else onto.new_zeros(0, onto.shape[-1])
    places = 0 if mask is None else int(mask.sum())
    if places != len(embeddings):
        raise ValueError(
            f"images_seq_mask marks {places} positions, "
            f"the images give {len(embeddings)} embeddings"
        )
    return onto if mask is None else onto.masked_scatter(as_rows(mask, onto), embeddings)


def as_rows(mask: Tensor, like: Tensor) -> Tensor:
    """(B, S) in any dtype -> bool (B, S, 1) on the device of `like`."""
    return mask.to(like.device, torch.bool).unsqueeze(-1)


def window(per_position: Tensor, start: int, length: int) -> Tensor:
    """Positions start .. start + length of (B, S, ...); false or zero beyond the end."""
    part = per_position[:, start : start + length]
    missing = length - part.shape[1]
    filler = part.new_zeros(part.shape[0], missing, *part.shape[2:])
    return torch.cat((part, filler), dim=1) if missing else part
