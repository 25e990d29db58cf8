"""SAM's attention over a grid of patches as two Triton kernels: scores of positions, attention.

Both read queries, keys and values where the projection left them, token by token, and write tokens;
nothing is permuted, cut into windows or padded in memory. Keys are taken in squares of TILE x TILE
patches, so a row and a column of the square are eight neighbouring numbers of the positions table
each, and adding both is one narrow matrix product:

    q.k*s + rel_h[row(k)] + rel_w[col(k)] = q.k*s + [rel_h of 8 rows | rel_w of 8 columns] . onehot

with the same 16 x 64 one-hot matrix for every square: 16 channels beside the head's 64, where
positions as further channels of queries and keys need 2 * side. Sums are fp32.
Knows nothing of torch's dispatch, of devices or of what is fastest.
"""

from __future__ import annotations

import triton
import triton.language as tl

TILE = 8  # patches along a side of a square of keys; sides of 512 ... 1280 px are multiples


@triton.jit
def positions_kernel(
    qkv_ptr,
    table_ptr,
    positions_ptr,
    num_tokens,
    SIDE: tl.constexpr,
    WINDOW: tl.constexpr,
    ROOM: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Scores of every query against the rows and the columns of its window.

    table (2, 2 * WINDOW - 1, DIM): rows, columns; positions (num_tokens, HEADS, 2, ROOM).
    """
    head = tl.program_id(1)
    token = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.arange(0, BLOCK_D)
    place = token.to(tl.int64)
    real = token < num_tokens
    q = tl.load(
        qkv_ptr + place[:, None] * (3 * HEADS * DIM) + head * DIM + channel[None, :],
        mask=real[:, None] & (channel < DIM)[None, :],
        other=0.0,
    )
    row = (token // SIDE) % SIDE % WINDOW
    column = token % SIDE % WINDOW
    into = positions_ptr + (place * HEADS + head) * (2 * ROOM)
    for axis in tl.static_range(2):
        own = row if axis == 0 else column
        for first in range(0, 2 * WINDOW - 1, BLOCK_L):
            distance = first + tl.arange(0, BLOCK_L)
            entry = axis * (2 * WINDOW - 1) + distance
            table = tl.load(
                table_ptr + entry[None, :] * DIM + channel[:, None],
                mask=(distance < 2 * WINDOW - 1)[None, :] & (channel < DIM)[:, None],
                other=0.0,
            )
            scores = tl.dot(q, table, input_precision=PRECISION)
            key = own[:, None] + (WINDOW - 1) - distance[None, :]
            tl.store(
                into[:, None] + axis * ROOM + key,
                scores,
                mask=real[:, None] & (key >= 0) & (key < WINDOW),
            )


@triton.jit
def attention_kernel(
    qkv_ptr,
    fill_ptr,
    positions_ptr,
    out_ptr,
    scale,
    SIDE: tl.constexpr,
    WINDOW: tl.constexpr,
    ROOM: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Some queries of one window and head; keys of the padding are `fill`, the projection's bias.

    qkv (N, SIDE, SIDE, 3 * HEADS * DIM), out (N, SIDE, SIDE, HEADS * DIM).
    """
    WIDTH: tl.constexpr = HEADS * DIM
    WINDOWS: tl.constexpr = (SIDE + WINDOW - 1) // WINDOW
    TILES: tl.constexpr = (WINDOW + TILE - 1) // TILE
    PADDED: tl.constexpr = SIDE % WINDOW != 0
    LOG2E: tl.constexpr = 1.4426950408889634

    head = tl.program_id(1)
    window = tl.program_id(2) % (WINDOWS * WINDOWS)
    view = tl.program_id(2) // (WINDOWS * WINDOWS)
    top = window // WINDOWS * WINDOW
    left = window % WINDOWS * WINDOW
    rows = tl.minimum(WINDOW, SIDE - top)
    columns = tl.minimum(WINDOW, SIDE - left)
    first = tl.program_id(0) * BLOCK_M
    if first >= rows * columns:
        return
    # Within a view 32 bits hold every offset.
    patches = view.to(tl.int64) * (SIDE * SIDE)
    qkv_ptr += patches * (3 * WIDTH)
    positions_ptr += patches * (HEADS * 2 * ROOM)
    out_ptr += patches * WIDTH
    origin = top * SIDE + left

    query = first + tl.arange(0, BLOCK_M)
    real = query < rows * columns
    token = origin + query // columns * SIDE + query % columns
    channel = tl.arange(0, BLOCK_D)
    exists = channel < DIM
    q = tl.load(
        qkv_ptr + token[:, None] * (3 * WIDTH) + head * DIM + channel[None, :],
        mask=real[:, None] & exists[None, :],
        other=0.0,
    )
    q = (q.to(tl.float32) * scale).to(
        q.dtype
    )  # exact where the scale is a power of two, as for a head of 64

    # The square of keys: which row and column of it a key is, and the matrix that says so.
    key = tl.arange(0, TILE * TILE)
    part = tl.arange(0, 2 * TILE)
    down, right, index = key // TILE, key % TILE, part % TILE
    of_rows = part < TILE
    marked = tl.where(
        of_rows[:, None], index[:, None] == down[None, :], index[:, None] == right[None, :]
    )
    onehot = tl.where(marked, 1.0, 0.0).to(q.dtype)
    positions = positions_ptr + (token * HEADS + head) * (2 * ROOM)
    keys = qkv_ptr + WIDTH + head * DIM
    if PADDED:
        fill_k = tl.load(fill_ptr + WIDTH + head * DIM + channel, mask=exists, other=0.0)
        fill_v = tl.load(fill_ptr + 2 * WIDTH + head * DIM + channel, mask=exists, other=0.0)

    highest = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for square in range(TILES * TILES):
        y = square // TILES * TILE
        x = square % TILES * TILE
        there = (y + down < rows) & (x + right < columns)
        at = (origin + (y + down) * SIDE + x + right) * (3 * WIDTH)
        k = tl.load(
            keys + at[None, :] + channel[:, None],
            mask=there[None, :] & exists[:, None],
            other=0.0,
        )
        v = tl.load(
            keys + WIDTH + at[:, None] + channel[None, :],
            mask=there[:, None] & exists[None, :],
            other=0.0,
        )
        if PADDED:
            k = tl.where(there[None, :], k, fill_k[:, None])
            v = tl.where(there[:, None], v, fill_v[None, :])
        start = tl.where(of_rows, y, x) + index
        near = tl.load(
            positions[:, None] + (tl.where(of_rows, 0, ROOM) + start)[None, :],
            mask=real[:, None] & (start < WINDOW)[None, :],
            other=0.0,
        )
        scores = tl.dot(near, onehot, input_precision=PRECISION)
        scores = tl.dot(q, k, scores, input_precision=PRECISION) * LOG2E
        if WINDOW % TILE != 0:
            within = (y + down < WINDOW) & (x + right < WINDOW)
            scores = tl.where(within[None, :], scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        weights = tl.math.exp2(scores - higher[:, None])
        shrink = tl.math.exp2(highest - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        out = tl.dot(weights.to(v.dtype), v, out * shrink[:, None], input_precision=PRECISION)
        highest = higher
    tl.store(
        out_ptr + token[:, None] * WIDTH + head * DIM + channel[None, :],
        out / total[:, None],
        mask=real[:, None] & exists[None, :],
    )
