"""This machine, and one model configured by vLLM on it -> plain facts for `dsocr doctor`.

Looks and asks; judges nothing and changes nothing. Safe where vLLM is missing or broken.
"""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_dsocr.config import mode_name
from vllm_dsocr.plan.sizes import DecoderSizes

if TYPE_CHECKING:
    from vllm.config import VllmConfig

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


@dataclass(frozen=True, slots=True)
class Served:
    """What serving a model comes to, in words for people, and what the checks ask about it."""

    architectures: tuple[str, ...]
    model_class: str
    runner: str
    guard: str
    processors: tuple[str, ...]
    processor_error: str | None  # why the processors do not load
    sampling: dict[str, object]
    tokenizer: str
    page_options: str
    limits: str
    caches: str
    attention: str


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

        return untuned_moe(DecoderSizes()) if current_platform.is_cuda_alike() else None
    except Exception:  # whatever a broken build throws; other checks name what is broken
        return None


def untuned_moe(sizes: DecoderSizes) -> str | None:
    """Name of the file vLLM looks for on this device for these experts, in bf16 on one GPU.

    None where it finds one: among its own, or in VLLM_TUNED_CONFIG_FOLDER.
    """
    from vllm.model_executor.layers.fused_moe.fused_moe import get_config_file_name, get_moe_configs

    experts, width = sizes.n_routed_experts, sizes.moe_intermediate_size
    if get_moe_configs(experts, width, None) is not None:
        return None
    return get_config_file_name(experts, width, None)


def served(model: str, flags: Sequence[str]) -> Served:
    """What `vllm serve model flags` would come to; raises what vLLM raises."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.model_executor.models import ModelRegistry
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    arguments = AsyncEngineArgs.from_cli_args(parser.parse_args(["--model", model, *flags]))
    config = arguments.create_engine_config(UsageContext.OPENAI_API_SERVER)
    model_config = config.model_config
    model_class, _ = ModelRegistry.resolve_model_cls(model_config.architectures, model_config)
    processors = tuple(map(str, model_config.logits_processors or ()))
    return Served(
        architectures=tuple(model_config.architectures),
        model_class=f"{model_class.__module__}:{model_class.__qualname__}",
        runner=_runner(config),
        guard=_guard(config, processors),
        processors=processors,
        processor_error=_processor_error(config),
        sampling=model_config.get_diff_sampling_param(),
        tokenizer=f"mode {model_config.tokenizer_mode}, {model_config.tokenizer}",
        page_options=_page_options(config),
        limits=_limits(config),
        caches=_caches(config),
        attention=_attention(config),
    )


def _runner(config: VllmConfig) -> str:
    from vllm.triton_utils import HAS_TRITON

    stated = os.environ.get("VLLM_USE_V2_MODEL_RUNNER")
    version = "V2" if config.use_v2_model_runner else "V1"
    if stated is not None:
        return f"{version} (VLLM_USE_V2_MODEL_RUNNER={stated})"
    return f"{version} (Triton has {'a' if HAS_TRITON else 'no'} device here)"


def _guard(config: VllmConfig, processors: Sequence[str]) -> str:
    from vllm_dsocr.plugin.logits import DeepseekOCRLogitsProcessor
    from vllm_dsocr.plugin.setup.defaults import GUARD, guard_refusal

    if GUARD not in processors:
        return f"off: {guard_refusal(config) or 'the model is not DeepSeek-OCR'}"
    rule = DeepseekOCRLogitsProcessor.default_rule(config)
    exempt = sorted(rule.whitelist)
    return f"no {rule.size} tokens twice within {rule.window}, token ids {exempt} exempt"


def _processor_error(config: VllmConfig) -> str | None:
    """Loads the processors as the API server does before it takes requests."""
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import validate_logits_processors_parameters
    from vllm.v1.worker.gpu.sample.logits_processor import (
        build_custom_logits_processors_params_validator,
    )

    processors = config.model_config.logits_processors
    try:
        if config.use_v2_model_runner:
            build_custom_logits_processors_params_validator(processors)
        else:
            validate_logits_processors_parameters(processors, SamplingParams())
    except (ValueError, RuntimeError) as error:
        return " ".join(str(error).split())
    return None


def _page_options(config: VllmConfig) -> str:
    from vllm.multimodal import MULTIMODAL_REGISTRY

    if not config.model_config.is_multimodal_model:
        return "none: the model takes no images"
    info = MULTIMODAL_REGISTRY.get_processing_info(config.model_config)
    options = getattr(info, "page_options", None)
    if options is None:
        return "those of another package's image processor"
    name = mode_name(options.resolution) or str(options.resolution)
    tokens = info.largest_plan.num_image_tokens
    return (
        f"mode {name}, resampler {options.resampler}; a request may ask for up to {tokens} tokens"
    )


def _limits(config: VllmConfig) -> str:
    scheduler = config.scheduler_config
    return (
        f"{config.model_config.max_model_len} tokens per page and prompt, "
        f"{scheduler.max_num_batched_tokens} per step, {scheduler.max_num_seqs} requests at once"
    )


def _caches(config: VllmConfig) -> str:
    prefixes = "on" if config.cache_config.enable_prefix_caching else "off"
    multimodal = config.model_config.multimodal_config
    size = multimodal.mm_processor_cache_gb if multimodal else 0
    return f"prefix cache {prefixes}, processor cache {size:g} GiB"


def _attention(config: VllmConfig) -> str:
    backend = config.attention_config.backend
    decoder = backend.name if backend else "chosen by vLLM at start"
    return f"decoder {decoder}, {config.model_config.dtype} on {config.device_config.device}"
