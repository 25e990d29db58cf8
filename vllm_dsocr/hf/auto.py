"""The classes of this host under the names that the Auto classes of transformers look them up by.

transformers has no entry point for packages, so `import vllm_dsocr.hf` is what registers them.
Checkpoints of other architectures share the model type (DeepSeek-VL2, DeepSeek-OCR-2): those go to
whoever had the name before.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.models.auto.processing_auto import processor_class_from_name

from vllm_dsocr.config import ARCHITECTURE
from vllm_dsocr.hf.configuration import DeepseekOCRConfig
from vllm_dsocr.hf.model import DeepseekOCRForCausalLM
from vllm_dsocr.hf.processing import DeepseekOCRProcessor

MODEL_TYPE = DeepseekOCRConfig.model_type
# The processor class that published checkpoints of this model type name.
PUBLISHED_PROCESSOR = "DeepseekVLV2Processor"
MODEL_CLASSES = (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
)


class ConfigByArchitecture(DeepseekOCRConfig):
    """What the model type stands for: the configuration class that fits a file's architecture."""

    before: type[PreTrainedConfig] | None = None  # who had the name

    def __new__(cls, *args: Any, **kwargs: Any) -> DeepseekOCRConfig:
        return DeepseekOCRConfig(*args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Raises ValueError for another architecture that nobody else reads."""
        named = config_dict.get("architectures") or [ARCHITECTURE]
        if ARCHITECTURE in named:
            return DeepseekOCRConfig.from_dict(config_dict, **kwargs)
        if cls.before is None:
            raise ValueError(
                f"this checkpoint is a {named[0]}; vllm_dsocr.hf reads {ARCHITECTURE} and stands "
                f"for {MODEL_TYPE!r} in this process: load it where vllm_dsocr.hf is not imported, "
                "or through its own classes"
            )
        return cls.before.from_dict(config_dict, **kwargs)


class ProcessorByArchitecture(DeepseekOCRProcessor):
    """What `DeepseekVLV2Processor` stands for: our processor, for our checkpoints only."""

    before: Any = None  # a class

    @classmethod
    def from_pretrained(cls, path: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Of other checkpoints whatever was found before this package: a processor or tokenizer."""
        hub = {key: value for key, value in kwargs.items() if key in HUB_OPTIONS}
        values, _ = PreTrainedConfig.get_config_dict(path, **hub)
        if ARCHITECTURE in (values.get("architectures") or [ARCHITECTURE]):
            return DeepseekOCRProcessor.from_pretrained(path, **kwargs)
        return (cls.before or AutoTokenizer).from_pretrained(path, **kwargs)


ProcessorByArchitecture.__name__ = PUBLISHED_PROCESSOR  # it is looked up by this name

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token",
               "subfolder")  # fmt: skip


def register() -> None:
    """Makes every Auto class find this host's; calling it again puts it first again."""
    known = MODEL_TYPE in CONFIG_MAPPING  # whose `get` knows nothing
    found = CONFIG_MAPPING[MODEL_TYPE] if known else None
    if found is not ConfigByArchitecture:
        ConfigByArchitecture.before = found
        AutoConfig.register(MODEL_TYPE, ConfigByArchitecture, exist_ok=True)
    processor = processor_class_from_name(PUBLISHED_PROCESSOR)
    if processor is not ProcessorByArchitecture:
        ProcessorByArchitecture.before = processor
    AutoProcessor.register(ConfigByArchitecture, ProcessorByArchitecture, exist_ok=True)
    AutoProcessor.register(DeepseekOCRConfig, DeepseekOCRProcessor, exist_ok=True)
    AutoTokenizer.register(
        DeepseekOCRConfig, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True
    )
    for auto_class in MODEL_CLASSES:
        auto_class.register(DeepseekOCRConfig, DeepseekOCRForCausalLM, exist_ok=True)
    # A pipeline complains about models that are not in this list of names, and in the other one the
    # Trainer looks up whose labels are shifted when it smooths them.
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.setdefault(MODEL_TYPE, ARCHITECTURE)
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault(MODEL_TYPE, ARCHITECTURE)
