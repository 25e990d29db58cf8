"""Relative positions as further channels of queries and keys, for any kernel without a bias.

q.k*s + rel_h[row(k)] + rel_w[col(k)] is one dot product of [q*s | rel_h | rel_w] with
[k | onehot(row) | onehot(col)], so no (N, N) bias ever exists; the head is 2 * side wider. It has
gradients, which makes it the form of training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_dsocr.encoder.attention.plain import attend


def as_channels(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    backend: str = "sdpa",
    tokens_first: bool = False,
) -> Tensor:
    """q, k, v: (B, heads, N, d); backend: one of PLAIN.

    tokens_first: in memory (B, N, heads, d), as some kernels would else copy all three.
    """
    dim = q.shape[-1]
    q, k = with_positions(q, k, rel_h, rel_w, tokens_first)
    nothing = v.new_zeros(1).expand(*v.shape[:-1], q.shape[-1] - dim)
    v = _joined(tokens_first, v, nothing)  # fused kernels want one head size
    return attend(q, k, v, 1.0, backend)[..., :dim]


def with_positions(
    q: Tensor, k: Tensor, rel_h: Tensor, rel_w: Tensor, tokens_first: bool = False
) -> tuple[Tensor, Tensor]:
    """Queries, scaled, and keys, both (B, heads, N, d + 2 * side)."""
    side = rel_h.shape[-1]
    eye = torch.eye(side, dtype=k.dtype, device=k.device)
    onehot = torch.cat((eye.repeat_interleave(side, 0), eye.repeat(side, 1)), dim=-1)
    onehot = onehot.expand(*k.shape[:2], -1, -1)
    q = _joined(tokens_first, q * q.shape[-1] ** -0.5, rel_h, rel_w)
    return q, _joined(tokens_first, k, onehot)


def _joined(tokens_first: bool, *parts: Tensor) -> Tensor:
    """Channels side by side; parts (B, heads, N, ...)."""
    if not tokens_first:
        return torch.cat(parts, dim=-1)
    return torch.cat([part.transpose(1, 2) for part in parts], dim=-1).transpose(1, 2)


def as_mask(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """The whole bias, (B, heads, N, N), as the mask of torch's attention."""
    bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
