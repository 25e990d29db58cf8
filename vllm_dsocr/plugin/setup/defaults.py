"""What DeepSeek-OCR needs of vLLM without a flag, set while vLLM makes its configuration.

    finished VllmConfig of this architecture -> tokenizer mode, temperature, repetition guard;
                                                on a CPU also what `cpu.py` sets

vLLM calls the class for its architecture alone, so other models are served as ever. What the user
said, by flag or in generation_config.json, stays; `switches.py` says what can be left out.

Three settings are left to vLLM: a finished configuration does not tell a flag from a default.
Tokens per step: vLLM's value follows the device, and a longer page is prefilled in parts. Prefix
and processor cache, both on: to hash an A4 page takes 6 ms of one core, to cut it again 18 ms and
to encode it again far more, and pages are asked again whenever a reading is retried.
"""

from __future__ import annotations

from vllm.config import ModelConfig, VllmConfig
from vllm.logger import init_logger
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.platforms import current_platform
from vllm.version import __version__ as vllm_version

from vllm_dsocr.config import ARCHITECTURE
from vllm_dsocr.plugin import TOKENIZER_MODE
from vllm_dsocr.plugin.setup.adapters import fit_adapters
from vllm_dsocr.plugin.setup.compat import range_problem
from vllm_dsocr.plugin.setup.cpu import set_cpu_defaults
from vllm_dsocr.plugin.setup.page_limits import set_page_limits
from vllm_dsocr.plugin.setup.switches import switches
from vllm_dsocr.plugin.setup.tuned import use_tuned_folder

logger = init_logger(f"vllm.{__name__}")  # vLLM shows its own loggers only

GUARD = "vllm_dsocr.plugin.logits:DeepseekOCRLogitsProcessor"
# What serves with (guard, loop detection) switched on.
PROCESSORS = {
    (True, True): GUARD,
    (True, False): "vllm_dsocr.plugin.logits:DeepseekOCRNGramLogitsProcessor",
    (False, True): "vllm_dsocr.plugin.logits:DeepseekOCRLoopDetection",
}
GUARDS = (PROCESSORS[True, True], PROCESSORS[True, False])
LOOP_DETECTIONS = (PROCESSORS[True, True], PROCESSORS[False, True])
# Processors with the same request options, which the guard stands in for: as the recipe names it
# for vLLM's own model, which Model Runner V2 refuses, and ours for any model.
SAME_OPTIONS = (
    "vllm.model_executor.models.deepseek_ocr:NGramPerReqLogitsProcessor",
    "vllm_dsocr.plugin.logits:NoRepeatNGramLogitsProcessor",
    *PROCESSORS.values(),
)
GREEDY = {"temperature": 0.0}


def register_defaults() -> None:
    """Have vLLM call the hook below for this architecture."""
    MODELS_CONFIG_MAP[ARCHITECTURE] = DeepseekOCRDefaults


class DeepseekOCRDefaults(VerifyAndUpdateConfig):
    """vLLM's per-architecture hook."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        if problem := range_problem(vllm_version):
            logger.warning(problem)
        model_config = vllm_config.model_config
        if model_config.tokenizer_mode == "auto":
            model_config.tokenizer_mode = TOKENIZER_MODE
        model_config.override_generation_config = generation_overrides(model_config)
        check_encoder(vllm_config)
        use_tuned_folder()
        wanted = switches(vllm_config.additional_config)
        processor = PROCESSORS.get((wanted.guard, wanted.loop_detection))
        if processor and (refusal := guard_refusal(vllm_config)):
            logger.warning("The repetition guard is off: %s.", refusal)
        elif processor:
            model_config.logits_processors = guarded(model_config.logits_processors, processor)
        set_page_limits(vllm_config)
        fit_adapters(vllm_config)
        if current_platform.is_cpu():
            set_cpu_defaults(vllm_config)


def check_encoder(vllm_config: VllmConfig) -> None:
    """Raises ValueError for flags about the encoder that no engine should be started with."""
    from vllm_dsocr.plugin.encoder import attention, quantised  # as dear as the model's own module

    attention.wanted(vllm_config)
    quantised.check_quantisation(vllm_config)


def generation_overrides(model_config: ModelConfig) -> dict[str, object]:
    """The user's overrides; with temperature 0 where nobody states a temperature.

    `--generation-config vllm` asks for vLLM's neutral values and gets them, and what returns the
    mask of its sampling has to sample.
    """
    stated = model_config.override_generation_config
    if model_config.generation_config == "vllm" or returns_sampling_mask(model_config):
        return stated
    checkpoint = model_config.try_get_generation_config()
    unstated = {key: value for key, value in GREEDY.items() if checkpoint.get(key) is None}
    return {**unstated, **stated}


def guard_refusal(vllm_config: VllmConfig) -> str | None:
    """Why this engine takes no logits processor; None where it does."""
    if vllm_config.model_config.runner_type != "generate":
        return "nothing is generated"
    if vllm_config.speculative_config is not None and not vllm_config.use_v2_model_runner:
        return "Model Runner V1 takes no logits processors with speculative decoding"
    if returns_sampling_mask(vllm_config.model_config):
        return "--return-sampling-mask takes no logits processors"
    return None


def returns_sampling_mask(model_config: ModelConfig) -> bool:
    """Releases before the flag have none."""
    return getattr(model_config, "return_sampling_mask", False)


def guarded(processors: list[str | type] | None, guard: str = GUARD) -> list[str | type]:
    """The user's processors and the guard, once."""
    others = [item for item in processors or () if _path(item) not in SAME_OPTIONS]
    return [*others, guard]


def _path(processor: str | type) -> str:
    if isinstance(processor, str):
        return processor
    return f"{processor.__module__}:{processor.__qualname__}"
