"""Attention with relative positions in every form there is for the device, beside its definition.

Projected patches, as SAM's blocks make them, at the sizes of a page: the global view, its tiles,
windows. Which form serves is the encoder's to choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Call, Row, relative_rms
from benchmarks.gpu.encoder import COMPILE_SECONDS, first_line
from vllm_dsocr.encoder.attention import FORMS, Grid
from vllm_dsocr.encoder.attention.grid import head_by_head

HEADS, HEAD_SIZE = 12, 64
# What attends together: name, views, patches along a side, window.
SHAPES = (("1024 view", 1, 64, 0), ("six tiles", 6, 40, 0), ("windows of six tiles", 6, 40, 14))
MOST_RMS = 0.02  # of one attention in bf16


@torch.inference_mode()
def run(bench: Bench) -> Iterator[Row]:
    """Every form at every size, vLLM's own among them; what does not run here is left out."""
    with suppress(ImportError):  # no vLLM: its kernels take no part
        from vllm_dsocr.plugin.encoder.attention import register_forms

        register_forms()
    for name, views, side, window in SHAPES:
        if bench.small:
            views, side, window = 1, min(side, 8), min(window, 7)
        grid = random_grid(bench, views, side, window)
        want = definition(grid)
        for form, call in forms(bench, grid).items():
            yield measured(bench, f"attention, {name}: {form}", call, grid, want)
        bench.clear()


def random_grid(bench: Bench, views: int, side: int, window: int) -> Grid:
    heads, size = (2, 16) if bench.small else (HEADS, HEAD_SIZE)
    qkv = bench.random(views, side, side, 3 * heads * size)
    tables = bench.random(2, 2 * (window or side) - 1, size)
    return Grid(qkv, bench.random(3 * heads * size), tables, heads, window)


def definition(grid: Grid) -> Tensor:
    """In fp32."""
    parts = (part.float() for part in (grid.qkv, grid.fill, grid.tables))
    return head_by_head(Grid(*parts, grid.heads, grid.window), defined)


def defined(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    scores = q @ k.mT * q.shape[-1] ** -0.5
    scores += (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
    return scores.softmax(-1) @ v


def forms(bench: Bench, grid: Grid) -> dict[str, Call]:
    """Those of the encoder that run here, and torch's FlexAttention."""
    fitting = {name: form for name, form in FORMS.items() if form.fits(grid)}
    found: dict[str, Call] = {
        name: lambda form=form: form.call(replace(grid)) for name, form in fitting.items()
    }
    if bench.is_cuda and bench.seconds_left() > COMPILE_SECONDS:
        found["flex"] = lambda: head_by_head(replace(grid), flexed)
    return found


def flexed(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """FlexAttention; compiled by the first call."""
    from torch.nn.attention.flex_attention import flex_attention

    side = rel_h.shape[-1]

    def positioned(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + rel_h[b, h, i, j // side] + rel_w[b, h, i, j % side]

    return torch.compile(flex_attention, dynamic=False)(q, k, v, score_mod=positioned)


def measured(bench: Bench, name: str, call: Call, grid: Grid, want: Tensor) -> Row:
    """Time against the products of the definition, whatever else the form computes."""
    try:
        error = relative_rms(call(), want)
    except Exception as failure:  # a kernel without this head size, a compiler
        return Row(name, note=f"skipped: {first_line(failure)}")
    seconds, peak = bench.seconds(call), bench.peak(call)
    share = 4 * want.numel() * grid.size**2 / seconds / bench.flops
    return Row(name, seconds, peak, share, error, MOST_RMS)
