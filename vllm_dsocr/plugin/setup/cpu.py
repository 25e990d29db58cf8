"""What DeepSeek-OCR sets where vLLM runs on a CPU: no compiler, and a KV cache that fits.

    VllmConfig under construction -> compilation mode, bytes of KV cache

Both give way to the user's flags. Knows no other device; there vLLM profiles and compiles as ever.
"""

from __future__ import annotations

import psutil
from vllm.config import CacheConfig, CompilationMode, ParallelConfig, VllmConfig
from vllm.platforms import current_platform

SPARE_TOKENS = 256  # per request: blocks are of 128 tokens, and vLLM keeps one to itself
CACHE_SHARE = 0.5  # of the memory that is free at the start; the rest is for weights and pages


def set_cpu_defaults(vllm_config: VllmConfig) -> None:
    """In place; nothing that was stated is changed."""
    if not states_compilation(vllm_config):
        vllm_config.compilation_config.mode = CompilationMode.NONE
    if not states_cache_size(vllm_config.cache_config):
        vllm_config.cache_config.kv_cache_memory_bytes = cache_bytes(vllm_config)


def states_compilation(vllm_config: VllmConfig) -> bool:
    """Whether the user asked for a way to compile, as by `-O3` or `-cc.mode=3`.

    If not, a CPU goes without. The compiler wants a C++ tool chain and a minute before the first
    page, for a tenth of a small decoder's time. To warm it up, vLLM would also encode the largest
    page there is, from which a CPU learns nothing: what counts there is the memory in use later.
    """
    if vllm_config.compilation_config.mode is not None:
        return True
    return vllm_config.optimization_level != VllmConfig.optimization_level


def states_cache_size(config: CacheConfig) -> bool:
    """Whether the user gave a size or a share; VLLM_CPU_KVCACHE_SPACE is read later and wins.

    If not, vLLM would take 92 % of all memory, and not start where less than that is free.
    """
    if config.kv_cache_memory_bytes is not None:
        return True
    return config.gpu_memory_utilization != CacheConfig.gpu_memory_utilization


def cache_bytes(vllm_config: VllmConfig) -> int:
    """Of one worker: what all requests at once can fill, but no more than its part of CACHE_SHARE.

    Tensor, pipeline and data parallel workers of a machine share its memory.
    """
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    heads = model.get_num_kv_heads(parallel) * model.get_num_layers(parallel)
    per_token = 2 * heads * model.get_head_size() * model.dtype.itemsize  # keys and values
    tokens = vllm_config.scheduler_config.max_num_seqs * (model.max_model_len + SPARE_TOKENS)
    memory = min(psutil.virtual_memory().available, current_platform.get_device_total_memory())
    return min(tokens * per_token, int(CACHE_SHARE * memory) // workers(parallel))


def workers(parallel: ParallelConfig) -> int:
    """How many of them run on this machine."""
    return parallel.local_world_size * max(1, parallel.data_parallel_size_local)
