"""The whole encoder of vLLM's own DeepSeek-OCR beside ours, same weights, same pages, in bf16.

Its sizes are fixed, so it takes no part where sizes of a toy are asked for. Ours has the attention
that is fastest here, as a server would choose it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu.bench import Bench, Row, relative_rms
from benchmarks.gpu.encoder import first_line, page_flops
from vllm_dsocr.config import MODES, VisionSizes
from vllm_dsocr.page.geometry import plan_tiles

PAGES = (1, 8)
SIDES = (1024, 640)
MOST_RMS = 0.05  # between two bf16 runs of 36 blocks


@torch.inference_mode()
def run(bench: Bench) -> Iterator[Row]:
    """Seconds of both for one page and for eight; how far they differ."""
    if bench.small:
        yield Row("in-tree encoder", note="skipped: it has no sizes of a toy")
        return
    try:
        from benchmarks import encoder as sides

        theirs = sides.their_encoder(bench.device)
    except Exception as error:  # no vLLM, no torchvision, another release
        yield Row("in-tree encoder", note=f"skipped: {first_line(error)}")
        return
    ours = sides.our_encoder(bench.device, SIDES)
    flops = page_flops(VisionSizes(), plan_tiles(1280, 1920, MODES["gundam"]))
    for count in PAGES:
        views = sides.on_device(sides.pages(count), bench.device)
        normal = [sides.normalised(page) for page in views]
        error = relative_rms(ours(views)[0], theirs(normal)[0])
        calls = {"in-tree": lambda n=normal: theirs(n), "ours": lambda v=views: ours(v)}
        for name, call in calls.items():
            seconds, peak = bench.seconds(call), bench.peak(call)
            share = count * flops / seconds / bench.flops
            checked = {"error": error, "allowed": MOST_RMS} if name == "ours" else {}
            note = f"{count / seconds:.1f} pages/s"
            yield Row(f"encoder, {name}: pages {count}", seconds, peak, share, note=note, **checked)
        bench.clear()
