"""Sizes of the vision part and the side of a view -> FLOPs and parameters.

FLOPs are those of matrix products and convolutions, two per multiplication and addition, as torch
counts them. What is needed counts relative positions as what they are; what is executed is what the
encoder's Triton kernels multiply: whole blocks of queries and squares of keys, and positions by a
narrow product with ones and zeros. Knows nothing of pages or of the decoder.
"""

from __future__ import annotations

from math import ceil

from vllm_dsocr.config import PATCH_SIZE, ClipSizes, SamSizes, VisionSizes
from vllm_dsocr.page.geometry import grid_side

MLP_RATIO = 4  # of both towers
CHANNELS = 3
# What the encoder's kernels take at a time; a test holds them together.
QUERIES, TILE, DISTANCES = 64, 8, 32


def executed_flops(sizes: VisionSizes, side: int) -> int:
    """`view_flops` with SAM's attention as the kernels execute it."""
    sam, grid = sizes.sam, side // PATCH_SIZE
    dim = sam.width // sam.heads
    return view_flops(sizes, side) + sum(
        kernel_flops(grid, window, sam.heads, dim) - _attending_flops(sam, grid, window)
        for window in _windows(sam)
    )


def kernel_flops(grid: int, window: int, heads: int, dim: int) -> int:
    """Of both kernels for one view of grid x grid patches; window: 0 for all of them together."""
    window = window or grid
    dim = max(16, 1 << (dim - 1).bit_length())
    starts = range(0, grid, window)
    inside = [
        min(window, grid - top) * min(window, grid - left) for top in starts for left in starts
    ]
    queries = sum(_whole(count, QUERIES) for count in inside)
    keys = _whole(window, TILE) ** 2
    attention = queries * keys * (2 * dim + 2 * TILE)  # q.k, weights.v, positions.onehot
    positions = _whole(grid**2, QUERIES) * 2 * _whole(2 * window - 1, DISTANCES) * dim
    return 2 * heads * (attention + positions)


def _whole(count: int, block: int) -> int:
    """Rounded up."""
    return ceil(count / block) * block


def _windows(sizes: SamSizes) -> list[int]:
    """Side of the windows of each layer, 0 for all patches."""
    layers = range(sizes.layers)
    return [0 if i in sizes.global_attn_indexes else sizes.window_size for i in layers]


def view_flops(sizes: VisionSizes, side: int) -> int:
    """One square view of `side` px through both towers and the projector: what is needed."""
    tokens = grid_side(side) ** 2
    projector = 2 * tokens * sizes.projector_input * sizes.projector_output
    return sam_flops(sizes.sam, side) + clip_flops(sizes.clip, tokens + 1) + projector


def sam_flops(sizes: SamSizes, side: int) -> int:
    """SAM tower, neck and compressor."""
    grid = side // PATCH_SIZE
    patches = grid**2
    blocks = sum(_sam_block_flops(sizes, grid, window) for window in _windows(sizes))
    embed = 2 * patches * CHANNELS * PATCH_SIZE**2 * sizes.width
    return embed + blocks + _neck_flops(sizes, grid)


def _sam_block_flops(sizes: SamSizes, grid: int, window: int) -> int:
    width = sizes.width
    maps = 8 * grid**2 * width**2 + _mlp_flops(grid**2, width)
    return maps + _attending_flops(sizes, grid, window)


def _attending_flops(sizes: SamSizes, grid: int, window: int) -> int:
    """Scores of positions, and attention."""
    window = window or grid
    num_windows = ceil(grid / window) ** 2
    tokens = num_windows * window**2  # windows at the edge are padded, once projected
    attention = num_windows * _attention_flops(window**2, sizes.width)
    return attention + 4 * tokens * window * sizes.width


def _neck_flops(sizes: SamSizes, grid: int) -> int:
    neck, (mid, out) = sizes.neck_channels, sizes.downsample_channels
    half = ceil(grid / 2)
    quarter = ceil(half / 2)
    neck_maps = grid**2 * (sizes.width * neck + 9 * neck**2)
    return 2 * (neck_maps + 9 * (half**2 * neck * mid + quarter**2 * mid * out))


def clip_flops(sizes: ClipSizes, tokens: int) -> int:
    """CLIP tower, class token included in `tokens`."""
    width = sizes.width
    maps = 8 * tokens * width**2 + _mlp_flops(tokens, width)
    return sizes.layers * (maps + _attention_flops(tokens, width))


def _attention_flops(tokens: int, width: int) -> int:
    return 4 * tokens**2 * width


def _mlp_flops(tokens: int, width: int) -> int:
    return 4 * tokens * MLP_RATIO * width**2


def vision_parameters(sizes: VisionSizes) -> int:
    """Numbers in both towers, the projector, newline and separator."""
    projector = (sizes.projector_input + 1) * sizes.projector_output
    return _sam_parameters(sizes.sam) + _clip_parameters(sizes.clip) + projector + _ends(sizes)


def _ends(sizes: VisionSizes) -> int:
    return 2 * sizes.projector_output


def _sam_parameters(sizes: SamSizes) -> int:
    width, grid, head = sizes.width, sizes.pos_size // PATCH_SIZE, sizes.width // sizes.heads
    sides = [
        grid if i in sizes.global_attn_indexes else sizes.window_size for i in range(sizes.layers)
    ]
    relative = sum(2 * (2 * side - 1) * head for side in sides)
    embed = (CHANNELS * PATCH_SIZE**2 + 1) * width + grid**2 * width
    neck, (mid, out) = sizes.neck_channels, sizes.downsample_channels
    maps = width * neck + 4 * neck + 9 * (neck**2 + neck * mid + mid * out)
    return embed + sizes.layers * _block_parameters(width) + relative + maps


def _clip_parameters(sizes: ClipSizes) -> int:
    width = sizes.width
    positions = (sizes.image_size // sizes.patch_size) ** 2 + 1
    embed = width * (1 + CHANNELS * sizes.patch_size**2 + positions) + 2 * width
    return embed + sizes.layers * _block_parameters(width)


def _block_parameters(width: int) -> int:
    """Two norms, attention and feed-forward, biases included."""
    attention = 4 * width**2 + 4 * width
    mlp = 2 * MLP_RATIO * width**2 + (MLP_RATIO + 1) * width
    return 4 * width + attention + mlp
