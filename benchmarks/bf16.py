"""Products in bf16 as units for it make them, on a CPU that has none: fp32 inside, rounded once.

Such a CPU's own kernels are 10 to 50 times slower than fp32. What comes out is what a unit gives: a
sum in fp32 of products of bf16, rounded at its end. Knows no model.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten.convolution_backward.default,
}


class InFp32(TorchDispatchMode):
    """Products of bf16 tensors, forth and back."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function not in PRODUCTS or not any(map(_half, args)):
            return function(*args, **kwargs)
        wide = (tree_map(lambda t: t.float() if _half(t) else t, part) for part in (args, kwargs))
        args, kwargs = wide
        return tree_map(_rounded, function(*args, **kwargs))


def bf16_units() -> AbstractContextManager[Any]:
    """Does nothing where the CPU has them."""
    return nullcontext() if torch.ops.mkldnn._is_mkldnn_bf16_supported() else InFp32()


def _half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16


def _rounded(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, torch.Tensor) else value
