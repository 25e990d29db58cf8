"""What a page takes and a GPU's data sheet -> pages per second, concurrency, cost.

Two rooflines at rated speeds, with nothing else counted:

    overlapped   arithmetic and memory both busy all the time: no server exceeds it
    in turn      first the encoder and the prefill, then the decoder's steps: what a server comes
                 near that does one after the other, as a batch of pages that begin together

Knows nothing of shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_dsocr.plan import decoder_cost
from vllm_dsocr.plan.gpus import GIB, GPUS, Gpu
from vllm_dsocr.plan.page_cost import PageCost
from vllm_dsocr.plan.sizes import ModelSizes
from vllm_dsocr.plan.vision_cost import vision_parameters

__all__ = ["GIB", "GPUS", "Bound", "Gpu", "Setup", "bound"]

MEMORY_SHARE = 0.92  # of the GPU's memory that vLLM takes by default


@dataclass(frozen=True, slots=True)
class Setup:
    """How a server is started, in the words of its flags.

    max_num_seqs: None for vLLM's default on the GPU.  fp8: `--quantization fp8`: maps and experts
    of the decoder in FP8; embedding, head, KV cache and encoder stay in bf16.
    """

    max_num_seqs: int | None = None
    tensor_parallel_size: int = 1
    fp8: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """concurrency: pages whose caches fit at a time.  Pages per second, at most and in turn."""

    concurrency: int
    pages_per_second: float
    pages_per_second_in_turn: float

    def cost_per_million(self, price_per_hour: float) -> float:
        """Of a million pages, in the currency of the price; infinite when not one page fits."""
        if not self.pages_per_second:
            return float("inf")
        return price_per_hour / 3600 / self.pages_per_second * 1e6


def bound(sizes: ModelSizes, page: PageCost, gpu: Gpu, setup: Setup = Setup()) -> Bound:
    """For one server of `tensor_parallel_size` GPUs; each of them runs the encoder for itself.

    Pages are at different places of their texts, so caches are counted half written.
    Raises ValueError when the attention heads cannot be split so.
    """
    ranks = setup.tensor_parallel_size
    heads = sizes.decoder.num_attention_heads
    if heads % ranks or sizes.decoder.num_key_value_heads % ranks:
        raise ValueError(f"{heads} attention heads cannot be split over {ranks} GPUs")
    together = gpu.times(ranks)
    concurrency = _concurrency(sizes, page, gpu, setup)
    if not concurrency:
        return Bound(0, 0.0, 0.0)
    speed = together.fp8_flops if setup.fp8 and gpu.fp8_flops else together.flops
    encoder, prefill = page.vision / gpu.flops, page.prefill / speed
    steps = max(0, page.text_tokens - 1) / concurrency
    arithmetic = steps * concurrency * _step_flops(sizes, page) / speed
    memory = steps * _step_bytes(sizes, page, setup, concurrency) / together.bandwidth
    overlapped = max(encoder + prefill + arithmetic, memory)
    return Bound(concurrency, 1 / overlapped, 1 / (encoder + prefill + max(arithmetic, memory)))


def step_seconds(
    sizes: ModelSizes, page: PageCost, gpu: Gpu, batch: int, setup: Setup = Setup()
) -> float:
    """At least, of one step that writes a token for each of `batch` pages."""
    together = gpu.times(setup.tensor_parallel_size)
    speed = together.fp8_flops if setup.fp8 and gpu.fp8_flops else together.flops
    arithmetic = batch * _step_flops(sizes, page) / speed
    return max(arithmetic, _step_bytes(sizes, page, setup, batch) / together.bandwidth)


def _concurrency(sizes: ModelSizes, page: PageCost, gpu: Gpu, setup: Setup) -> int:
    ranks = setup.tensor_parallel_size
    # Every GPU holds the encoder and its tensors; the decoder and the caches are split.
    own = 2 * vision_parameters(sizes.vision) + page.activation_bytes
    room = ranks * (MEMORY_SHARE * gpu.memory - own) - decoder_bytes(sizes, setup.fp8)
    max_num_seqs = setup.max_num_seqs or gpu.max_num_seqs
    return max(0, min(max_num_seqs, int(room // _cache_bytes(page))))


def decoder_bytes(sizes: ModelSizes, fp8: bool = False) -> int:
    """Weights of the decoder; embedding and head are bf16 in any case."""
    tables = 2 * sizes.decoder.vocab_size * sizes.decoder.hidden_size
    maps = decoder_cost.parameters(sizes.decoder) - tables
    return 2 * tables + (1 if fp8 else 2) * maps


def _past(page: PageCost) -> int:
    """Tokens of a sequence in the middle of its text."""
    return page.tokens - page.text_tokens // 2


def _cache_bytes(page: PageCost) -> float:
    return page.cache_bytes * _past(page) / page.tokens


def _step_flops(sizes: ModelSizes, page: PageCost) -> int:
    return decoder_cost.forward_flops(sizes.decoder, 1, _past(page))


def _step_bytes(sizes: ModelSizes, page: PageCost, setup: Setup, batch: int) -> float:
    """Weights and caches that one token for each of `batch` pages has to read."""
    head = sizes.decoder.vocab_size * sizes.decoder.hidden_size
    maps = decoder_cost.touched_parameters(sizes.decoder, batch) - head
    return 2 * head + (1 if setup.fp8 else 2) * maps + batch * _cache_bytes(page)
