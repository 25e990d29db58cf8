"""(width, height, Resolution) -> TilePlan: how a page is cut, and how many image tokens that makes.

Knows numbers only: no pixels, no tensors, no tokenizer. `TilePlan.num_image_tokens` is the one
token count of the package; processor, dummy inputs and encoder all read it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from vllm_dsocr.config import DOWNSAMPLE_RATIO, PATCH_SIZE, SQUASH_UP_TO, Resolution


def grid_side(size: int) -> int:
    """Vision tokens along one side of a square view of `size` px."""
    return math.ceil((size // PATCH_SIZE) / DOWNSAMPLE_RATIO)


def num_tiles(rows: int, cols: int) -> int:
    """Tiles of a page cut into rows x cols; 1 x 1 means that it is not cut."""
    return rows * cols if rows * cols > 1 else 0


def num_image_tokens(resolution: Resolution, rows: int, cols: int) -> int:
    """Image tokens of a page cut into rows x cols tiles; 1 x 1 means no tiles.

    Every row of tokens ends with a newline token, and one separator closes the page.
    """
    side = grid_side(resolution.base_size)
    tokens = side * (side + 1) + 1
    if num_tiles(rows, cols):
        side = grid_side(resolution.image_size)
        tokens += rows * side * (cols * side + 1)
    return tokens


@dataclass(frozen=True, slots=True)
class TilePlan:
    """One page's views: the whole page once and, unless rows = cols = 1, its tiles.

    size: (width, height) of the upright page, px.
    """

    size: tuple[int, int]
    resolution: Resolution
    rows: int
    cols: int

    @property
    def num_tiles(self) -> int:
        """rows * cols, or 0 when the page is not cut."""
        return num_tiles(self.rows, self.cols)

    @property
    def num_image_tokens(self) -> int:
        """How many image tokens stand for this page in the prompt."""
        return num_image_tokens(self.resolution, self.rows, self.cols)

    @property
    def tiled_size(self) -> tuple[int, int]:
        """(width, height) in px the page is squeezed to before it is cut; aspect is not kept."""
        return self.cols * self.resolution.image_size, self.rows * self.resolution.image_size

    @property
    def global_box(self) -> tuple[int, int, int, int]:
        """(left, top, width, height) in px of the page inside the square global view."""
        side = self.resolution.base_size
        if not self.resolution.crop_mode and side <= SQUASH_UP_TO:
            return 0, 0, side, side
        return _contained(*self.size, side)


def _contained(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    """The page scaled to fit a square, centred. The short side of a sliver may round to 0 px."""
    if width >= height:
        height = round(height / width * side)
        return 0, round((side - height) * 0.5), side, height
    width = round(width / height * side)
    return round((side - width) * 0.5), 0, width, side


def plan_tiles(width: int, height: int, resolution: Resolution) -> TilePlan:
    """The views of an upright page of width x height px.

    A page is cut only in crop mode and only when one of its sides is longer than a tile.
    Raises ValueError for a page without pixels.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a page has at least 1x1 px, got {width}x{height}")
    rows = cols = 1
    if resolution.crop_mode and max(width, height) > resolution.image_size:
        rows, cols = _closest_grid(width, height, resolution)
    return TilePlan((width, height), resolution, rows, cols)


def _closest_grid(width: int, height: int, resolution: Resolution) -> tuple[int, int]:
    """The grid whose aspect ratio is closest to the page's.

    On a tie the larger grid wins if the page fills more than half of it. Plain floats on purpose:
    the model was trained on grids chosen so, and exact fractions decide some ties otherwise.
    """
    aspect, area = width / height, width * height
    best, best_distance = (1, 1), math.inf
    for rows, cols in _grids(resolution.min_crops, resolution.max_crops):
        distance = abs(aspect - cols / rows)
        fills_half = area > 0.5 * resolution.image_size**2 * rows * cols
        if distance < best_distance or (distance == best_distance and fills_half):
            best, best_distance = (rows, cols), distance
    return best


@functools.cache
def _grids(min_crops: int, max_crops: int) -> tuple[tuple[int, int], ...]:
    """All (rows, cols) with min_crops..max_crops tiles; few tiles first, then narrow ones."""
    sides = range(1, max_crops + 1)
    grids = [(r, c) for c in sides for r in sides if min_crops <= r * c <= max_crops]
    return tuple(sorted(grids, key=math.prod))


def largest_grid(resolution: Resolution) -> tuple[int, int]:
    """The (rows, cols) with most image tokens: rows add newlines, so all tiles in one column."""
    return (resolution.max_crops, 1) if resolution.crop_mode else (1, 1)


def most_tokens_size(resolution: Resolution) -> tuple[int, int]:
    """(width, height) in px of a page that is cut into `largest_grid`."""
    rows, cols = largest_grid(resolution)
    return cols * resolution.image_size, rows * resolution.image_size
