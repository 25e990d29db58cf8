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


def _flash_attn(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    from flash_attn import flash_attn_func

    tokens_first = (t.transpose(1, 2) for t in (q, k, v))  # (B, N, heads, d), as it wants them
    return flash_attn_func(*tokens_first, softmax_scale=scale).transpose(1, 2)


PLAIN: dict[str, PlainKernel] = {"sdpa": _sdpa, "flash_attn": _flash_attn}


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, backend: str) -> Tensor:
    """Softmax attention by one of PLAIN; q, k, v: (B, heads, N, d).

    Raises ModuleNotFoundError when the package of `flash_attn` is not installed.
    """
    return PLAIN[backend](q, k, v, scale)
