"""Counts what a computation asks of a GPU, on tensors without memory: launches, bytes, FLOPs.

    with Operations() as counted: encode(pages on the meta device)  ->  counted.launches ...

One operator is one kernel, unless it only looks at memory in another way or makes room. Bytes are
those of every tensor that a kernel reads or writes, as if no cache held them between kernels. FLOPs
are those of products and convolutions, not what a kernel rounds up to. Attention is one kernel,
whatever it is made of: stand-ins below take its place and say what it moves. Knows nothing of who
is counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

FREE = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach"}
WRITES_ONLY = {"copy_", "zero_", "fill_"}  # of their first argument
TWO_KERNELS = {"dsocr::grid_attention"}  # scores of positions, attention


class Operations(TorchDispatchMode):
    """What ran inside of the block; `names` counts launches by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes, self.flops = 0, 0, 0
        self.rounding = 0  # FLOPs more that our kernels make of whole squares of keys
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if _launches(func):
            count = 2 if name in TWO_KERNELS else 1
            self.launches += count
            self.names[name] += count
            self.bytes += _bytes(name, args, kwargs or {}, out)
            self.flops += _flops(func, args, kwargs or {}, out)
            if name in TWO_KERNELS:
                shape = args[0].shape, args[2].shape, args[3], args[4]
                self.rounding += grid_flops(*shape, in_blocks=True) - grid_flops(*shape)
        return out


def _launches(func: Any) -> bool:
    name = func._schema.name.partition("::")[2]
    return not (func.is_view or name in FREE or name in ("_unsafe_view", "_reshape_alias"))


def _bytes(name: str, args: Any, kwargs: Any, out: Any) -> int:
    short = name.partition("::")[2]
    read = args[1:] if short in WRITES_ONLY else (args, kwargs)
    tensors = {id(t): t for t in tree_leaves(read) if isinstance(t, Tensor)}
    moved = sum(map(_size, tensors.values()))
    moved += sum(_size(t) for t in tree_leaves(out) if isinstance(t, Tensor))
    return moved + _inside(name, args)


def _inside(name: str, args: Any) -> int:
    """Scores of positions, which our first kernel writes and our second reads."""
    if name not in TWO_KERNELS:
        return 0
    qkv, _, tables, heads, window, _ = args
    room = -(-(window or qkv.shape[1]) // 8) * 8
    scores = qkv.shape[:3].numel() * heads * 2 * room
    queries = qkv.numel() // 3  # read by both kernels
    return (2 * scores + queries) * qkv.element_size()


def _size(tensor: Tensor) -> int:
    """Bytes that are there, once, however often an expanded tensor repeats them."""
    numbers = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= length if stride else 1
    return numbers * tensor.element_size()


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    name = func._schema.name
    if name == "dsocr::grid_attention":
        return grid_flops(args[0].shape, args[2].shape, args[3], args[4])
    if name.startswith("dsocr_counted::attention"):
        q, k = args[0], args[1]
        return 4 * q.numel() * k.shape[2]
    count = flop_registry.get(func.overloadpacket)
    return int(count(*args, **kwargs, out_val=out)) if count else 0


def grid_flops(qkv: Any, tables: Any, heads: int, window: int, in_blocks: bool = False) -> int:
    """Of both our kernels: the narrow product of positions and all distances of a table included.

    Queries of the padding are not computed, keys of it are. in_blocks: with what fills up squares
    of keys; without, as everywhere here, what a kernel rounds up to is not counted.
    """
    from vllm_dsocr.encoder.attention.kernels import TILE

    views, side, dim = qkv[0], qkv[1], tables[2]
    size = window or side
    keys = (-(-size // TILE) * TILE) ** 2 if in_blocks else size**2
    queries = views * heads * side * side
    attended = queries * keys * (4 * dim + 2 * 2 * TILE)
    return attended + queries * 2 * 2 * tables[1] * dim


@torch.library.custom_op("dsocr_counted::attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor, extra: list[Tensor]) -> Tensor:
    """(B, heads, N, d) each; `extra` is read too. The result lies token by token, as flash's."""
    raise NotImplementedError("for the meta device")


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, extra: list[Tensor]) -> Tensor:
    batch, heads, tokens, dim = q.shape
    return q.new_empty(batch, tokens, heads, dim).transpose(1, 2)


@torch.library.custom_op("dsocr_counted::attention_by_head", mutates_args=())
def attention_by_head(q: Tensor, k: Tensor, v: Tensor, extra: list[Tensor]) -> Tensor:
    """The same, its result head by head."""
    raise NotImplementedError("for the meta device")


@attention_by_head.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, extra: list[Tensor]) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op("dsocr_counted::activation", mutates_args=())
def activation(x: Tensor) -> Tensor:
    """An activation that is one kernel on a GPU."""
    raise NotImplementedError("for the meta device")


@activation.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)
