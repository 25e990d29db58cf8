"""Attention with decomposed relative positions: every form against the definition.

Run as a script, this file checks the Triton kernels; TRITON_INTERPRET=1 lets it run without a GPU.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from vllm_dsocr.encoder.attention import FORMS, Forms, Grid, attend, fused, pieces
from vllm_dsocr.encoder.attention.forms import TRAINING
from vllm_dsocr.encoder.attention.grid import distances, relative_table
from vllm_dsocr.plan.vision_cost import kernel_flops

MULTIPLIED: list[int] = []  # products of numbers, by Triton's interpreter
PLANNED = "fused-64"  # the launch that the cost model is of
HALF = {torch.bfloat16: 0.02, torch.float16: 0.003}  # relative rms
# Views, side, window, heads, size of a head: windows that end at the edge and beyond it, by one
# patch and by all but one; the window, the side and the head no multiples of what a kernel takes.
SHAPES = [
    (1, 8, 0, 2, 64),
    (2, 5, 0, 1, 8),
    (1, 12, 0, 1, 32),
    (1, 18, 0, 1, 64),
    (2, 8, 4, 2, 16),
    (2, 9, 8, 1, 64),
    (1, 15, 14, 1, 64),
    (1, 13, 7, 1, 48),
]


# Which of them in the interpreter also in half precision.
UNLIKE = {"fused-64": (SHAPES[0], SHAPES[5]), "fused-128": (SHAPES[5],)}


def random_grid(
    views: int, side: int, window: int, heads: int, dim: int, dtype: torch.dtype = torch.float32
) -> Grid:
    torch.manual_seed(0)
    width, size = heads * dim, window or side
    qkv, fill = torch.randn(views, side, side, 3 * width), torch.randn(3 * width)
    tables = torch.randn(2, 2 * size - 1, dim) * 0.3
    return Grid(qkv.to(dtype), fill.to(dtype), tables.to(dtype), heads, window)


def by_definition(grid: Grid) -> torch.Tensor:
    """softmax(q.k / sqrt(d) + q.table_h[row distance] + q.table_w[column distance]) v, in fp32.

    Query by query, over all keys of its window, of which those beyond the grid are the fill.
    """
    qkv, tables, size = grid.qkv.float(), grid.tables.float(), grid.size
    out = torch.empty(*qkv.shape[:3], qkv.shape[3] // 3)
    for y in range(grid.side):
        for x in range(grid.side):
            top, left = y // size * size, x // size * size
            window = grid.fill.float().expand(len(qkv), size, size, -1).clone()
            inside = qkv[:, top : top + size, left : left + size]
            window[:, : inside.shape[1], : inside.shape[2]] = inside
            _, k, v = window.unflatten(-1, (3, grid.heads, -1)).unbind(3)
            q = qkv[:, y, x].unflatten(-1, (3, grid.heads, -1))[:, 0]
            scores = torch.einsum("nhd,nyxhd->nhyx", q, k) * grid.head_dim**-0.5
            back = size - 1 - torch.arange(size)
            scores += torch.einsum("nhd,yd->nhy", q, tables[0, y - top + back])[..., None]
            scores += torch.einsum("nhd,xd->nhx", q, tables[1, x - left + back])[..., None, :]
            weights = scores.flatten(2).softmax(-1).unflatten(2, (size, size))
            out[:, y, x] = torch.einsum("nhyx,nyxhd->nhd", weights, v).flatten(1)
    return out


@functools.cache
def known(*shape: int) -> tuple[Grid, torch.Tensor]:
    """An fp32 grid and what is right for it."""
    grid = random_grid(*shape)
    return grid, by_definition(grid)


def relative_rms(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.float() - want).norm() / want.norm())


def on(device: str, grid: Grid) -> Grid:
    parts = (part.to(device) for part in (grid.qkv, grid.fill, grid.tables))
    return Grid(*parts, grid.heads, grid.window)


def runs(everything: bool) -> Iterator[tuple[tuple[int, ...], torch.dtype, str]]:
    """Shape, dtype, launch; of each the slow interpreter takes what is unlike the rest."""
    for shape in SHAPES:
        for dtype in (torch.float32, *HALF):
            for launch in fused.LAUNCHES:
                usual = dtype == torch.float32 and launch == PLANNED
                if everything or usual or shape in UNLIKE[launch]:
                    yield shape, dtype, launch


def check_kernels(device: str = "cpu") -> None:
    """Raises AssertionError at the first difference."""
    allowed = {torch.float32: 1e-5, **HALF}
    for shape, dtype, launch in runs(device != "cpu"):
        MULTIPLIED.clear()
        grid = random_grid(*shape, dtype)
        error = relative_rms(fused.fused(on(device, grid), launch).cpu(), by_definition(grid))
        assert error <= allowed[dtype], (shape, dtype, launch, error)
        if MULTIPLIED and launch == PLANNED and shape[0] == 1:
            assert 2 * sum(MULTIPLIED) == kernel_flops(*shape[1:]), shape


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [name for name in FORMS if name not in fused.LAUNCHES])
def test_forms_equal_the_definition(name: str, shape: tuple[int, ...]) -> None:
    grid, want = known(*shape)
    torch.testing.assert_close(Forms(name)(replace(grid)), want, atol=1e-5, rtol=1e-4)


def test_the_kernels_equal_the_definition() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
def test_the_kernels_equal_the_definition_on_a_gpu() -> None:
    check_kernels("cuda")


@pytest.mark.parametrize("launch", fused.LAUNCHES)
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus_without_spills(capability: int, launch: str) -> None:
    pytest.importorskip("triton")
    from benchmarks.kernels import attention, resources

    used = resources(attention(capability, 64, 14, launch))
    assert used.spilled == 0
    assert used.tensor_instructions > 0


@pytest.mark.parametrize("scores", [7 * 25, 3 * 25 * 25])  # some queries, some heads
def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch, scores: int) -> None:
    grid = random_grid(2, 5, 0, 2, 8)
    monkeypatch.setattr(pieces, "SCORES_PER_THREAD", scores // torch.get_num_threads())
    torch.testing.assert_close(
        Forms("pieces")(replace(grid)), by_definition(grid), atol=1e-5, rtol=1e-4
    )


def test_gradients_are_those_of_the_definition() -> None:
    grid = random_grid(2, 6, 4, 2, 8)
    parts = grid.qkv, grid.fill, grid.tables
    leaves, same = ([part.clone().requires_grad_() for part in parts] for _ in range(2))
    Forms("pieces")(Grid(*leaves, grid.heads, grid.window)).square().sum().backward()
    by_definition(Grid(*same, grid.heads, grid.window)).square().sum().backward()
    for leaf, other in zip(leaves, same, strict=True):
        torch.testing.assert_close(leaf.grad, other.grad, atol=1e-4, rtol=1e-4)


def test_a_form_that_cannot_run_gives_way_to_the_usual_one() -> None:
    grid = random_grid(1, 8, 0, 1, 64)
    assert Forms("fused-64").form_for(grid) == "pieces"  # no GPU here
    assert Forms("mask").form_for(grid) == "mask"
    grid.qkv.requires_grad_()
    assert Forms("pieces-bias").form_for(grid) == TRAINING


def test_a_side_that_was_not_measured_takes_the_form_of_the_nearest() -> None:
    forms = Forms(chosen={(4, 0): "mask", (16, 0): "pieces-bias", (16, 4): "channels"})
    sides: dict[Any, str] = {
        (side, window): forms.form_for(random_grid(1, side, window, 1, 8))
        for side, window in ((5, 0), (12, 0), (5, 4))
    }
    assert sides == {(5, 0): "mask", (12, 0): "pieces-bias", (5, 4): "channels"}


def test_plain_attention_is_softmax() -> None:
    q, k, v = torch.randn(3, 2, 2, 20, 16)
    want = (q @ k.mT / 4).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, 0.25, "sdpa"), want, atol=1e-5, rtol=1e-4)


def test_table_of_another_size_is_resized_linearly() -> None:
    table = torch.arange(7.0)[:, None]  # distances -3..3 of a side of 4
    entries = relative_table(distances(table, 3), 3)
    assert entries.shape == (3, 3, 1)
    assert entries[0, 0] == entries[2, 2] == 3.0  # distance 0 stays in the middle
    assert entries[2, 0] > entries[1, 0] > entries[0, 0]


def mend_interpreter() -> None:
    """Triton 3.9's multiplies the bit patterns of bf16: have it multiply what they stand for."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    builder, multiply = interpreter.InterpreterBuilder, interpreter.InterpreterBuilder.create_dot

    def widened(tensor: Any) -> Any:
        if tensor.dtype.scalar != tl.bfloat16:
            return tensor
        bits = tensor.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        MULTIPLIED.append(a.data.size * b.data.shape[-1])
        return multiply(self, widened(a), widened(b), *others)

    builder.create_dot = create_dot


if __name__ == "__main__":
    mend_interpreter()
    check_kernels()
