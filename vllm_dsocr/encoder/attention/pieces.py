"""Attention on a CPU: two products around a softmax, in pieces that fit the cache.

Takes q, k, v head by head and the scores of positions; no more scores exist at a time than the
cache holds. Positions are added as a bias, or multiplied as further channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_dsocr.encoder.attention.channels import with_positions

# Scores that one piece holds per thread: with 2 threads 4 MB in bf16, which stays in the cache.
SCORES_PER_THREAD = 1 << 20


def in_pieces(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, add_bias: bool | None = None
) -> Tensor:
    """add_bias: None adds it where positions are wider than the head, and so dear as channels."""
    shape, side, dim = q.shape[:2], rel_h.shape[-1], q.shape[-1]
    if add_bias is None:
        add_bias = 2 * side > dim
    if not add_bias:
        q, k = with_positions(q, k, rel_h, rel_w)
    scale = dim**-0.5 if add_bias else 1.0
    q, k, v, rel_h, rel_w = (t.flatten(0, 1).contiguous() for t in (q, k, v, rel_h, rel_w))
    out = v.new_empty(v.shape)
    for heads, rows in _pieces(*v.shape[:2]):
        queries, result = _packed(q[heads, rows]), _packed(out[heads, rows])
        scores = q.new_empty(*queries.shape[:2], v.shape[1])
        if add_bias:
            grid = scores.unflatten(-1, (side, side))
            torch.add(rel_h[heads, rows, :, None], rel_w[heads, rows, None, :], out=grid)
        beta = float(add_bias)  # 0 ignores what `scores` held
        scores.baddbmm_(queries, k[heads].mT, beta=beta, alpha=scale)
        torch.bmm(scores.softmax(-1), v[heads], out=result)
    return out.unflatten(0, shape)


def _packed(piece: Tensor) -> Tensor:
    # The stride of a single head is of no account, but oneDNN copies unless it is the packed one.
    return piece.flatten(0, 1).unflatten(0, piece.shape[:2])


def _pieces(heads: int, tokens: int) -> Iterator[tuple[slice, slice]]:
    """Some heads whole, or some queries of one head: as many scores as the cache holds."""
    budget = SCORES_PER_THREAD * torch.get_num_threads()
    rows = min(tokens, max(1, budget // tokens))
    together = max(1, budget // tokens**2)
    for head in range(0, heads, together):
        for row in range(0, tokens, rows):
            yield slice(head, head + together), slice(row, row + rows)
