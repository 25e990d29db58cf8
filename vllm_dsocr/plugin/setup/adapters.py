"""LoRA adapters on the CPU, where vLLM's support ends before a decoder with experts.

    configuration with adapters -> the same, so that the CPU can run it

Once adapters are enabled, vLLM runs experts by kernels written for GPUs, adapter or not, and a CPU
engine dies in its first pass. So the decoder is built as without adapters, and adapters go to the
linear maps around the experts. And where requests with and without an adapter share a batch, the
CPU kernels give the latter what is in the last slot. So there is one slot more than asked for,
which stays empty. On other devices nothing changes.
"""

from __future__ import annotations

import copy

from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.platforms import current_platform

logger = init_logger(f"vllm.{__name__}")  # vLLM shows its own loggers only

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")  # dense, and the experts all tokens share


def fit_adapters(vllm_config: VllmConfig) -> None:
    """Spares the experts, unless `--lora-target-modules` was given, and adds the empty slot."""
    lora = vllm_config.lora_config
    if lora is None or not current_platform.is_cpu():
        return
    if lora.target_modules is None:
        lora.target_modules = [*ATTENTION, *FEED_FORWARD]
    logger.warning(
        "On the CPU, adapters do not change routed experts; load no more than %d at a time.",
        lora.max_loras,
    )
    lora.max_loras += 1
    lora.max_cpu_loras = max(lora.max_cpu_loras, lora.max_loras)


def decoder_config(vllm_config: VllmConfig) -> VllmConfig:
    """What the decoder's layers choose their kernels by.

    vLLM puts adapters on the finished layers, by the engine's own configuration.
    """
    if vllm_config.lora_config is None or not current_platform.is_cpu():
        return vllm_config
    plain = copy.copy(vllm_config)
    plain.lora_config = None
    return plain
