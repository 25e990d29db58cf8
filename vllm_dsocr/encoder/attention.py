"""Attention over a grid of patches with decomposed relative position bias.

Turns queries, keys and values into attended values; knows nothing of windows, blocks or models.
Bias of query i and key j: rel_h[i, row(j)] + rel_w[i, col(j)] (MViTv2, arXiv 2112.01526, sec. 4.1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of the bias that one chunk of queries may hold; bounds the peak on devices that need it.
MAX_BIAS_ELEMENTS = 1 << 26


def relative_table(table: Tensor, size: int) -> Tensor:
    """(L, d) embeddings of relative distances -> (size, size, d), entry [query, key].

    A table made for another size is resized linearly in fp32, as the official code does.
    """
    length = 2 * size - 1
    if table.shape[0] != length:
        resized = F.interpolate(table.float().T[None], size=length, mode="linear")
        table = resized[0].T.to(table.dtype)
    position = torch.arange(size, device=table.device)
    return table[position[:, None] - position[None, :] + size - 1]


def relative_scores(
    q: Tensor, table_h: Tensor, table_w: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """Scores of every query against every key row and column.

    q: (B, heads, side*side, d), unscaled. Returns rel_h, rel_w: (B, heads, side*side, side).
    """
    grid = q.unflatten(2, (side, side))
    rel_h = torch.einsum("bnhwd,hkd->bnhwk", grid, relative_table(table_h, side))
    rel_w = torch.einsum("bnhwd,wkd->bnhwk", grid, relative_table(table_w, side))
    return rel_h.flatten(2, 3), rel_w.flatten(2, 3)


def grid_attention(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Softmax attention with the decomposed bias; all of q, k, v: (B, heads, N, d), N = side*side.

    The form is chosen per device by measurement: CPUs take an additive mask well, GPUs run their
    fused kernels only without one.
    """
    attend = _augmented if q.is_cuda else _additive
    return attend(q, k, v, rel_h, rel_w)


def _additive(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    batch, heads, num_queries, _ = q.shape
    step = max(1, MAX_BIAS_ELEMENTS // (batch * heads * k.shape[2]))
    parts = [
        F.scaled_dot_product_attention(q[:, :, rows], k, v, attn_mask=_bias(rel_h, rel_w, rows))
        for rows in (slice(i, i + step) for i in range(0, num_queries, step))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _bias(rel_h: Tensor, rel_w: Tensor, rows: slice) -> Tensor:
    return (rel_h[:, :, rows, :, None] + rel_w[:, :, rows, None, :]).flatten(3)


def _augmented(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    # q.k*s + rel_h[row(k)] + rel_w[col(k)] is one dot product of [q*s | rel_h | rel_w] with
    # [k | onehot(row) | onehot(col)], so no (N, N) bias ever exists.
    side, dim = rel_h.shape[-1], q.shape[-1]
    eye = torch.eye(side, dtype=k.dtype, device=k.device)
    onehot = torch.cat((eye.repeat_interleave(side, 0), eye.repeat(side, 1)), dim=-1)
    onehot = onehot.expand(*k.shape[:2], -1, -1)
    q = torch.cat((q * dim**-0.5, rel_h, rel_w), dim=-1)
    k = torch.cat((k, onehot), dim=-1)
    v = F.pad(v, (0, q.shape[-1] - dim))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :dim]
