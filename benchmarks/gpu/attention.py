"""Attention with relative positions in every form there is for the device, beside its definition.

Queries, keys, values and the scores of positions, as SAM's blocks make them, at the sizes of a
page: the global view, its tiles, windows. Which form serves is the encoder's to choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.bench import Bench, Call, Row, relative_rms
from benchmarks.gpu.encoder import COMPILE_SECONDS, first_line
from vllm_dsocr.encoder.attention import BACKENDS, grid_attention

HEADS, HEAD_SIZE = 12, 64
# What attends together: name, how many squares, patches along a side.
SQUARES = (("1024 view", 1, 64), ("six tiles", 6, 40), ("windows of six tiles", 54, 14))
MOST_RMS = 0.02  # of one attention in bf16


@torch.inference_mode()
def run(bench: Bench) -> Iterator[Row]:
    """Every form at every size; a form whose package is missing is named once."""
    for backend in BACKENDS:
        if not available(bench, backend):
            yield Row(f"attention: {backend}", note="skipped: not installed, or no GPU")
    for name, count, side in SQUARES:
        count, side = (1, min(side, 8)) if bench.small else (count, side)
        inputs = random_inputs(bench, count, side)
        want = definition(*(tensor.float() for tensor in inputs))
        for form, call in forms(bench, inputs).items():
            yield measured(bench, f"attention, {name}: {form}", call, inputs[0], want)
        bench.clear()


def available(bench: Bench, backend: str) -> bool:
    return backend == "sdpa" or (bench.is_cuda and find_spec(backend) is not None)


def random_inputs(bench: Bench, count: int, side: int) -> tuple[Tensor, ...]:
    heads, size = (2, 16) if bench.small else (HEADS, HEAD_SIZE)
    inner = [bench.random(count, heads, side * side, size) for _ in range(3)]
    return (*inner, *(bench.random(count, heads, side * side, side) for _ in range(2)))


def definition(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    scores = q @ k.mT * q.shape[-1] ** -0.5
    scores += bias(rel_h, rel_w)
    return scores.softmax(-1) @ v


def bias(rel_h: Tensor, rel_w: Tensor) -> Tensor:
    return (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)


def forms(bench: Bench, inputs: tuple[Tensor, ...]) -> dict[str, Call]:
    """`mask` holds the whole bias; `served` is what the encoder runs on this device."""
    found: dict[str, Call] = {"mask": partial(masked, *inputs)}
    for backend in BACKENDS:
        if available(bench, backend):
            found[f"served, {backend}"] = partial(grid_attention, *inputs, backend)
    if bench.is_cuda and bench.seconds_left() > COMPILE_SECONDS:
        found["flex"] = flexed(*inputs)
    return found


def masked(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias(rel_h, rel_w))


def flexed(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Call:
    """FlexAttention; compiled by the first call."""
    from torch.nn.attention.flex_attention import flex_attention

    attend, side = torch.compile(flex_attention, dynamic=False), rel_h.shape[-1]

    def positioned(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + rel_h[b, h, i, j // side] + rel_w[b, h, i, j % side]

    return lambda: attend(q, k, v, score_mod=positioned)


def measured(bench: Bench, name: str, call: Call, q: Tensor, want: Tensor) -> Row:
    """Time against the products of the definition, whatever else the form computes."""
    try:
        error = relative_rms(call(), want)
    except Exception as failure:  # a kernel without this head size, a compiler
        return Row(name, note=f"skipped: {first_line(failure)}")
    seconds, peak = bench.seconds(call), bench.peak(call)
    share = 4 * q.numel() * q.shape[2] / seconds / bench.flops
    return Row(name, seconds, peak, share, error, MOST_RMS)
