"""A page's TilePlan and how many such pages -> bytes the vision tower needs beside its weights.

    peak = the widest moment of one pass + what every page adds

A pass takes a bounded number of patches, so its share does not grow with the pages; a page adds its
pixels and its embeddings. The widest moment lies in SAM, in attention or in the feed-forward; CLIP
works on a sixteenth of the patches. Which form attention takes is measured where a server starts,
so the widest that may serve is counted. What kernels take for themselves is not.
"""

from __future__ import annotations

from collections import Counter
from math import ceil

from vllm_dsocr.config import PATCH_SIZE, SamSizes, VisionSizes
from vllm_dsocr.page.geometry import TilePlan
from vllm_dsocr.plan.vision_cost import CHANNELS, MLP_RATIO

VIEW_PATCHES = (1024 // PATCH_SIZE) ** 2
# The encoder's own, which cannot be imported without torch; a test holds them together.
PATCHES_PER_PASS = 4 * VIEW_PATCHES
CPU_PATCHES_PER_PASS = VIEW_PATCHES
SCORES_PER_THREAD = 1 << 20

FP32 = 4  # bytes; pixels are normalised in it
EMBEDDING_COPIES = 3  # of a view, of all views of its size, of the page


def vision_peak(
    sizes: VisionSizes, plan: TilePlan, pages: int = 1, threads: int = 0, width: int = 2
) -> int:
    """Bytes that `pages` such pages take when they are encoded in one step.

    threads: of a CPU, which computes attention in pieces; 0 for a GPU with fused kernels.
    width: bytes per number, 2 for bf16.
    """
    resolution = plan.resolution
    views = Counter({resolution.base_size: pages})
    views[resolution.image_size] += pages * plan.num_tiles
    passes = [_pass(sizes.sam, side, count, threads, width) for side, count in views.items()]
    pixels = sum(count * CHANNELS * side**2 for side, count in views.items())
    embeddings = pages * plan.num_image_tokens * sizes.projector_output
    return max(passes) + pixels + EMBEDDING_COPIES * width * embeddings


def _pass(sam: SamSizes, side: int, views: int, threads: int, width: int) -> int:
    """Views of `side` px, as many as one pass takes; their pixels are held all along."""
    grid = side // PATCH_SIZE
    budget = CPU_PATCHES_PER_PASS if threads else PATCHES_PER_PASS
    views = min(views, max(1, budget // grid**2))
    patches, pixels = views * grid**2, views * CHANNELS * side**2
    windows = {0 if i in sam.global_attn_indexes else sam.window_size for i in range(sam.layers)}
    pieces = 2 * SCORES_PER_THREAD * threads  # scores, and what the softmax makes of them
    attention = max(_attention(sam, grid, window, views, threads) for window in windows) + pieces
    # In the feed-forward: the residual, its norm, the hidden layer before and after GELU.
    feed_forward = patches * sam.width * (2 + 2 * MLP_RATIO)
    # At the start the position table is resized; it outweighs a small page.
    tables = FP32 * sam.width * ((sam.pos_size // PATCH_SIZE) ** 2 + grid**2)
    start = tables + width * patches * sam.width
    normalising = 2 * FP32 * pixels
    return max(normalising, width * pixels + max(start, width * attention, width * feed_forward))


def _attention(sam: SamSizes, grid: int, window: int, views: int, threads: int) -> int:
    """Numbers alive at the widest moment of one block's attention; window 0: over all patches.

    All along: the residual and its norm.
    """
    side = window or grid
    patches = views * grid**2
    inside = views * (ceil(grid / side) * side) ** 2  # with what fills up the last windows
    # Cutting into windows: the projection as it was, filled up, and in its new order.
    cutting = 3 * sam.width * (patches + 2 * inside) if window else 0
    return 2 * patches * sam.width + max(cutting, inside * _attending(sam, side, threads))


def _attending(sam: SamSizes, side: int, threads: int) -> int:
    """Numbers per patch from the projection to the output, over squares of side * side.

    In the widest form, which is the one with positions as further channels.
    """
    positions = 2 * sam.heads * side  # scores against key rows and columns, per query
    augmented = sam.width + positions  # a query or key with its positions as further channels
    held = 3 * sam.width + positions
    # Values and output are as wide on a GPU: fused kernels take one width.
    return held + 2 * augmented + 2 * (sam.width if threads else augmented)
