"""The Triton kernels as an operator of torch: `dsocr::grid_attention`, forward only.

An operator, so that compilers, graphs and counters of operations see one node. Knows which launch
configurations there are, not which is fastest.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vllm_dsocr.encoder.attention.grid import Grid

HALF = (torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 128
LEAST_CAPABILITY = (8, 0)  # bf16 tensor cores
POSITIONS_BLOCK = (64, 32)  # queries, distances


class Launch(NamedTuple):
    """How the attention kernel is launched: queries a program takes, its warps, stages of loads.

    spills_on: major capabilities where it runs out of registers, and is not offered; compiled for
    80, 89, 90, 100 and 120, see benchmarks/results/kernels.md.
    """

    queries: int
    warps: int
    stages: int
    spills_on: tuple[int, ...] = ()


LAUNCHES = {"fused-64": Launch(64, 4, 3), "fused-128": Launch(128, 8, 3, spills_on=(10,))}


def fits(grid: Grid, launch: str) -> bool:
    """Whether the kernels run well on this device, and at this head size on tensor cores."""
    qkv = grid.qkv
    if qkv.device.type != "cuda" or qkv.dtype not in HALF or grid.head_dim > MAX_HEAD_DIM:
        return False
    capability = torch.cuda.get_device_capability(qkv.device)
    if capability < LEAST_CAPABILITY or capability[0] in LAUNCHES[launch].spills_on:
        return False
    return _has_triton()


def _has_triton() -> bool:
    from importlib.util import find_spec

    return find_spec("triton") is not None


def fused(grid: Grid, launch: str) -> Tensor:
    """(N, side, side, width); launch: one of LAUNCHES."""
    qkv, tables = grid.qkv.contiguous(), grid.tables.contiguous()
    return torch.ops.dsocr.grid_attention(qkv, grid.fill, tables, grid.heads, grid.window, launch)


def run_kernels(
    qkv: Tensor, fill: Tensor, tables: Tensor, heads: int, window: int, launch: str
) -> Tensor:
    """(N, side, side, 3 * width), (3 * width,), (2, L, d) -> (N, side, side, width).

    On a CPU it needs Triton's interpreter (TRITON_INTERPRET=1).
    """
    import triton

    from vllm_dsocr.encoder.attention.kernels import attention_kernel, positions_kernel

    shape = constants(qkv.shape[1], window, heads, tables.shape[-1], qkv.dtype)
    tokens, size = qkv.shape[:3].numel(), shape["WINDOW"]
    positions = qkv.new_empty(tokens, heads, 2, shape["ROOM"])
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    queries, distances = POSITIONS_BLOCK
    how = LAUNCHES[launch]
    per_view = triton.cdiv(qkv.shape[1], size) ** 2
    grid = (triton.cdiv(size * size, how.queries), heads, len(qkv) * per_view)
    with torch.cuda.device(qkv.device) if qkv.is_cuda else nullcontext():
        positions_kernel[triton.cdiv(tokens, queries), heads](
            qkv, tables, positions, tokens, **shape, BLOCK_M=queries, BLOCK_L=distances
        )
        attention_kernel[grid](
            qkv,
            fill,
            positions,
            out,
            tables.shape[-1] ** -0.5,
            **shape,
            **attention_constants(how),
            num_warps=how.warps,
            num_stages=how.stages,
        )
    return out


grid_attention = torch.library.custom_op("dsocr::grid_attention", mutates_args=())(run_kernels)


@grid_attention.register_fake
def _(qkv: Tensor, fill: Tensor, tables: Tensor, heads: int, window: int, launch: str) -> Tensor:
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


def constants(side: int, window: int, heads: int, dim: int, dtype: torch.dtype) -> dict[str, Any]:
    """What both kernels are compiled for."""
    from triton import next_power_of_2

    from vllm_dsocr.encoder.attention.kernels import TILE

    size = window or side
    return {
        "SIDE": side,
        "WINDOW": size,
        "ROOM": -(-size // TILE) * TILE,
        "HEADS": heads,
        "DIM": dim,
        "BLOCK_D": max(16, next_power_of_2(dim)),
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
    }


def attention_constants(launch: Launch) -> dict[str, Any]:
    """What the attention kernel is compiled for beside that."""
    from vllm_dsocr.encoder.attention.kernels import TILE

    return {"BLOCK_M": launch.queries, "TILE": TILE}
