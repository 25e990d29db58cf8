"""Linear layers of the vision encoder -> vLLM's own, quantised as the server's flags say.

    --quantization fp8_per_channel, the switch `quantize_encoder`
        -> nn.Linear of both towers and the projector -> ReplicatedLinear with vLLM's method

Weights, scales, kernels and what a release can quantise are vLLM's. Convolutions, norms, position
tables and attention itself stay as they are. Without the switch the encoder is never quantised,
whatever the flags say of the decoder.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.model_executor.layers.linear import ReplicatedLinear, UnquantizedLinearMethod
from vllm.model_executor.models.utils import maybe_prefix

from vllm_dsocr.plugin.setup.switches import SECTION, switches

logger = init_logger(f"vllm.{__name__}")  # vLLM shows its own loggers only

PARTS = ("sam_model", "vision_model", "projector")


def quantise(tower: nn.Module, vllm_config: VllmConfig, prefix: str = "") -> int:
    """Swaps the layers of a VisionTower in place; how many, which is 0 without the switch.

    Layers that the flags leave out by name stay as they are. Raises ValueError where nothing says
    how to quantise.
    """
    if not switches(vllm_config.additional_config).quantize_encoder:
        return 0
    swapped = 0
    for parent, name, path in list(_linears(tower)):
        old = getattr(parent, name)
        new = ReplicatedLinear(
            old.in_features,
            old.out_features,
            bias=old.bias is not None,
            quant_config=vllm_config.quant_config,
            prefix=maybe_prefix(prefix, path),
            return_bias=False,
            disable_tp=True,  # whole on every rank
        )
        if not isinstance(new.quant_method, UnquantizedLinearMethod):
            setattr(parent, name, new)
            swapped += 1
    logger.info("%d linear layers of the vision encoder are quantised.", swapped)
    return swapped


def check_quantisation(vllm_config: VllmConfig) -> None:
    """Raises ValueError where the switch is on and no flag says how to quantise."""
    model = vllm_config.model_config
    if switches(vllm_config.additional_config).quantize_encoder and model.quantization is None:
        raise ValueError(
            f"additional_config: {SECTION}.quantize_encoder needs --quantization, "
            "fp8_per_channel for example"
        )


def _linears(tower: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """(parent, attribute, path) of each."""
    for part in PARTS:
        for path, module in getattr(tower, part).named_modules(prefix=part):
            if isinstance(module, nn.Linear):
                parent, _, name = path.rpartition(".")
                yield tower.get_submodule(parent), name, path
