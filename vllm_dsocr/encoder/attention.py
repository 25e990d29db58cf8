"""Attention of both towers; over a grid of patches with decomposed relative positions.

Turns queries, keys and values into attended values; knows nothing of windows, blocks or models.
Bias of query i and key j: rel_h[i, row(j)] + rel_w[i, col(j)] (MViTv2, arXiv 2112.01526, sec. 4.1).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = ("sdpa", "flash_attn", "xformers")

# Scores that one piece holds per thread: with 2 threads 4 MB in bf16, which stays in the cache.
SCORES_PER_THREAD = 1 << 20


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, backend: str) -> Tensor:
    """Plain softmax attention by one of BACKENDS; q, k, v: (B, heads, N, d).

    Raises ModuleNotFoundError when the backend's package is not installed.
    """
    if backend == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    tokens_first = (t.transpose(1, 2) for t in (q, k, v))  # (B, N, heads, d), as both want them
    if backend == "flash_attn":
        from flash_attn import flash_attn_func

        return flash_attn_func(*tokens_first, softmax_scale=scale).transpose(1, 2)
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(*tokens_first, scale=scale).transpose(1, 2)


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


def grid_attention(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, backend: str = "sdpa"
) -> Tensor:
    """Softmax attention with the decomposed bias; all of q, k, v: (B, heads, N, d), N = side*side.

    The form is chosen by measurement. GPUs run their fused kernels only without a bias. On a CPU
    two products around a softmax, cut into pieces that fit the cache, beat torch's fused kernel.
    """
    training = torch.is_grad_enabled() and q.requires_grad
    if q.device.type == "cpu" and not training:
        return _in_pieces(q, k, v, rel_h, rel_w)
    return _augmented(q, k, v, rel_h, rel_w, backend)


def _augmented(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, backend: str = "sdpa"
) -> Tensor:
    dim = q.shape[-1]
    q, k = _with_positions(q, k, rel_h, rel_w)
    v = F.pad(v, (0, q.shape[-1] - dim))  # fused kernels want one head size
    return attend(q, k, v, 1.0, backend)[..., :dim]


def _with_positions(q: Tensor, k: Tensor, rel_h: Tensor, rel_w: Tensor) -> tuple[Tensor, Tensor]:
    # q.k*s + rel_h[row(k)] + rel_w[col(k)] is one dot product of [q*s | rel_h | rel_w] with
    # [k | onehot(row) | onehot(col)], so no (N, N) bias ever exists.
    side = rel_h.shape[-1]
    eye = torch.eye(side, dtype=k.dtype, device=k.device)
    onehot = torch.cat((eye.repeat_interleave(side, 0), eye.repeat(side, 1)), dim=-1)
    onehot = onehot.expand(*k.shape[:2], -1, -1)
    q = torch.cat((q * q.shape[-1] ** -0.5, rel_h, rel_w), dim=-1)
    return q, torch.cat((k, onehot), dim=-1)


def _in_pieces(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    shape, side, dim = q.shape[:2], rel_h.shape[-1], q.shape[-1]
    add_bias = 2 * side > dim  # else the positions cost less as further channels of the product
    if not add_bias:
        q, k = _with_positions(q, k, rel_h, rel_w)
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
