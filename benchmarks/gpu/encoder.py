"""The vision encoder on the device: right, how fast, how much memory, and which form is best.

Random weights in bf16, pages of six tiles and a global view. Knows nothing of a decoder.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.gpu.bench import Bench, Call, Row, relative_rms
from vllm_dsocr.config import MODES, ClipSizes, Resolution, SamSizes, VisionSizes
from vllm_dsocr.encoder.assembly import PageViews, build_vision_tower, embed_pages
from vllm_dsocr.page.geometry import TilePlan, plan_tiles
from vllm_dsocr.plan.vision_cost import view_flops
from vllm_dsocr.plan.vision_memory import vision_peak

PAGES = (1, 4, 16)
A4 = (1654, 2339)  # px, 200 dpi
MOST_RMS = 0.05  # bf16 against fp32 after 36 blocks of random weights
COMPILE_SECONDS = 150  # that must be left for torch.compile
SMALL = VisionSizes(
    SamSizes(width=64, layers=2, heads=2, global_attn_indexes=(1,), downsample_channels=(32, 48)),
    ClipSizes(width=48, layers=2, heads=2, image_size=28),
    projector_input=96,
    projector_output=64,
)


def run(bench: Bench) -> Iterator[Row]:
    """Rightness, then 1, 4, 16 pages, then one page without launches and compiled."""
    sizes = SMALL if bench.small else VisionSizes()
    resolution = Resolution(128, 64, crop_mode=True) if bench.small else MODES["gundam"]
    plan = plan_tiles(*A4, resolution)
    tower, page = random_tower(bench, sizes), random_page(bench, plan)
    with torch.inference_mode():
        yield rightness(tower, page)
        bench.clear()
        for pages in PAGES[:2] if bench.small else PAGES:
            yield throughput(bench, tower, sizes, plan, pages)
        if bench.is_cuda:
            flops = page_flops(sizes, plan)
            yield variant(bench, "CUDA graph", flops, lambda: graph_of(bench, tower, page))
            yield variant(bench, "torch.compile", flops, lambda: compiled(tower, page))


def random_tower(bench: Bench, sizes: VisionSizes) -> nn.Module:
    tower = nn.Module()
    with bench.device:
        build_vision_tower(tower, sizes)
    for parameter in tower.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    return tower.to(torch.bfloat16).eval()


def random_page(bench: Bench, plan: TilePlan) -> PageViews:
    base, side = plan.resolution.base_size, plan.resolution.image_size
    shapes = (3, base, base), (plan.num_tiles, 3, side, side)
    views = [torch.randint(0, 256, s, dtype=torch.uint8, device=bench.device) for s in shapes]
    return PageViews(*views, plan.rows, plan.cols)


def rightness(tower: nn.Module, page: PageViews) -> Row:
    """bf16 against the same weights in fp32 on the same device."""
    want = embed_pages(copy.deepcopy(tower).float(), [page])[0]
    error = relative_rms(embed_pages(tower, [page])[0], want)
    return Row("encoder: bf16 against fp32", error=error, allowed=MOST_RMS)


def page_flops(sizes: VisionSizes, plan: TilePlan) -> int:
    tiles = plan.num_tiles * view_flops(sizes, plan.resolution.image_size)
    return view_flops(sizes, plan.resolution.base_size) + tiles


def throughput(
    bench: Bench, tower: nn.Module, sizes: VisionSizes, plan: TilePlan, pages: int
) -> Row:
    batch = [random_page(bench, plan)] * pages
    peak = bench.peak(lambda: embed_pages(tower, batch))
    seconds = bench.seconds(lambda: embed_pages(tower, batch))
    share = pages * page_flops(sizes, plan) / seconds / bench.flops
    planned = planned_peak(bench, sizes, plan, pages)
    note = f"{pages / seconds:.1f} pages/s; planned {planned / 2**20:.0f} MiB"
    return Row(f"encoder: pages {pages}", seconds, peak, share, note=note)


def planned_peak(bench: Bench, sizes: VisionSizes, plan: TilePlan, pages: int) -> int:
    """What `dsocr plan` says of this device, bytes."""
    threads = 0 if bench.is_cuda else torch.get_num_threads()
    return vision_peak(sizes, plan, pages, threads)


def graph_of(bench: Bench, tower: nn.Module, page: PageViews) -> Call:
    return bench.graphed(lambda: embed_pages(tower, [page]))


def compiled(tower: nn.Module, page: PageViews) -> Call:
    """Block by block, so that equal blocks share their code."""
    for block in (*tower.sam_model.blocks, *tower.vision_model.transformer.layers):
        block.compile(dynamic=False)
    embed_pages(tower, [page])
    return lambda: embed_pages(tower, [page])


def variant(bench: Bench, name: str, flops: int, prepare: Call) -> Row:
    """One page in another form; what cannot be had here is a sentence, not a failure."""
    row = f"encoder: pages 1, {name}"
    if bench.seconds_left() < COMPILE_SECONDS:
        return Row(row, note="skipped: no time left")
    start = time.perf_counter()
    try:
        call = prepare()
    except Exception as error:  # compilers and drivers raise what they like
        return Row(row, note=f"skipped: {first_line(error)}")
    prepared = time.perf_counter() - start
    seconds = bench.seconds(call)
    bench.clear()
    share = flops / seconds / bench.flops
    return Row(row, seconds, share=share, note=f"after {prepared:.0f} s of preparation")


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:150]
