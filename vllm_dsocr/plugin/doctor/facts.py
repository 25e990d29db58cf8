"""This machine and what is installed on it -> plain facts for `dsocr doctor`.

Looks and asks; judges nothing and changes nothing. Safe where vLLM is missing or broken.
"""

from __future__ import annotations

import importlib
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vllm_dsocr.plan.sizes import DecoderSizes
from vllm_dsocr.plugin.setup.tuned import use_tuned_folder

PLUGIN_GROUP = "vllm.general_plugins"


@dataclass(frozen=True, slots=True)
class Environment:
    """What is installed. A version is None where the package is missing."""

    python: str
    torch: str | None
    torch_cuda: str | None  # the CUDA that torch was built for
    has_nvidia_device: bool
    transformers: str | None
    vllm: str | None
    vllm_error: str | None  # why it cannot be imported
    torchvision_error: str | None  # why an installed torchvision cannot be imported
    has_vllm_metadata: bool  # a distribution named vllm, which `vllm serve` asks for its version
    plugin: str | None  # name of our entry point
    allowed_plugins: tuple[str, ...] | None  # VLLM_PLUGINS; None allows all
    untuned_moe: str | None  # file of tuned MoE kernels that vLLM lacks for the GPU here


def environment() -> Environment:
    """Of this process; imports torch and vLLM if it can."""
    allowed = os.environ.get("VLLM_PLUGINS")
    ours = (point for point in metadata.entry_points(group=PLUGIN_GROUP) if _is_ours(point.value))
    torch, _ = _imported("torch")
    vllm, vllm_error = _imported("vllm")
    transformers, _ = _imported("transformers")
    return Environment(
        python=platform.python_version(),
        torch=getattr(torch, "__version__", None),
        torch_cuda=torch.version.cuda if torch else None,
        has_nvidia_device=Path("/dev/nvidiactl").exists(),
        transformers=getattr(transformers, "__version__", None),
        vllm=getattr(vllm, "__version__", None),
        vllm_error=vllm_error,
        torchvision_error=_imported("torchvision")[1],
        has_vllm_metadata=_has_distribution("vllm"),
        plugin=next((point.name for point in ours), None),
        allowed_plugins=None if allowed is None else tuple(allowed.split(",")),
        untuned_moe=_untuned_here() if vllm else None,
    )


def _imported(name: str) -> tuple[Any, str | None]:
    """A module and no error, an error and no module, or neither where it is not installed."""
    if find_spec(name) is None:
        return None, None
    try:
        return importlib.import_module(name), None
    except Exception as error:  # whatever a broken build throws at import
        return None, " ".join(f"{type(error).__name__}: {error}".split())


def _has_distribution(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _is_ours(entry_point: str) -> bool:
    return entry_point.split(":")[0] == "vllm_dsocr"


def _untuned_here() -> str | None:
    """For the published model; None also without a GPU, and where vLLM cannot say."""
    try:
        from vllm.platforms import current_platform

        use_tuned_folder()
        return untuned_moe(DecoderSizes()) if current_platform.is_cuda_alike() else None
    except Exception:  # whatever a broken build throws; other checks name what is broken
        return None


def untuned_moe(sizes: DecoderSizes) -> str | None:
    """Name of the file vLLM looks for on this device for these experts, in bf16 on one GPU.

    None where it finds one: among its own, in VLLM_TUNED_CONFIG_FOLDER, or where `dsocr tune`
    leaves it.
    """
    from vllm.model_executor.layers.fused_moe.fused_moe import get_config_file_name, get_moe_configs

    experts, width = sizes.n_routed_experts, sizes.moe_intermediate_size
    if get_moe_configs(experts, width, None) is not None:
        return None
    return get_config_file_name(experts, width, None)
