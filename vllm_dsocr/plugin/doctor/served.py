"""One model configured by vLLM on this machine -> plain facts for `dsocr doctor`.

Looks and asks; judges nothing and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_dsocr.config import ARCHITECTURE, mode_name

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import AsyncEngineArgs


@dataclass(frozen=True, slots=True)
class Served:
    """What serving a model comes to, in words for people, and what the checks ask about it."""

    architectures: tuple[str, ...]
    model_class: str
    runner: str
    guard: str
    loops: str
    processors: tuple[str, ...]
    processor_error: str | None  # why the processors do not load
    sampling: dict[str, Any]
    tokenizer: str
    page_options: str
    limits: str
    caches: str
    attention: str
    quantised: str
    data_parallel_size: int


def served(model: str, flags: Sequence[str]) -> Served:
    """What `vllm serve model flags` would come to; raises what vLLM raises."""
    from vllm.model_executor.models import ModelRegistry
    from vllm.usage.usage_lib import UsageContext

    config = _engine_args(model, flags).create_engine_config(UsageContext.OPENAI_API_SERVER)
    model_config = config.model_config
    model_class, _ = ModelRegistry.resolve_model_cls(model_config.architectures, model_config)
    processors = tuple(map(str, model_config.logits_processors or ()))
    return Served(
        architectures=tuple(model_config.architectures),
        model_class=f"{model_class.__module__}:{model_class.__qualname__}",
        runner=_runner(config),
        guard=_guard(config, processors),
        loops=_loops(config, processors),
        processors=processors,
        processor_error=_processor_error(config),
        sampling=model_config.get_diff_sampling_param(),
        tokenizer=f"mode {model_config.tokenizer_mode}, {model_config.tokenizer}",
        page_options=_page_options(config),
        limits=_limits(config),
        caches=_caches(config),
        attention=_attention(config),
        quantised=_quantised(config),
        data_parallel_size=config.parallel_config.data_parallel_size,
    )


def _engine_args(model: str, flags: Sequence[str]) -> AsyncEngineArgs:
    """As `vllm serve` reads its command line, whose name for the program it is not."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from vllm_dsocr.plugin.setup.page_limits import modes_may_be_asked_for
    from vllm_dsocr.plugin.setup.switches import SECTION

    parser = FlexibleArgumentParser()
    ServeSubcommand().subparser_init(parser.add_subparsers())
    words = ["serve", model, *flags]
    parsed = parser.parse_args(words)
    arguments = AsyncEngineArgs.from_cli_args(parsed)
    arguments.model = model
    stated = arguments.additional_config
    if isinstance(stated.get(SECTION, {}), dict):
        asked = modes_may_be_asked_for(["vllm", *words])
        ours = {"request_modes": asked, **stated.get(SECTION, {})}
        arguments.additional_config = {**stated, SECTION: ours}
    return arguments


def _runner(config: VllmConfig) -> str:
    from vllm.triton_utils import HAS_TRITON

    stated = os.environ.get("VLLM_USE_V2_MODEL_RUNNER")
    version = "V2" if config.use_v2_model_runner else "V1"
    if stated is not None:
        return f"{version} (VLLM_USE_V2_MODEL_RUNNER={stated})"
    return f"{version} (Triton has {'a' if HAS_TRITON else 'no'} device here)"


def _guard(config: VllmConfig, processors: Sequence[str]) -> str:
    from vllm_dsocr.plugin.logits import DeepseekOCRNGramLogitsProcessor
    from vllm_dsocr.plugin.setup.defaults import GUARDS

    if not set(GUARDS) & set(processors):
        return f"off: {_why_not(config, 'guard')}"
    rule = DeepseekOCRNGramLogitsProcessor.default_rule(config)
    if rule is None:
        return "off"
    exempt = sorted(rule.whitelist)
    return f"no {rule.size} tokens twice within {rule.window}, token ids {exempt} exempt"


def _loops(config: VllmConfig, processors: Sequence[str]) -> str:
    from vllm_dsocr.plugin.logits import LOOP_TOKENS, LOOP_TURNS
    from vllm_dsocr.plugin.setup.defaults import LOOP_DETECTIONS

    if not set(LOOP_DETECTIONS) & set(processors):
        return f"not looked for: {_why_not(config, 'loop_detection')}"
    return f"ended after {LOOP_TURNS} turns of {LOOP_TOKENS} tokens, or of a part of {LOOP_TOKENS}"


def _why_not(config: VllmConfig, switch: str) -> str:
    from vllm_dsocr.plugin.setup.defaults import guard_refusal
    from vllm_dsocr.plugin.setup.switches import switches

    if ARCHITECTURE not in config.model_config.architectures:
        return "the model is not DeepSeek-OCR"
    if not getattr(switches(config.additional_config), switch):
        return "--additional-config says so"
    return guard_refusal(config) or "the plugin is not loaded"


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

    from vllm_dsocr.plugin.setup.page_limits import page_limits

    if not config.model_config.is_multimodal_model:
        return "none: the model takes no images"
    info = MULTIMODAL_REGISTRY.get_processing_info(config.model_config)
    options = getattr(info, "page_options", None)
    if options is None:
        return "those of another package's image processor"
    name = mode_name(options.resolution) or str(options.resolution)
    tokens = info.largest_plan.num_image_tokens
    limits = page_limits(config.model_config.hf_config)
    modes = "any mode by request" if limits.request_modes else "the same for all requests"
    return f"mode {name}, {modes}, resampler {options.resampler}; up to {tokens} tokens"


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
    encoder = "none"
    if config.model_config.is_multimodal_model:
        from vllm_dsocr.plugin.encoder.attention import in_force

        encoder = (
            in_force(config) if ARCHITECTURE in config.model_config.architectures else "its own"
        )
    place = f"{config.model_config.dtype} on {config.device_config.device}"
    return f"decoder {decoder}; encoder {encoder}; {place}"


def _quantised(config: VllmConfig) -> str:
    from vllm_dsocr.plugin.setup.switches import switches

    method = config.model_config.quantization
    if method is None:
        return "nothing"
    with_encoder = switches(config.additional_config).quantize_encoder
    parts = "decoder and vision encoder" if with_encoder else "decoder"
    return f"{parts}, {method}"
