"""vLLM's Triton kernel for the experts on the GPU at hand -> its own file of tuned block sizes.

    sizes of the experts, tokens per step -> fastest block sizes that agree with vLLM's default
        -> E=64,N=896,device_name=....json, where vLLM looks for it

vLLM names the file, runs the kernel and reads the result. Knows nothing of a model or its weights:
what is timed are random ones.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vllm_dsocr.plan.sizes import DecoderSizes
from vllm_dsocr.plugin.tuning.search import Config, fastest_config, runs

# Tokens per step; vLLM takes the nearest. Decoding, a page's prefill, several of them. Tuned in the
# order of what reading pages meets most, for when the time is up.
BATCHES = (64, 1024, 16, 2048, 256, 1, 32, 4, 8, 128, 512, 4096, 8192)
CHOICES = {
    "BLOCK_SIZE_M": (16, 32, 64, 128),
    "BLOCK_SIZE_N": (32, 64, 128, 256),
    "BLOCK_SIZE_K": (64, 128, 256),
    "GROUP_SIZE_M": (1, 16, 32, 64),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5),
}
ALLOWED = 1e-2  # relative rms between two orders of summing in bf16
CALLS = 10  # in one graph, so that launches do not count
REPEATS = 5
MeasureAt = Callable[[int], Callable[[Config], float]]


@dataclass(frozen=True)
class Experts:
    """Sizes of one rank's experts."""

    count: int
    width: int
    hidden: int
    top_k: int

    @classmethod
    def published(cls, tensor_parallel: int = 1) -> Experts:
        sizes = DecoderSizes()
        return cls(
            sizes.n_routed_experts,
            sizes.moe_intermediate_size // tensor_parallel,
            sizes.hidden_size,
            sizes.num_experts_per_tok,
        )

    @property
    def shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Of both weights: gate and up (E, 2 * width, hidden), down (E, hidden, width)."""
        gate_up = self.count, 2 * self.width, self.hidden
        return gate_up, (self.count, self.hidden, self.width)


@dataclass(frozen=True)
class Tuned:
    """tokens: per step.  before, after: seconds with vLLM's block sizes and with `config`."""

    tokens: int
    config: Config
    before: float
    after: float


def file_name(experts: Experts) -> str:
    """vLLM's own for this device, in bf16 and fp16."""
    from vllm.model_executor.layers.fused_moe.fused_moe import get_config_file_name

    return get_config_file_name(experts.count, experts.width, None)


def in_force(experts: Experts, tokens: int) -> Config:
    """What vLLM would take now: from a file, else its default."""
    from vllm.model_executor.layers.fused_moe.fused_moe import try_get_optimal_moe_config

    config = try_get_optimal_moe_config(*experts.shapes, experts.top_k, None, tokens)
    return {**config}


def tune(
    experts: Experts,
    measure_at: MeasureAt,
    seconds: float,
    batches: Sequence[int] = BATCHES,
) -> Iterator[Tuned]:
    """One result per number of tokens; those for which no time is left keep what vLLM would take.

    measure_at: tokens -> config -> seconds, infinity for a config that fails or is wrong.
    """
    end = time.monotonic() + seconds
    for tokens in batches:
        start = in_force(experts, tokens)
        timing = measure_at(tokens)
        before = timing(start)
        if time.monotonic() > end:
            yield Tuned(tokens, start, before, before)
            continue
        config, after = fastest_config(start, CHOICES, _until(end, timing))
        kept = runs(after) and after < before
        yield Tuned(tokens, config if kept else start, before, after if kept else before)


def _until(end: float, timing: Callable[[Config], float]) -> Callable[[Config], float]:
    """Nothing is fast once the time is up."""
    return lambda config: timing(config) if time.monotonic() <= end else float("inf")


def write(tuned: Sequence[Tuned], experts: Experts, folder: Path) -> Path:
    """In vLLM's format; the file is whole or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(experts)
    configs = {str(each.tokens): each.config for each in sorted(tuned, key=lambda t: t.tokens)}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(configs, indent=4) + "\n", encoding="utf-8")
    part.replace(path)
    return path


class OnDevice:
    """Times the kernel on the current GPU, with random weights, inputs and routes."""

    def __init__(self, experts: Experts, dtype: torch.dtype) -> None:
        self._experts = experts
        self._dtype = dtype
        self._weights = [self._random(*shape) * shape[-1] ** -0.5 for shape in experts.shapes]

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device="cuda", dtype=self._dtype)

    def __call__(self, tokens: int) -> Callable[[Config], float]:
        from vllm.model_executor.layers.fused_moe import override_config
        from vllm.model_executor.layers.fused_moe.fused_moe import fused_experts

        inputs = self._random(tokens, self._experts.hidden)
        scores = torch.randn(tokens, self._experts.count, device="cuda").softmax(-1)
        weights, ids = scores.topk(self._experts.top_k)
        ids = ids.to(torch.int32)

        def call(config: Config) -> Tensor:
            with override_config(config):
                return fused_experts(inputs, *self._weights, weights, ids)

        want = call(in_force(self._experts, tokens)).float()

        def timing(config: Config) -> float:
            try:
                error = (call(config).float() - want).norm() / want.norm()
                return _graph_seconds(lambda: call(config)) if error < ALLOWED else float("inf")
            except Exception:  # shared memory, registers, a compiler: it does not run here
                torch.cuda.synchronize()
                return float("inf")

        return timing


def _graph_seconds(call: Callable[[], Tensor]) -> float:
    """Median of one call among CALLS in a recorded graph; the call has been warmed up."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()
    graph.replay()
    seconds = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3 / CALLS)
    return statistics.median(seconds)
