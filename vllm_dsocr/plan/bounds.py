"""What a page takes and a GPU's data sheet -> pages per second at most, concurrency, cost.

A roofline: arithmetic at the rated speed, every byte once, nothing else. No server reaches it; it
says what to expect of a change and which limit is near. Knows nothing of shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_dsocr.plan import decoder_cost
from vllm_dsocr.plan.page_cost import PageCost, model_bytes
from vllm_dsocr.plan.sizes import ModelSizes

GIB = 2**30
MEMORY_SHARE = 0.92  # of the GPU's memory that vLLM takes by default


@dataclass(frozen=True, slots=True)
class Gpu:
    """flops: bf16 with fp32 sums, dense, per second.  bandwidth: bytes/s.  memory: bytes."""

    flops: float
    bandwidth: float
    memory: float


# From the makers' data sheets.
GPUS = {
    "T4": Gpu(65e12, 320e9, 16 * GIB),  # fp16: it has no bf16
    "L4": Gpu(121e12, 300e9, 24 * GIB),
    "A10": Gpu(125e12, 600e9, 24 * GIB),
    "RTX4090": Gpu(165e12, 1008e9, 24 * GIB),
    "L40S": Gpu(362e12, 864e9, 48 * GIB),
    "A100-40": Gpu(312e12, 1555e9, 40 * GIB),
    "A100-80": Gpu(312e12, 2039e9, 80 * GIB),
    "H100": Gpu(989e12, 3350e9, 80 * GIB),
    "H200": Gpu(989e12, 4800e9, 141 * GIB),
}


@dataclass(frozen=True, slots=True)
class Bound:
    """concurrency: pages whose caches fit at a time.  pages_per_second: at most."""

    concurrency: int
    pages_per_second: float

    def cost_per_million(self, price_per_hour: float) -> float:
        """Of a million pages, in the currency of the price; infinite when not one page fits."""
        if not self.pages_per_second:
            return float("inf")
        return price_per_hour / 3600 / self.pages_per_second * 1e6


def bound(sizes: ModelSizes, page: PageCost, gpu: Gpu, max_seqs: int = 256) -> Bound:
    """max_seqs: pages the server takes at a time, `--max-num-seqs`."""
    room = MEMORY_SHARE * gpu.memory - model_bytes(sizes) - page.activation_bytes
    concurrency = max(0, min(max_seqs, int(room // page.cache_bytes)))
    if not concurrency:
        return Bound(0, 0.0)
    reading = (page.vision + page.prefill) / gpu.flops
    writing = max(0, page.text_tokens - 1) * _step_seconds(sizes, page, gpu, concurrency)
    return Bound(concurrency, 1 / (reading + writing / concurrency))


def _step_seconds(sizes: ModelSizes, page: PageCost, gpu: Gpu, batch: int) -> float:
    """One token for each of `batch` pages, in the middle of their texts."""
    past = page.tokens - page.text_tokens // 2
    arithmetic = batch * decoder_cost.forward_flops(sizes.decoder, 1, past) / gpu.flops
    caches = batch * page.cache_bytes * past / page.tokens
    weights = 2 * decoder_cost.touched_parameters(sizes.decoder, batch)
    return max(arithmetic, (weights + caches) / gpu.bandwidth)
