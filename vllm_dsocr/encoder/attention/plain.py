"""Plain softmax attention, CLIP's, by a kernel that is named: queries, keys, values -> values.

A host adds the kernels it brings to PLAIN under a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

PlainKernel = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


PLAIN: dict[str, PlainKernel] = {"sdpa": _sdpa}


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, backend: str) -> Tensor:
    """Softmax attention by one of PLAIN; q, k, v: (B, heads, N, d)."""
    return PLAIN[backend](q, k, v, scale)
