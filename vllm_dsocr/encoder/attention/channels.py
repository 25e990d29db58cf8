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
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, backend: str = "sdpa"
) -> Tensor:
    """q, k, v: (B, heads, N, d); backend: one of PLAIN."""
    dim = q.shape[-1]
    q, k = with_positions(q, k, rel_h, rel_w)
    v = F.pad(v, (0, q.shape[-1] - dim))  # fused kernels want one head size
    return attend(q, k, v, 1.0, backend)[..., :dim]


def with_positions(q: Tensor, k: Tensor, rel_h: Tensor, rel_w: Tensor) -> tuple[Tensor, Tensor]:
    """Queries, scaled, and keys, both (B, heads, N, d + 2 * side)."""
    side = rel_h.shape[-1]
    eye = torch.eye(side, dtype=k.dtype, device=k.device)
    onehot = torch.cat((eye.repeat_interleave(side, 0), eye.repeat(side, 1)), dim=-1)
    onehot = onehot.expand(*k.shape[:2], -1, -1)
    q = torch.cat((q * q.shape[-1] ** -0.5, rel_h, rel_w), dim=-1)
    return q, torch.cat((k, onehot), dim=-1)


def as_mask(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """The whole bias, (B, heads, N, N), as the mask of torch's attention."""
    bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
