"""Which form of SAM's attention is fastest on this device and right, found out by trying.

    sizes, sides of views, device -> Trial per shape and form -> the fastest that agrees, by shape

A form that fails, or differs from the definition in fp32, never serves; when the time is up, what
has not been tried does not either. Knows nothing of ranks or flags.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from vllm_dsocr.config import PATCH_SIZE, SamSizes
from vllm_dsocr.encoder.attention.forms import FORMS, TRAINING, Form, Shape, on_cpu, usual
from vllm_dsocr.encoder.attention.grid import Grid, head_by_head
from vllm_dsocr.encoder.attention.pieces import in_pieces

SECONDS = 6.0  # for all of it; a CPU needs one or two
PATCHES = 4 * (1024 // PATCH_SIZE) ** 2  # of the views tried together on a GPU: one pass
CPU_HEADS = 1  # pieces of a CPU hold part of one, so one shows what twelve take
REPEATS = {"cuda": 5, "cpu": 2}
# Relative rms of what one attention may differ from fp32 by.
ALLOWED = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Trial:
    """How one form did on one shape; `seconds` None where it may not serve, `note` says why."""

    shape: Shape
    form: str
    seconds: float | None
    error: float | None = None
    note: str = ""


def fastest(trials: Iterable[Trial]) -> dict[Shape, str]:
    """The form to serve each shape that any form was right for."""
    best: dict[Shape, Trial] = {}
    for trial in trials:
        if trial.seconds is None:
            continue
        before = best.get(trial.shape)
        if before is None or before.seconds is None or trial.seconds < before.seconds:
            best[trial.shape] = trial
    return {shape: trial.form for shape, trial in best.items()}


@torch.inference_mode()
def try_forms(
    sizes: SamSizes,
    sides: Iterable[int],
    device: torch.device,
    dtype: torch.dtype,
    seconds: float = SECONDS,
) -> list[Trial]:
    """Every form that fits, on attention over whole views of `sides` px and in windows of them."""
    end = time.perf_counter() + seconds
    return [trial for grid in grids(sizes, sides, device, dtype) for trial in _tried(grid, end)]


def grids(
    sizes: SamSizes, sides: Iterable[int], device: torch.device, dtype: torch.dtype
) -> Iterator[Grid]:
    """Random projections: each side whole, the largest also in windows."""
    patches = sorted({side // PATCH_SIZE for side in sides}, reverse=True)
    shapes = [(side, 0) for side in patches] if sizes.global_attn_indexes else []
    if patches and len(sizes.global_attn_indexes) < sizes.layers:
        shapes.append((patches[0], sizes.window_size))
    dim = sizes.width // sizes.heads
    on_cpu = device.type == "cpu"
    heads = min(sizes.heads, CPU_HEADS) if on_cpu else sizes.heads
    for side, window in shapes:
        views = 1 if on_cpu else max(1, PATCHES // side**2)
        width, length = 3 * heads * dim, 2 * (window or side) - 1
        qkv = torch.randn(views, side, side, width, device=device, dtype=dtype)
        fill = torch.randn(width, device=device, dtype=dtype)
        tables = torch.randn(2, length, dim, device=device, dtype=dtype) * dim**-0.5
        yield Grid(qkv, fill, tables, heads, window)


def _tried(grid: Grid, end: float) -> Iterator[Trial]:
    shape = grid.side, grid.window
    want = definition(grid)
    allowed = ALLOWED.get(grid.qkv.dtype, max(ALLOWED.values()))
    first = usual(grid)  # it serves if time runs out
    for name in sorted(FORMS, key=lambda name: name != first):
        form = FORMS[name]
        if not form.fits(grid) or (
            on_cpu(grid) and name == TRAINING
        ):  # slow there, and known to be
            continue
        if name != first and time.perf_counter() > end:
            yield Trial(shape, name, None, note="not tried: no time left")
            continue
        try:
            error = _difference(form.call(_first_view(grid)), want)
            if not error <= allowed:
                yield Trial(shape, name, None, error, "differs from the definition")
                continue
            seconds = _seconds(partial(_called, form, grid), grid)
            yield Trial(shape, name, seconds, error)
        except Exception as failure:  # a compiler, a kernel without this head size, memory
            note = f"{type(failure).__name__}: {failure}".splitlines()[0][:120]
            yield Trial(shape, name, None, note=note)


def _called(form: Form, grid: Grid) -> Tensor:
    return form.call(replace(grid))


def _first_view(grid: Grid) -> Grid:
    return replace(grid, qkv=grid.qkv[:1])


def definition(grid: Grid) -> Tensor:
    """Of the first view, in fp32, with the bias added and never whole in memory."""
    qkv, fill, tables = (part.float() for part in (grid.qkv[:1], grid.fill, grid.tables))
    exact = Grid(qkv, fill, tables, grid.heads, grid.window)
    return head_by_head(exact, partial(in_pieces, add_bias=True))


def _difference(got: Tensor, want: Tensor) -> float:
    return float((got.float() - want).norm() / want.norm())


def _seconds(call: Callable[[], Tensor], grid: Grid) -> float:
    """Median; the call has been warmed up on one view."""
    device = grid.qkv.device
    if device.type != "cuda":
        return statistics.median(_wall(call) for _ in range(REPEATS["cpu"]))
    call()
    return statistics.median(_on_device(call) for _ in range(REPEATS["cuda"]))


def _wall(call: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _on_device(call: Callable[[], Tensor]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
